"""Who may call the server: bearer tokens, and where it may listen without them."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import os
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from tasks.errors import ConfigError
from tasks.settings import Settings

SHORTEST_KEY = 16
OPEN_PATHS = ("/health", "/login", "/page/page.css", "/page/page.js")
"""Paths that need no token."""
COOKIE = "longtake_key"
READING = ("GET", "HEAD", "OPTIONS")


class Keys:
    """The accepted bearer tokens; none: everybody may call."""

    def __init__(self, settings: Settings) -> None:
        """ConfigError: a key is too short, or no header can carry it."""
        keys = [key.strip() for key in (settings.api_keys or "").split(",") if key.strip()]
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise ConfigError(f"LONGTAKE_API_KEYS: a key must have {SHORTEST_KEY} or more characters")
        if not all(key.isascii() and key.isprintable() for key in keys):
            raise ConfigError("LONGTAKE_API_KEYS: a key must have ASCII letters, digits and signs only")
        self._keys: Sequence[bytes] = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def accept(self, headers: Headers) -> bool:
        """Whether a request with these headers has a key: `Authorization: Bearer KEY`, or the cookie of a page."""
        if not self._keys:
            return True
        if "authorization" not in headers:
            return any(self.knows(given) for given in _cookies(headers))
        scheme, _, given = headers["authorization"].partition(" ")
        return scheme.lower() == "bearer" and self.knows(given)

    def knows(self, given: str) -> bool:
        """Whether this is a key."""
        token = given.strip().encode()
        matches = [hmac.compare_digest(token, key) for key in self._keys]  # all, so that the time does not tell which
        return any(matches)


def _cookies(headers: Headers) -> list[str]:
    """The keys in cookies: a server at another prefix or port of this host has one of the same name.

    Those of other programs may be anything.
    """
    cookies = "; ".join(headers.getlist("cookie")).split(";")
    return [key for cookie in cookies if (key := cookie_parser(cookie).get(COOKIE))]


def is_from_elsewhere(method: str, headers: Headers, *, has_keys: bool) -> bool:
    """Whether a page of another site may be behind a request that changes something, or that reads without a key.

    A browser names the page in `Origin`, and the host that it believes to talk to in `Host`.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        if not has_keys and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return True
        return method not in READING and origin is not None and urlsplit(origin).netloc != host
    except ValueError:  # not a URL
        return True


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


def check_address(host: str, port: int) -> None:
    """Check that this process can listen at `host` and `port`, before anything is started.

    Raises:
        ConfigError: the port is in use, or `host` is no address of this machine.
    """

    async def listen() -> None:
        (await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)).close()

    try:
        asyncio.run(listen())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use: choose another one with --port") from None
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigError(f"cannot listen at {host}, port {port}: {why}; see --host and --port") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
