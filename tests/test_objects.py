"""Machine code mapped by objects.py does what it does when LLVM links it; what is not understood is refused."""

from __future__ import annotations

import ctypes
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike.families import parts as all_parts
from gguflike.families import registry
from gguflike.kernels.engine import host, native, objects
from gguflike.kernels.engine.memory import op_state
from gguflike.kernels.engine.store import read
from gguflike.kernels.vector.args import QUANTIZE_ROWS
from gguflike.runner import parts

OP = "vector.quantize:rows"
pytestmark = pytest.mark.skipif(objects.this_machine() is None, reason="elsewhere LLVM links everything")


@pytest.fixture(scope="module")
def code() -> tuple[str, bytes]:
    """Symbol and object file of an op."""
    native.load([OP])
    data = read(native._object_path(OP), OP)
    assert data is not None
    symbol, _, image = data.partition(b"\0")
    return symbol.decode(), image


def quantized(address: int) -> list[np.ndarray]:
    """What the op at an address makes of two rows."""
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    out = [np.zeros((2, 64), np.int8), np.zeros((2, 2), np.float32), np.zeros((2, 4), np.int32)]
    codes, scales, sums = (a.ctypes.data for a in out)
    words = QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=64, codes=codes, scales=scales, sums=sums)
    args, state = np.array(words, np.int64), op_state(tokens=2)
    native.OP_TYPE(address)(args.ctypes.data, state.ctypes.data, 0, 2)
    return out


def test_same_results_as_linked_by_llvm(code: tuple[str, bytes]) -> None:
    symbol, image = code
    ours = quantized(objects.load(image, symbol, native._resolve))
    theirs = quantized(native._link_by_llvm("test", symbol, image))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert ours[0].any()


def test_code_is_not_writable(code: tuple[str, bytes]) -> None:
    symbol, image = code
    address = objects.load(image, symbol, native._resolve)
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= address < last:
            assert line.split()[1] == "r-xp"
            break
    else:
        pytest.fail("the code is not mapped")


def test_what_is_not_understood_is_refused(code: tuple[str, bytes]) -> None:
    symbol, image = code
    broken = {
        "another machine": image[:18] + b"\x15" + image[19:],
        "not relocatable": image[:16] + b"\x03" + image[17:],
        "no ELF": b"MZ" + image[2:],
        "cut short": image[: len(image) // 2],
        "empty": b"",
    }
    for data in broken.values():
        with pytest.raises(objects.Unsupported):
            objects.load(data, symbol, native._resolve)
    with pytest.raises(objects.Unsupported):
        objects.load(image, "no_such_function", native._resolve)
    with pytest.raises(objects.Unsupported):
        objects.load(image, symbol, lambda name: getattr(ctypes.CDLL(None), "no_such_" + name))


def test_unknown_relocations_are_left_to_llvm(code: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    symbol, image = code
    monkeypatch.setitem(objects.RELOCATIONS, objects.this_machine(), {})
    with pytest.raises(objects.Unsupported, match="relocation"):
        objects.load(image, symbol, native._resolve)
    before = len(native._libraries)
    address = native._link(OP, symbol.encode() + b"\0" + image)
    assert len(native._libraries) == before + 1
    assert quantized(address)[0].any()


def test_code_is_kept_apart_by_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two CPUs of one name and other features, two of other names, and what numba is told to compile for."""
    cpus = (
        "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd49\n\nprocessor\t: 1\n",
        "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd49\n\nprocessor\t: 1\n",
        "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd07\n\nprocessor\t: 1\n",
    )

    def target(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(native, "cpu", lambda: host.cpu.__wrapped__(str(tmp_path / "cpuinfo")))
        return native._target.__wrapped__()

    found = [target(text) for text in cpus]
    assert target(cpus[0].replace("processor\t: 0", "processor\t: 5")) == found[0]  # any of several alike
    for features in ("+neon", ""):  # none is not the same as not said
        monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
        found.append(target(cpus[0]))
    assert len(set(found)) == 5


def test_a_cached_model_needs_no_compiler_and_no_linker(tmp_path: Path) -> None:
    """Nor any other module that only others need: of other families, of parts that it does not have, of conversions."""
    path = tmp_path / "austen.gguf"
    gguflike.convert(Path(gguflike.__file__).parent / "data" / "austen-kjv-6m", path, type="Q8_0")
    heavy = {"numba", "llvmlite.binding", "hashlib", "subprocess", "tempfile", "concurrent.futures", "numpy.random"}
    heavy |= {"numpy.typing", "shutil", "pathlib", "gguflike.convert", "gguflike.reference", "gguflike.grammar"}
    heavy |= {"gguflike.runner.sampling.chain", "gguflike.chat.prompt", "gguflike.chat.template"}
    heavy |= {"prompt_toolkit", "asyncio", "starlette", "uvicorn", "llguidance", "tqdm", "tomllib", "gguflike.cli.talk"}
    heavy |= {"gguflike.activations"}
    families = {place.partition(":")[0] for place, *_ in registry.FAMILIES}
    heavy |= {f"gguflike.families.{name}" for name in families - {"llama"}}
    own = {name for _, name, _ in pkgutil.iter_modules(all_parts.__path__)} - {"graph", "layers"}
    heavy |= {f"gguflike.families.parts.{name}" for name in own}
    heavy |= {f"gguflike.runner.parts.{name}" for name in {*parts.MODULES.values()} - {"attention", "feed_forward"}}
    program = f"""
import sys, numpy
numpys = set(sys.modules)  # on Arm it imports tempfile
from gguflike.cli import main
assert main(["run", {str(path)!r}, "-p", "It is", "-n", "2", "--threads", "1"]) == 0
print(*sorted({heavy!r} & set(sys.modules) - numpys))
"""
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("\n\n"), "nothing is loaded of these"
