"""A pickle read as a description of tensors: what torch.save writes, and nothing else (opcodes.py has its steps).

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

from gguflike.checkpoint.safetensors import MAX_DIMS, NUMPY
from gguflike.errors import CheckpointError, UnsupportedError

MAX_BYTES = 1 << 26  # of one pickle; a tensor takes about 200
MAX_STEPS = 1 << 22  # of the pickles of one file; a tensor takes about 35
MAX_DEPTH = 1 << 16  # of the stack: a thousand items are added at a time
MARK = object()


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


#: dtype -> bytes of a number.
SIZES: Mapping[str, int] = {dtype: int(code[-1]) for dtype, code in NUMPY.items()}
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


class Machine:
    """Reads the pickles of one file, one behind the other."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._done = 0

    def start(self) -> None:
        """Begin with the next pickle, which knows nothing of the one before."""
        self._stack, self._memo = [], {}

    def count(self, steps: int) -> None:
        """CheckpointError where the pickle does more than any checkpoint needs."""
        self._done += steps
        if self._done > MAX_STEPS or len(self._stack) > MAX_DEPTH:
            raise self.wrong(
                "the pickle does more than a checkpoint needs", f"at most {MAX_STEPS} steps, {MAX_DEPTH} at a time"
            )

    def wrong(self, what: str, expected: object = None, got: object = None) -> CheckpointError:
        """The error for what is malformed at the place that was reached."""
        return CheckpointError(what, path=self.path, offset=self.at, expected=expected, got=got)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > len(self.data) - self.at:
            raise EndOfPickle("the pickle ends too early", path=self.path, offset=self.at)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        """The next number, in a form of ``struct``."""
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> str:
        """The text up to the end of a line."""
        end = self.data.find(b"\n", self.at, self.at + 1024)
        if end < 0:
            raise self.wrong("name in the pickle does not end")
        line = self.take(end - self.at)
        self.at += 1
        return line.decode("utf-8", "replace")

    def pop(self) -> Any:
        """The last value of the stack, which goes."""
        if not self._stack or self._stack[-1] is MARK:
            raise self.wrong("the pickle takes from an empty stack")
        return self._stack.pop()

    def push(self, value: Any) -> None:
        """Add a value to the stack."""
        self._stack.append(value)

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, which goes."""
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is MARK:
                found = self._stack[index + 1 :]
                del self._stack[index:]
                return found
        raise self.wrong("the pickle goes back to a mark that is not there")

    def top(self, kind: type) -> Any:
        """The last value of the stack, which must be a container of ``kind``."""
        if not self._stack or type(self._stack[-1]) is not kind:
            raise self.wrong("the pickle adds to what is not a container of that kind")
        return self._stack[-1]

    def text(self, form: str) -> None:
        """Push text, whose length stands before it in the ``form`` of `struct`."""
        raw = self.take(self.number(form))
        try:
            self.push(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise self.wrong("text in the pickle is not UTF-8") from None

    def long(self, form: str) -> None:
        """Push an integer, whose bytes are counted before it."""
        length = self.number(form)
        if not 0 <= length <= 64:
            raise self.wrong("number in the pickle is too long", "at most 64 bytes", length)
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def remember(self, index: int) -> None:
        """Keep the last value of the stack under a number."""
        if not self._stack or self._stack[-1] is MARK:
            raise self.wrong("the pickle remembers nothing")
        self._memo[index] = self._stack[-1]

    @property
    def remembered(self) -> int:
        """How many values are kept."""
        return len(self._memo)

    def recall(self, index: int) -> None:
        """Push what was kept under a number."""
        if index not in self._memo:
            raise self.wrong("the pickle recalls what it did not remember", got=index)
        self.push(self._memo[index])

    def set(self, table: dict[Any, Any], items: list[Any]) -> None:
        """Add keys and values, in turns, to a dictionary."""
        if len(items) % 2:
            raise self.wrong("key without a value in the pickle")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise self.wrong("key of a dictionary is neither text nor a number", got=type(key).__name__)
            table[key] = value

    def symbol(self, module: Any, name: Any) -> None:
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
        self.push(Symbol(module, name))

    def stack_symbol(self) -> None:
        """Push the name whose parts are on the stack."""
        name = self.pop()
        self.symbol(self.pop(), name)

    def persistent(self) -> None:
        """Push the storage that a tuple describes: "storage", type, key, device, numbers (and a part of it)."""
        value = self.pop()
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            raise self.wrong("the pickle refers to something other than a storage")
        kind, key, _, size = value[1:5]
        dtype = _dtype_of(kind, _STORAGES)
        if dtype is None or type(key) is not str or not _is_size(size):
            raise self.wrong("storage in the pickle is malformed")
        part = value[5] if len(value) == 6 else None
        if part is None:
            self.push(Storage(key, dtype, size))
            return
        if type(part) is not tuple or len(part) != 3 or not _is_size(part[1]) or not _is_size(part[2]):
            raise self.wrong("part of a storage in the pickle is malformed")
        if part[1] + part[2] > size:
            raise self.wrong("part of a storage reaches beyond it", f"at most {size}", part[1] + part[2])
        self.push(Storage(key, dtype, part[2], part[1]))

    def reduce(self) -> None:
        """Push what a function of the table makes of its arguments."""
        arguments, function = self.pop(), self.pop()
        call = _CALLS.get(tuple(function)) if type(function) is Symbol else None
        if call is None or type(arguments) is not tuple:
            raise UnsupportedError(
                "the pickle calls what no tensor needs",
                path=self.path,
                offset=self.at,
                got=str(function) if type(function) is Symbol else type(function).__name__,
                remedy=REMEDY,
            )
        self.push(call(self, arguments))

    def build(self) -> None:
        """Attributes of a dictionary (state_dict's _metadata) or of a tensor: they hold no weights."""
        self.pop()
        if not self._stack or type(self._stack[-1]) not in (dict, View):
            raise self.wrong("the pickle sets attributes of what has none")

    def view(self, arguments: tuple[Any, ...], dtype: str = "") -> View:
        """A tensor of (storage, offset, shape, strides, ...). CheckpointError where it reaches beyond its storage, or
        where two of its numbers are one."""
        storage, offset, shape, strides = arguments[:4] if len(arguments) >= 4 else (None,) * 4
        if type(storage) is not Storage or not _is_size(offset) or not _are_sizes(shape) or not _are_sizes(strides):
            raise self.wrong(
                "tensor in the pickle is malformed", "a storage, an offset, sizes and strides, not negative"
            )
        if len(shape) != len(strides):
            raise self.wrong("tensor in the pickle is malformed", "as many strides as sizes")
        dtype = storage.dtype or dtype
        if dtype not in SIZES:
            raise self.wrong("tensor in the pickle has no dtype")
        numbers = storage.size if storage.dtype else storage.size // SIZES[dtype]
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if prod(shape) and reach > numbers:
            raise self.wrong("tensor reaches beyond its storage", f"at most {numbers} numbers", reach)
        span = 1
        for stride, size in sorted(zip(strides, shape, strict=True)):
            if prod(shape) and size > 1:
                if stride < span:
                    raise self.wrong("numbers of a tensor overlap", f"a stride of at least {span}", stride)
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
        raise machine.wrong("dictionary in the pickle is malformed")
    machine.count(8 * len(pairs))
    machine.set(made, [each for pair in pairs for each in pair])
    return made


def _tensor(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata) and the older one of four."""
    flags = arguments[6] if len(arguments) > 6 else None
    if len(arguments) > 7 or flags not in (None, {}):
        raise machine.wrong("tensor in the pickle is conjugated, negated or of another kind")
    return machine.view(arguments)


def _tensor_v3(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)."""
    dtype = _dtype_of(arguments[6], _DTYPES) if len(arguments) in (7, 8) else None
    if dtype is None or (len(arguments) == 8 and arguments[7] not in (None, {})):
        raise machine.wrong("tensor in the pickle is malformed")
    return machine.view(arguments, dtype)


def _parameter(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_parameter(tensor, requires_grad, hooks)."""
    if not arguments or type(arguments[0]) is not View:
        raise machine.wrong("parameter in the pickle is malformed")
    return arguments[0]


_REBUILT: Mapping[str, Callable[[Machine, tuple[Any, ...]], View]] = {
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _parameter,
}


def _of_type(machine: Machine, arguments: tuple[Any, ...]) -> View:
    """_rebuild_from_type_v2(function, type, arguments, attributes), of a plain tensor or parameter."""
    if len(arguments) != 4 or type(arguments[0]) is not Symbol or type(arguments[1]) is not Symbol:
        raise machine.wrong("tensor in the pickle is malformed")
    function, kind, inner, _ = arguments
    make = _REBUILT.get(function.name)
    if tuple(kind) not in _TYPES or make is None or type(inner) is not tuple:
        raise machine.wrong("tensor in the pickle is of a type of its own", got=str(kind))
    return make(machine, inner)


def _sizes(machine: Machine, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """torch.Size."""
    if len(arguments) != 1 or not _are_sizes(arguments[0]):
        raise machine.wrong("size in the pickle is malformed")
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
