"""Where a server may send us: to an address that is one, encrypted where it was, and not from outside into this machine
or its network.

An address says by itself that it is inner, a name only once a connection to it stands: `watch` looks at that.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from socket import inet_aton
from typing import Any
from urllib.parse import urljoin, urlsplit

from gguflike.checkpoint.hub import reference
from gguflike.errors import RemoteError

MOVED = (301, 302, 303, 307, 308)
_inner: set[str] = set()
"""Names of hosts that connections of this process found inside."""


def target(name: str, location: str, stated: str | None) -> tuple[str, bool]:
    """The address to which ``location`` sends by the header ``stated``, and whether that must lie outside. ``name`` is
    what errors call the file. RemoteError for one that must not be followed."""
    secure = location.startswith("https://")
    try:
        found = urljoin(location, stated or "")
        host = urlsplit(found).hostname
        _ = urlsplit(found).port  # which is looked at only when it is asked for
    except ValueError:
        found, host = "", None
    if not found.startswith("https://" if secure else ("https://", "http://")) or found == location:
        what = "the server redirects to what is no address, or is not encrypted any more"
        raise RemoteError(what, path=name, got=(found or stated or "")[:200])
    company = reference.is_hub(location) and reference.endpoint() != reference.ENDPOINT  # with a storage of its own
    outside = not company and not is_inner(urlsplit(location).hostname)
    if outside and is_inner(host):
        raise led_inside(name, found)
    return found, outside


def is_inner(host: str | None) -> bool:
    """Whether a host is of this machine or of a private network: named as one, in any of the spellings of an address,
    or found there by a connection."""
    host = (host or "").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost") or host in _inner:
        return True
    address: IPv4Address | IPv6Address
    try:
        address = IPv4Address(inet_aton(host)) if ":" not in host else IPv6Address(host.partition("%")[0])
    except (OSError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global


def watch(name: str, url: str, host: str, outside: bool) -> Callable[[str, dict[str, Any]], None]:
    """What the HTTP client tells of the connection that it makes for ``url`` (its extension "trace"), before anything
    is sent. RemoteError where that ends inside, and must lie ``outside``. A proxy is no end: it looks for the host."""
    asked = ""

    def told(event: str, facts: dict[str, Any]) -> None:
        nonlocal asked
        if event.endswith("connect_tcp.started"):
            asked = facts["host"]
        elif event.endswith("connect_tcp.complete") and asked == host:
            stream = facts["return_value"]
            peer = stream.get_extra_info("server_addr")
            if peer and is_inner(peer[0]):
                _inner.add(host.rstrip(".").lower())
                if outside:
                    stream.close()
                    raise led_inside(name, f"{url[:200]} at {peer[0]}")

    return told


def led_inside(name: str, got: str) -> RemoteError:
    """The error for a server that sends us where it must not: to ``got``."""
    what = "the server redirects from outside into this machine or its network"
    return RemoteError(what, path=name, got=got[:250], remedy="name that address itself, if you mean it")
