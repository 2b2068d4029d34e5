"""The package without what only some systems have, and each stand-in for a missing call on its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike import TemplateError, machine
from gguflike.chat import memory as child_memory
from gguflike.chat import template
from gguflike.container import claimed, publish, system
from gguflike.convert import folder

PACKAGE = Path(gguflike.__file__).parent
MODEL = PACKAGE / "data" / "austen-kjv-6m"

# Windows, as far as this system can be made to look like it: the libraries are imported first, as they come made for
# their system. {removed} is what the package must then do without.
WINDOWS = """
import builtins, ctypes, mmap, os, shutil, signal, subprocess, sys, tempfile, threading
import numpy, safetensors, tokenizers, tqdm, huggingface_hub, numba, llvmlite.binding

class Mapping(mmap.mmap):
    def __new__(cls, fileno, length, tagname=None, access=mmap.ACCESS_DEFAULT, offset=0):
        return super().__new__(cls, fileno, length, access=access, offset=offset)
    madvise = property()

class Kernel32:  # the numbers stand at their places in Windows' structures
    def __init__(self, name):
        assert name == "kernel32"
    def GlobalMemoryStatusEx(self, status):
        assert status._obj[0] == 64 == ctypes.sizeof(status._obj)
        status._obj[1] = 16 << 30
        return 1
    def K32GetProcessMemoryInfo(self, handle, counters, size):
        assert counters._obj[0] == size == ctypes.sizeof(counters._obj)
        counters._obj[7] = 50 << 20
        return 1

def library(name, *args, real=ctypes.CDLL, **kwargs):
    if sys._getframe(1).f_globals["__name__"].startswith("gguflike"):
        if name is None:
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        name = None if name == "ucrtbase" else name
    return real(name, *args, **kwargs)
ctypes.CDLL, ctypes.WinDLL, subprocess.Popen._handle = library, Kernel32, 0

free = shutil.disk_usage("/")
shutil.disk_usage = lambda path: free
mmap.mmap = Mapping
removed = [
    (os, name) for name in dir(os)
    if name.startswith(("O_", "sched_", "posix_", "P_", "SCHED_", "EFD_", "TFD_", "SEEK_D", "SEEK_H"))
    and name not in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND")
] + [(os, name) for name in (
    "sysconf", "sysconf_names", "statvfs", "fstatvfs", "getuid", "geteuid", "getgid", "getegid", "fork", "forkpty",
    "register_at_fork", "pread", "preadv", "pwrite", "pwritev", "copy_file_range", "sendfile", "splice", "fchmod",
    "fchown", "chown", "lchown", "mkfifo", "mknod", "uname", "getloadavg", "nice", "setsid", "getpgid", "killpg",
    "fdatasync", "sync", "lockf", "memfd_create", "confstr", "getrandom", "eventfd", "wait", "wait3", "wait4",
) if hasattr(os, name)] + [
    (mmap, name) for name in dir(mmap) if name.startswith(("MAP_", "PROT_", "MADV_"))
] + [
    (signal, name) for name in dir(signal)
    if name.startswith("SIG") and name not in ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL",
                                               "SIG_IGN", "SIGKILL")  # the last is for subprocess's own use
    or name in ("alarm", "setitimer", "pthread_sigmask", "sigwait", "pause")
]
for module, name in removed:
    delattr(module, name)

def missing(name, globals=None, *args, real=builtins.__import__, **kwargs):
    ours = (globals or {}).get("__name__", "").startswith("gguflike")
    if ours and name in ("resource", "fcntl", "pwd", "grp", "termios", "posix"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *args, **kwargs)
builtins.__import__ = missing

def hidden(real):
    def opened(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, *args, **kwargs)
    return opened
builtins.open = hidden(open)

def binary(path, flags, *args, real=hidden(os.open), **kwargs):
    ours = sys._getframe(1).f_globals["__name__"].startswith("gguflike")
    assert not ours or path == os.devnull or flags & os.O_BINARY, f"{path} is opened as text"
    return real(path, flags & ~os.O_BINARY, *args, **kwargs)
os.O_BINARY, os.open = 1 << 40, binary
"""
USE = """
import contextlib, hashlib, io, json, os, sys
from pathlib import Path
import gguflike
from gguflike.cli import main
from gguflike.chat import template

source, work = Path(sys.argv[1]), Path(sys.argv[2])
file = work / "model.gguf"
def command(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main([*map(str, arguments)])
    return status, out.getvalue().replace(str(work), "")
found = {
    "convert": command("convert", source, "-o", file, "--type", "Q8_0")[0],
    "again": command("convert", source, "-o", file, "--type", "Q8_0", "--overwrite")[0],
    "bytes": hashlib.sha256(file.read_bytes()).hexdigest(),
    "inspect": command("inspect", file, "--json"),
    "verify": command("verify", file),
    "export": command("export", file, work / "folder")[0],
    "exported": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (work / "folder").iterdir()},
    "run": command("run", file, "-p", "It is a truth", "-n", 8),
}
with gguflike.load(file, threads=2) as model:
    found["chat"] = model.generate("It is", 4).result().text
    found["template"] = template.render("{{ messages | length }}", {"messages": [1, 2]})
