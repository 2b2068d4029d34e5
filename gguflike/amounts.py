"""Bytes and seconds, as people read and write them."""

from __future__ import annotations

import re

_BYTES = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE | re.ASCII)


def size(count: float) -> str:
    """Bytes: 98.9 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds: 12 s, 3 min, 2 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def bytes_of(text: str) -> int | None:
    """How many bytes ``text`` says: 4096, 500MB and 1.5G are thousands, 4.5GiB and 32Mi of 1,024; None for no size."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        return None
    whole, part, unit, binary = found.groups(default="")
    base, power = 1024 if binary else 1000, "KMGT".index(unit.upper()) + 1 if unit else 0
    count: int = int(whole + part) * base**power // 10 ** len(part)
    return count
