"""Errors of the hub's client: which are outages, and how long a fetch waits for their end."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from ltx2.errors import CheckpointError, HubUnreachableError

log = logging.getLogger(__name__)
PATIENCE_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
_OFFLINE = (OfflineModeIsEnabled, LocalEntryNotFoundError)
T = TypeVar("T")
_outage: dict[str, float] = {}  # of this process; its calls fail one after the other until the hub is back


@contextmanager
def fetch_errors(repository: str) -> Iterator[None]:
    """Raise CheckpointError for every error of the hub's client in this block; HubUnreachableError in an outage."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as exc:  # the hub's client raises many kinds of errors without a common base class
        if constants.HF_HUB_OFFLINE and isinstance(exc, _OFFLINE):
            raise CheckpointError(
                f"cannot fetch {repository}: what is needed of it is not in the hub's cache, {constants.HF_HUB_CACHE}, "
                "and HF_HUB_OFFLINE is set: download it once without HF_HUB_OFFLINE"
            ) from exc
        message = f"cannot fetch {repository}: {type(exc).__name__}: {exc}"
        raise (HubUnreachableError if is_outage(exc) else CheckpointError)(message) from exc


def is_outage(error: BaseException | None) -> bool:
    """Whether the hub, or the way to it, is out; not for a repository that does not exist or must not be read."""
    while error is not None:
        if isinstance(error, OfflineModeIsEnabled):
            return False
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            return status >= SERVER_ERROR or status == TOO_MANY_REQUESTS
        # the transport is a package of its own, whose name differs between releases of the client
        if isinstance(error, ConnectionError | TimeoutError) or _is_of_transport(type(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_of_transport(error: type[BaseException]) -> bool:
    return any(base.__name__ == "TransportError" for base in error.__mro__)


def waiting_for_hub(fetch: Callable[..., T]) -> Callable[..., T]:
    """A decorator: while the hub is out, `fetch` is called again for up to a minute, with longer and longer pauses."""

    @functools.wraps(fetch)
    def call(*args: object) -> T:
        end = time.monotonic() + PATIENCE_S
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                found = fetch(*args)
            except HubUnreachableError as error:
                now = time.monotonic()
                if _outage.setdefault("since", now) is now:
                    log.warning("the hub cannot be reached, waiting for it: %s", error)
                if time.monotonic() + pause_s >= end:
                    raise
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                continue
            since = _outage.pop("since", None)
            if since is not None:
                log.warning("the hub can be reached again after %.1f s", time.monotonic() - since)
            return found

    return call
