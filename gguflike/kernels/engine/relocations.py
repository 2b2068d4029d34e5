"""What an object file asks of its linker: the relocations that LLVM makes for our kernels on x86-64 and AArch64.

A relocation names a place in a section, a symbol and an addend; the linker writes there what the address of the
symbol, now that it is known, makes of the place. Numbers and formulas are those of the "System V ABI, AMD64 supplement"
(section 4.4) and of "ELF for the Arm 64-bit Architecture" (section 5.7), in whose notation S is the symbol's address, A
the addend, P the address of the place, Page(x) = x & ~0xFFF, and G the address of the symbol's entry in a table of
addresses. A relocation that is not listed here is refused by objects.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

X86_64, AARCH64 = 62, 183  # e_machine


class Relocation(NamedTuple):
    """How one kind of relocation changes ``size`` bytes.

    ``patch(word, target, place)`` returns the new bytes as an unsigned number from the old ones, S + A and P; it raises
    OverflowError where the target cannot be reached. ``entry`` says when the target is not the symbol but its table
    entry: "address" always, the eight bytes of the address; "call" for symbols outside the file, code that jumps there.
    """

    size: int
    patch: Callable[[int, int, int], int]
    entry: str = ""


def _signed(value: int, bits: int) -> int:
    """The two's complement of a number, which must fit."""
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise OverflowError(f"{value} does not fit in {bits} signed bits")
    return value & (1 << bits) - 1


def _field(word: int, value: int, first: int, bits: int) -> int:
    """The word with ``bits`` bits from ``first`` replaced by the low bits of a value."""
    mask = (1 << bits) - 1
    return word & ~(mask << first) | (value & mask) << first


def _absolute(bits: int, word: int, target: int, place: int) -> int:
    """S + A."""
    if not 0 <= target < 1 << bits:
        raise OverflowError(f"{target} is no address of {bits} bits")
    return target


def _relative(bits: int, word: int, target: int, place: int) -> int:
    """S + A - P."""
    return _signed(target - place, bits)


def _move(part: int, last: bool, word: int, target: int, place: int) -> int:
    """MOVZ, MOVK: 16 bits of S + A; where ``last``, all that are left."""
    value = target >> 16 * part
    if last and value >> 16:
        raise OverflowError(f"{target} does not fit in {16 * (part + 1)} bits")
    return _field(word, value, 5, 16)


def _page(word: int, target: int, place: int) -> int:
    """ADRP: Page(S + A) - Page(P), in pages of 4 KiB; the two lowest bits stand apart."""
    pages = _signed((target >> 12) - (place >> 12), 21)
    return _field(_field(word, pages, 29, 2), pages >> 2, 5, 19)


def _within_page(scale: int, word: int, target: int, place: int) -> int:
    """ADD, LDR, STR: the low 12 bits of S + A, in units of ``2**scale`` bytes."""
    if target & (1 << scale) - 1:
        raise OverflowError(f"{target} is not a multiple of {1 << scale}")
    return _field(word, (target & 0xFFF) >> scale, 10, 12)


def _branch(word: int, target: int, place: int) -> int:
    """B, BL: S + A - P in units of 4 bytes."""
    if (target - place) & 3:
        raise OverflowError(f"{target} is no address of an instruction")
    return _field(word, _signed(target - place, 28) >> 2, 0, 26)


RELOCATIONS: dict[int, dict[int, Relocation]] = {
    X86_64: {
        1: Relocation(8, partial(_absolute, 64)),  # R_X86_64_64
        2: Relocation(4, partial(_relative, 32)),  # PC32
        4: Relocation(4, partial(_relative, 32)),  # PLT32
        24: Relocation(8, partial(_relative, 64)),  # PC64
    },
    AARCH64: {
        257: Relocation(8, partial(_absolute, 64)),  # R_AARCH64_ABS64
        260: Relocation(8, partial(_relative, 64)),  # PREL64
        261: Relocation(4, partial(_relative, 32)),  # PREL32
        263: Relocation(4, partial(_move, 0, True)),  # MOVW_UABS_G0
        264: Relocation(4, partial(_move, 0, False)),  # MOVW_UABS_G0_NC
        265: Relocation(4, partial(_move, 1, True)),  # MOVW_UABS_G1
        266: Relocation(4, partial(_move, 1, False)),  # MOVW_UABS_G1_NC
        267: Relocation(4, partial(_move, 2, True)),  # MOVW_UABS_G2
        268: Relocation(4, partial(_move, 2, False)),  # MOVW_UABS_G2_NC
        269: Relocation(4, partial(_move, 3, True)),  # MOVW_UABS_G3
        275: Relocation(4, _page),  # ADR_PREL_PG_HI21
        277: Relocation(4, partial(_within_page, 0)),  # ADD_ABS_LO12_NC
        278: Relocation(4, partial(_within_page, 0)),  # LDST8_ABS_LO12_NC
        282: Relocation(4, _branch, "call"),  # JUMP26
        283: Relocation(4, _branch, "call"),  # CALL26
        284: Relocation(4, partial(_within_page, 1)),  # LDST16_ABS_LO12_NC
        285: Relocation(4, partial(_within_page, 2)),  # LDST32_ABS_LO12_NC
        286: Relocation(4, partial(_within_page, 3)),  # LDST64_ABS_LO12_NC
        299: Relocation(4, partial(_within_page, 4)),  # LDST128_ABS_LO12_NC
        311: Relocation(4, _page, "address"),  # ADR_GOT_PAGE: Page(G) - Page(P)
        312: Relocation(4, partial(_within_page, 3), "address"),  # LD64_GOT_LO12_NC
    },
}

# A table entry: what a branch that reaches 128 MiB calls for a function anywhere, and its address.
ENTRY_CODE = b"\x50\x00\x00\x58\x00\x02\x1f\xd6"  # ldr x16, .+8; br x16
ENTRY_BYTES = len(ENTRY_CODE) + 8
