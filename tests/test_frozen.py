"""Records against those of the standard library: whatever can be done with both has the same outcome."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass
from dataclasses import replace as replace_dataclass
from functools import cached_property
from typing import Any

import pytest

from gguflike.frozen import About, fields, frozen, replace


@frozen
class Point:
    x: int
    y: int = 2

    @cached_property
    def size(self) -> int:
        return self.x + self.y


@frozen
class Solid(Point):
    z: tuple[int, ...] = ()
    x: int = 7


@dataclass(frozen=True)
class PlainPoint:
    x: int
    y: int = 2


@dataclass(frozen=True)
class PlainSolid(PlainPoint):
    z: tuple[int, ...] = ()
    x: int = 7


BOTH = {Point: PlainPoint, Solid: PlainSolid}
GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 3), {}),
    ((1, 3, (4,)), {}),
    ((1, 3, (4,), 5), {}),
    ((), {"x": 1}),
    ((), {"y": 1}),
    ((1,), {"y": 4}),
    ((1,), {"x": 4}),
    ((1,), {"z": (8,), "y": 0}),
    ((1,), {"w": 4}),
    ((), {"w": 4}),
]


def outcome(cls: Any, values: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return vars(cls(*values, **named))
    except TypeError:
        return TypeError


@pytest.mark.parametrize(("values", "named"), GIVEN)
@pytest.mark.parametrize("cls", BOTH)
def test_instances_are_those_of_a_dataclass(cls: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
    made = outcome(cls, values, named)
    assert made == outcome(BOTH[cls], values, named)
    if made is not TypeError:
        ours, plain = cls(*values, **named), BOTH[cls](*values, **named)
        assert repr(plain) == "Plain" + repr(ours)
        assert hash(plain) == hash(ours)
        assert vars(replace(ours, y=9)) == vars(replace_dataclass(plain, y=9))


def test_equal_is_what_has_the_same_class_and_fields() -> None:
    some = [Point(1), Point(1, 3), Solid(1), Solid(1, 2, (3,)), Point(2)]
    plain = [PlainPoint(1), PlainPoint(1, 3), PlainSolid(1), PlainSolid(1, 2, (3,)), PlainPoint(2)]
    assert [[a == b for b in some] for a in some] == [[a == b for b in plain] for a in plain]
    assert Point(1) == Point(x=1, y=2)
    assert len({Point(1), Point(1), Solid(1)}) == 2


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    assert point.size == point.size == 3
    for change in (lambda: setattr(point, "x", 5), lambda: setattr(point, "w", 5), lambda: delattr(point, "x")):
        with pytest.raises(AttributeError, match="Point cannot be changed"):
            change()
    assert issubclass(FrozenInstanceError, AttributeError)
    assert point == Point(1) == copy.deepcopy(point) == pickle.loads(pickle.dumps(point))


def test_what_is_wrong_with_the_values_is_said() -> None:
    with pytest.raises(TypeError, match=r"^Point takes x, y; got 1 without a name, w$"):
        Point(1, w=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes x, y, z; got 0 without a name, x, y, z, w"):
        replace(Solid(), w=3)


def test_the_fields_of_a_class_can_be_asked_for() -> None:
    class Note(About):
        pass

    @frozen
    class Noted:
        plain: str | None
        noted: int = Note()  # type: ignore[assignment]

    assert list(fields(Solid).items()) == [("x", "int"), ("y", "int"), ("z", "tuple[int, ...]")]
    assert Solid.__match_args__ == ("x", "y", "z")
    assert isinstance(Noted.noted, Note)
    with pytest.raises(TypeError, match="Noted takes plain, noted; got 1 without a name"):
        Noted("a")
    assert Noted("a", 4).noted == 4


def test_a_class_keeps_what_it_defines() -> None:
    @frozen
    class Own:
        value: float

        def __post_init__(self) -> None:
            if self.value < 0:
                raise ValueError(self.value)

        def __repr__(self) -> str:
            return "own"

    @frozen
    class Nothing:
        pass

    assert repr(Own(1.0)) == "own"
    with pytest.raises(ValueError, match="-1"):
        Own(-1.0)
    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(())
