"""Which addresses webhooks may be sent to: none of private networks, unless that is allowed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import httpx2

from tasks.errors import LongtakeError

_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is routed on the internet, by IANA's registry."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 behind a translator, RFC 6052."""


class AddressError(LongtakeError):
    """A URL to which nothing may be sent."""


def target_of(url: str, before: httpx2.URL | None = None) -> httpx2.URL:
    """The URL in `url`, which may be relative to the one `before`.

    Raises:
        AddressError: not an http or https URL with a host and a possible port, and without a user.
    """
    try:
        target = httpx2.URL(url) if before is None else before.join(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise AddressError(f"it is not a URL: {error}") from None
    if target.scheme not in ("http", "https") or not target.raw_host or target.userinfo:
        raise AddressError("it must be an http or https URL with a host, and without a user")
    if target.port is not None and not 0 < target.port < 65536:
        raise AddressError("its port is not between 1 and 65535")
    return target


def checked_addresses(target: httpx2.URL, *, allow_private: bool) -> Sequence[str]:
    """The addresses of a URL's host, all of which may be used; it is asked for once, so that it cannot change.

    Raises:
        AddressError: its host is unknown, or one of its addresses is not public.
    """
    host = target.raw_host.decode("ascii")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        raise AddressError(f"its host {host:.200} is unknown") from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for address in addresses:
        if not allow_private and not is_public(address):
            raise AddressError(f"its host {host:.200} is not a public address")
    return addresses


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if (inner := _ipv4_in(parsed)) is not None:
            return is_public(str(inner))
        if parsed not in _UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast


def _ipv4_in(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which a packet goes in the end."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
