"""Object files in memory without a linker: the few relocations that our compiler makes, in a few milliseconds.

LLVM links any object file, but to import and start it takes longer than to load a small model. What numba compiles for
x86-64 needs little: the large code model has 64-bit addresses everywhere, so that a section may go anywhere, and an
unknown kind of anything is refused (``Unsupported``) and left to LLVM. Offsets and numbers are those of the ELF and
x86-64 ABI specifications.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

X86_64 = 62
RELOCATABLE = 1
SYMBOLS, RELOCATIONS_WITH_ADDENDS, NO_BITS, RELOCATIONS = 2, 4, 8, 9  # types of sections
UNWIND = ".eh_frame"  # for exceptions, which ops never raise
WRITE, ALLOCATE, THREAD_LOCAL = 1, 2, 1 << 10  # flags of sections
UNDEFINED, ABSOLUTE, COMMON = 0, 0xFFF1, 0xFFF2  # section numbers of symbols
SIZES = {1: 8, 24: 8, 2: 4, 4: 4}  # bytes of R_X86_64_64, _PC64, _PC32 and _PLT32
RELATIVE = frozenset((24, 2, 4))
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


def load(image: bytes, symbol: str, resolve: Callable[[str], int]) -> int:
    """Map an object file and return the address of ``symbol``; it stays mapped as long as the process lives.

    ``resolve`` gives the addresses of symbols that the file does not define. Unsupported where that is not enough.
    """
    try:
        return _load(image, symbol, resolve)
    except (struct.error, IndexError, ValueError, OverflowError, AttributeError) as error:
        raise Unsupported(f"{symbol}: {error}") from error


def _load(image: bytes, symbol: str, resolve: Callable[[str], int]) -> int:
    sections = _sections(image)
    tables = [section for section in sections if section.type == SYMBOLS]
    if len(tables) != 1 or any(section.type == RELOCATIONS for section in sections):
        raise Unsupported("symbol tables")
    names = sections[tables[0].link].data
    symbols = [
        (_text(names, name), number, value, size)
        for name, _, _, number, value, size in _SYMBOL.iter_unpack(tables[0].data)
    ]
    offsets, fixed, total = _layout(sections)
    commons: dict[int, int] = {}
    for index, (_, number, align, size) in enumerate(symbols):
        if number == COMMON:
            commons[index] = total = -(-total // max(align, 1)) * max(align, 1)
            total += size
    base = _map(total)
    addresses: dict[int, int] = {}

    def address(index: int) -> int:
        if index not in addresses:
            name, number, value, _ = symbols[index]
            if number == UNDEFINED:
                addresses[index] = resolve(name)
            elif number == COMMON:
                addresses[index] = base + commons[index]
            elif number in offsets:
                addresses[index] = base + offsets[number] + value
            else:
                raise Unsupported(f"symbol {name} in section {number}")
        return addresses[index]

    memory = memoryview((ctypes.c_char * total).from_address(base)).cast("B")
    for number, offset in offsets.items():
        memory[offset : offset + len(sections[number].data)] = sections[number].data
    for section in sections:
        if section.type == RELOCATIONS_WITH_ADDENDS and section.info in offsets:
            target = base + offsets[section.info]
            for place, size, value in _relocations(section, target, address):
                at = place - base
                memory[at : at + size] = value.to_bytes(size, "little", signed=value < 0)
    _protect(base, fixed)
    found = [index for index, (name, number, _, _) in enumerate(symbols) if name == symbol and number != UNDEFINED]
    return address(found[0])


def _sections(image: bytes) -> list[Section]:
    kind, machine = struct.unpack_from("<HH", image, 16)
    if image[:6] != b"\x7fELF\x02\x01" or (kind, machine) != (RELOCATABLE, X86_64):
        raise Unsupported("not a relocatable x86-64 file")
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


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode()


def _layout(sections: list[Section]) -> tuple[dict[int, int], int, int]:
    """Offsets of the loaded sections by their numbers, bytes that may be protected, and bytes in all."""
    offsets: dict[int, int] = {}
    total = fixed = 0
    for writable in (False, True):
        for number, section in enumerate(sections):
            if section.loaded and bool(section.flags & WRITE) == writable:
                offsets[number] = total = -(-total // section.align) * section.align
                total += section.size
        if not writable:
            fixed = total = -(-total // PAGE) * PAGE
    return offsets, fixed, total


def _relocations(section: Section, target: int, address: Callable[[int], int]) -> Iterator[tuple[int, int, int]]:
    """(place, bytes, value) of each relocation of the section that is mapped at ``target``."""
    for offset, info, addend in _RELOCATION.iter_unpack(section.data):
        kind = info & 0xFFFFFFFF
        if kind not in SIZES:
            raise Unsupported(f"relocation {kind}")
        place, size = target + offset, SIZES[kind]
        value = address(info >> 32) + addend - (place if kind in RELATIVE else 0)
        yield place, size, value


def _map(size: int) -> int:
    """Address of zeroed memory. Not a Python object: machine code must outlive the interpreter's modules."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise Unsupported("no memory to map the code in")
    return int(address)


def _protect(base: int, size: int) -> None:
    """Make memory executable, and no longer writable."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if libc.mprotect(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise Unsupported("the system lets no memory be made executable")
