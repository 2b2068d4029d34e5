#!/usr/bin/env python3
"""Whether llama.cpp takes the files that we take, and refuses those that we refuse.

    python scripts/fuzz_against_llama.py [--inputs 200000] [--seed 0] [--show N]

Damaged GGUF files (fuzz_mutations.py) are opened by us and by ``gguf_init_from_file`` of llama-cpp-python, in child
processes, for it may abort. Where the two disagree the difference must be one of EXPLAINED; prints how often each
was seen, and ends with exit status 1 at one that is not.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz_mutations as mutations

from gguflike import container
from gguflike.errors import GGUFError, GGUFLikeError

BATCH = 200

#: Differences by what we say of a file, the rule that it breaks (spec/container.md) or "taken", and what llama.cpp does
#: with it: why both are as they should be.
EXPLAINED: dict[tuple[str, str], str] = {
    (
        "taken",
        "tensor  has offset , expected",
    ): "it wants data in the order of the records; we report that (C-101, C-106)",
    ("taken", "tensor name  is too long:  >="): "its tensors have room for 63 bytes of a name; we report that (C-017)",
    ("C-008", "taken"): "keys have at most 65,535 bytes, as GGUF's description says",
    ("C-009", "taken"): "no reader finds a key that is not UTF-8, or has a NUL in it",
    ("C-014", "taken"): "a BOOL is 0 or 1, as GGUF's description says",
    ("C-015", "taken"): "padding to gigabytes would be what fills the file",
    ("C-016", "taken"): "it looks at the architecture when it loads the model, and refuses it then",
    ("C-017", "taken"): "no reader finds a tensor without a name",
    ("C-018", "taken"): "no reader finds a tensor whose name is not UTF-8, or has a NUL in it",
    ("C-025", "taken"): "it looks for the end of the file when it loads the model, and refuses it then",
}


class Params(ctypes.Structure):
    """gguf_init_params"""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def library() -> Any:
    """llama.cpp's reader of GGUF, silenced."""
    import llama_cpp

    loaded = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))))
    loaded.gguf_init_from_file.restype = ctypes.c_void_p
    loaded.gguf_init_from_file.argtypes = (ctypes.c_char_p, Params)
    loaded.gguf_free.argtypes = (ctypes.c_void_p,)
    loaded.ggml_free.argtypes = (ctypes.c_void_p,)
    return loaded


def theirs(gguf: Any, path: str, said: int) -> str:
    """What llama.cpp does with a file and its tensors: "taken", or what it says, without names and numbers. ``said``
    is the descriptor of the file to which it speaks."""
    os.ftruncate(said, 0)
    context = ctypes.c_void_p()
    made = gguf.gguf_init_from_file(path.encode(), Params(True, ctypes.cast(ctypes.pointer(context), ctypes.c_void_p)))
    if context:
        gguf.ggml_free(context)
    if made:
        gguf.gguf_free(made)
        return "taken"
    text = os.pread(said, 1000, 0).decode(errors="replace").split("\n")[0].partition(": ")[2]
    return re.sub(r"'[^']*'?|-?[0-9]+|\[.*", "", text)[:60].strip() or "refused"


def ours(path: str) -> str:
    """The rule that a file breaks, or that it is taken."""
    try:
        with container.open(path, shards=False):
            return "taken"
    except GGUFError as error:
        return error.rule or "refused"
    except GGUFLikeError:
        return "refused"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=Path, metavar="DIR", help="keep one file for each difference")
    args = parser.parse_args()
    gguf = library()
    seen: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "x.gguf"
        done = 0
        while done < args.inputs:
            done += some(gguf, path, args, done, min(BATCH, args.inputs - done), seen)
    both = Counter({key: count for key, count in seen.items() if (key[0] == "taken") == (key[1] == "taken")})
    taken = sum(count for (we, _), count in both.items() if we == "taken")
    print(f"{sum(seen.values()):,} inputs: {taken:,} taken by both, {sum(both.values()) - taken:,} refused by both")
    status = 0
    for (we, they), count in (seen - both).most_common():
        why = EXPLAINED.get((we, they if we == "taken" else "taken"), "NOT EXPLAINED")
        status |= why == "NOT EXPLAINED"
        print(f"{count:9,}  we: {we:8} llama.cpp: {they:40} {why}")
    return int(status)


def some(
    gguf: Any, path: Path, args: argparse.Namespace, first: int, count: int, seen: Counter[tuple[str, str]]
) -> int:
    """Try so many inputs in a child, which says what became of each; how many it came to. One at which it dies is the
    last, and counts as an abort."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            said = os.open(path.with_name("said"), os.O_RDWR | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 2)
            for number in range(first, first + count):
                path.write_bytes(made(args.seed, number))
                we = ours(str(path))
                os.write(writing, f"{we}\t".encode())
                os.write(writing, f"{theirs(gguf, str(path), said)}\n".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answers:
        outcomes = [line.rstrip("\n").split("\t") for line in answers]
    os.waitpid(child, 0)
    for number, (we, they) in enumerate(outcomes):
        key = we, they or "aborts"
        if key not in seen and args.show is not None and (key[0] == "taken") != (key[1] == "taken"):
            args.show.mkdir(parents=True, exist_ok=True)
            (args.show / "-".join(key).replace("/", "_")).write_bytes(made(args.seed, first + number))
        seen[key] += 1
    return len(outcomes) or count


def made(seed: int, number: int) -> bytes:
    """The input of a number."""
    chance = random.Random(f"{seed} {number}")
    return mutations.mutated_gguf(chance.choice((mutations.small(), mutations.small(), mutations.model())), chance)


if __name__ == "__main__":
    sys.exit(main())
