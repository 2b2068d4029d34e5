"""Every model class of the table, proven in each way, or the reason why not (tests/interop/families/)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gguflike.convert import convert, export
from tests import tiny
from tests.interop.families import TABLE
from tests.interop.families.explained import EXPLAINED
from tests.interop.families.proofs import PROOFS, Oracles, Proofs, has_family
from tests.interop.families.report import missing


@pytest.fixture(scope="module")
def oracles() -> Iterator[Oracles]:
    made = Oracles()
    yield made
    made.close()


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if has_family(row)])
def test_a_class_is_proven(name: str, tmp_path: Path, oracles: Oracles) -> None:
    row = TABLE[name]
    assert not missing(row, Proofs(row, tmp_path, oracles).run(PROOFS))


def test_explanations_are_of_rows_and_proofs() -> None:
    assert set(EXPLAINED) <= set(TABLE)
    assert {proof for reasons in EXPLAINED.values() for proof in reasons} <= set(PROOFS)


def test_the_tokenizer_of_the_export(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tiny.checkpoint(tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", "F32")
    export(tmp_path / "x.gguf", tmp_path / "back")
    text = "Hello <s> wörld, 日本語 and   spaces </s>"
    original, exported = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "back"))
    assert exported(text).input_ids == original(text).input_ids
    assert exported.bos_token == original.bos_token
