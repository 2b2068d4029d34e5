#!/usr/bin/env python3
"""Whether llama.cpp takes the files that we take, and refuses those that we refuse.

    python scripts/fuzz_against_llama.py [--inputs 200000] [--jobs 2] [--seed 0] [--show N]

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
import struct
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
EXPLAINED: dict[tuple[str, str], str] = {}


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


def theirs(gguf: Any, path: str) -> bool:
    """Whether llama.cpp takes a file, with its tensors."""
    context = ctypes.c_void_p()
    made = gguf.gguf_init_from_file(path.encode(), Params(True, ctypes.cast(ctypes.pointer(context), ctypes.c_void_p)))
    if context:
        gguf.ggml_free(context)
    if made:
        gguf.gguf_free(made)
    return bool(made)


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
    status = 0
    for (we, they), count in sorted(seen.items(), key=lambda item: -item[1]):
        agree = (we == "taken") == (they == "taken")
        why = "" if agree else EXPLAINED.get((we, they), "NOT EXPLAINED")
        status |= why == "NOT EXPLAINED"
        print(f"{count:9,}  {we:8} {they:8} {'both' if agree else why}")
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
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            for number in range(first, first + count):
                chance = random.Random(f"{args.seed} {number}")
                seed = chance.choice((mutations.small(), mutations.small(), mutations.model()))
                data = mutations.mutated_gguf(seed, chance)
                path.write_bytes(data)
                we = ours(str(path))
                os.write(writing, struct.pack("<8sB", we.encode(), 2))
                they = theirs(gguf, str(path))
                os.write(writing, struct.pack("<8sB", we.encode(), they))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        said = [struct.unpack("<8sB", piece) for piece in iter(lambda: answers.read(9), b"")]
    os.waitpid(child, 0)
    ended = [(we, they) for we, they in said if they != 2]
    died = 2 * len(ended) < len(said)
    outcomes = [*ended, *([(said[-1][0], 3)] if died else [])]
    for number, (we, they) in enumerate(outcomes):
        key = we.rstrip(b"\0").decode(), ("refused", "taken", "", "aborts")[they]
        if key not in seen and args.show is not None and (key[0] == "taken") != (key[1] == "taken"):
            chance = random.Random(f"{args.seed} {first + number}")
            seed = chance.choice((mutations.small(), mutations.small(), mutations.model()))
            args.show.mkdir(parents=True, exist_ok=True)
            (args.show / "-".join(key)).write_bytes(mutations.mutated_gguf(seed, chance))
        seen[key] += 1
    return len(outcomes) or count


if __name__ == "__main__":
    sys.exit(main())
