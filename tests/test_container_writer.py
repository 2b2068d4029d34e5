"""Writing: plan, round trips, the gguf package as reader, and that nothing half-written is ever seen."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflike import container
from gguflike.blocks import FORMATS
from gguflike.container import TensorSpec, Typed, ValueType, Writer, claimed, plan, system
from gguflike.container.publish import temporary_prefix
from gguflike.convert import folder
from gguflike.errors import GGUFError, OutputError
from gguflike.tensor import QuantizedTensor
from gguflike.verify import verify
from tests.bad_vectors import damage
from tests.files import names

METADATA = {"general.architecture": "llama", "llama.block_count": 1}


def random_tensors(seed: int = 0) -> list[QuantizedTensor]:
    """One tensor of each block type, of random bytes with finite scales (every third byte zero at most matters not)."""
    rng = np.random.default_rng(seed)
    tensors = []
    for number, fmt in enumerate(FORMATS.values()):
        shape = (number % 3 + 1, 2 * fmt.block_size)
        data = rng.integers(0, 60, fmt.tensor_bytes(shape), dtype=np.uint8)  # below 60: no exponent is all ones
        tensors.append(QuantizedTensor(f"tensor.{fmt.name}", fmt, shape, data))
    return tensors


def specs(tensors: list[QuantizedTensor]) -> list[TensorSpec]:
    return [TensorSpec(t.name, t.shape, t.format) for t in tensors]


# --- the plan ---


def test_plan_is_pure_and_exact(tmp_path: Path) -> None:
    tensors = random_tensors()
    planned = plan(METADATA, specs(tensors))
    assert planned == plan(METADATA, specs(tensors))
    assert planned.header_bytes == planned.tensors[0].offset
    end = planned.header_bytes
    for info, tensor in zip(planned.tensors, tensors, strict=True):
        assert info.offset == end
        assert info.nbytes == tensor.nbytes
        end = -(-(info.offset + info.nbytes) // 32) * 32
    assert planned.file_bytes == end
    container.write(tmp_path / "file.gguf", METADATA, tensors)
    assert (tmp_path / "file.gguf").stat().st_size == end
    for info in planned.tensors:
        assert info.name in str(planned)


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    tensors = random_tensors()
    planned = plan(METADATA, specs(tensors), alignment=alignment)
    path = tmp_path / "file.gguf"
    with Writer(path, planned) as writer:
        for tensor in tensors:
            writer.write(tensor.name, tensor.data)
    with container.open(path) as file:
        assert file.alignment == alignment
        assert file.metadata["general.alignment"] == alignment
        assert all(info.offset % alignment == 0 for info in file.infos.values())
        again = plan(file.metadata, specs(tensors))
        assert again.alignment == alignment
        assert plan(file.metadata, specs(tensors), alignment=32).alignment == 32
    assert damage(verify(path)) == []


def spec_of(name: str = "x", shape: tuple[int, ...] = (8,), fmt: str = "F32") -> TensorSpec:
    return TensorSpec(name, shape, FORMATS[fmt])


PLANS_REFUSED: dict[str, tuple[str, dict[str, Any], list[TensorSpec]]] = {
    "tensor twice": ("C-019", {}, [spec_of(), spec_of()]),
    "long name": ("C-017", {}, [spec_of("x" * 64)]),
    "name not UTF-8": ("C-018", {}, [spec_of("\udcff")]),
    "five axes": ("C-020", {}, [spec_of(shape=(1,) * 5)]),
    "negative axis": ("C-021", {}, [spec_of(shape=(-1,))]),
    "too many weights": ("C-021", {}, [spec_of(shape=(2**40, 2**40))]),
    "ragged row": ("C-023", {}, [spec_of(shape=(2, 33), fmt="Q8_0")]),
    "empty key": ("C-008", {"": 1}, []),
    "key not UTF-8": ("C-009", {"\ud800": 1}, []),
    "key with NUL": ("C-009", {"a\0": 1}, []),
    "string not UTF-8": ("C-104", {"a": b"\xff"}, []),
    "item not UTF-8": ("C-104", {"a": ["fine", "\udcff"]}, []),
    "alignment": ("C-015", {"general.alignment": 13}, []),
    "architecture": ("C-016", {"general.architecture": 3}, []),
    "nested array": ("M-002", {"a": [[1]]}, []),
    "typed nested array": ("C-012", {"a": Typed([[1]], ValueType.ARRAY, ValueType.ARRAY)}, []),
    "empty list": ("M-002", {"a": []}, []),
    "object": ("M-002", {"a": object()}, []),
    "integer beyond 64 bits": ("M-002", {"a": 2**64}, []),
    "negative beyond 64 bits": ("M-002", {"a": -(2**63) - 1}, []),
    "float beyond FLOAT32": ("M-002", {"a": 1e300}, []),
    "typed overflow": ("M-002", {"a": Typed(256, ValueType.UINT8)}, []),
    "typed fraction": ("M-002", {"a": Typed(1.5, ValueType.INT32)}, []),
    "typed text as number": ("M-002", {"a": Typed("1", ValueType.INT32)}, []),
    "typed number as text": ("M-002", {"a": Typed(1, ValueType.STRING)}, []),
    "mixed list": ("M-002", {"a": ["a", 1]}, []),
    "matrix": ("M-002", {"a": np.zeros((2, 2))}, []),
    "complex": ("M-002", {"a": np.zeros(2, complex)}, []),
    "complex scalar": ("M-002", {"a": np.complex64(1)}, []),
    "typed list of numbers as text": ("M-002", {"a": Typed([1], ValueType.ARRAY, ValueType.STRING)}, []),
    "typed list of text as numbers": ("M-002", {"a": Typed(["1"], ValueType.ARRAY, ValueType.INT32)}, []),
    "typed list of flags as numbers": ("M-002", {"a": Typed([True], ValueType.ARRAY, ValueType.INT32)}, []),
    "typed list of numpy fractions": ("M-002", {"a": Typed([np.float32(1.5)], ValueType.ARRAY, ValueType.INT8)}, []),
}


@pytest.mark.parametrize("name", PLANS_REFUSED)
def test_what_may_not_be_written(name: str) -> None:
    rule, metadata, tensors = PLANS_REFUSED[name]
    with pytest.raises(GGUFError) as caught:
        plan(metadata, tensors)
    assert caught.value.rule == rule


DEFAULT_TYPES = [
    (True, ValueType.BOOL, None),
    (7, ValueType.UINT32, None),
    (-7, ValueType.INT32, None),
    (2**32, ValueType.INT64, None),
    (2**63, ValueType.UINT64, None),
    (-(2**40), ValueType.INT64, None),
    (0.5, ValueType.FLOAT32, None),
    ("text", ValueType.STRING, None),
    (b"text", ValueType.STRING, None),
    (np.uint16(3), ValueType.UINT16, None),
    (np.float64(0.1), ValueType.FLOAT64, None),
    (["a", "b"], ValueType.ARRAY, ValueType.STRING),
    ([1, -2], ValueType.ARRAY, ValueType.INT32),
    ([1, 2**31], ValueType.ARRAY, ValueType.INT64),
    ([1, 2**63], ValueType.ARRAY, ValueType.UINT64),
    ([1, 0.5], ValueType.ARRAY, ValueType.FLOAT32),
    ([True, False], ValueType.ARRAY, ValueType.BOOL),
    (("a",), ValueType.ARRAY, ValueType.STRING),
    (np.array(["a", "b"]), ValueType.ARRAY, ValueType.STRING),
    (np.arange(3, dtype=">i8"), ValueType.ARRAY, ValueType.INT64),
    (np.array([True]), ValueType.ARRAY, ValueType.BOOL),
    (Typed([], ValueType.ARRAY, ValueType.STRING), ValueType.ARRAY, ValueType.STRING),
    (Typed(3, ValueType.FLOAT64), ValueType.FLOAT64, None),
]


@pytest.mark.parametrize(("value", "kind", "item_kind"), DEFAULT_TYPES, ids=repr)
def test_stored_types(tmp_path: Path, value: Any, kind: ValueType, item_kind: ValueType | None) -> None:
    container.write(tmp_path / "file.gguf", {"key": value}, [])
    with container.open(tmp_path / "file.gguf") as file:
        assert (file.metadata.type_of("key"), file.metadata.item_type_of("key")) == (kind, item_kind)
        plain = value.value if isinstance(value, Typed) else value
        plain = plain.decode() if isinstance(plain, bytes) else plain
        assert np.array_equal(file.metadata["key"], plain)
        container.write(tmp_path / "copy.gguf", file.metadata, [])
    assert (tmp_path / "copy.gguf").read_bytes() == (tmp_path / "file.gguf").read_bytes()


# --- round trips ---

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = {
    ValueType.UINT8: st.integers(0, 2**8 - 1),
    ValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    ValueType.UINT16: st.integers(0, 2**16 - 1),
    ValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    ValueType.UINT32: st.integers(0, 2**32 - 1),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: TEXT,
    ValueType.UINT64: st.integers(0, 2**64 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.FLOAT64: st.floats(allow_nan=False),
}
TYPED = st.one_of(
    [items.map(lambda value, kind=kind: Typed(value, kind)) for kind, items in SCALARS.items()]
    + [
        st.lists(items, max_size=5).map(lambda value, kind=kind: Typed(value, ValueType.ARRAY, kind))
        for kind, items in SCALARS.items()
    ]
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
TENSORS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from(sorted(FORMATS)), st.lists(st.integers(0, 3), max_size=4)), max_size=6
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(metadata=st.dictionaries(NAMES, TYPED, max_size=8), tensors=TENSORS, seed=st.integers(0, 99))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Typed], tensors: dict[str, Any], seed: int
) -> None:
    metadata = {key: value for key, value in metadata.items() if not key.startswith("general.")}
    path = tmp_path_factory.mktemp("round") / "file.gguf"
    rng = np.random.default_rng(seed)
    written = []
    for name, (format_name, dims) in tensors.items():
        fmt = FORMATS[format_name]
        shape = (*dims[:-1], dims[-1] * fmt.block_size) if dims else (fmt.block_size,)
        data = rng.integers(0, 256, fmt.tensor_bytes(shape), dtype=np.uint8)
        written.append(QuantizedTensor(name, fmt, shape, data))
    container.write(path, metadata, written)
    with container.open(path) as file:
        assert [key for key in file.metadata if not key.startswith("gguflike.")] == list(metadata)
        for key, value in metadata.items():
            assert file.metadata.type_of(key) == value.type
            assert file.metadata.item_type_of(key) == value.item_type
            assert np.array_equal(file.metadata[key], value.value)
        assert list(file.tensors) == [t.name for t in written]
        for tensor in written:
            read = file.tensors[tensor.name]
            assert (read.shape, read.format) == (tensor.shape, tensor.format)
            assert read.data.tobytes() == tensor.data.tobytes()
    assert {finding.rule for finding in damage(verify(path))} <= {"C-107"}  # random scales may be NaN, nothing else


def test_the_gguf_package_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    known = {kind.name for kind in gguf.GGMLQuantizationType} - {"Q8_1"}  # the package counts 40 bytes, ggml 36
    tensors = [t for t in random_tensors() if t.format.name in known]
    metadata = METADATA | {"a.floats": [0.5, 1.5], "a.texts": ["x", "größer"], "a.big": 2**40, "a.flag": True}
    container.write(path, metadata, tensors)
    reader = gguf.GGUFReader(path)
    assert [t.name for t in reader.tensors] == [t.name for t in tensors]
    for read, tensor in zip(reader.tensors, tensors, strict=True):
        assert read.tensor_type.name == tensor.format.name
        assert tuple(int(d) for d in read.shape) == tensor.shape[::-1]
        assert read.data.tobytes() == tensor.data.tobytes()
    for key, value in metadata.items():
        assert reader.fields[key].contents() == value


def test_digests_are_plain_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    tensors = random_tensors()
    container.write(path, METADATA, tensors)
    with container.open(path) as file:
        stated = file.metadata["gguflike.digest.tensors"]
        assert stated == [hashlib.sha256(t.data.tobytes()).hexdigest() for t in tensors]
        own = file.metadata["gguflike.digest.header"]
        header = path.read_bytes()[: file.data_offset]
    assert hashlib.sha256(header.replace(own.encode(), b"0" * 64)).hexdigest() == own


def test_digests_of_another_file_are_not_copied(tmp_path: Path) -> None:
    tensors = random_tensors()
    container.write(tmp_path / "a.gguf", METADATA, tensors)
    with container.open(tmp_path / "a.gguf") as file:
        container.write(tmp_path / "b.gguf", file.metadata.typed_dict() | {"general.name": "b"}, tensors[:3])
        bare = plan(file.metadata, specs(tensors), digests=False)
    assert damage(verify(tmp_path / "b.gguf")) == []
    assert b"gguflike.digest" not in bare.header


# --- order, parts, threads, processes ---


def reference(tmp_path: Path) -> tuple[bytes, list[QuantizedTensor]]:
    tensors = random_tensors()
    container.write(tmp_path / "reference.gguf", METADATA, tensors)
    return (tmp_path / "reference.gguf").read_bytes(), tensors


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    expected, tensors = reference(tmp_path)
    path = tmp_path / "file.gguf"
    with Writer(path, plan(METADATA, specs(tensors))) as writer:
        for tensor in reversed(tensors):
            half = tensor.nbytes // 2
            writer.write_part(tensor.name, half, tensor.data[half:].tobytes())
            writer.write_part(tensor.name, 0, tensor.data[:half])
    assert path.read_bytes() == expected


def test_empty_parts_do_no_harm(tmp_path: Path) -> None:
    tensor, planned = one_tensor()
    with Writer(tmp_path / "file.gguf", planned) as writer:
        for start in (4, 0):
            writer.write_part(tensor.name, start, tensor.data[start : tensor.nbytes if start else 4])
            writer.write_part(tensor.name, 4, b"")
    assert damage(verify(tmp_path / "file.gguf")) == []


def test_a_file_cut_while_it_is_written(tmp_path: Path) -> None:
    tensor, planned = one_tensor()

    def cut() -> None:
        with Writer(tmp_path / "file.gguf", planned) as writer:
            writer.write_part(tensor.name, 4, tensor.data[4:])
            os.truncate(next(tmp_path.glob(".gguflike-*")), planned.header_bytes)
            writer.write_part(tensor.name, 0, tensor.data[:4])

    with pytest.raises(OutputError, match="cut by someone else"):
        cut()
    assert names(tmp_path) == []


def test_threads_give_the_same_bytes(tmp_path: Path) -> None:
    expected, tensors = reference(tmp_path)
    path = tmp_path / "file.gguf"
    jobs = [(t, at, min(at + 7, t.nbytes)) for t in tensors for at in range(0, t.nbytes, 7)]
    np.random.default_rng(2).shuffle(jobs)
    with Writer(path, plan(METADATA, specs(tensors))) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: writer.write_part(job[0].name, job[1], job[0].data[job[1] : job[2]]), jobs))
    assert path.read_bytes() == expected


WORKER = """
import pickle, sys
job = pickle.load(sys.stdin.buffer)
receipts = [slot.write(data) if whole else slot.write_part(start, data) for slot, start, data, whole in job]
pickle.dump(receipts, sys.stdout.buffer)
"""


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    expected, tensors = reference(tmp_path)
    path = tmp_path / "file.gguf"
    with Writer(path, plan(METADATA, specs(tensors))) as writer:
        job: list[tuple[Any, int, bytes, bool]] = []
        for number, tensor in enumerate(tensors):
            slot, half = writer.slot(tensor.name), tensor.nbytes // 2
            if number % 2:
                job.append((slot, 0, tensor.data.tobytes(), True))
            else:
                job.append((slot, half, tensor.data[half:].tobytes(), False))
                job.append((slot, 0, tensor.data[:half].tobytes(), False))
        done = subprocess.run(
            [sys.executable, "-c", WORKER], input=pickle.dumps(job), stdout=subprocess.PIPE, check=True
        )
        for receipt in pickle.loads(done.stdout):
            writer.accept(receipt)
    assert path.read_bytes() == expected


# --- complete or not at all ---


def one_tensor() -> tuple[QuantizedTensor, container.FilePlan]:
    tensor = random_tensors()[0]
    return tensor, plan(METADATA, specs([tensor]))


def incomplete(writer: Writer, tensor: QuantizedTensor) -> None:
    writer.write_part(tensor.name, 0, tensor.data[:5])


def twice(writer: Writer, tensor: QuantizedTensor) -> None:
    writer.write(tensor.name, tensor.data)
    writer.write_part(tensor.name, 3, tensor.data[3:4])


def too_long(writer: Writer, tensor: QuantizedTensor) -> None:
    writer.write_part(tensor.name, 1, tensor.data)


def too_short(writer: Writer, tensor: QuantizedTensor) -> None:
    writer.write(tensor.name, tensor.data[:-1])


def unknown(writer: Writer, tensor: QuantizedTensor) -> None:
    writer.write("y", tensor.data)


def nothing(writer: Writer, tensor: QuantizedTensor) -> None:
    pass


def interrupted(writer: Writer, tensor: QuantizedTensor) -> None:
    writer.write(tensor.name, tensor.data)
    raise KeyboardInterrupt


@pytest.mark.parametrize("misuse", [incomplete, twice, too_long, too_short, unknown, nothing, interrupted])
@pytest.mark.parametrize("old", [None, b"the old file"])
def test_misuse_leaves_the_folder_as_it_was(
    tmp_path: Path, misuse: Callable[[Writer, QuantizedTensor], None], old: bytes | None
) -> None:
    path = tmp_path / "file.gguf"
    if old is not None:
        path.write_bytes(old)
    before = names(tmp_path)
    tensor, planned = one_tensor()
    with pytest.raises((OutputError, KeyboardInterrupt)), Writer(path, planned) as writer:
        misuse(writer, tensor)
    assert names(tmp_path) == before
    assert old is None or path.read_bytes() == old


def test_refuses_data_that_is_not_bytes(tmp_path: Path) -> None:
    tensor, planned = one_tensor()
    with pytest.raises(ValueError, match="contiguous bytes"), Writer(tmp_path / "file.gguf", planned) as writer:
        writer.write(tensor.name, tensor.data.view("<f4"))
    assert names(tmp_path) == []


def test_not_open_for_writing(tmp_path: Path) -> None:
    tensor, planned = one_tensor()
    writer = Writer(tmp_path / "file.gguf", planned)
    with pytest.raises(OutputError, match="not open"):
        writer.write(tensor.name, tensor.data)
    assert names(tmp_path) == []


CALLS = ("pwrite", "fsync", "replace", "ftruncate", "open")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("old", [None, b"the old file"])
def test_each_failing_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, old: bytes | None
) -> None:
    """Fail the n-th call of one kind, for every n until the write succeeds."""
    path = tmp_path / "file.gguf"
    tensors = random_tensors()[:4]
    real = getattr(os, call)
    failures = 0
    for fail_at in range(40):
        if old is not None:
            path.write_bytes(old)
        before = names(tmp_path)
        count = 0

        def failing(*args: Any, last: int = fail_at, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == last + 1:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                container.write(path, METADATA, tensors)
            except OutputError:
                failures += 1
            else:
                break
        if names(tmp_path) == ["file.gguf"] and (old is None or path.read_bytes() != old):
            assert damage(verify(path)) == []  # only the folder's fsync failed: the file is complete
            path.unlink()
        else:
            assert names(tmp_path) == before
    else:
        pytest.fail("never succeeded")
    assert failures >= 1
    assert damage(verify(path)) == []


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, tensors = reference(tmp_path)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: max(1, len(data) // 2)], at))
    container.write(tmp_path / "file.gguf", METADATA, tensors)
    assert (tmp_path / "file.gguf").read_bytes() == expected


def large() -> tuple[list[QuantizedTensor], container.FilePlan]:
    """Tensors of some blocks of a disk, and a plan in which they begin anywhere."""
    rng = np.random.default_rng(0)
    sizes = (100, 3 * 4096, 50_000, 1 << 21, 4096)
    tensors = [QuantizedTensor(f"t{n}", FORMATS["I8"], (n,), rng.integers(0, 256, n, np.uint8)) for n in sizes]
    return tensors, plan({"general.architecture": "llama"}, specs(tensors))


def goes_past_the_cache(path: Path) -> bool:
    descriptor = system.open_direct(path)
    if descriptor >= 0:
        os.close(descriptor)
    return descriptor >= 0


def in_parts(path: Path, tensors: list[QuantizedTensor], planned: container.FilePlan, size: int) -> list[int]:
    """Write tensors in parts that stand in memory as the writer likes it; how many bytes went by way of the cache."""
    cached = []
    with Writer(path, planned) as writer:
        for tensor in tensors:
            for start in range(0, tensor.nbytes, size):
                data = tensor.data[start : start + size]
                room = writer.room(tensor.name, start, len(data))
                room[:] = data
                writer.write_part(tensor.name, start, room)
                cached.append(writer.cached)
    return cached


def no_direct_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT", raising=False)


def refused_when_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, "no such flag here")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)


def refused_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some bytes, as where blocks are larger than what is aligned here."""
    import fcntl

    real, count = os.pwrite, 0

    def refusing(descriptor: int, data: Any, at: int) -> int:
        nonlocal count
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            count += 1
            if count > 2:
                raise OSError(errno.EINVAL, "not aligned")
            return real(descriptor, data[:8192], at)
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", refusing)


