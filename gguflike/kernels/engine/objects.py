"""Object files in memory without a linker: the few relocations that our compiler makes, in a few milliseconds.

LLVM links any object file, but to import and start it takes longer than to load a small model. What numba compiles for
Linux on x86-64 and AArch64 needs little (relocations.py), and an unknown kind of anything is refused (``Unsupported``)
and left to LLVM. A file's sections are mapped in one piece, so that they reach each other. Functions and data of the
process may be anywhere: code for x86-64 holds their addresses, code for AArch64 goes through a table behind it. Offsets
and numbers are those of the ELF specification.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from gguflike.kernels.engine.relocations import AARCH64, ENTRY_BYTES, ENTRY_CODE, RELOCATIONS, X86_64, Relocation

MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}  # as uname calls them
RELOCATABLE = 1
SYMBOLS, RELOCATIONS_WITH_ADDENDS, NO_BITS, RELOCATIONS_WITHOUT = 2, 4, 8, 9  # types of sections
UNWIND = ".eh_frame"  # for exceptions, which ops never raise
WRITE, ALLOCATE, THREAD_LOCAL = 1, 2, 1 << 10  # flags of sections
UNDEFINED, COMMON = 0, 0xFFF2  # section numbers of symbols
PAGE = mmap.PAGESIZE

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")


class Unsupported(Exception):
    """The object file needs more than is known here."""


class Section(NamedTuple):
    """A section header, and the bytes of the section in the file."""

    name: str
    type: int
    flags: int
    size: int
    link: int
    info: int
    align: int
    data: bytes

    @property
    def loaded(self) -> bool:
        return bool(self.flags & ALLOCATE) and self.name != UNWIND and self.size > 0


class Symbol(NamedTuple):
    """A symbol: the number of its section and its offset there (of common data, the alignment), and its size."""

    name: str
    section: int
    value: int
    size: int


class Patch(NamedTuple):
    """One relocation: the section and offset of its place, what it does, the number of its symbol, its addend."""

    section: int
    offset: int
    relocation: Relocation
    symbol: int
    addend: int


class Layout(NamedTuple):
    """Offsets in memory: of sections by number, of table entries and common data by the number of their symbol."""

    sections: dict[int, int]
    entries: dict[int, int]
    commons: dict[int, int]
    executable: int  # bytes from the start that hold code, constants and the table: whole pages
    total: int


class Mapped(NamedTuple):
    """An object file in memory: its start, its bytes, those to be made executable, and the address of the symbol."""

    base: int
    total: int
    executable: int
    address: int


def load(image: bytes, symbol: str, resolve: Callable[[str], int]) -> int:
    """Map an object file and return the address of ``symbol``; it stays mapped as long as the process lives.

    ``resolve`` gives the addresses of symbols that the file does not define. Unsupported where that is not enough.
    """
    machine = this_machine()
    if machine is None:
        raise Unsupported("object files are mapped on Linux, on x86-64 and AArch64")
    mapped = place(image, symbol, resolve, machine)
    _make_executable(mapped.base, mapped.executable, machine)
    return mapped.address


def this_machine() -> int | None:
    """ELF's number for the machine of this process, if files for it can be mapped here."""
    usable = hasattr(os, "uname") and hasattr(mmap, "MAP_ANONYMOUS") and hasattr(mmap, "PROT_EXEC")
    return MACHINES.get(os.uname().machine) if usable else None


def place(image: bytes, symbol: str, resolve: Callable[[str], int], machine: int) -> Mapped:
    """Map an object file for ``machine`` with every relocation applied, but not executable yet."""
    try:
        return _place(image, symbol, resolve, machine)
    except (struct.error, IndexError, ValueError, OverflowError, AttributeError) as error:
        raise Unsupported(f"{symbol}: {error}") from error


def _place(image: bytes, symbol: str, resolve: Callable[[str], int], machine: int) -> Mapped:
    sections = _sections(image, machine)
    symbols = _symbols(sections)
    patches = list(_patches(sections, RELOCATIONS[machine]))
    layout = _layout(sections, symbols, [patch.symbol for patch in patches if _needs_entry(patch, symbols)])
    base = _map(layout.total)
    addresses: dict[int, int] = {}

    def address(number: int) -> int:
        if number not in addresses:
            name, section, value, _ = symbols[number]
            if section == UNDEFINED:
                addresses[number] = resolve(name)
            elif section == COMMON:
                addresses[number] = base + layout.commons[number]
            elif section in layout.sections:
                addresses[number] = base + layout.sections[section] + value
            else:
                raise Unsupported(f"symbol {name} in section {section}")
        return addresses[number]

    memory = memoryview((ctypes.c_char * layout.total).from_address(base)).cast("B")
    for number, offset in layout.sections.items():
        memory[offset : offset + len(sections[number].data)] = sections[number].data
    for number, offset in layout.entries.items():
        memory[offset : offset + ENTRY_BYTES] = ENTRY_CODE + address(number).to_bytes(8, "little")
    for patch in patches:
        section, offset, (size, changed, entry), symbol_number, addend = patch
        at = layout.sections[section] + offset
        if not (entry and _needs_entry(patch, symbols)):
            target = address(symbol_number) + addend
        elif addend:
            raise Unsupported("a table entry with an addend")
        else:
            target = base + layout.entries[symbol_number] + (len(ENTRY_CODE) if entry == "address" else 0)
        old = int.from_bytes(memory[at : at + size], "little")
        memory[at : at + size] = changed(old, target, base + at).to_bytes(size, "little")
    found = next((n for n, s in enumerate(symbols) if s.name == symbol and s.section != UNDEFINED), None)
    if found is None:
        raise Unsupported(f"{symbol} is not in the file")
    return Mapped(base, layout.total, layout.executable, address(found))