found["left"] = sorted(os.listdir(work))
print(json.dumps(found, sort_keys=True))
"""


@pytest.mark.timeout(1800)
def test_nothing_needs_what_windows_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files, texts and statuses; nothing left behind."""
    works = {name: tmp_path / name for name in ("whole", "removed")}
    for work in works.values():
        work.mkdir()
    monkeypatch.setattr(sys, "argv", ["use.py", str(MODEL), str(works["whole"])])
    exec(USE, {"__name__": "__main__"})  # here, where encoders may be compiled already
    whole: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    script = tmp_path / "use.py"
    script.write_text(WINDOWS + USE)
    run = subprocess.run([sys.executable, script, MODEL, works["removed"]], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    assert whole["left"] == ["folder", "model.gguf"]
    assert [whole[name] for name in ("convert", "again", "export")] == [0, 0, 0]
    assert whole["template"] == "2"
    assert json.loads(run.stdout.splitlines()[-1]) == whole


def test_no_branch_asks_for_a_systems_name() -> None:
    """What a system can do is asked of it, so that a test can take it away."""
    asked = re.compile(r"(?:sys\.platform|os\.name)\s*(?:[!=]=|in\b|\.)|platform\.system|SIGKILL")
    found = [(p.name, each) for p in PACKAGE.rglob("*.py") for each in asked.findall(p.read_text(encoding="utf-8"))]
    assert found == [("ready.py", "SIGKILL")]  # of what it forked,
    assert 'able = hasattr(os, "fork")' in (PACKAGE / "chat" / "ready.py").read_text()  # where it can


def test_reads_and_writes_at_places_share_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pread and pwrite, threads take turns at the descriptor's one position."""
    for name in ("pwrite", "pread", "preadv"):
        monkeypatch.delattr(os, name, raising=False)
    path, size = tmp_path / "file", 1 << 12
    descriptor = system.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def work(thread: int) -> None:
        for block in range(thread, 64, 4):
            system.write_at(descriptor, bytes([block]) * size, block * size)
            view = memoryview(bytearray(size))
            assert system.read_at(descriptor, view, block * size) == size
            same.append(bytes(view) == bytes([block]) * size)

    same: list[bool] = []
    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert same == [True] * 64
    assert system.read_at(descriptor, memoryview(bytearray(4)), 64 * size) == 0
    os.close(descriptor)
    assert path.read_bytes() == b"".join(bytes([block]) * size for block in range(64))


def test_macos_is_told_to_empty_the_disks_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Fcntl:
        F_FULLFSYNC = 51
        refuses = False

        def fcntl(self, _: int, command: int) -> None:
            calls.append(command)
            if self.refuses:
                raise OSError

    monkeypatch.setattr(system, "fcntl", Fcntl())
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    system.sync(0)
    assert calls == [51]
    monkeypatch.setattr(Fcntl, "refuses", True)
    system.sync(0)
    assert calls == [51, 51, "fsync"]


def test_where_being_open_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is open there cannot be removed: a sweep takes away what is not, and spares the rest."""
    monkeypatch.setattr(system, "OPEN_IS_LOCKED", True)
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    target = str(tmp_path / "target")
    names = [str(tmp_path / f"{publish.temporary_prefix(target)}{n}.tmp") for n in range(4)]
    held = [system.open_file(names[0], os.O_RDWR | os.O_CREAT), claimed.make_folder(names[1])]
    Path(names[2]).touch()
    os.close(claimed.make_folder(names[3]))  # its writer is dead
    open_ones = {names[0], str(Path(names[1]) / ".writing")}
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if os.fspath(path) in open_ones:
            raise PermissionError(13, "in use", path)
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    publish.sweep(target)
    assert sorted(map(str, tmp_path.iterdir())) == names[:2]
    for descriptor in held:
        os.close(descriptor)


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a folder is only renamed to what does not exist, and only when nothing in it is open."""
    monkeypatch.setattr(system, "OPEN_IS_LOCKED", True)
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    target = tmp_path / "target"
    target.mkdir()
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        assert not (path / ".writing").exists()
        if to.exists():
            raise FileExistsError
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    with folder.new_folder(target, 1) as made:
        (made / "a").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert [p.name for p in target.iterdir()] == ["a"]


@pytest.fixture
def unlimited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template's child that cannot limit itself."""
    child = tmp_path / "child.py"
    source = Path(template.__file__).with_name("template_child.py")
    child.write_text(
        f"import runpy, sys\nsys.modules['resource'] = None\nrunpy.run_path({str(source)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(template, "_CHILD", child)
    monkeypatch.setitem(sys.modules, "resource", None)


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("listed", ["statm", "ps"])
def test_memory_is_watched_from_outside(monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    if listed == "ps":
        monkeypatch.setattr(child_memory, "_resident_pages", lambda _: None)
    monkeypatch.setattr(template, "MEMORY_BYTES", 200 << 20)
    monkeypatch.setattr(template, "UNLIMITED_SECONDS", 60.0)
    with pytest.raises(TemplateError, match="was stopped"):
        template.render(
            "{% for i in range(10**5) %}{% for j in range(10**5) %}{{ ['A' * 10**9] | length }}"
            "{% endfor %}{% endfor %}",
            {},
        )
    assert template.render("{{ 1 + 1 }}", {}) == "2"


@pytest.mark.usefixtures("unlimited")
def test_time_is_watched_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "UNLIMITED_SECONDS", 2.0)
    with pytest.raises(TemplateError, match="was stopped"):
        template.render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", {})


def test_memory_of_the_machine_and_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 28 < machine.machine_bytes() < 1 << 50
    code = "import sys; data = b'x' * (100 << 20); print(); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        by_statm = child_memory.process_bytes(child)
        monkeypatch.setattr(child_memory, "_resident_pages", lambda _: None)
        by_ps = child_memory.process_bytes(child)
        assert by_statm is not None
        assert by_ps is not None
        assert 100 << 20 < by_ps < 200 << 20
        assert abs(by_statm - by_ps) < 10 << 20
        child.kill()
    assert child_memory.process_bytes(child) is None
    monkeypatch.delattr(os, "sysconf_names", raising=False)
    assert machine.machine_bytes() == machine.ASSUMED_BYTES
