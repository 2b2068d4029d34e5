"""scripts/break_writing.py, a small part of it: kills at calls, and losses of power."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "break_writing.py"


@pytest.mark.skipif(not hasattr(sys, "abiflags") or not Path("/proc/self/fd").exists(), reason="needs fork and /proc")
def test_some_kills_and_losses_of_power() -> None:
    arguments = ["--operations", "quantize", "--only", "kills", "power", "--kills", "12", "--points", "24"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 kills at calls" in done.stdout
    found = re.search(r"24 losses of power among \d+ calls: (\d+) old, (\d+) complete, 0 between", done.stdout)
    assert found is not None
    assert min(map(int, found.groups())) > 0
