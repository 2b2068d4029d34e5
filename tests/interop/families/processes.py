"""Processes that are asked one thing after another: each line is a request in JSON and is answered by a line.

llama.cpp and its converter run in processes of their own: the one may abort the process it is in, the other imports
packages that are not ours to mix with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Refused(Exception):
    """What the process answered instead of doing what it was asked."""


class Kept:
    """A script that is kept running, and started again after it died."""

    def __init__(self, script: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, script, *arguments]
        self._environment = {**os.environ, "GGML_NO_BACKTRACE": "1", **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long; a pipe would fill up

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to ``request``. Refused where the process says why not, or dies of it."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env=self._environment,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(request), file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            raise Refused(f"died: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply

    def _last_words(self) -> str:
        assert self._process is not None
        process, self._process = self._process, None
        process.communicate()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        self._said.truncate(0)
        return " / ".join(lines[-3:]) or f"exit status {process.returncode}"

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


def answer(do: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Serve requests from standard input until it ends. What else is printed goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line))), file=answers, flush=True)
