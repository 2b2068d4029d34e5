"""The container against llama.cpp's own reader, called through the library that llama-cpp-python carries."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguflike import container
from gguflike.blocks import FORMATS
from gguflike.errors import GGUFError
from gguflike.tensor import QuantizedTensor
from gguflike.verify import verify
from tests.bad_vectors import bad, small_file


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@pytest.fixture(scope="module")
def llama_reads() -> Callable[[Path], int | None]:
    """How many tensors gguf_init_from_file (metadata only) finds in a file; None where it refuses it."""
    llama_cpp = pytest.importorskip("llama_cpp")
    (library,) = list((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so"))
    ggml = ctypes.CDLL(str(library))
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = (ctypes.c_char_p, _InitParams)
    ggml.gguf_get_n_tensors.argtypes = ggml.gguf_free.argtypes = (ctypes.c_void_p,)
    ggml.gguf_get_n_tensors.restype = ctypes.c_int64

    def read(path: Path) -> int | None:
        context = ggml.gguf_init_from_file(str(path).encode(), _InitParams(True, None))
        if not context:
            return None
        count = int(ggml.gguf_get_n_tensors(context))
        ggml.gguf_free(context)
        return count

    return read


def test_llama_cpp_reads_what_we_write(tmp_path: Path, llama_reads: Callable[[Path], int | None]) -> None:
    rng = np.random.default_rng(0)
    tensors = [
        QuantizedTensor(
            fmt.name,
            fmt,
            (3, 2 * fmt.block_size),
            rng.integers(0, 60, fmt.tensor_bytes((3, 2 * fmt.block_size)), np.uint8),
        )
        for fmt in FORMATS.values()
    ]
    metadata = {"general.architecture": "llama", "a": ["x", "größer"], "b": [1, 2], "c": True, "d": 2**40, "e": -0.5}
    container.write(tmp_path / "file.gguf", metadata, tensors)
    assert llama_reads(tmp_path / "file.gguf") == len(tensors)


def test_what_we_open_llama_cpp_opens(tmp_path: Path, llama_reads: Callable[[Path], int | None]) -> None:
    """On damaged files, with the exceptions that spec/container.md lists: holes and disorder."""
    random_ = random.Random(11)
    path = tmp_path / "file.gguf"
    whole = small_file()
    both = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 2)):
            data[random_.randrange(len(data) - 160)] = random_.choice((0, 1, 2, 7, 32, 64, 255, random_.randrange(256)))
        path.write_bytes(data)
        try:
            with container.open(path) as file:
                count = len(file.infos)
                if file.byteorder == "big":
                    continue
        except GGUFError:
            continue
        if {"C-101", "C-106"} & {finding.rule for finding in verify(path).findings}:
            continue
        assert llama_reads(path) == count
        both += 1
    assert both > 100


#: As spec/container.md lists them.
LAXER = {"C-008", "C-009", "C-014", "C-016", "C-017", "C-018", "C-021", "C-025", "C-027"}


def test_what_llama_cpp_refuses_we_refuse(llama_reads: Callable[[Path], int | None]) -> None:
    """Each committed hostile file that llama.cpp opens is one of the listed kinds where it is laxer."""
    folder = Path(__file__).parents[2] / "spec" / "vectors" / "bad"
    opened = {
        case.rule
        for name, case in bad.CASES.items()
        if not case.opens and llama_reads(folder / f"{name}.gguf") is not None
    }
    assert opened <= LAXER
