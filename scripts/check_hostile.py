#!/usr/bin/env python3
"""Refuse every hostile input that the repository has, and say how long that took and how much memory.

usage: check_hostile.py [--slow SECONDS] [--most MiB]

Each file of gen_bad_vectors.py is opened, verified and (where it is no model) loaded; each folder of bad_checkpoints.py
is planned as `convert` does; then come headers with 200,000 tensors or 100,000 keys, and a vocabulary of 262,144
tokens with 514,000 merges, which are sound and must be fast. Time is that of the CPU, the least of three; memory the
resident peak above what the process has after the good files (Linux; elsewhere what Python counts). Exits with 1 where
something took longer than it may, or ended otherwise than by a typed error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import bad_checkpoints  # noqa: E402
import bad_models  # noqa: E402
import gen_bad_vectors as bad  # noqa: E402
from gguf_bytes import I32, STRING, array_of, build, string, tensor, text, u32  # noqa: E402

import gguflike  # noqa: E402
from gguflike import container  # noqa: E402
from gguflike.container.validate import validate  # noqa: E402
from gguflike.errors import GGUFLikeError  # noqa: E402

ROUNDS = 3
BOMB_SECONDS = {"100,000 keys": 1.0}  # others: half a second


def peak() -> int:
    """Bytes of the resident peak since `forget`."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) << 10
    return tracemalloc.get_traced_memory()[1]


def forget() -> None:
    """Begin the peak anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        tracemalloc.reset_peak() if tracemalloc.is_tracing() else tracemalloc.start()


def measured(task: Callable[[], None]) -> tuple[float, int, str]:
    """Seconds, bytes above what there was, and how it ended: "" for no error."""
    least, most, said = float("inf"), 0, ""
    for _ in range(ROUNDS):
        forget()
        before, begun = peak(), time.process_time()
        try:
            task()
            said = ""
        except GGUFLikeError as error:
            said = type(error).__name__
        except Exception as error:
            said = f"UNTYPED {error!r}"
        least = min(least, time.process_time() - begun)
        most = max(most, peak() - before)
    return least, most, said


def vectors(folder: Path) -> Iterator[tuple[str, bool, Callable[[], None]]]:
    """(name, whether it must fail, what to do)"""
    for name, data in bad.files().items():
        (folder / name).write_bytes(data)
    for name, case in bad.CASES.items():
        path = folder / f"{name}.gguf"
        yield f"open {name}", not case.opens, lambda path=path: container.open(path).close()
        yield f"verify {name}", False, lambda path=path: _verified(path)
        if case.fault:
            yield f"load {name}", True, lambda path=path: gguflike.load(path, threads=1).close()


def _verified(path: Path) -> None:
    if not gguflike.verify(path).findings and not path.stem.endswith("good"):
        raise AssertionError("nothing was found")


def folders(folder: Path) -> Iterator[tuple[str, bool, Callable[[], None]]]:
    for number, (name, case) in enumerate(bad_checkpoints.CASES.items()):
        source, lora = bad_checkpoints.write(name, folder / str(number))
        yield f"convert {name}", not case.tolerated, lambda source=source, lora=lora: _planned(source, lora)


def _planned(source: Path, lora: list[Path]) -> None:
    gguflike.convert(source, source.with_name("out.gguf"), "F16", dry_run=True, lora=lora)


def bombs(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Sound headers that are as large as they come."""
    tokens = b"".join(string(f"tok{i}") for i in range(262_144))
    merges = b"".join(string(f"a b{i}") for i in range(514_000))
    vocabulary = [
        array_of("tokenizer.ggml.tokens", STRING, 262_144, tokens),
        array_of("tokenizer.ggml.merges", STRING, 514_000, merges),
        array_of("tokenizer.ggml.token_type", I32, 262_144, bytes(4 << 18)),
    ]
    made = {
        "200,000 tensors": build((), [tensor(f"t{i}", [0], 0, 0) for i in range(200_000)]),
        "200,000 tensors in the wrong order": build(
            (), [tensor(f"t{i}", [1], 0, 32 * (200_000 - i)) for i in range(200_000)], bytes(32 * 200_001)
        ),
        "262,144 tokens": build([text("general.architecture", "llama"), *vocabulary]),
        "100,000 keys": build([u32(f"k{i}", i) for i in range(100_000)]),
    }
    for number, (name, data) in enumerate(made.items()):
        path = folder / f"bomb{number}.gguf"
        path.write_bytes(data)
        yield f"open {name}", lambda path=path: container.open(path).close()
        yield f"open and validate {name}", lambda path=path: _validated(path)


def _validated(path: Path) -> None:
    with container.open(path) as file:
        list(validate(file))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", type=float, default=0.1, metavar="SECONDS", help="most time of an input (0.1)")
    parser.add_argument("--most", type=int, default=64, metavar="MiB", help="most memory of an input (64)")
    given = parser.parse_args()
    failed, rows = 0, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "good.gguf").write_bytes(bad_models.model())
        gguflike.load(folder / "good.gguf", threads=1).close()  # what is loaded once is loaded
        gguflike.verify(folder / "good.gguf")
        source, _ = bad_checkpoints.write(None, folder / "good")
        _planned(source, [])
        for name, fails, task in (*vectors(folder), *folders(folder)):
            seconds, memory, said = measured(task)
            rows.append((seconds, memory, name))
            if bool(said) != fails or "UNTYPED" in said or seconds > given.slow or memory > given.most << 20:
                failed += 1
                print(f"FAILED {name}: {seconds * 1000:.0f} ms, {memory >> 20} MiB, {said or 'no error'}")
        slowest, largest = max(rows), max(rows, key=lambda row: row[1])
        print(f"{len(rows)} inputs: {failed} failed; slowest {slowest[0] * 1000:.1f} ms ({slowest[2]}), most memory "
              f"{largest[1] / (1 << 20):.1f} MiB ({largest[2]})")  # fmt: skip
        for name, task in bombs(folder):
            seconds, memory, said = measured(task)
            failed += seconds > BOMB_SECONDS.get(name.partition(" ")[2].removeprefix("and validate "), 0.5) or bool(
                said
            )
            print(f"{name}: {seconds * 1000:.0f} ms, {memory / (1 << 20):.0f} MiB {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
