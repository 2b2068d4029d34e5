"""How many threads: what is asked for, what CPUs and quotas allow; and that threads share a heap of memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguflike import machine
from gguflike.errors import UnsupportedError
from gguflike.kernels.engine import host


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for /sys/fs/cgroup and holds /proc/self/cgroup as ``self``."""
    monkeypatch.delenv("GGUFLIKE_THREADS", raising=False)
    monkeypatch.setattr(host, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(host, "_OWN_CGROUPS", str(tmp_path / "self"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    host.cpu_quota.cache_clear()
    yield tmp_path
    host.cpu_quota.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("200000 100000", 2), ("250000 100000", 3), ("1000 100000", 1), ("max 100000", 16), ("9900000 100000", 16)],
)
def test_quota_of_version_2(cgroups: Path, quota: str, threads: int) -> None:
    write(cgroups / "self", "0::/\n")
    write(cgroups / "cpu.max", quota + "\n")
    assert host.thread_count() == threads


def test_the_least_quota_of_all_groups_around_counts(cgroups: Path) -> None:
    write(cgroups / "self", "0::/pod/container\n")
    write(cgroups / "pod" / "cpu.max", "400000 100000\n")
    write(cgroups / "pod" / "container" / "cpu.max", "700000 100000\n")
    assert host.thread_count() == 4


def test_a_group_of_the_host_that_the_container_does_not_see(cgroups: Path) -> None:
    write(cgroups / "self", "0::/system.slice/docker-1.scope\n")
    write(cgroups / "cpu.max", "500000 100000\n")
    assert host.thread_count() == 5


@pytest.mark.parametrize(("quota", "threads"), [("150000", 2), ("-1", 16)])
def test_quota_of_version_1(cgroups: Path, quota: str, threads: int) -> None:
    write(cgroups / "self", "12:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n")
    write(cgroups / "cpu,cpuacct" / "docker" / "1" / "cpu.cfs_quota_us", quota + "\n")
    write(cgroups / "cpu,cpuacct" / "docker" / "1" / "cpu.cfs_period_us", "100000\n")
    assert host.thread_count() == threads


@pytest.mark.parametrize("text", ["", "0\n", "0:cpu\n", "0::/../..\n", "::\n"])
@pytest.mark.parametrize("quota", ["", "1", "0 0", "100000 0", "a b", "1 2 3"])
def test_odd_files_are_no_limit(cgroups: Path, text: str, quota: str) -> None:
    write(cgroups / "self", text)
    write(cgroups / "cpu.max", quota)
    assert host.thread_count() == 16


def test_no_groups_at_all(cgroups: Path) -> None:
    assert host.thread_count() == 16


def test_fewer_cpus_than_the_quota(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cgroups / "self", "0::/\n")
    write(cgroups / "cpu.max", "400000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert host.thread_count() == 1


def test_what_is_asked_for_goes_first(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cgroups / "self", "0::/\n")
    write(cgroups / "cpu.max", "100000 100000\n")
    monkeypatch.setenv("GGUFLIKE_THREADS", " 6 ")
    assert host.thread_count() == 6
    assert host.thread_count(3) == 3
    assert host.thread_count(np.int64(3)) == 3  # type: ignore[arg-type]
    monkeypatch.setenv("GGUFLIKE_THREADS", "")
    assert host.thread_count() == 1


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "2 2", "1e1"])
def test_the_environment_must_give_a_number(cgroups: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GGUFLIKE_THREADS", value)
    with pytest.raises(UnsupportedError, match=r"GGUFLIKE_THREADS: .*at least 1; got") as caught:
        host.thread_count()
    assert value in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, np.float32(2)])
def test_the_caller_must_give_a_number(value: object) -> None:
    with pytest.raises(UnsupportedError, match=r"threads: .*at least 1; got"):
        host.thread_count(value)  # type: ignore[arg-type]


HEAPS = """
import ctypes, sys, threading
from gguflike.machine import share_heap
if sys.argv[1] == "shared":
    share_heap()
library = ctypes.CDLL(None)
library.malloc.restype = library.fopen.restype = ctypes.c_void_p
library.malloc.argtypes, library.fclose.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
library.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
together = threading.Barrier(6)
def take():
    together.wait()
    for _ in range(100):
        library.malloc(20_000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
told = library.fopen(sys.argv[2].encode(), b"w")
library.malloc_info(0, told)
library.fclose(told)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap for each thread")
def test_threads_share_a_heap(tmp_path: Path) -> None:
    def heaps(how: str) -> int:
        told = tmp_path / how
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        subprocess.run([sys.executable, "-c", HEAPS, how, str(told)], check=True, env=environment)
        return told.read_text().count("<heap nr=")

    assert heaps("shared") == 1 < heaps("apart")


HOLES = """
import ctypes
from pathlib import Path
from gguflike.machine import trim_heap
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.memset.argtypes, library.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])
taken = [library.malloc(20_000) for _ in range(2000)]
for each in taken:
    library.memset(each, 1, 20_000)
for each in taken[:-1]:
    library.free(each)
before = resident()
print(trim_heap(), before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_the_heap_gives_back_what_holds_nothing() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", HOLES], check=True, env=environment, capture_output=True, text=True)
    trimmed, given = done.stdout.split()
    assert (trimmed, int(given) > 30_000_000) == ("True", True)


def test_another_c_library_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not machine.trim_heap()
    machine.share_heap()  # nor does it share
