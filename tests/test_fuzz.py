"""scripts/fuzz.py, a small part of it: damaged files of every kind are read or refused, and what is not is found."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflike.errors import GGUFLikeError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import fuzz_mutations  # noqa: E402
import fuzz_targets  # noqa: E402

TARGETS = {target.name: target for target in fuzz_targets.targets() if target.name != "template"}


def test_there_are_many_ways_to_damage_a_file() -> None:
    assert len(fuzz_mutations.MUTATIONS) >= 46


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_good(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        target.read(target.encoded(seed), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = TARGETS[name]
    folder = tmp_path_factory.mktemp(name)

    @settings(max_examples=60, derandomize=True)
    @given(st.randoms(use_true_random=False))
    def check(chance: object) -> None:
        data = target.mutated(chance.choice(target.seeds), chance)  # type: ignore[attr-defined,arg-type]
        with contextlib.suppress(GGUFLikeError):
            target.read(data, folder)

    check()


def test_findings_are_kept(tmp_path: Path) -> None:
    """An error that is none of ours, an endless loop and a process that dies: each is told, and the others go on."""
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import fuzz, fuzz_targets
def read(data, folder):
    number = len(data) % 50
    if number == 1: raise KeyError("x")
    if number == 2: os.abort()
    while number == 3: pass
broken = fuzz_targets.Target("broken", [b"x" * 200], fuzz.mutations.mutated_bytes, bytes, read, 1.0)
fuzz.targets = lambda: [broken]
fuzz.SECONDS = 0.2
sys.argv = ["fuzz.py", "--inputs", "150", "--jobs", "1", "--keep", {str(tmp_path / "kept")!r}]
sys.exit(fuzz.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("150 inputs")
    kept = sorted(path.name for path in (tmp_path / "kept").glob("*.txt"))
    assert len(kept) == 3
    assert any("the-process-ended-with--6" in name for name in kept)


def fuzz(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "fuzz.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_runs_over_other_numbers_add_up(tmp_path: Path) -> None:
    """An input is made from its number, in however many processes; a number that was tried twice counts for nothing."""
    whole, first, rest, twice = (tmp_path / f"{name}.json" for name in ("whole", "first", "rest", "twice"))
    kinds = ("--targets", "gguf", "safetensors", "--keep", tmp_path / "kept")
    for log, start, count, jobs in ((whole, 7, 60, 1), (first, 7, 25, 2), (rest, 32, 35, 3), (twice, 31, 1, 1)):
        done = fuzz("--first", start, "--inputs", count, "--jobs", jobs, "--log", log, *kinds)
        assert done.returncode == 0, done.stderr
    added, alone = fuzz("--sum", rest, first), fuzz("--sum", whole)

    def counts(text: str) -> list[str]:
        return [line.rpartition(";")[0] for line in text.splitlines()[2:]]

    assert added.stdout.startswith("60 inputs")
    assert "numbers 7 to 31, 32 to 66;" in added.stdout
    assert counts(added.stdout) == counts(alone.stdout) != []
    assert "inputs 31 to 31 were tried twice" in fuzz("--sum", first, twice).stderr


def test_inputs_depend_on_the_seed_alone() -> None:
    """What one input was changed into is not in the next."""
    target = TARGETS["config"]

    def made() -> list[bytes]:
        chance = random.Random(3)
        return [target.mutated(chance.choice(target.seeds), chance) for _ in range(200)]

    assert made() == made()
