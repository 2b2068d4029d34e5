"""The hostile files of spec/vectors/bad: each is there, unchanged, and gets exactly the error of its rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gguflike
from gguflike import container
from gguflike.errors import GGUFError, GGUFLikeError
from gguflike.verify import verify
from tests.bad_vectors import ROOT, bad

FOLDER = ROOT / "spec" / "vectors" / "bad"
SPEC = (ROOT / "spec" / "container.md").read_text() + (ROOT / "spec" / "metadata.md").read_text()
RULES = set(re.findall(r"^\| ([CM]-\d{3}) \|", SPEC, re.MULTILINE))
#: What no rule forbids, by spec/metadata.md.
ODD = set(re.findall(r"^\| (M-\d{3}) \| (?:warning|note|`verify --)", SPEC, re.MULTILINE))
WITHOUT_FILE = {"C-006", "M-002"}  # a header of 256 MiB is not tiny; M-002 is about what is written: tests of their own


def test_every_file_is_committed_unchanged() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*bad.files(), "README.md"}
    for name, data in bad.files().items():
        assert (FOLDER / name).read_bytes() == data, name


def test_table_is_current() -> None:
    assert (FOLDER / "README.md").read_text() == bad.table(FOLDER)


def test_every_rule_has_a_file() -> None:
    assert {case.rule for case in bad.CASES.values() if not case.fault} == RULES - WITHOUT_FILE - ODD


def test_every_rule_that_code_names_is_in_the_spec() -> None:
    sources = [path for room in ("container", "verify") for path in (ROOT / "gguflike" / room).glob("*.py")]
    named = {rule for path in sources for rule in re.findall(r'"([CM]-\d{3})"', path.read_text())}
    assert named == RULES


@pytest.mark.parametrize("name", [name for name, case in bad.CASES.items() if not case.opens])
def test_refused_with_rule_field_and_place(name: str) -> None:
    path = FOLDER / f"{name}.gguf"
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    error = caught.value
    case = bad.CASES[name]
    assert error.rule == case.rule
    assert error.path is not None
    assert Path(error.path).parent == FOLDER
    if case.rule != "C-027":  # a relation between files has no byte
        assert error.field
        assert error.offset is not None
        assert 0 <= error.offset <= len(case.data)


@pytest.mark.parametrize("name", [name for name, case in bad.CASES.items() if case.opens and not case.fault])
def test_opens_and_is_reported(name: str) -> None:
    path = FOLDER / f"{name}.gguf"
    with container.open(path):
        pass
    report = verify(path)
    assert [finding.rule for finding in report.findings] == [bad.CASES[name].rule]
    assert report.ok == (report.findings[0].severity == "warning")


@pytest.mark.parametrize("name", [name for name, case in bad.CASES.items() if not case.opens])
def test_verify_reports_what_open_refuses(name: str) -> None:
    report = verify(FOLDER / f"{name}.gguf")
    assert not report.ok
    first, *more = (finding.rule for finding in report.findings)
    assert first == bad.CASES[name].rule
    assert more == (
        ["C-025"] if name in ("offset_minus_1", "sum_wraps") else []
    )  # the same or another lies outside, too


@pytest.mark.parametrize("name", [name for name, case in bad.CASES.items() if case.fault])
def test_what_is_no_model_is_refused_when_it_is_loaded(name: str) -> None:
    """Before anything is compiled, with the key and its byte, or the tensor; `verify` reports it, too."""
    path, case = FOLDER / f"{name}.gguf", bad.CASES[name]
    with pytest.raises(GGUFLikeError) as caught:
        gguflike.load(path, threads=1)
    error = caught.value
    assert str(error.path) == str(path)
    assert case.fault in (error.tensor, (error.field or "").partition("[")[0], error.what)
    if error.field is not None and isinstance(error, GGUFError):
        assert error.rule == case.rule
        assert error.offset is not None
        assert path.read_bytes()[: error.offset].rfind(case.fault.encode()) >= 0  # it stands behind its key
    findings = verify(path).findings
    assert {finding.rule for finding in findings} & {"M-010", "M-011", "M-012", "M-032"}


def test_a_model_without_a_fault_runs(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(bad.model())
    with gguflike.load(path, threads=1) as model:
        assert model.logits([1, 4]).shape == (2, 8)


def test_there_are_enough() -> None:
    assert len({case.data for case in bad.CASES.values()}) >= 120


def test_digests_are_what_the_spec_says(tmp_path: Path) -> None:
    """The script computes them from the text of spec/metadata.md, without the package."""
    path = tmp_path / "good.gguf"
    path.write_bytes(bad.with_digests(bad.floats(8)))
    report = verify(path)
    assert report.digests
    assert report.findings == ()


def test_annotated_example_of_the_spec(tmp_path: Path) -> None:
    text = (ROOT / "spec" / "container.md").read_text()
    block = text[text.index("47 47 55 46") :].split("```")[0]
    lines = [re.match(r"(?:[0-9a-f]{2} ?)+", line) for line in block.splitlines()]
    data = b"".join(bytes.fromhex(line[0]) for line in lines if line)
    path = tmp_path / "example.gguf"
    path.write_bytes(data)
    assert verify(path).findings == ()
    with container.open(path) as file:
        assert file.architecture == "llama"
        assert file.data_offset == 128
        assert file.tensors["x"].shape == (2, 2)
        assert file.tensors["x"].data.view("<f4").tolist() == [1, 2, 3, 4]
    expected = bad.build([bad.text("general.architecture", "llama")], [bad.tensor("x", [2, 2], 0, 0)], bad.floats(4))
    assert data == expected + bytes(16)
