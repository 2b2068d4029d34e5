"""Damaged files raise GGUFError or load; nothing else may happen, also when everything in them is then read."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from gguflike import container
from gguflike.errors import GGUFError
from gguflike.tensor import QuantizedTensor
from gguflike.verify import verify
from tests.bad_vectors import damage, small_file

RULES = {f"C-{number:03}" for number in range(1, 28)}


def survive(path: Path) -> bool:
    """Whether the file opens; then everything in it is read and verified."""
    report = verify(path)
    try:
        file = container.open(path)
    except GGUFError as refusal:
        rule = refusal.rule
        assert report.findings[0].rule == rule  # others may name what is wrong with the same place, too
        assert rule in RULES
        return False
    with file:
        for key in file.metadata:
            assert file.metadata[key] is not None
            file.metadata.typed(key)
        for name in file.tensors:
            assert file.tensors[name].nbytes == file.infos[name].nbytes
    return True


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_byte_changed(tmp_path: Path, order: str) -> None:
    whole = small_file(order)
    path = tmp_path / "file.gguf"
    path.write_bytes(whole)
    assert survive(path)
    opened = 0
    for place in range(len(whole) - 160):
        for value in {whole[place] ^ 1, 0xFF} - {whole[place]}:
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            opened += survive(path)
    assert opened  # some bytes are free: text, numbers


def test_random_damage(tmp_path: Path) -> None:
    """Pieces removed, doubled, moved and overwritten with hostile numbers."""
    random_ = random.Random(7)
    path = tmp_path / "file.gguf"
    numbers = [struct.pack("<Q", n) for n in (0, 1, 13, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1)]
    opened = 0
    for _ in range(800):
        data = bytearray(small_file(random_.choice("<>")))
        for _ in range(random_.randint(1, 3)):
            at, size = random_.randrange(len(data)), random_.randint(1, 12)
            piece = bytes(data[at : at + size])
            match random_.randrange(4):
                case 0:
                    del data[at : at + size]
                case 1:
                    data[at:at] = piece * random_.randint(1, 3)
                case 2:
                    number = random_.choice(numbers)
                    data[at : at + 8] = number if random_.random() < 0.5 else number[::-1]
                case _:
                    other = random_.randrange(len(data))
                    data[other : other + len(piece)] = piece
        path.write_bytes(data)
        opened += survive(path)
    assert opened


def test_every_flipped_bit_of_our_own_file_is_found(tmp_path: Path) -> None:
    """Header, data and padding: with digests there is no byte that can change unnoticed."""
    path = tmp_path / "file.gguf"
    fmt = container.open(_written(path)).tensors["a"].format
    whole = path.read_bytes()
    assert damage(verify(path)) == []
    assert fmt.name == "Q8_0"
    changed = tmp_path / "changed.gguf"
    for place in range(len(whole)):
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        assert not verify(changed).ok, place


def test_every_truncation_of_our_own_file_is_found(tmp_path: Path) -> None:
    path = _written(tmp_path / "file.gguf")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert not verify(path).ok, size


def test_swapped_tensors_are_found(tmp_path: Path) -> None:
    path = _written(tmp_path / "file.gguf")
    with container.open(path) as file:
        a, b = file.infos["a"], file.infos["b"]
    data = bytearray(path.read_bytes())
    first, second = data[a.offset : a.offset + a.nbytes], data[b.offset : b.offset + b.nbytes]
    data[a.offset : a.offset + a.nbytes], data[b.offset : b.offset + b.nbytes] = second, first
    path.write_bytes(data)
    assert {finding.tensor for finding in damage(verify(path))} == {"a", "b"}


def _written(path: Path) -> Path:
    from gguflike.blocks import FORMATS

    fmt = FORMATS["Q8_0"]
    tensors = [QuantizedTensor(name, fmt, (1, 32), np.arange(i, i + 34, dtype=np.uint8)) for i, name in enumerate("ab")]
    container.write(path, {"general.architecture": "llama", "tokens": ["x", "y"]}, tensors)
    return path
