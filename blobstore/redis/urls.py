"""URLs of Redis servers: one parser for job records, blobs and Celery.

No message quotes a URL: any part of it may be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

FORMS = "redis://[user:password@]host[:port][/db], rediss://... (the same with TLS) or unix:///path[?db=n]"
DEFAULT_PORT = 6379
MASK = "***"
_TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_PLAIN_OPTIONS = ("db", "username", "password")
_OPTIONS = {"redis": _PLAIN_OPTIONS, "unix": _PLAIN_OPTIONS, "rediss": (*_PLAIN_OPTIONS, *_TLS_OPTIONS)}
# Up to the last @ before white space: a password may hold unescaped @, # and / by mistake.
_USER_PART = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"(?P<name>[?&](?:password|username))=[^&\s'\"<>]*", re.IGNORECASE)


class RedisURLError(ValueError):
    """A URL that names no Redis server; says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL. host: empty for a Unix socket; path: empty for TCP. tls: options of `ssl_`, empty without TLS."""

    scheme: str
    host: str
    port: int
    path: str
    db: int
    username: str
    password: str
    tls: tuple[tuple[str, str], ...] = ()

    @property
    def for_redis(self) -> str:
        """The URL as redis-py reads it."""
        if self.scheme == "unix":
            return f"unix://{self._userinfo}{quote(self.path)}?db={self.db}"
        query = f"?{urlencode(self.tls)}" if self.tls else ""
        return f"{self.scheme}://{self._userinfo}{self.host}:{self.port}/{self.db}{query}"

    @property
    def for_celery(self) -> str:
        """The URL as Celery reads it: `redis+socket:` for Unix sockets, an explicit certificate check for TLS."""
        if self.scheme == "unix":
            return f"redis+socket://{self._userinfo}{quote(self.path)}?virtual_host={self.db}"
        tls = dict(self.tls)
        if self.scheme == "rediss":
            tls.setdefault("ssl_cert_reqs", "required")
        query = f"?{urlencode(tls)}" if tls else ""
        return f"{self.scheme}://{self._userinfo}{self.host}:{self.port}/{self.db}{query}"

    @property
    def _userinfo(self) -> str:
        if not self.username and not self.password:
            return ""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        return f"{quote(self.username, safe='')}{password}@"


def parse_url(url: str) -> RedisAddress:
    """The server that `url` names.

    Raises:
        RedisURLError: another scheme, a database that is not a number, an unknown option, or a malformed URL.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _OPTIONS:
        raise RedisURLError(f"{scheme[:20]!r} is not a Redis URL scheme; the URL must be {FORMS}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError:
        raise RedisURLError(_malformed(scheme)) from None
    if (
        parts.fragment
        or "#" in url
        or (scheme == "unix") == bool(host)
        or (scheme == "unix" and parts.path in ("", "/"))
    ):
        raise RedisURLError(_malformed(scheme))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS[scheme]))
    if unknown:
        raise RedisURLError(f"option {unknown[0][:40]!r} of the {scheme}: URL is not supported; {_known(scheme)} are")
    db = options.get("db") or ("" if scheme == "unix" else parts.path.strip("/"))
    if db and not re.fullmatch(r"[0-9]{1,5}", db):
        raise RedisURLError(f"the database of the {scheme}: URL must be a number, such as /0")
    return RedisAddress(
        scheme=scheme,
        host=f"[{host}]" if ":" in host else host,
        port=port,
        path=unquote(parts.path) if scheme == "unix" else "",
        db=int(db or 0),
        username=options.get("username") or unquote(parts.username or ""),
        password=options.get("password") or unquote(parts.password or ""),
        tls=tuple((name, options[name]) for name in _TLS_OPTIONS if name in options),
    )


def mask_urls(text: str) -> str:
    """`text` with the credentials of every URL in it masked: the user part, and `password` and `username` options."""
    text = _USER_PART.sub(rf"\g<scheme>{MASK}@", text)
    return _SECRET_OPTION.sub(rf"\g<name>={MASK}", text)


def shown_url(url: str) -> str:
    """`url` as messages show it: scheme, host, port and path, without user, password and query."""
    scheme, _, rest = url.partition("://")
    rest = re.split(r"\?\w+=", rest)[0]
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _malformed(scheme: str) -> str:
    return f"the {scheme}: URL is not valid; it must be {FORMS}, special characters in a password percent-encoded"


def _known(scheme: str) -> str:
    return ", ".join(_OPTIONS[scheme])
