"""A pickle read as a description of tensors: what torch.save writes, and nothing else.

No object is made, and nothing is imported or called. A name in the pickle is a word that must be in a short table, what
looks like a call is one of a few functions that rebuild tensors and gives a record of its arguments, and an opcode that
is not needed for them is an error. What a pickle may ask for in memory and time is bounded before it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from gguflike.checkpoint.safetensors import MAX_DIMS
from gguflike.errors import CheckpointError, UnsupportedError

MAX_BYTES = 1 << 26  # of one pickle; a tensor takes about 200
MAX_STEPS = 1 << 22  # of the pickles of one file; a tensor takes about 35
MAX_DEPTH = 1 << 16  # of the stack: a thousand items are added at a time


class Symbol(NamedTuple):
    """A name that the pickle asks for, one of the table."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Storage(NamedTuple):
    """``size`` numbers of a file: record ``key``, from number ``start`` on. ``dtype`` as of safetensors; "" where the
    tensors say it, and ``size`` counts bytes."""

    key: str
    dtype: str
    size: int
    start: int = 0


class View(NamedTuple):
    """A tensor: numbers of a storage from ``offset`` on, ``strides`` apart along each axis."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


SIZES: Mapping[str, int] = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1},
    **{"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1},
}
_STORAGES = {
    **{"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"},
    **{"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8"},
    **{"BoolStorage": "BOOL", "UntypedStorage": ""},
}
_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"},
    **{"int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ"},
    **{"float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0"},
}
_TYPES = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter")}
_MARK = object()


class Machine:
    """Reads the pickles of one file, one behind the other."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._done = 0

    def load(self) -> Any:
        """What the next pickle describes: dictionaries, lists, tuples, numbers, text, `View` and `Symbol`.

        UnsupportedError for a name or an opcode that tensors do not need, CheckpointError for what is malformed or
        asks for too much.
        """
        self._stack, self._memo = [], {}
        while True:
            at = self.at
            code = self._take(1)[0]
            if code == _STOP:
                return self._pop()
            step = _STEPS.get(code)
            if step is None:
                raise UnsupportedError(
                    f"the pickle does what no tensor needs: opcode {_name_of(code)}",
                    path=self.path,
                    offset=at,
                    remedy=REMEDY,
                )
            step(self)
            self.count(1)

    def count(self, steps: int) -> None:
        """CheckpointError where the pickle does more than any checkpoint needs."""
        self._done += steps
        if self._done > MAX_STEPS or len(self._stack) > MAX_DEPTH:
            raise self._wrong(
                "the pickle does more than a checkpoint needs", f"at most {MAX_STEPS} steps, {MAX_DEPTH} at a time"
            )

    def _wrong(self, what: str, expected: object = None, got: object = None) -> CheckpointError:
        return CheckpointError(what, path=self.path, offset=self.at, expected=expected, got=got)

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise EndOfPickle("the pickle ends too early", path=self.path, offset=self.at)
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1024)
        if end < 0:
            raise self._wrong("name in the pickle does not end")
        line = self._take(end - self.at)
        self.at += 1
        return line.decode("utf-8", "replace")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._wrong("the pickle takes from an empty stack")
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _marked(self) -> list[Any]:
        """What was pushed since the last mark, which goes."""
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                found = self._stack[index + 1 :]
                del self._stack[index:]
                return found
        raise self._wrong("the pickle goes back to a mark that is not there")

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise self._wrong("the pickle adds to what is not a container of that kind")
        return self._stack[-1]

    def _text(self, form: str) -> None:
        raw = self._take(self._number(form))
        try:
            self._push(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise self._wrong("text in the pickle is not UTF-8") from None

    def _long(self, form: str) -> None:
        length = self._number(form)
        if not 0 <= length <= 64:
            raise self._wrong("number in the pickle is too long", "at most 64 bytes", length)
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _remember(self, index: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._wrong("the pickle remembers nothing")
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise self._wrong("the pickle recalls what it did not remember", got=index)
        self._push(self._memo[index])

    def _set(self, table: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise self._wrong("key without a value in the pickle")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise self._wrong("key of a dictionary is neither text nor a number", got=type(key).__name__)
            table[key] = value

    def _symbol(self, module: Any, name: Any) -> None:
        """Push a name of the table. UnsupportedError names any other."""
        known = isinstance(module, str) and isinstance(name, str)
        if not known or not (
            (module, name) in _TYPES
            or (module, name) in _CALLS
            or (module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES)
            or (module == "torch" and name in _DTYPES)
        ):
            asked = f"{module}.{name}"[:160] if known else "a name that is no text"
            raise UnsupportedError(
                f"the pickle asks for {asked}, which no tensor needs",
                path=self.path,
                offset=self.at,
                remedy=REMEDY,
            )
        self._push(Symbol(module, name))

    def _stack_symbol(self) -> None:
        name = self._pop()
        self._symbol(self._pop(), name)

    def _persistent(self) -> None:
        """Push the storage that a tuple describes: "storage", type, key, device, numbers (and a part of it)."""
        value = self._pop()
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            raise self._wrong("the pickle refers to something other than a storage")
        kind, key, _, size = value[1:5]
        dtype = _dtype_of(kind, _STORAGES)
        if dtype is None or type(key) is not str or not _is_size(size):
            raise self._wrong("storage in the pickle is malformed")
        part = value[5] if len(value) == 6 else None
        if part is None:
            self._push(Storage(key, dtype, size))
            return
        if type(part) is not tuple or len(part) != 3 or not _is_size(part[1]) or not _is_size(part[2]):
            raise self._wrong("part of a storage in the pickle is malformed")
        if part[1] + part[2] > size:
            raise self._wrong("part of a storage reaches beyond it", f"at most {size}", part[1] + part[2])
        self._push(Storage(key, dtype, part[2], part[1]))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        call = _CALLS.get(tuple(function)) if type(function) is Symbol else None
        if call is None or type(arguments) is not tuple:
            raise UnsupportedError(
                "the pickle calls what no tensor needs",
                path=self.path,
                offset=self.at,
                got=str(function) if type(function) is Symbol else type(function).__name__,
                remedy=REMEDY,
            )
        self._push(call(self, arguments))

    def _build(self) -> None:
        """Attributes of a dictionary (state_dict's _metadata) or of a tensor: they hold no weights."""
        self._pop()
        if not self._stack or type(self._stack[-1]) not in (dict, View):
            raise self._wrong("the pickle sets attributes of what has none")

    def view(self, arguments: tuple[Any, ...], dtype: str = "") -> View:
        """A tensor of (storage, offset, shape, strides, ...). CheckpointError where it reaches beyond its storage, or
        where two of its numbers are one."""
        storage, offset, shape, strides = arguments[:4] if len(arguments) >= 4 else (None,) * 4
        if type(storage) is not Storage or not _is_size(offset) or not _are_sizes(shape) or not _are_sizes(strides):
            raise self._wrong(
                "tensor in the pickle is malformed", "a storage, an offset, sizes and strides, not negative"
            )
        if len(shape) != len(strides):
            raise self._wrong("tensor in the pickle is malformed", "as many strides as sizes")
        dtype = storage.dtype or dtype
        if dtype not in SIZES:
            raise self._wrong("tensor in the pickle has no dtype")
        numbers = storage.size if storage.dtype else storage.size // SIZES[dtype]
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if prod(shape) and reach > numbers:
            raise self._wrong("tensor reaches beyond its storage", f"at most {numbers} numbers", reach)
        span = 1
        for stride, size in sorted(zip(strides, shape, strict=True)):
            if prod(shape) and size > 1:
                if stride < span:
                    raise self._wrong("numbers of a tensor overlap", f"a stride of at least {span}", stride)
                span += (size - 1) * stride
        return View(storage, dtype, offset, shape, strides)


class EndOfPickle(CheckpointError):
    """What was read of the file ends before the pickle does."""


REMEDY = "nothing was run; get the weights as safetensors, or save only the state dict of the model"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _are_sizes(values: Any) -> bool:
    return type(values) is tuple and len(values) <= MAX_DIMS and all(map(_is_size, values))


def _dtype_of(kind: Any, names: Mapping[str, str]) -> str | None:
    return names.get(kind.name) if type(kind) is Symbol else None


def _ordered(machine: Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict, empty or of a list of pairs."""
    made: dict[Any, Any] = {}
    pairs = arguments[0] if arguments else []
    of_pairs = type(pairs) is list and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs)
    if len(arguments) > 1 or not of_pairs:
        raise machine._wrong("dictionary in the pickle is malformed")
    machine.count(8 * len(pairs))
    machine._set(made, [each for pair in pairs for each in pair])
    return made


def _tensor(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata) and the older one of four."""
    flags = arguments[6] if len(arguments) > 6 else None
    if len(arguments) > 7 or flags not in (None, {}):
        raise machine._wrong("tensor in the pickle is conjugated, negated or of another kind")
    return machine.view(arguments)


def _tensor_v3(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)."""
    dtype = _dtype_of(arguments[6], _DTYPES) if len(arguments) in (7, 8) else None
    if dtype is None or (len(arguments) == 8 and arguments[7] not in (None, {})):
        raise machine._wrong("tensor in the pickle is malformed")
    return machine.view(arguments, dtype)


def _parameter(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_parameter(tensor, requires_grad, hooks)."""
    if not arguments or type(arguments[0]) is not View:
        raise machine._wrong("parameter in the pickle is malformed")
    return arguments[0]


_REBUILT: Mapping[str, Callable[[Machine, tuple[Any, ...]], View]] = {
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _parameter,
}


def _of_type(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_from_type_v2(function, type, arguments, attributes), of a plain tensor or parameter."""
    if len(arguments) != 4 or type(arguments[0]) is not Symbol or type(arguments[1]) is not Symbol:
        raise machine._wrong("tensor in the pickle is malformed")
    function, kind, inner, _ = arguments
    make = _REBUILT.get(function.name)
    if tuple(kind) not in _TYPES or make is None or type(inner) is not tuple:
        raise machine._wrong("tensor in the pickle is of a type of its own", got=str(kind))
    return make(machine, inner)


def _sizes(machine: Machine, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """torch.Size."""
    if len(arguments) != 1 or not _are_sizes(arguments[0]):
        raise machine._wrong("size in the pickle is malformed")
    sizes: tuple[int, ...] = arguments[0]
    return sizes


_CALLS: Mapping[tuple[str, ...], Callable[[Machine, tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch", "Size"): _sizes,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
}


def _protocol(m: Machine) -> None:
    if not 2 <= (version := m._take(1)[0]) <= 5:
        raise m._wrong("the pickle has another protocol", "2 to 5", version)


def _extend(m: Machine, items: list[Any]) -> None:
    m._top(list).extend(items)


def _tuple(m: Machine, count: int) -> None:
    values = [m._pop() for _ in range(count)]
    m._push(tuple(reversed(values)))


_STOP = ord(".")
# Opcode -> what it does (the standard library's pickletools describes them).
_STEPS: Mapping[int, Callable[[Machine], Any]] = {
    0x80: _protocol,  # PROTO
    0x95: lambda m: m._take(8),  # FRAME
    ord("("): lambda m: m._push(_MARK),  # MARK
    ord("N"): lambda m: m._push(None),  # NONE
    0x88: lambda m: m._push(True),  # NEWTRUE
    0x89: lambda m: m._push(False),  # NEWFALSE
    ord("J"): lambda m: m._push(m._number("<i")),  # BININT
    ord("K"): lambda m: m._push(m._number("<B")),  # BININT1
    ord("M"): lambda m: m._push(m._number("<H")),  # BININT2
    0x8A: lambda m: m._long("<B"),  # LONG1
    0x8B: lambda m: m._long("<i"),  # LONG4
    ord("G"): lambda m: m._push(struct.unpack(">d", m._take(8))[0]),  # BINFLOAT
    ord("X"): lambda m: m._text("<I"),  # BINUNICODE
    0x8C: lambda m: m._text("<B"),  # SHORT_BINUNICODE
    0x8D: lambda m: m._text("<Q"),  # BINUNICODE8
    ord("U"): lambda m: m._text("<B"),  # SHORT_BINSTRING
    ord("T"): lambda m: m._text("<I"),  # BINSTRING
    ord(")"): lambda m: m._push(()),  # EMPTY_TUPLE
    ord("t"): lambda m: m._push(tuple(m._marked())),  # TUPLE
    0x85: lambda m: _tuple(m, 1),  # TUPLE1
    0x86: lambda m: _tuple(m, 2),  # TUPLE2
    0x87: lambda m: _tuple(m, 3),  # TUPLE3
    ord("]"): lambda m: m._push([]),  # EMPTY_LIST
    ord("a"): lambda m: _extend(m, [m._pop()]),  # APPEND
    ord("e"): lambda m: _extend(m, m._marked()),  # APPENDS
    ord("}"): lambda m: m._push({}),  # EMPTY_DICT
    ord("s"): lambda m: m._set(*_pair_and_table(m)),  # SETITEM
    ord("u"): lambda m: m._set(*_pairs_and_table(m)),  # SETITEMS
    ord("q"): lambda m: m._remember(m._number("<B")),  # BINPUT
    ord("r"): lambda m: m._remember(m._number("<I")),  # LONG_BINPUT
    0x94: lambda m: m._remember(len(m._memo)),  # MEMOIZE
    ord("h"): lambda m: m._recall(m._number("<B")),  # BINGET
    ord("j"): lambda m: m._recall(m._number("<I")),  # LONG_BINGET
    ord("c"): lambda m: m._symbol(m._line(), m._line()),  # GLOBAL
    0x93: lambda m: m._stack_symbol(),  # STACK_GLOBAL
    ord("Q"): lambda m: m._persistent(),  # BINPERSID
    ord("R"): lambda m: m._reduce(),  # REDUCE
    ord("b"): lambda m: m._build(),  # BUILD
}


def _pair_and_table(m: Machine) -> tuple[dict[Any, Any], list[Any]]:
    value = m._pop()
    key = m._pop()
    return m._top(dict), [key, value]


def _pairs_and_table(m: Machine) -> tuple[dict[Any, Any], list[Any]]:
    items = m._marked()
    return m._top(dict), items


def _name_of(code: int) -> str:
    import pickletools  # only an error asks

    return next((op.name for op in pickletools.opcodes if op.code == chr(code)), f"0x{code:02x}")
