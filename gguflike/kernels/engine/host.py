"""What kernels need from the machine without numba: the folder for compiled code, and how many threads to use.

Every run of a model imports this, so it does without pathlib, hashlib and concurrent.futures, 15 ms together.
"""

from __future__ import annotations

import operator
import os
from functools import lru_cache

from gguflike.errors import ArgumentError
from gguflike.kernels.engine.store import digest, has_room


def _sources(folder: str) -> list[str]:
    """Paths of all Python files below a folder, sorted."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found += _sources(entry.path)
            elif entry.name.endswith(".py"):
                found.append(entry.path)
    return sorted(found)


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """A digest over every source file that machine code depends on, names included: the kernels, and the block types,
    whose offsets and levels they hold as constants."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    parts = []
    for part in ("blocks", "kernels"):
        for path in _sources(os.path.join(package, part)):
            with open(path, "rb", buffering=0) as file:
                parts += [path[len(package) :].encode(), file.read()]
    return digest(b"\0".join(parts))


def _writable(folder: str) -> bool:
    """Whether the folder exists or can be made, takes files, and is ours alone (machine code is loaded from it)."""
    try:
        os.makedirs(folder, exist_ok=True, mode=0o700)
        owner = os.stat(folder).st_uid
    except OSError:
        return False
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK) and owner == _user()


def _holds_kernels(folder: str) -> bool:
    """Whether the folder has files that can be read, as in an image made beforehand, and is ours or the system's."""
    try:
        return bool(os.listdir(folder)) and os.stat(folder).st_uid in (_user(), 0)
    except OSError:
        return False


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # without users, os.stat says 0 as well


@lru_cache(maxsize=1)
def cache_dir() -> str | None:
    """Return the folder for compiled kernels, or None where there is none, so that they cannot be kept.

    It lies in $GGUFLIKE_CACHE_DIR, else in the user's cache folder; where that cannot be written to, and has no kernels
    already, among the temporary files.
    """
    home = os.path.join(os.path.expanduser("~"), ".cache")
    base = os.environ.get("GGUFLIKE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or home
    name = f"kernels-{sources_digest()}"
    folder = os.path.join(base, "gguflike", name)
    if _writable(folder) or _holds_kernels(folder):
        return folder
    import tempfile

    try:
        other = os.path.join(tempfile.gettempdir(), f"gguflike-{_user()}-{name}")
    except OSError:
        return None
    return other if _writable(other) else None


def cache_path(file: str) -> str | None:
    """Return the path of a file of the kernel cache, or None where there is no such folder."""
    folder = cache_dir()
    return None if folder is None else os.path.join(folder, file)


def keeps_kernels() -> bool:
    """Whether what is compiled now is there the next time: there is a folder for it, which is not full."""
    folder = cache_dir()
    return folder is not None and has_room(folder)


#: What /proc/cpuinfo tells of a CPU that decides which machine code it runs best, on x86, Arm and RISC-V.
_CPU_FACTS = {
    *("vendor_id", "cpu family", "model", "model name", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
    *("isa", "uarch"),
}


@lru_cache(maxsize=1)
def cpu(path: str = "/proc/cpuinfo") -> str:
    """The first CPU's model and features as the kernel reports them; "" where it does not."""
    try:
        with open(path, "rb", buffering=0) as file:  # one page is enough, and all CPUs may take long
            first = file.read(1 << 12).decode("utf-8", "replace").strip().partition("\n\n")[0]
    except OSError:
        return ""
    pairs = [[part.strip() for part in line.partition(":")[::2]] for line in first.splitlines()]
    return "; ".join(f"{key} {value}" for key, value in pairs if key in _CPU_FACTS)


def thread_count(threads: int | None = None) -> int:
    """Return ``threads`` if given, else $GGUFLIKE_THREADS, else as many as this process may have CPUs.

    Those are the CPUs of its affinity mask, or fewer where a container's quota gives it less time (rounded up).
    ArgumentError unless the number is a whole one and at least 1.
    """
    if threads is not None:
        return _at_least_one(threads, "threads")
    if value := os.environ.get("GGUFLIKE_THREADS"):
        return _at_least_one(int(value) if value.strip().isdecimal() else value, "GGUFLIKE_THREADS")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, cpu_quota() or cpus)


def _at_least_one(threads: object, field: str) -> int:
    try:
        count = operator.index(threads)  # type: ignore[arg-type]  # numpy's integers have it, too
    except TypeError:
        count = 0
    if count < 1 or isinstance(threads, bool):
        raise ArgumentError(
            "this is no number of threads", field=field, expected="a whole number, at least 1", got=repr(threads)
        )
    return count


_CGROUPS, _OWN_CGROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"


@lru_cache(maxsize=1)
def cpu_quota() -> int | None:
    """Return how many CPUs' time this process and those around it may use, rounded up, or None without a limit.

    A control group, such as a container, and each group that it is part of may have a quota of microseconds a period:
    ``cpu.max`` in version 2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` in version 1 (Linux, cgroups(7)).
    """
    try:
        with open(_OWN_CGROUPS, encoding="utf-8", errors="surrogateescape") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    quotas = []
    for _, controllers, group in (entry for entry in groups if len(entry) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = os.path.join(_CGROUPS, controllers) if controllers else _CGROUPS
        # Inside a container the group's own path may be one of the host's, which is not there; its root then is.
        while True:
            quotas += _quota(root + group.rstrip("/"))
            if group in ("", "/"):
                break
            group = os.path.dirname(group)
    return min(quotas, default=None)


def _quota(folder: str) -> list[int]:
    """The CPUs that a control group's files allow, as a list of one, or none."""
    words = _words(f"{folder}/cpu.max") or _words(f"{folder}/cpu.cfs_quota_us") + _words(f"{folder}/cpu.cfs_period_us")
    if len(words) != 2 or not all(word.isdecimal() for word in words):  # "max" and -1 mean that there is no limit
        return []
    quota, period = (int(word) for word in words)
    return [max(1, -(-quota // period))] if period else []


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().split()
    except OSError:
        return []
