"""Reading, encoding and writing at the same time: that they are, in bounded memory, and that errors of each end all."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguflike import container
from gguflike.checkpoint import LazyTensor
from gguflike.container import Writer
from gguflike.convert import convert, encode, pipeline, quantize_file
from gguflike.convert.encode import Job
from gguflike.convert.slabs import Slab, read_slab, slabs
from gguflike.convert.sources import CheckpointSource, GGUFSource, stamp
from gguflike.errors import GGUFError, QuantizationError
from gguflike.families.origins import Piece
from gguflike.families.transforms import RopePermute, Share, Transform, Transposed
from tests import tiny

WAIT = 20  # seconds; a pipeline that does not overlap waits so long, and fails


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf", dtype="BF16")


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "SLAB_BYTES", 2048)


def test_the_stages_overlap(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_slabs: None) -> None:
    """The third slab is encoded only once the fifth is read ahead of it and the first is written behind it."""
    read, written = threading.Event(), threading.Event()
    counts = {"read": 0, "encode": 0}
    real_read, real_encode, real_write = Job.read, Job.encode, Writer.write_part

    def reading(self: Job, slab: Slab) -> Any:
        counts["read"] += 1
        if counts["read"] == 5:
            read.set()
        return real_read(self, slab)

    def encoding(self: Job, *args: Any) -> Any:
        counts["encode"] += 1
        if counts["encode"] == 3:
            assert read.wait(WAIT)
            assert written.wait(WAIT)
        return real_encode(self, *args)

    def writing(self: Writer, *args: Any) -> None:
        real_write(self, *args)
        written.set()

    monkeypatch.setattr(Job, "read", reading)
    monkeypatch.setattr(Job, "encode", encoding)
    monkeypatch.setattr(Writer, "write_part", writing)
    convert(folder, tmp_path / "x.gguf", "F16")


def test_few_slabs_are_in_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_slabs: None
) -> None:
    """One that is being read, one that waits, one that is encoded; and the same of encoded ones."""
    alive = {"rows": 0, "parts": 0}
    most = dict(alive)
    lock = threading.Lock()

    def count(kind: str, change: int) -> None:
        with lock:
            alive[kind] += change
            most[kind] = max(most[kind], alive[kind])

    def counted(method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            made = np.array(method(*args))  # of its own, so that it lives as long as it is used
            count(kind, 1)
            weakref.finalize(made, count, kind, -1)
            return made

        return call

    monkeypatch.setattr(Job, "read", counted(Job.read, "rows"))
    monkeypatch.setattr(Job, "encode", counted(Job.encode, "parts"))
    planned = convert(folder, tmp_path / "x.gguf", "F16")
    assert sum(len(slabs(tensor.source, 2048)) for tensor in planned.tensors) > 50
    assert most["rows"] <= 3
    assert most["parts"] <= 3


@pytest.mark.parametrize(
    ("stage", "at"),
    [*((stage, at) for stage in ("read", "encode", "write_part") for at in (1, 7, 40)), ("flush", 1), ("flush", 2)],
)
def test_an_error_of_one_stage_ends_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_slabs: None, stage: str, at: int
) -> None:
    owner: type = Job if stage in ("read", "encode") else Writer
    real, count = getattr(owner, stage), 0

    def failing(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise RuntimeError("broken")
        return real(*args)

    monkeypatch.setattr(owner, stage, failing)
    monkeypatch.setattr(pipeline, "FLUSHED_BYTES", 512)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        convert(folder, tmp_path / "x.gguf", "F16", resume=False)
    assert threading.active_count() <= before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


# --- parts of matrices and of stacks ---


def stored(path: Path, values: np.ndarray) -> LazyTensor:
    """A checkpoint's tensor behind some other bytes."""
    path.write_bytes(b"header" + values.astype("<f4").tobytes())
    return LazyTensor("w", "F32", values.shape, str(path), 6, path.stat().st_size)


def transposed(path: Path, values: np.ndarray) -> CheckpointSource:
    tensor = stored(path, values)
    rows = values.shape[1] if values.ndim == 2 else values.shape[0]
    group = values.shape[1] if values.ndim == 2 else 1
    piece = Piece("w", values.shape, rows, values.shape[0], via=Transposed(group=group))
    return CheckpointSource("g", tuple(np.swapaxes(values, -1, -2).shape), ((tensor, piece),))


