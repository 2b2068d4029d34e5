"""The two tables of block types: complete, and all that a new type needs (CONTRIBUTING.md, "Adding a block type")."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.frozen import replace
from gguflike.kernels.encode.args import WAYS
from gguflike.kernels.table import KERNELS, TypeKernels, load
from tests.block_samples import ALL, ids

ROOT = Path(__file__).parent.parent
TOY = Path(__file__).parent / "toy_type"

ACTIVATIONS = {"Q8_1", "Q8_K"}  # ggml's types of activations, which no matrix of weights is stored in


def forgotten(fmt: BlockFormat, row: TypeKernels) -> list[str]:
    """What is missing in a row of kernels/table.py, by column."""
    missing = []
    if not (row.decode or row.cast):
        missing.append("decode: no kernel, and no cast")
    if not row.encode:
        missing.append("encode")
    if fmt.is_quantized and fmt.name not in ACTIVATIONS:
        if row.record is None:
            missing.append("record")
        if row.repack is None:
            missing.append("repack")
    return missing


def test_both_tables_have_the_same_types() -> None:
    assert FORMATS.keys() - KERNELS.keys() == set(), "types without a row in kernels/table.py"
    assert KERNELS.keys() - FORMATS.keys() == set(), "types without a row in blocks/table.py"


@pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))
def test_a_row_of_kernels_has_every_column(fmt: BlockFormat) -> None:
    assert forgotten(fmt, KERNELS[fmt.name]) == []


@pytest.mark.parametrize("column", ["decode", "encode", "record", "repack"])
def test_a_forgotten_column_is_named(column: str) -> None:
    row = replace(KERNELS["Q4_K"], **{column: None})
    assert [text.split(":")[0] for text in forgotten(FORMATS["Q4_K"], row)] == [column]


@pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))
def test_kernels_are_where_the_row_says(fmt: BlockFormat) -> None:
    row = KERNELS[fmt.name]
    for place in (row.decode, row.encode if row.by_rows else None, row.repack):
        assert place is None or callable(load(place)), place
    assert row.by_rows or row.encode is None or len(load(row.encode)) == len(WAYS)


@pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))
def test_a_record_holds_the_blocks_of_its_type(fmt: BlockFormat) -> None:
    """A block per lane; planes that move as they stand have as many bytes in the block as in a lane of the record."""
    record = KERNELS[fmt.name].record
    if record is None:
        return
    assert record.weights == fmt.block_size
    assert record.weights % record.scale_weights == 0
    for plane in record.planes:
        if plane.field is not None:
            field = next(field for field in fmt.fields if field.name == plane.field)
            assert field.count * fmt.dtype[field.name].base.itemsize == 4 * plane.vectors(record.weights)


FORMAT_ROW = """\
    BlockFormat(900, "TOY", 32, (_codes(16), D), "d * (q - 8)", toy.decode_toy),
"""
KERNELS_ROW = """\
    TypeKernels("TOY", "decode.toy:decode_toy", "encode.toy:encode_toy",
                RecordFormat(32, (Plane(4, 4),), "f16", offset=8), "matmul.toy:scatter_toy", by_rows=True),
"""
USE = """\
import sys
import numpy as np
import gguflike
from gguflike.blocks import FORMATS
from gguflike.inspect.description import describe

rng = np.random.default_rng(0)
x = rng.standard_normal((40, 96)).astype(np.float32)
tensor = gguflike.quantize(x, "toy", name="blk.0.ffn_up.weight")
values = tensor.dequantize()
assert 0 < np.abs(values - x).max() < 0.4
np.testing.assert_array_equal(values, FORMATS["TOY"].decode(tensor.blocks).reshape(x.shape))
for tokens in (1, 5):
    activations = np.rint(127 * rng.uniform(-1, 1, (tokens, 96))).astype(np.float32)
    activations[:, ::32] = 127  # so that rounding them to int8 changes nothing
    want = activations.astype(np.float64) @ values.T.astype(np.float64)
    np.testing.assert_allclose(tensor.linear(activations), want, rtol=1e-5, atol=1e-3)

gguflike.write(sys.argv[1], {"general.architecture": "llama"}, [tensor])
with gguflike.open(sys.argv[1]) as file:
    assert describe(file)["tensors"][0]["type"] == "TOY"
    np.testing.assert_array_equal(file.tensors[tensor.name].dequantize(), values)
    assert file.tensors[tensor.name].nbytes == 40 * 3 * 18
print("a new type works")
"""


def test_a_new_type_needs_its_functions_and_two_rows(tmp_path: Path) -> None:
    """A copy of the package, and nothing changed in it but what CONTRIBUTING.md names."""
    package = tmp_path / "gguflike"
    shutil.copytree(ROOT / "gguflike", package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    places = {
        "reference": "blocks/toy.py",
        "decode": "kernels/decode/toy.py",
        "encode": "kernels/encode/toy.py",
        "scatter": "kernels/matmul/toy.py",
    }
    for name, place in places.items():
        shutil.copy(TOY / f"{name}.py", package / place)
    add_row(package / "blocks" / "table.py", FORMAT_ROW)
    add_row(package / "kernels" / "table.py", KERNELS_ROW)
    table = package / "blocks" / "table.py"
    table.write_text(table.read_text().replace("import codebook,", "import toy, codebook,"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "GGUFLIKE_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", USE, str(tmp_path / "toy.gguf")]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert (run.returncode, run.stdout) == (0, "a new type works\n"), run.stderr


def add_row(table: Path, row: str) -> None:
    """Append to the tuple ``_ROWS``."""
    text, count = re.subn(r"^\)\n(?=# fmt: on)", lambda end: row + end[0], table.read_text(), flags=re.MULTILINE)
    assert count == 1
    table.write_text(text)
