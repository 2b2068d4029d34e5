"""Converting on a cluster: dask.distributed with two worker processes over a shared folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.convert import convert, quantize_file
from tests import tiny

distributed = pytest.importorskip("distributed")

SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 4096}


@pytest.fixture
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
        ) as cluster,
        distributed.Client(cluster) as connected,
    ):
        yield connected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf", dtype="BF16", shards=3, **SIZES)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_two_workers_make_the_same_bytes(folder: Path, tmp_path: Path, client: Any, kind: str) -> None:
    convert(folder, tmp_path / "one.gguf", kind)
    convert(folder, tmp_path / "two.gguf", kind, executor=client.get_executor())
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_shards_and_files_that_are_quantized(folder: Path, tmp_path: Path, client: Any) -> None:
    executor = client.get_executor()
    convert(folder, tmp_path / "one.gguf", "F16", split_max_tensors=20)
    made = convert(folder, tmp_path / "two.gguf", "F16", split_max_tensors=20, executor=executor)
    for path in made.paths:
        assert Path(path).read_bytes() == Path(path.replace("two", "one")).read_bytes()
    quantize_file(made.paths[0], tmp_path / "a.gguf", "Q8_0")
    quantize_file(made.paths[0], tmp_path / "b.gguf", "Q8_0", executor=executor)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_worker_that_is_killed_loses_nothing(folder: Path, tmp_path: Path, client: Any) -> None:
    """Its tasks are run again by another, into the same places."""
    convert(folder, tmp_path / "one.gguf", "Q8_0")
    workers = client.run(os.getpid)
    killed: list[int] = []

    def progress(done: int, total: int, what: str) -> None:
        if what != "header" and not killed and done > total // 3:
            killed.append(next(iter(workers.values())))
            os.kill(killed[0], signal.SIGKILL)

    convert(folder, tmp_path / "two.gguf", "Q8_0", executor=client.get_executor(), progress=progress)
    assert killed
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
    assert gguflike.verify(tmp_path / "two.gguf").findings == ()
    assert list(tmp_path.glob(".gguflike-*")) == []


def test_an_error_of_a_worker_ends_it(tmp_path: Path, client: Any) -> None:
    bad = tiny.weights(tiny.config())["model.norm.weight"].copy()
    bad[3] = float("nan")
    folder = tiny.checkpoint(tmp_path / "hf", change={"model.norm.weight": bad})
    with pytest.raises(gguflike.QuantizationError, match="not finite"):
        convert(folder, tmp_path / "x.gguf", "F16", executor=client.get_executor())
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