def test_a_matrix_that_is_transposed_is_read_by_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    source = transposed(tmp_path / "w", values)
    read: list[int] = []
    real = LazyTensor.read_columns

    def recorded(self: LazyTensor, *columns: int) -> Any:
        made = real(self, *columns)
        read.append(made.nbytes)
        return made

    monkeypatch.setattr(LazyTensor, "read_columns", recorded)
    monkeypatch.setattr(LazyTensor, "read_f32", None)  # never as a whole
    parts = list(Job(source, "F32").parts(slab_bytes=1600))
    assert read == [1600] * 30
    assert np.array_equal(np.concatenate(parts).view("<f4").reshape(300, 40), values.T)


@pytest.mark.parametrize("alternate", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_a_share_of_a_stack_is_read_in_parts(tmp_path: Path, alternate: bool, turned: bool, index: int) -> None:
    """Half of the rows of each of three matrices, the first or the second or every other."""
    whole = np.random.default_rng(0).standard_normal((3, 20, 8)).astype(np.float32)
    via = Share(index=index, alternate=alternate, transposed=turned)
    values = np.swapaxes(whole, 1, 2) if turned else whole
    piece = Piece("w", values.shape, 3, 3, via=via)
    source = CheckpointSource("g", (3, 10, 8), ((stored(tmp_path / "w", values), piece),))
    every = slabs(source, 4 * 8 * 4)
    assert [slab.rows for slab in every[:3]] == [(0, 4), (4, 8), (8, 10)]
    made = np.concatenate(list(Job(source, "F32").parts(slab_bytes=4 * 8 * 4))).view("<f4").reshape(3, 10, 8)
    assert np.array_equal(made, whole[:, index::2] if alternate else whole[:, 10 * index : 10 * index + 10])


def test_importance_of_a_stack_belongs_to_the_matrix(tmp_path: Path) -> None:
    """Whichever of its rows are encoded."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 16, 64)).astype(np.float32)
    piece = Piece("w", values.shape, 3, 3)
    source = CheckpointSource("g", values.shape, ((stored(tmp_path / "w", values), piece),))
    job = Job(source, "Q4_0", importance=rng.random((3, 64), np.float32))
    whole = np.concatenate(list(job.parts()))
    assert np.array_equal(np.concatenate(list(job.parts(slab_bytes=5 * 64 * 4))), whole)


@pytest.mark.parametrize(("place", "shape"), [((2, 33), (40, 60)), ((1, 5, 17), (2, 20, 30))])
def test_a_value_is_named_by_its_place_in_the_checkpoint(
    tmp_path: Path, place: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    values = np.zeros(shape, np.float32)
    values[place] = np.nan
    source = transposed(tmp_path / "w", values)
    with pytest.raises(QuantizationError) as caught:
        list(Job(source, "F32").parts(slab_bytes=4 * shape[-2] * 4))
    assert caught.value.got == f"nan at index {place[-2:]}"


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_a_file_is_read_in_parts(tmp_path: Path, endian: str) -> None:
    """Of either byte order, as its tensors are; and a stack in parts of matrices."""
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian[endian])
    rng = np.random.default_rng(0)
    stack = rng.standard_normal((3, 8, 64)).astype(np.float32)
    writer.add_tensor("stack", stack.copy())
    writer.add_tensor("half", stack.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with container.open(path) as file:
        for name, tensor in file.tensors.items():
            assert np.array_equal(file.read(name, 128, 512), tensor.data[128:512])
        source = GGUFSource(str(path), "stack", stack.shape, "F32", (stamp(str(path)),), "stack")
        parts = list(Job(source, "F16").parts(slab_bytes=3 * 64 * 4))
        assert len(parts) == 9
        assert np.array_equal(np.concatenate(parts).view("<f2").reshape(stack.shape), stack.astype(np.float16))
        with path.open("ab") as grown:
            grown.write(b"x")
        with pytest.raises(GGUFError, match="changed"):
            source.part(0, 1)
        with path.open("r+b") as cut:
            cut.truncate(file.infos["half"].offset + 100)
        with pytest.raises(GGUFError, match="shorter"):
            file.read("half", 0, 200)


def test_a_file_is_not_mapped_to_be_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Pages of a mapping that were touched count as memory of the process for as long as it is open."""
    convert(folder, tmp_path / "m.gguf", "F32")

    def mapped(self: Any, name: str) -> Any:
        raise AssertionError(name)

    monkeypatch.setattr(container.GGUFFile, "_tensor", mapped)
    quantize_file(tmp_path / "m.gguf", tmp_path / "x.gguf", "F16")


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_halves_are_encoded_as_their_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, kind: str
) -> None:
    """Of a checkpoint, whose heads are permuted, and of a file; with importance for some of the columns, or none."""
    folder = tiny.checkpoint(tmp_path / "hf", dtype=dtype)
    convert(folder, tmp_path / "half.gguf", dtype)
    read: list[np.dtype] = []
    real = Job.read

    def recorded(self: Job, slab: Slab) -> Any:
        rows = real(self, slab)
        if len(self.source.shape) > 1:
            read.append(rows.dtype)
        return rows

    monkeypatch.setattr(Job, "read", recorded)
    convert(folder, tmp_path / "a.gguf", kind)
    quantize_file(tmp_path / "half.gguf", tmp_path / "b.gguf", kind)
    assert {np.dtype("<f2" if dtype == "F16" else "<u2")} == set(read)
    monkeypatch.setattr(encode, "has_halves", lambda _: False)
    convert(folder, tmp_path / "c.gguf", kind)
    quantize_file(tmp_path / "half.gguf", tmp_path / "d.gguf", kind)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "d.gguf").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "bits", "got"),
    [
        ("F16", 0x7E00, "nan at index (7, 33)"),
        ("F16", 0xFC00, "-inf at index (7, 33)"),
        ("BF16", 0x7FC0, "nan at index (7, 33)"),
        ("BF16", 0x4780, "65536.0 at index (7, 33)"),
    ],
)
@pytest.mark.parametrize("permuted", [False, True])
def test_halves_that_cannot_be_encoded_are_named(
    tmp_path: Path, dtype: str, bits: int, got: str, permuted: bool
) -> None:
    """By their place in the checkpoint, which is another in the file where rows change places."""
    stored_bits = np.zeros((16, 64), np.uint16)
    stored_bits[7, 33] = bits
    path = tmp_path / "w"
    path.write_bytes(stored_bits.tobytes())
    tensor = LazyTensor("w", dtype, stored_bits.shape, str(path), 0, stored_bits.nbytes)
    via = RopePermute(group=8) if permuted else Transform()
    source = CheckpointSource("g", stored_bits.shape, ((tensor, Piece("w", stored_bits.shape, 16, 16, via=via)),))
    for threads in (1, 2):
        with pytest.raises(QuantizationError) as caught:
            list(Job(source, "Q8_0", threads=threads).parts(slab_bytes=8 * 64 * 4))
        assert caught.value.got == got
        assert caught.value.tensor == "w"


def test_halves_are_decoded_as_numpy_does(tmp_path: Path) -> None:
    """All of them, by the kernels, in pieces."""
    every = np.arange(65536, dtype=np.uint16)
    for dtype, finite in (("F16", every & 0x7C00 != 0x7C00), ("BF16", every & 0x7F80 != 0x7F80)):
        bits = every[finite].reshape(-1, 64)
        path = tmp_path / dtype
        path.write_bytes(bits.tobytes())
        tensor = LazyTensor("w", dtype, bits.shape, str(path), 0, bits.nbytes)
        source = CheckpointSource("g", bits.shape, ((tensor, Piece("w", bits.shape, len(bits), len(bits))),))
        slab = Slab(3, len(bits))
        plain = read_slab(source, slab, np.inf, compiled=False)
        assert np.array_equal(read_slab(source, slab, np.inf, compiled=True).view("u4"), plain.view("u4"))
        assert np.array_equal(plain, tensor.read_f32(3))
