"""Records that never change, as ``@dataclass(frozen=True)`` makes them, in a fiftieth of the time.

``dataclasses`` compiles half a dozen functions for each class, which takes half a millisecond. A run of a model has a
class for each kind of part, for its configuration, for the layout of its weights and more, and would wait for all of
them. Here all classes share the same functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

Record = TypeVar("Record")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda function: function


class About:
    """What a field may be set to that has no default: an instance of a subclass, which says something about it."""


@dataclass_transform(frozen_default=True)
def frozen(cls: type[Record]) -> type[Record]:
    """Make a class a record: what is annotated in it and its bases are the fields, what they are set to the defaults.

    Instances are made from values in the order of the fields, those of bases first, or by name (TypeError where one is
    missing, unknown or given twice), and ``__post_init__`` is called if there is one. They cannot be changed
    (AttributeError). They are equal, and hash alike, where their classes are the same and all fields are equal.
    All instances share the defaults, which must not be mutable. A function that the class defines itself is left alone.
    """
    record: Any = cls
    names = fields(cls)
    record._fields = tuple(names)
    record._names = frozenset(names)
    setattr(cls, "__match_args__", record._fields)  # noqa: B010 - which type checkers think they know
    defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
    record._defaults = {name: value for name, value in defaults.items() if not isinstance(value, About)}
    for function in (__init__, __repr__, __eq__, __hash__, __setattr__, __delattr__):
        if function.__name__ not in cls.__dict__:
            setattr(cls, function.__name__, function)
    return cls


def replace(record: Record, /, **changes: Any) -> Record:
    """A copy of a record with some fields changed. TypeError for a name that is no field."""
    cls: Any = type(record)
    made: Record = cls(**{**dict(zip(cls._fields, _values(record), strict=True)), **changes})
    return made


def fields(cls: type) -> dict[str, Any]:
    """The fields of a class in order, and what annotates each (a text where the module postpones annotations)."""
    return {name: kind for base in reversed(cls.__mro__) for name, kind in getattr(base, "__annotations__", {}).items()}


def _values(record: Any) -> tuple[Any, ...]:
    return tuple(map(record.__dict__.__getitem__, record._fields))


def __init__(self: Any, /, *values: Any, **named: Any) -> None:
    names = self._fields
    if not named and len(values) == len(names):  # most are made so, and in a third of the time
        self.__dict__.update(zip(names, values, strict=True))
        if hasattr(self, "__post_init__"):
            self.__post_init__()
        return
    made = {**self._defaults, **dict(zip(names, values, strict=False)), **named}
    if len(values) > len(names) or made.keys() != self._names or not named.keys().isdisjoint(names[: len(values)]):
        got = [f"{len(values)} without a name", *named]
        raise TypeError(f"{type(self).__name__} takes {', '.join(names) or 'nothing'}; got {', '.join(got)}")
    self.__dict__.update(made)  # which is not setting attributes
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def __repr__(self: Any) -> str:
    values = (f"{name}={value!r}" for name, value in zip(self._fields, _values(self), strict=True))
    return f"{type(self).__qualname__}({', '.join(values)})"


def __eq__(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def __hash__(self: Any) -> int:
    return hash(_values(self))


def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: ARG001 - nothing is set
    raise AttributeError(f"a {type(self).__name__} cannot be changed: {name} stays; frozen.replace makes another")


def __delattr__(self: Any, name: str) -> None:
    raise AttributeError(f"a {type(self).__name__} cannot be changed: {name} stays")
