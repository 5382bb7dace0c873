"""Who may call the server: bearer tokens, and where it may listen without them."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers

from tasks.errors import ConfigError
from tasks.settings import Settings

SHORTEST_KEY = 16
OPEN_PATHS = ("/health",)
"""Paths that need no token."""


class Keys:
    """The accepted bearer tokens; none: everybody may call."""

    def __init__(self, settings: Settings) -> None:
        """ConfigError: a key is too short."""
        keys = [key.strip() for key in (settings.api_keys or "").split(",") if key.strip()]
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise ConfigError(f"LONGTAKE_API_KEYS: a key must have {SHORTEST_KEY} or more characters")
        self._keys: Sequence[bytes] = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def accept(self, headers: Headers) -> bool:
        """Whether a request with these headers may go on: `Authorization: Bearer KEY`."""
        if not self._keys:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip().encode()
        # every key is compared, so that the time does not tell which one was close
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def check_host(host: str, keys: Keys) -> None:
    """Refuse to listen where others can call, without keys.

    Raises:
        ConfigError: `host` is not loopback, and there are no keys.
    """
    if keys or is_loopback(host):
        return
    raise ConfigError(
        f"{host} can be reached from other machines: set LONGTAKE_API_KEYS, or listen on 127.0.0.1 (the default)"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
