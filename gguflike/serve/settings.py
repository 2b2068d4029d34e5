"""What a server is started with."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from gguflike.errors import ArgumentError, check_integer, check_number
from gguflike.frozen import frozen

#: How tokens are chosen where neither the request nor the command line says: at what small models still make sense.
DEFAULTS: Mapping[str, Any] = {"temperature": 0.8, "min_p": 0.05}


def _silent(_: str) -> None:
    pass


@frozen
class Settings:
    """ArgumentError names a field that is out of range, or a host open to others without a key.

    ``model`` is a file (or what `gguflike.locate` takes), ``models_dir`` a folder whose files are loaded when asked
    for, while together they need at most ``memory`` bytes (0: three quarters of the machine's). ``draft`` is a file of
    a smaller model of the same vocabulary that guesses ``draft_tokens`` at a time for ``model``, or "mtp": its own
    multi-token-prediction heads; ``slots_dir`` a folder for slots that are saved. ``prefix_dir`` is a folder in which
    what was computed of texts outlives the server, at most ``prefix_bytes`` of it. ``api_keys`` are what one of must be
    sent with each request; ``no_auth`` opens a server to others without. At most ``queue`` requests wait; ``sampling``
    are defaults for requests. ``grace`` is how many seconds answers in progress have when the server is asked to end;
    ``stuck_after`` after how many seconds without a step, while work waits, it is not healthy.
    """

    model: str | None = None
    models_dir: str | None = None
    alias: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    parallel: int = 8
    queue: int = 64
    context: int | None = None
    threads: int | None = None
    cache_type: str = "f16"
    activations: str = "dynamic"
    cache_bytes: int | None = None
    memory: int = 0
    slots_dir: str | None = None
    prefix_dir: str | None = None
    prefix_bytes: int = 8 << 30
    draft: str | None = None
    draft_tokens: int = 8
    ui: bool = True
    max_body: int = 32 << 20
    grace: float = 20.0
    stuck_after: float = 120.0
    sampling: Mapping[str, Any] = DEFAULTS
    log: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        check_integer("port", self.port, 0, 65535)
        check_integer("parallel", self.parallel, 1, 1024)
        check_integer("queue", self.queue, 1, 1 << 20)
        check_integer("max_body", self.max_body, 1024)
        check_integer("draft_tokens", self.draft_tokens, 1)
        check_integer("prefix_bytes", self.prefix_bytes, 0)
        check_number("grace", self.grace, "0 or more", lambda x: x >= 0)
        check_number("stuck_after", self.stuck_after, "above 0", lambda x: x > 0)
        if self.model is None and self.models_dir is None:
            raise ArgumentError("no model", field="model", remedy="name a file, or a folder of them by `models_dir`")
        if any(not key.strip() for key in self.api_keys):
            raise ArgumentError("an empty key", field="api_keys", expected="at least one character")
        if not (self.local or self.api_keys or self.no_auth):
            raise ArgumentError(
                "others can reach this address, and no key is asked of them",
                field="host",
                expected="127.0.0.1, or a key",
                got=self.host,
                remedy="set `api_keys`, or say `no_auth=True`",
            )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback
