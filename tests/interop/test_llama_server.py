"""llama-server's own tests, asked of `gguflike serve`.

They stand in llama.cpp's source tree. llama_server.py makes their servers ours;
llama_server.json lists each test that does not apply, by reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.interop.families.converter import source_tree

#: Tests of theirs that pass here. Fewer: something was lost, or was put into the table.
LEAST = 175


@pytest.mark.timeout(900)
def test_their_tests_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("requests", "filelock", "openai"):
        pytest.importorskip(package)
    theirs = (source_tree() / "tools" / "server" / "tests").resolve()
    command = [sys.executable, "-m", "pytest", "-p", "tests.interop.llama_server", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(theirs), "-c", str(theirs / "pytest.ini"), "--timeout", "120", "-q", "--tb=short"]
    command += ["--basetemp", str(tmp_path / "theirs"), "unit"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        "PYTHONDONTWRITEBYTECODE": "1",  # nothing is written beside their files
        "LLAMA_SERVER_FOLDER": str(tmp_path),
    }
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PORT", "SLOW_TESTS", "DEBUG", "DEBUG_EXTERNAL"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=theirs, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout[-16000:] + done.stderr[-2000:]
    assert (tmp_path / "report.json").exists(), said
    told = json.loads((tmp_path / "report.json").read_text())
    outcomes = Counter(told["outcomes"].values())
    with capsys.disabled():
        print(f"\nllama-server's tests: {outcomes['passed']} passed, {len(told['left_out'])} not applicable")  # noqa: T201
    assert told["unknown"] == []  # names in the table that no test of theirs has
    assert outcomes.keys() == {"passed"}, said
    assert outcomes["passed"] >= LEAST
