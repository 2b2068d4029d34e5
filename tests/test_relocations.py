"""Relocations of object files against the assembler's words; AArch64 images placed and read on any machine."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import pytest

from gguflike.kernels.engine import objects
from gguflike.kernels.engine.relocations import AARCH64, ENTRY_BYTES, ENTRY_CODE, RELOCATIONS, X86_64

pytestmark = pytest.mark.skipif(objects.this_machine() is None, reason="object files are mapped by LLVM here")

PLACE, NEAR, FAR = 0x5500_0012_3004, 0x5500_0012_49C8, 0xDEF0_9ABC_5678_1234

# kind: word as compiled, target, word as llvm-mc assembles the instruction with the target for operand (from PLACE)
WORDS = [
    (263, 0xD2800001, 0x1234, 0xD2824681),  # movz x1, #0x1234
    (264, 0xD2800001, FAR, 0xD2824681),
    (265, 0xF2A00001, 0x56781234, 0xF2AACF01),  # movk x1, #0x5678, lsl #16
    (266, 0xF2A00001, FAR, 0xF2AACF01),
    (267, 0xF2C00001, 0x9ABC56781234, 0xF2D35781),  # movk x1, #0x9abc, lsl #32
    (268, 0xF2C00001, FAR, 0xF2D35781),
    (269, 0xF2E00001, FAR, 0xF2FBDE01),  # movk x1, #0xdef0, lsl #48
    (275, 0x90000000, PLACE + 8, 0x90000000),  # adrp x0, #0
    (275, 0x90000000, NEAR, 0xB0000000),  # adrp x0, #0x1000
    (275, 0x90000000, PLACE - 0x1000, 0xF0FFFFE0),  # adrp x0, #-0x1000
    (275, 0x90000000, PLACE + 0xFFFFF000, 0xF07FFFE0),  # adrp x0, #0xfffff000
    (275, 0x90000000, PLACE - 0x100000000, 0x90800000),  # adrp x0, #-0x100000000
    (277, 0x91000000, NEAR, 0x91272000),  # add x0, x0, #0x9c8
    (278, 0x39400002, NEAR + 1, 0x39672402),  # ldrb w2, [x0, #0x9c9]
    (284, 0x79000002, NEAR + 2, 0x79139402),  # strh w2, [x0, #0x9ca]
    (285, 0xB9400002, NEAR + 4, 0xB949CC02),  # ldr w2, [x0, #0x9cc]
    (286, 0xF9400002, NEAR, 0xF944E402),  # ldr x2, [x0, #0x9c8]
    (299, 0x3DC00002, NEAR + 8, 0x3DC27402),  # ldr q2, [x0, #0x9d0]
    (282, 0x14000000, PLACE + 8, 0x14000002),  # b #8
    (282, 0x14000000, PLACE - 8, 0x17FFFFFE),  # b #-8
    (283, 0x94000000, PLACE + 0x7FFFFFC, 0x95FFFFFF),  # bl #0x7fffffc
    (283, 0x94000000, PLACE - 0x8000000, 0x96000000),  # bl #-0x8000000
    (311, 0x90000000, NEAR, 0xB0000000),
    (312, 0xF9400000, NEAR, 0xF944E400),
    (257, 5, FAR, FAR),
    (260, 5, PLACE - 8, 2**64 - 8),
    (261, 5, PLACE - 8, 2**32 - 8),
]
BEYOND = [
    (263, 0x10000),
    (265, 0x100000000),
    (267, FAR),
    (275, PLACE + 0x100000000),
    (275, PLACE - 0x100001000),
    (284, NEAR + 1),
    (285, NEAR + 2),
    (286, NEAR + 4),
    (299, NEAR),
    (312, NEAR + 4),
    (282, PLACE + 2),
    (283, PLACE + 0x8000000),
    (283, PLACE - 0x8000004),
    (257, -1),
    (261, PLACE + 2**31),
]


@pytest.mark.parametrize(("kind", "word", "target", "expected"), WORDS)
def test_words_are_the_assemblers(kind: int, word: int, target: int, expected: int) -> None:
    relocation = RELOCATIONS[AARCH64][kind]
    assert hex(relocation.patch(word, target, PLACE)) == hex(expected)
    assert hex(relocation.patch(expected, target, PLACE)) == hex(expected)  # whatever stood in the field


def test_every_kind_is_tested() -> None:
    assert {kind for kind, *_ in WORDS} == RELOCATIONS[AARCH64].keys()


@pytest.mark.parametrize(("kind", "target"), BEYOND)
def test_what_is_out_of_reach_is_refused(kind: int, target: int) -> None:
    with pytest.raises(OverflowError):
        RELOCATIONS[AARCH64][kind].patch(0, target, PLACE)


def test_words_of_x86() -> None:
    """S + A, and S + A - P in 64 and 32 bits."""
    kinds = RELOCATIONS[X86_64]
    cases = ((1, 0), (24, 1000), (2, 5000), (4, 96))
    found = [(kinds[kind].size, kinds[kind].patch(0, 4996, place)) for kind, place in cases]
    assert found == [(8, 4996), (8, 3996), (4, 2**32 - 4), (4, 4900)]
    for beyond in (2**31, -(2**31) - 1):
        with pytest.raises(OverflowError):
            kinds[4].patch(0, 5000 + beyond, 5000)


# What ops are made of: calls inside and outside of the file, constants, data that is written, data of the process.
PROGRAM = """
target triple = "aarch64-unknown-linux-gnu"
@constants = internal constant [3 x double] [double 1.5, double 2.5, double 3.5]
@counter = internal global i64 77
@common = common global i64 0
@outside = external global i64
declare double @exp(double)
define internal double @inside(double %x) noinline {
  %y = fmul double %x, 3.1e30
  ret double %y
}
define double @main(i64 %i, double %x) {
  %place = getelementptr [3 x double], ptr @constants, i64 0, i64 %i
  %a = load double, ptr %place
  %b = call double @exp(double %a)
  %c = call double @inside(double %b)
  %d = call double @exp(double %c)
  %old = load volatile i64, ptr @counter
  store volatile i64 %old, ptr @common
  store volatile i64 %i, ptr @outside
  ret double %d
}
"""
MODELS = {
    "numba's": {"jit": True, "codemodel": "jitdefault"},  # the large model: movz and movk
    "small, position independent": {"reloc": "pic", "codemodel": "small"},  # adrp, and a table of addresses
    "small": {"reloc": "static", "codemodel": "small"},  # adrp, add and loads with the low bits
}
ADDRESSES = {"exp": 0x7FFF_1234_5678, "outside": 0x7FFE_0000_1008}


class Code(NamedTuple):
    """What a function does, as far as addresses matter."""

    calls: list[int]
    touched: list[int]


def compiled(options: dict[str, Any]) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    return bytes(target.create_target_machine(opt=1, **options).emit_object(llvm.parse_assembly(PROGRAM)))


def read(code: Callable[[int], int], data: Callable[[int], int | None], address: int) -> Code:
    """Follow straight AArch64 code to its return. Registers hold addresses that are known, and nothing else."""
    found, known = Code([], []), dict[int, int]()
    while (word := code(address)) != 0xD65F03C0:  # ret
        to, source, imm12, imm16 = word & 31, word >> 5 & 31, word >> 10 & 0xFFF, word >> 5 & 0xFFFF
        shift, kind = (word >> 21 & 3) * 16, word & 0xFFC00000
        if word >> 26 == 0b100101:  # bl
            found.calls.append(address + ((word & 0x3FFFFFF ^ 0x2000000) - 0x2000000) * 4)
        elif word & 0xFFFFFC1F == 0xD63F0000:  # blr
            found.calls.append(known[source])
        elif word & 0x9F000000 == 0x90000000:  # adrp
            pages = (word >> 29 & 3) | (word >> 5 & 0x7FFFF) << 2
            known[to] = (address & ~0xFFF) + ((pages ^ 0x100000) - 0x100000) * 4096
        elif word & 0xFF800000 == 0xD2800000:  # movz
            known[to] = imm16 << shift
        elif word & 0xFF800000 == 0xF2800000:  # movk
            known[to] = known[to] & ~(0xFFFF << shift) | imm16 << shift
        elif kind == 0x91000000 and source in known:  # add
            known[to] = known[source] + imm12
        elif kind in (0xF9400000, 0xF9000000, 0xFD400000, 0xFD000000) and source in known:  # ldr, str of x and d
            place = known[source] + 8 * imm12
            found.touched.append(place)
            value = data(place) if kind == 0xF9400000 else None
            if kind == 0xF9400000:
                known.pop(to, None)
                known |= {} if value is None else {to: value}
        elif word & 0xFFE00C00 == 0xFC600800 and source in known:  # ldr d, [x, x]
            found.touched.append(known[source])
        address += 4
    return found


@pytest.mark.parametrize("model", MODELS)
def test_an_image_for_aarch64(model: str) -> None:
    """Read as that CPU would, the code calls and touches what it is meant to."""
    mapped = objects.place(compiled(MODELS[model]), "main", ADDRESSES.__getitem__, AARCH64)
    memory = bytes((ctypes.c_char * mapped.total).from_address(mapped.base))

    def code(address: int) -> int:
        assert 0 <= address - mapped.base < mapped.executable
        return int(struct.unpack_from("<I", memory, address - mapped.base)[0])

    def data(address: int) -> int | None:
        inside = 0 <= address - mapped.base < mapped.total
        return int(struct.unpack_from("<Q", memory, address - mapped.base)[0]) if inside else None

    def called(address: int) -> int:
        """Where a call ends up: table entries lead further."""
        at = address - mapped.base
        entry = address % ENTRY_BYTES == 0 and memory[at : at + 8] == ENTRY_CODE
        return int(struct.unpack_from("<Q", memory, at + 8)[0]) if entry else address

    main = read(code, data, mapped.address)
    exp, inside, again = map(called, main.calls)
    assert exp == again == ADDRESSES["exp"]
    assert inside != mapped.address
    (factor,) = read(code, data, inside).touched
    values = [data(place) for place in main.touched]
    constants, counter, common = (
        next(p for p, v in zip(main.touched, values, strict=True) if v == wanted)
        for wanted in (struct.unpack("<Q", struct.pack("<d", 1.5))[0], 77, 0)
    )
    assert struct.unpack_from("<3d", memory, constants - mapped.base) == (1.5, 2.5, 3.5)
    assert constants < mapped.base + mapped.executable <= min(counter, common)  # only these may be written
    assert ADDRESSES["outside"] in main.touched
    assert struct.unpack_from("<d", memory, factor - mapped.base) == (3.1e30,)


def test_a_table_entry_takes_no_addend(monkeypatch: pytest.MonkeyPatch) -> None:
    image, patches = compiled(MODELS["small, position independent"]), objects._patches
    with_addends = [p._replace(addend=8) for p in patches(objects._sections(image, AARCH64), RELOCATIONS[AARCH64])]
    monkeypatch.setattr(objects, "_patches", lambda *_: with_addends)
    with pytest.raises(objects.Unsupported, match="addend"):
        objects.place(image, "main", ADDRESSES.__getitem__, AARCH64)
