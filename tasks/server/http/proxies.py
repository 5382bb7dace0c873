"""A reverse proxy before the server: the prefix that paths have there, and what it says of the caller."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from itertools import chain

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tasks.errors import ConfigError
from tasks.server.http.access import Keys
from tasks.settings import Settings

UNBUFFERED = {"X-Accel-Buffering": "no"}
"""A header of answers that nginx sends on as it gets them, instead of collecting them."""


def check_prefix(prefix: str, taken: Collection[str]) -> None:
    """Check that no path of the server itself looks as if it had the prefix. taken: with what its paths begin.

    Raises:
        ConfigError: the prefix begins with one of these.
    """
    if prefix and prefix.split("/")[1] in taken:
        names = ", ".join(f"/{name}" for name in sorted(taken) if name)
        raise ConfigError(
            f"LONGTAKE_ROOT_PATH: {prefix} begins like a path of the server; use another one than {names}"
        )


def proxies_in(settings: Settings) -> list[str]:
    """The addresses of the proxies that are believed; * for all. ConfigError: one is no address."""
    found = [one.strip() for one in (settings.forwarded_allow_ips or "").split(",") if one.strip()]
    for one in found:
        try:
            if one != "*":
                ipaddress.ip_network(one)
        except ValueError:
            raise ConfigError(
                f"LONGTAKE_FORWARDED_ALLOW_IPS: {one!r} is not an IP address, a network such as 10.0.0.0/8, or *"
            ) from None
    return ["*"] if "*" in found else found  # uvicorn would take it for a name among others


def path_of(scope: Scope) -> str:
    """The path of a request without the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class BehindProxy:
    """ASGI middleware, the outermost: has requests look as the proxy got them.

    It does not matter whether the proxy takes the prefix off the path. `X-Forwarded-For`, `-Proto` and `-Host` of the
    proxies in `LONGTAKE_FORWARDED_ALLOW_IPS` are believed; the last only where there are keys: without them, `Host` has
    to be this machine, and a page of another name for it could send the header itself.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys) -> None:
        proxies = proxies_in(settings)
        self._prefix = settings.root_path
        self._takes_host = bool(proxies) and bool(keys)
        self._app = app
        self._proxied = ProxyHeadersMiddleware(app, proxies)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": self._prefix + self._without(scope["path"]), "root_path": self._prefix}
        if self._takes_host and (scope["client"] or ("",))[0] in self._proxied.trusted_hosts:
            scope["headers"] = _named_by_proxy(scope)
        await self._proxied(scope, receive, send)  # type: ignore[arg-type]

    def _without(self, path: str) -> str:
        if path == self._prefix:
            return "/"
        return path.removeprefix(self._prefix) if path.startswith(f"{self._prefix}/") else path


def _named_by_proxy(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers, with the host that the nearest proxy was called by."""
    named = chain.from_iterable(line.split(",") for line in Headers(scope=scope).getlist("x-forwarded-host"))
    headers = MutableHeaders(raw=list(scope["headers"]))
    for host in named:
        headers["host"] = host.strip()
    return headers.raw
