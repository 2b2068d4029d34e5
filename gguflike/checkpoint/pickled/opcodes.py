"""The opcodes of pickles that a description of tensors needs, each a step of the machine."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from gguflike.checkpoint.pickled.machine import MARK, REMEDY, Machine
from gguflike.errors import UnsupportedError


def load(m: Machine) -> Any:
    """What the next pickle describes: dictionaries, lists, tuples, numbers, text, `View` and `Symbol`.

    UnsupportedError for a name or an opcode that tensors do not need, CheckpointError for what is malformed or asks for
    too much.
    """
    m.start()
    while True:
        at = m.at
        code = m.take(1)[0]
        if code == STOP:
            return m.pop()
        step = STEPS.get(code)
        if step is None:
            raise UnsupportedError(
                f"the pickle does what no tensor needs: opcode {_name_of(code)}",
                path=m.path,
                offset=at,
                remedy=REMEDY,
            )
        step(m)
        m.count(1)


def _protocol(m: Machine) -> None:
    if not 2 <= (version := m.take(1)[0]) <= 5:
        raise m.wrong("the pickle has another protocol", "2 to 5", version)


def _extend(m: Machine, items: list[Any]) -> None:
    m.top(list).extend(items)


def _tuple(m: Machine, count: int) -> None:
    values = [m.pop() for _ in range(count)]
    m.push(tuple(reversed(values)))


STOP = ord(".")
# Opcode -> what it does (the standard library's pickletools describes them).
STEPS: Mapping[int, Callable[[Machine], Any]] = {
    0x80: _protocol,  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.push(MARK),  # MARK
    ord("N"): lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    ord("J"): lambda m: m.push(m.number("<i")),  # BININT
    ord("K"): lambda m: m.push(m.number("<B")),  # BININT1
    ord("M"): lambda m: m.push(m.number("<H")),  # BININT2
    0x8A: lambda m: m.long("<B"),  # LONG1
    0x8B: lambda m: m.long("<i"),  # LONG4
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    ord("X"): lambda m: m.text("<I"),  # BINUNICODE
    0x8C: lambda m: m.text("<B"),  # SHORT_BINUNICODE
    0x8D: lambda m: m.text("<Q"),  # BINUNICODE8
    ord("U"): lambda m: m.text("<B"),  # SHORT_BINSTRING
    ord("T"): lambda m: m.text("<I"),  # BINSTRING
    ord(")"): lambda m: m.push(()),  # EMPTY_TUPLE
    ord("t"): lambda m: m.push(tuple(m.marked())),  # TUPLE
    0x85: lambda m: _tuple(m, 1),  # TUPLE1
    0x86: lambda m: _tuple(m, 2),  # TUPLE2
    0x87: lambda m: _tuple(m, 3),  # TUPLE3
    ord("]"): lambda m: m.push([]),  # EMPTY_LIST
    ord("a"): lambda m: _extend(m, [m.pop()]),  # APPEND
    ord("e"): lambda m: _extend(m, m.marked()),  # APPENDS
    ord("}"): lambda m: m.push({}),  # EMPTY_DICT
    ord("s"): lambda m: m.set(*_pair_and_table(m)),  # SETITEM
    ord("u"): lambda m: m.set(*_pairs_and_table(m)),  # SETITEMS
    ord("q"): lambda m: m.remember(m.number("<B")),  # BINPUT
    ord("r"): lambda m: m.remember(m.number("<I")),  # LONG_BINPUT
    0x94: lambda m: m.remember(m.remembered),  # MEMOIZE
    ord("h"): lambda m: m.recall(m.number("<B")),  # BINGET
    ord("j"): lambda m: m.recall(m.number("<I")),  # LONG_BINGET
    ord("c"): lambda m: m.symbol(m.line(), m.line()),  # GLOBAL
    0x93: lambda m: m.stack_symbol(),  # STACK_GLOBAL
    ord("Q"): lambda m: m.persistent(),  # BINPERSID
    ord("R"): lambda m: m.reduce(),  # REDUCE
    ord("b"): lambda m: m.build(),  # BUILD
}


def _pair_and_table(m: Machine) -> tuple[dict[Any, Any], list[Any]]:
    value = m.pop()
    key = m.pop()
    return m.top(dict), [key, value]


def _pairs_and_table(m: Machine) -> tuple[dict[Any, Any], list[Any]]:
    items = m.marked()
    return m.top(dict), items


def _name_of(code: int) -> str:
    import pickletools  # only an error asks

    return next((op.name for op in pickletools.opcodes if op.code == chr(code)), f"0x{code:02x}")
