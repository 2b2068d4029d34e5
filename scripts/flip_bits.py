"""Flip single bits of a file that gguflike wrote, and cut it off, and look whether verify finds each.

    python scripts/flip_bits.py                       100,000 flips and 10,000 truncations of a file made for it
    python scripts/flip_bits.py --flips 500 --cuts 50 FILE      a copy of FILE instead
    python scripts/flip_bits.py --seed 7 --processes 2

A flip counts as found where verify reports an error; one in data must name its tensor, one in the header the header
(by its digest, or by the rule that the header now breaks), one in padding its byte. The file lies in memory (/dev/shm)
where there is such a folder. All that was missed is printed, and the exit status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gguflike
from gguflike.blocks import FORMATS
from gguflike.container.places import Gaps
from gguflike.tensor import QuantizedTensor
from gguflike.verify import Report, verify

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ3_S", "IQ4_XS", "MXFP4", "TQ2_0")


class Place(NamedTuple):
    """Bytes ``start`` to ``stop`` of a file: of its header, of padding, or of the tensor ``name``."""

    start: int
    stop: int
    kind: str
    name: str = ""


def made(path: Path) -> None:
    """A small file with tensors of many types, a vocabulary, and rows that leave padding."""
    rng = np.random.default_rng(0)
    tensors = []
    for number, kind in enumerate(TYPES):
        fmt = FORMATS[kind]
        blocks = np.frombuffer(rng.integers(1, 255, 3 * fmt.block_bytes, dtype=np.uint8).tobytes(), fmt.dtype).copy()
        for field in fmt.fields:
            if np.dtype(field.dtype).kind == "f":
                blocks[field.name] = rng.uniform(0.5, 1, blocks[field.name].shape)
            elif field.encoding != "native":
                blocks[field.name] = 0x3F if np.dtype(field.dtype).itemsize == 1 else 0x3F80
        shape = (3, fmt.block_size)
        tensors.append(QuantizedTensor(f"blk.{number}.x", fmt, shape, blocks.view(np.uint8).reshape(-1)))
    metadata = {
        "general.architecture": "llama",
        "general.name": "flipped",
        "tokenizer.ggml.tokens": [f"token {index}" for index in range(40)],
        "tokenizer.ggml.scores": rng.random(40).astype(np.float32),
    }
    gguflike.write(path, metadata, tensors)


def places(path: Path) -> list[Place]:
    """What each byte of a file is."""
    with gguflike.open(path) as file:
        found = [Place(0, file.header_bytes, "header"), Place(file.header_bytes, file.data_offset, "padding")]
        found += [Place(info.offset, info.offset + info.nbytes, "data", name) for name, info in file.infos.items()]
        found += [Place(gap.start, gap.padded, "padding") for gap in Gaps(file)]
    return sorted(place for place in found if place.stop > place.start)


def is_found(report: Report, place: Place, byte: int) -> bool:
    """Whether the report says what happened."""
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if place.kind == "data":
        return any(finding.tensor == place.name for finding in errors)
    if place.kind == "padding":  # that of the header is also covered by its digest
        return any(finding.offset == byte for finding in errors)
    return bool(errors)


def flip(source: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Flips by kind, and those that were missed. Half of them fall anywhere, the others into header, padding and data
    in turns."""
    rng, by_kind, missed = random.Random(seed), Counter[str](), []
    where = places(source)
    size = source.stat().st_size
    with tempfile.TemporaryDirectory(dir=folder()) as place_of:
        path = Path(place_of) / "x.gguf"
        shutil.copy(source, path)
        descriptor = os.open(path, os.O_RDWR)
        for number in range(count):
            if number % 2:
                kind = ("header", "padding", "data")[number // 2 % 3]
                chosen = rng.choice([place for place in where if place.kind == kind])
                byte = rng.randrange(chosen.start, chosen.stop)
            else:
                byte = rng.randrange(size)
            place = next(place for place in where if place.start <= byte < place.stop)
            bit = 1 << rng.randrange(8)
            (before,) = os.pread(descriptor, 1, byte)
            os.pwrite(descriptor, bytes([before ^ bit]), byte)
            if not is_found(verify(path), place, byte):
                missed.append(f"byte {byte}, bit {bit}: {place.kind} {place.name}")
            os.pwrite(descriptor, bytes([before]), byte)
            by_kind[place.kind] += 1
        os.close(descriptor)
        if not verify(path).ok:
            missed.append("the file was not put back")
    return by_kind, missed


def cut(source: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Truncations, and those that were missed."""
    rng, missed = random.Random(seed), []
    data = source.read_bytes()
    with tempfile.TemporaryDirectory(dir=folder()) as place_of:
        path = Path(place_of) / "x.gguf"
        path.write_bytes(data)
        lengths = sorted((rng.randrange(len(data)) for _ in range(count)), reverse=True)
        for length in lengths:  # ever shorter: nothing need be written again
            os.truncate(path, length)
            if verify(path).ok:
                missed.append(f"cut at {length} of {len(data)}")
    return Counter({"truncated": count}), missed


def folder() -> str | None:
    """Where files lie in memory, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--flips", type=int, default=100_000)
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder()) as place_of:
        source = args.file or Path(place_of) / "made.gguf"
        if args.file is None:
            made(source)
        counts, missed = Counter[str](), []
        each = args.processes
        with ProcessPoolExecutor(each) as pool:
            jobs = []
            for number in range(each):
                for work, total in ((flip, args.flips), (cut, args.cuts)):
                    share = total // each + (number < total % each)
                    jobs.append(pool.submit(work, source, share, args.seed * 1000 + number))
            for job in jobs:
                by_kind, lost = job.result()
                counts += by_kind
                missed += lost
        size = source.stat().st_size
    print("\n".join(missed))
    shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    print(f"{size:,} bytes; {shown}; {len(missed)} missed; {time.monotonic() - start:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