def _sections(image: bytes, machine: int) -> list[Section]:
    kind, number = struct.unpack_from("<HH", image, 16)
    if image[:6] != b"\x7fELF\x02\x01" or (kind, number) != (RELOCATABLE, machine):
        raise Unsupported(f"not a relocatable ELF file for machine {machine}")
    (start,) = struct.unpack_from("<Q", image, 40)
    size, count, strings = struct.unpack_from("<HHH", image, 58)
    headers = [_SECTION.unpack_from(image, start + index * size) for index in range(count)]
    names = image[headers[strings][4] : headers[strings][4] + headers[strings][5]]
    sections = []
    for name, type_, flags, _, offset, length, link, info, align, _ in headers:
        data = b"" if type_ == NO_BITS else image[offset : offset + length]
        sections.append(Section(_text(names, name), type_, flags, length, link, info, max(align, 1), data))
    if any(section.flags & THREAD_LOCAL or section.align > PAGE for section in sections):
        raise Unsupported("thread-local or widely aligned data")
    return sections


def _symbols(sections: list[Section]) -> list[Symbol]:
    tables = [section for section in sections if section.type == SYMBOLS]
    if len(tables) != 1:
        raise Unsupported(f"{len(tables)} symbol tables")
    names = sections[tables[0].link].data
    entries = _SYMBOL.iter_unpack(tables[0].data)
    return [Symbol(_text(names, name), section, value, size) for name, _, _, section, value, size in entries]


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode()


def _patches(sections: list[Section], kinds: dict[int, Relocation]) -> Iterator[Patch]:
    """The relocations of the loaded sections."""
    for section in sections:
        if section.type == RELOCATIONS_WITHOUT:
            raise Unsupported("relocations without addends")
        if section.type == RELOCATIONS_WITH_ADDENDS and sections[section.info].loaded:
            for offset, info, addend in _RELOCATION.iter_unpack(section.data):
                relocation = kinds.get(info & 0xFFFFFFFF)
                if relocation is None:
                    raise Unsupported(f"relocation {info & 0xFFFFFFFF}")
                if offset + relocation.size > len(sections[section.info].data):
                    raise Unsupported("a relocation outside its section")
                yield Patch(section.info, offset, relocation, info >> 32, addend)


def _needs_entry(patch: Patch, symbols: list[Symbol]) -> bool:
    entry = patch.relocation.entry
    return entry == "address" or (entry == "call" and symbols[patch.symbol].section == UNDEFINED)


def _layout(sections: list[Section], symbols: list[Symbol], in_table: list[int]) -> Layout:
    """Code and constants, then the table, then on pages of its own what is written to."""
    layout = Layout({}, {}, {}, 0, 0)
    total = executable = 0

    def add(offsets: dict[int, int], number: int, size: int, align: int) -> None:
        nonlocal total
        offsets[number] = -(-total // align) * align
        total = offsets[number] + size

    for writable in (False, True):
        for number, section in enumerate(sections):
            if section.loaded and bool(section.flags & WRITE) == writable:
                add(layout.sections, number, section.size, section.align)
        if not writable:
            for number in dict.fromkeys(in_table):
                add(layout.entries, number, ENTRY_BYTES, ENTRY_BYTES)
            total = executable = -(-total // PAGE) * PAGE
    for number, symbol in enumerate(symbols):
        if symbol.section == COMMON:
            add(layout.commons, number, symbol.size, max(symbol.value, 1))
    return layout._replace(executable=executable, total=total)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    """The C library of this process, which says what its functions take."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _map(size: int) -> int:
    """Address of zeroed memory. Not a Python object: machine code must outlive the interpreter's modules."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _libc().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise Unsupported("no memory to map the code in")
    return int(address)


def _make_executable(base: int, size: int, machine: int) -> None:
    """Make memory executable, and no longer writable."""
    if machine == AARCH64:  # where instructions are cached apart from data: the compiler's runtime says how to clear it
        try:
            clear = ctypes.CDLL("libgcc_s.so.1").__clear_cache
        except (OSError, AttributeError) as error:
            raise Unsupported(f"the instruction cache cannot be cleared: {error}") from error
        clear.argtypes, clear.restype = (ctypes.c_void_p, ctypes.c_void_p), None
        clear(base, base + size)
    if _libc().mprotect(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise Unsupported("the system lets no memory be made executable")
