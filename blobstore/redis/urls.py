"""URLs of Redis servers: one parser for job records, blobs and Celery.

No message quotes a URL: any part of it may be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

FORMS = (
    "redis://[user:password@]host[:port][/db], rediss://... (the same with TLS), unix:///path[?db=n], "
    "sentinel://[user:password@]host[:port],host[:port],.../db?master_name=name or sentinels://... (the same with TLS)"
)
DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MASK = "***"
_TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_PLAIN_OPTIONS = ("db", "username", "password")
_SENTINEL_OPTIONS = ("master_name", "sentinel_username", "sentinel_password")
_OPTIONS = {
    "redis": _PLAIN_OPTIONS,
    "unix": _PLAIN_OPTIONS,
    "rediss": (*_PLAIN_OPTIONS, *_TLS_OPTIONS),
    "sentinel": (*_PLAIN_OPTIONS, *_SENTINEL_OPTIONS),
    "sentinels": (*_PLAIN_OPTIONS, *_SENTINEL_OPTIONS, *_TLS_OPTIONS),
}
_WITH_TLS = {"redis": "rediss", "sentinel": "sentinels"}
_SENTINEL_SCHEMES = ("sentinel", "sentinels")
# Up to the last @ before white space: a password may hold unescaped @, # and / by mistake.
_USER_PART = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"(?P<name>[?&](?:sentinel_)?(?:password|username))=[^&\s'\"<>]*", re.IGNORECASE)


class RedisURLError(ValueError):
    """A URL that names no Redis server; says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Redis Sentinels that know where the master `master_name` is; user and password are their own."""

    hosts: tuple[tuple[str, int], ...]
    master_name: str
    username: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL. host: empty for a Unix socket; path: empty for TCP. tls: the options `ssl_` that it has.

    sentinels: where to ask for the server; `host` and `port` are then those of the first one.
    """

    scheme: str
    host: str
    port: int
    path: str
    db: int
    username: str
    password: str
    tls: tuple[tuple[str, str], ...] = ()
    sentinels: Sentinels | None = None

    @property
    def shown(self) -> str:
        """The server as messages name it."""
        if self.sentinels:
            asked = ", ".join(f"{host}:{port}" for host, port in self.sentinels.hosts)
            return f"{self.sentinels.master_name} of the Sentinels {asked}"
        return self.path or f"{self.host}:{self.port}"

    @property
    def tls_options(self) -> dict[str, str | bool]:
        """The TLS arguments of a connection in redis-py and Celery; empty without TLS."""
        if self.scheme not in _WITH_TLS.values():
            return {}
        given: dict[str, str | bool] = {"ssl_cert_reqs": "required", **dict(self.tls)}
        if "ssl_check_hostname" in given:
            given["ssl_check_hostname"] = str(given["ssl_check_hostname"]).lower() not in ("false", "0", "no")
        return given

    @property
    def for_redis(self) -> str:
        """The URL as redis-py reads it; not for Sentinels, for which redis-py has no URL."""
        if self.scheme == "unix":
            return f"unix://{self._userinfo}{quote(self.path)}?db={self.db}"
        query = f"?{urlencode(self.tls)}" if self.tls else ""
        return f"{self.scheme}://{self._userinfo}{self.host}:{self.port}/{self.db}{query}"

    @property
    def for_celery(self) -> str:
        """The URL as Celery reads it: `redis+socket:` for Unix sockets, an explicit certificate check for TLS.

        One URL per Sentinel, separated by `;`; Celery takes the name of the master from its transport options, and
        TLS from its settings.
        """
        if self.sentinels:
            hosts = self.sentinels.hosts
            return ";".join(f"sentinel://{self._userinfo}{_in_url(host)}:{port}/{self.db}" for host, port in hosts)
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
    hosts: tuple[tuple[str, int], ...] = ()
    try:
        if scheme in _SENTINEL_SCHEMES:
            url, hosts = _split_hosts(scheme, url)
        parts = urlsplit(url)
        host, port = parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
        for name, number in hosts or ((host, port),):
            name.encode("idna")  # as the resolver does: an empty or too long label
            if not number or " " in name:
                raise ValueError("the host or port is not valid")
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
        raise RedisURLError(_unsupported(unknown[0], scheme))
    db = options.get("db") or ("" if scheme == "unix" else parts.path.strip("/"))
    if db and not re.fullmatch(r"[0-9]{1,5}", db):
        raise RedisURLError(f"the database of the {scheme}: URL must be a number, such as /0")
    if hosts and not options.get("master_name"):
        raise RedisURLError(f"the {scheme}: URL must name the master, such as ?master_name=mymaster")
    return RedisAddress(
        scheme=scheme,
        host=_in_url(host),
        port=port,
        path=unquote(parts.path) if scheme == "unix" else "",
        db=int(db or 0),
        username=options.get("username") or unquote(parts.username or ""),
        password=options.get("password") or unquote(parts.password or ""),
        tls=tuple((name, options[name]) for name in _TLS_OPTIONS if name in options),
        sentinels=_sentinels(hosts, options) if hosts else None,
    )


def _split_hosts(scheme: str, url: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A sentinel URL with its first host only, and all its hosts.

    Hosts are separated by `,`, or as Celery writes them: `sentinel://a:1/0;sentinel://b:2/0`. Options, user and
    database are those of the first URL that has them.
    """
    body, _, query = url.partition("?")
    start = f"{scheme}://"
    first, *others = body.split(";")
    head, at, rest = first.removeprefix(start).rpartition("@")
    netloc, slash, path = rest.partition("/")
    names = netloc.split(",") + [other.removeprefix(start).rpartition("@")[2] for other in others]
    found = [urlsplit(f"{start}{name}") for name in names]
    if not all(part.hostname for part in found):
        raise ValueError("a host is missing")
    hosts = tuple((part.hostname or "", SENTINEL_PORT if part.port is None else part.port) for part in found)
    path = slash + path or next((part.path for part in found if part.path), "")
    host, port = hosts[0]
    return f"{start}{head}{at}{_in_url(host)}:{port}{path}?{query}", hosts


def _sentinels(hosts: tuple[tuple[str, int], ...], options: dict[str, str]) -> Sentinels:
    return Sentinels(
        hosts, options["master_name"], options.get("sentinel_username", ""), options.get("sentinel_password", "")
    )


def _in_url(host: str) -> str:
    """A host as a URL writes it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def mask_urls(text: str) -> str:
    """`text` with the credentials of every URL in it masked: the user part, and `password` and `username` options."""
    text = _USER_PART.sub(rf"\g<scheme>{MASK}@", text)
    return _SECRET_OPTION.sub(rf"\g<name>={MASK}", text)


def shown_url(url: str) -> str:
    """`url` as messages show it: scheme, host, port and path, without user, password and query."""
    scheme, _, rest = url.partition("://")
    rest = re.split(r"\?\w+=", rest)[0]
    hosts = (part.rpartition("@")[2] for part in rest.split(f";{scheme}://"))
    return f"{scheme}://{','.join(hosts)}"


def _malformed(scheme: str) -> str:
    return f"the {scheme}: URL is not valid; it must be {FORMS}, special characters in a password percent-encoded"


def _unsupported(option: str, scheme: str) -> str:
    wanted = _WITH_TLS.get(scheme)
    if wanted and option.startswith("ssl"):
        return f"option {option[:40]!r} is for TLS: the URL must begin with {wanted}://"
    return f"option {option[:40]!r} of the {scheme}: URL is not supported; {', '.join(_OPTIONS[scheme])} are"