@pytest.mark.parametrize("size", [5000, 1 << 20, 1 << 22])
@pytest.mark.parametrize("fault", [None, no_direct_writes, refused_when_opened, refused_when_written])
def test_writing_past_the_cache_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, fault: Callable[[pytest.MonkeyPatch], None] | None
) -> None:
    tensors, planned = large()
    everything = sum(tensor.nbytes for tensor in tensors)
    cached = in_parts(tmp_path / "a.gguf", tensors, planned, size)
    assert cached[-1] == everything
    monkeypatch.setattr("gguflike.container.unfinished.DIRECT_BYTES", 0)
    with monkeypatch.context() as patch:
        if fault is not None:
            fault(patch)
        cached = in_parts(tmp_path / "b.gguf", tensors, planned, size)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()
    assert damage(verify(tmp_path / "b.gguf")) == []
    if fault in (no_direct_writes, refused_when_opened):
        assert cached[-1] == everything
    elif fault is None and goes_past_the_cache(tmp_path / "a.gguf"):
        assert cached[-1] < everything
        ends = 2 * system.DIRECT_BLOCK  # of each part, at most
        assert cached[-1] <= ends * len(cached)


def test_what_was_written_past_the_cache_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, planned = large()
    monkeypatch.setattr("gguflike.container.unfinished.DIRECT_BYTES", 0)
    in_parts(tmp_path / "a.gguf", tensors, planned, 1 << 20)

    def cut_off() -> None:
        with Writer(tmp_path / "b.gguf", planned, made_of="it") as writer:
            for tensor in tensors[:4]:
                writer.write(tensor.name, tensor.data)
            writer.write_part("t4096", 0, writer.room("t4096", 0, 4000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    with Writer(tmp_path / "b.gguf", planned, made_of="it") as writer:
        assert [writer.restore(tensor.name) for tensor in tensors] == [True] * 4 + [False]
        writer.write(tensors[4].name, tensors[4].data)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_an_error_past_the_cache_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, planned = large()
    monkeypatch.setattr("gguflike.container.unfinished.DIRECT_BYTES", 0)
    real = os.pwrite

    def failing(descriptor: int, data: Any, at: int) -> int:
        if len(data) >= 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    before = threading.active_count()
    with pytest.raises(OutputError, match="No space left"):
        in_parts(tmp_path / "a.gguf", tensors, planned, 1 << 22)
    assert names(tmp_path) == []
    assert threading.active_count() == before


def test_space_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    _, planned = one_tensor()
    with pytest.raises(OutputError, match="free space"), Writer(tmp_path / "file.gguf", planned):
        pytest.fail("entered")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("missing", "fits"), [(0, True), (1, False)])
def test_a_file_may_take_all_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, fits: bool
) -> None:
    tensor, planned = one_tensor()
    free = os.statvfs_result((4096, 1, planned.file_bytes, 0, planned.file_bytes - missing, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    with nullcontext() if fits else pytest.raises(OutputError, match="free space"):
        container.write(tmp_path / "file.gguf", METADATA, [tensor])


def test_a_hyphen_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is standard output to who types it; a file may be called so all the same."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="not written to standard output"):
        container.write("-", {"general.architecture": "x"}, [])
    assert list(tmp_path.iterdir()) == []
    container.write("./-", {"general.architecture": "x"}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["-"]


@pytest.mark.parametrize(
    "target", ["hf://org/name/x.gguf", "hf:/org/x.gguf", "https://host/x.gguf", "s3://bucket/x.gguf"]
)
def test_an_address_is_no_target(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a folder called hf: below the working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="lies elsewhere"):
        container.write(target, {"general.architecture": "x"}, [])
    with pytest.raises(OutputError, match="lies elsewhere"), folder.new_folder(Path(target), 1):
        pass
    with pytest.raises(OutputError, match="lies elsewhere"), claimed.claimed(Path(target), "here"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_source_as_target_is_refused(tmp_path: Path) -> None:
    path, link, hard = tmp_path / "file.gguf", tmp_path / "link.gguf", tmp_path / "hard.gguf"
    tensors = random_tensors()
    container.write(path, METADATA, tensors)
    link.symlink_to(path)
    hard.hardlink_to(path)
    before = path.read_bytes()
    for target in (path, link, hard, tmp_path / "sub" / ".." / "file.gguf"):
        with pytest.raises(OutputError, match="also a source"):
            container.write(target, METADATA, tensors, sources=[path])
    assert path.read_bytes() == before


def test_existing_targets(tmp_path: Path) -> None:
    tensor, planned = one_tensor()
    path = tmp_path / "file.gguf"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists"):
        container.write(path, METADATA, [tensor], overwrite=False)
    assert path.read_bytes() == b"old"
    with pytest.raises(OutputError, match="is a folder"):
        container.write(tmp_path, METADATA, [tensor])
    with pytest.raises(OutputError) as caught:
        container.write(tmp_path / "no" / "file.gguf", METADATA, [tensor])
    assert caught.value.remedy == "make the folder first"
    # the target appears while the file is written: it is not replaced
    other = tmp_path / "other.gguf"

    def race() -> None:
        with Writer(other, planned, overwrite=False) as writer:
            writer.write(tensor.name, tensor.data)
            other.write_bytes(b"someone else's")

    with pytest.raises(OutputError, match="exists"):
        race()
    assert other.read_bytes() == b"someone else's"
    assert names(tmp_path) == ["file.gguf", "other.gguf"]
    other.unlink()
    container.write(other, METADATA, [tensor], overwrite=False)
    assert damage(verify(other)) == []
    assert names(tmp_path) == ["file.gguf", "other.gguf"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.gguf", tmp_path / "link.gguf"
    link.symlink_to(real)
    container.write(link, METADATA, random_tensors())
    assert link.is_symlink()
    assert damage(verify(real)) == []
    assert names(tmp_path / "disk") == ["real.gguf"]


def test_a_long_name_has_room_for_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".gguf")
    container.write(path, METADATA, random_tensors())
    assert damage(verify(path)) == []


def test_two_writers_to_one_target(tmp_path: Path) -> None:
    """Both finish; the last to finish wins; neither touches the other's temporary file."""
    tensor, planned = one_tensor()
    path = tmp_path / "file.gguf"
    with Writer(path, planned) as first:
        with Writer(path, planned) as second:
            assert len(names(tmp_path)) == 2
            first.write(tensor.name, tensor.data)
            second.write(tensor.name, tensor.data)
        assert damage(verify(path)) == []
    assert damage(verify(path)) == []
    assert names(tmp_path) == ["file.gguf"]


KILLED = """
import sys, time
import numpy as np
from gguflike.blocks import FORMATS
from gguflike.container import TensorSpec, Writer, plan
planned = plan({}, [TensorSpec(f"t{i}", (1024,), FORMATS["F32"]) for i in range(1000)])
print("start", flush=True)
with Writer(sys.argv[1], planned) as writer:
    for i in range(1000):
        writer.write(f"t{i}", np.zeros(4096, np.uint8))
        time.sleep(0.0005)
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("old", [None, b"the old file"])
def test_killed_at_any_moment(tmp_path: Path, old: bytes | None) -> None:
    """After kill -9 the target is absent, old, or complete; the next writer removes what the dead one left."""
    path = tmp_path / "file.gguf"
    leftovers = 0
    for delay in (0.0, 0.02, 0.1, 0.3):
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as out:
            assert out.readline() == b"start\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if path.exists() and (old is None or path.read_bytes() != old):
            assert damage(verify(path)) == []
        leftovers += len([name for name in names(tmp_path) if name.startswith(temporary_prefix(str(path)))])
        container.write(path, METADATA, random_tensors())
        assert names(tmp_path) == ["file.gguf"]
    assert leftovers  # the test did kill a writer at work


def test_readers_see_old_or_new_only(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    tensors = random_tensors()
    container.write(path, METADATA | {"general.name": "old"}, tensors)
    stop = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            with container.open(path) as file:
                seen.add(file.metadata["general.name"])

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(30):
            container.write(path, METADATA | {"general.name": "new" if number % 2 else "old"}, tensors)
        stop.set()
        for reader in readers:
            reader.result()
    assert seen == {"old", "new"}


def test_numbers_of_numpy_are_stored_as_the_type_says(tmp_path: Path) -> None:
    values = [np.int8(-3), np.uint16(7), 5]
    container.write(tmp_path / "a.gguf", {"a": Typed(values, ValueType.ARRAY, ValueType.INT16)}, [])
    with container.open(tmp_path / "a.gguf") as file:
        assert list(file.metadata["a"]) == [-3, 7, 5]
        assert file.metadata.item_type_of("a") is ValueType.INT16


def test_a_header_that_would_be_too_large_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(plan({"a": "text"}, [], digests=False).header)
    monkeypatch.setattr(sys.modules["gguflike.container.plan"], "MAX_HEADER_BYTES", size)
    plan({"a": "text"}, [], digests=False)
    monkeypatch.setattr(sys.modules["gguflike.container.plan"], "MAX_HEADER_BYTES", size - 1)
    with pytest.raises(GGUFError, match="header would be too large") as caught:
        plan({"a": "text"}, [], digests=False)
    assert (caught.value.rule, caught.value.expected) == ("C-006", f"at most {size - 1} bytes")


def test_long_values_are_shown_in_part(tmp_path: Path) -> None:
    for length, shown in ((78, "'" + "x" * 78 + "'"), (79, "'" + "x" * 76 + "...")):
        with pytest.raises(GGUFError) as caught:
            plan({"a": Typed("x" * length, ValueType.INT32)}, [])
        assert caught.value.got == shown


@pytest.mark.parametrize("there", [True, False])
def test_a_file_swept_away_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Another writer takes the new file for a dead one's in the moment before it is locked."""
    made: list[Path] = []
    real = os.open

    def opened(path: Any, flags: int, *mode: int) -> int:
        descriptor = real(path, flags, *mode)
        if flags & os.O_EXCL:
            made.append(Path(path))
            if len(made) == 1 and not there:
                made[0].unlink()
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    container.write(tmp_path / "a.gguf", METADATA, random_tensors())
    assert len(made) == (1 if there else 2)
    assert damage(verify(tmp_path / "a.gguf")) == []
    assert names(tmp_path) == ["a.gguf"]


def test_how_things_show_themselves(tmp_path: Path) -> None:
    container.write(tmp_path / "a.gguf", {"general.architecture": "llama", "b": 1}, random_tensors()[:2])
    with container.open(tmp_path / "a.gguf") as file:
        assert repr(file) == f"GGUFFile({str(tmp_path / 'a.gguf')!r}, llama, 2 tensors)"
        assert repr(file.metadata) == f"Metadata({len(file.metadata)} keys)"
        assert repr(file.tensors) == "2 tensors"
