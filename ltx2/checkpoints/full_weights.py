"""The weights of LTX-2.5 that are not distilled, which its repository has next to the distilled ones. No torch.

`model#full` names a model with them. They have the config of the distilled ones, and no scheduler of their own: theirs
is the distilled one with two keys changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUFFIX = "#full"
FOLDER = "transformer_full"
SCHEDULE = {"use_dynamic_shifting": True, "shift_terminal": 0.1}
"""What the scheduler of published weights has that are not distilled."""


def split_full(model: str) -> tuple[str, bool]:
    """The name of `model` without `#full`, and whether it had it. A folder with such a name has that name."""
    if not model.endswith(SUFFIX) or os.path.exists(os.path.expanduser(model)):
        return model, False
    return model.removesuffix(SUFFIX), True


def folder_of(component: str, *, full: bool) -> str:
    """The folder of a component in a checkpoint."""
    return FOLDER if full and component == "transformer" else component


def scheduler_for(config: Mapping[str, Any], *, full: bool) -> dict[str, Any]:
    """The scheduler's config, given that in a checkpoint's folder."""
    return {**config, **SCHEDULE} if full else dict(config)


def has_full(folder: Path) -> bool:
    """Whether the checkpoint in `folder` has such weights, or their config."""
    return (folder / FOLDER / "config.json").is_file()
