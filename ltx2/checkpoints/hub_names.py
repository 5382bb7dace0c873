"""Names of what is on the Hugging Face hub: `owner/name[@revision][:file]`. They are names and never paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r"[A-Za-z0-9_-][\w.-]*"
_PATH = rf"{_PART}(/{_PART})*"
_HUB_NAME = re.compile(rf"(?P<repository>{_PART}/{_PART})(@(?P<revision>{_PATH}))?(:(?P<file>{_PATH}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, and in it a revision and a file. None: the default branch; no file is named."""

    repository: str
    revision: str | None = None
    file: str | None = None


def parse_hub_name(text: str) -> HubName | None:
    """The hub name that `text` is; None if it is none.

    Revision and file become paths in the hub's cache. So both are relative, and no part of them begins with a dot.
    """
    found = _HUB_NAME.fullmatch(text)
    if found is None or ".." in text:
        return None
    return HubName(found["repository"], found["revision"], found["file"])
