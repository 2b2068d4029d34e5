"""What commands write to a terminal of 80 columns: no line is wider, but what is copied in one piece."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import gguflike
from gguflike.cli import main
from tests import tiny

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from tests.terminals import Terminal, plain

LONG = "a-name-that-somebody-has-given-without-thinking-of-any-terminal-or-of-who-reads-it-there"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a file of it, the same with long names, and texts."""
    made = tmp_path_factory.mktemp("columns")
    tiny.checkpoint(made / "ck")
    gguflike.convert(made / "ck", made / "m.gguf", "F32")
    gguflike.quantize_file(made / "m.gguf", made / "q.gguf", "Q8_0")
    values = {"general.name": f"{LONG} {LONG}", f"a.key.of.{LONG}": "x " * 200, "general.description": LONG * 9}
    gguflike.edit(made / "m.gguf", made / f"{LONG}.gguf", values=values)
    shutil.copytree(made / "ck", made / LONG)
    (made / "t.txt").write_text("hello world, this is text. " * 60)
    return made


@pytest.mark.parametrize(
    "line",
    [
        "convert ck -t Q4_K_M --dry-run",
        f"convert {LONG} --bpw 6 -o z.gguf --dry-run",
        "quantize m.gguf Q4_K_M --dry-run",
        f"calibrate {LONG} -o c.dat --calibration t.txt --context 16 --dry-run",
        "tune ck -o t.gguf --text t.txt --held-out t.txt --dry-run",
        f"inspect {LONG}.gguf --metadata --tensors",
        "inspect .",
        f"inspect {LONG}",
        "inspect m.gguf --tensor blk.0.* --values --stats",
        "verify q.gguf m.gguf",
        f"diff {LONG}.gguf q.gguf",
        f"edit {LONG}.gguf --dry-run --set general.name=x --set general.description={LONG}",
        f"estimate {LONG}.gguf",
        "estimate q.gguf --context 64",
        "chat q.gguf",
        "nothing",
    ],
)
def test_lines_fit(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with Terminal(*line.split(), GGUFLIKE_CONFIG="") as terminal:
        assert terminal.ends() in (0, 1, 2)
        written = terminal.raw.replace("\r\n", "\n")
    lines = [plain(each.rpartition("\r")[2]) for each in written.split("\n")]
    assert len(lines) > 2
    wide = [each for each in lines if len(each) > 80]
    assert all(LONG in each and len(each) < 80 + len(LONG) for each in wide), wide


def test_what_goes_into_files_is_not_broken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(folder / "m.gguf"), str(folder / "q.gguf")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) > 80
    assert any(each.endswith("  largest") for each in lines)
    assert main(["verify", str(folder / "m.gguf")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
