"""Packages whose public names are imported when they are first used: who opens a file need not load the writer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """Keeps ``gguflike.convert`` and its like callable: importing the submodule of that name must not replace it."""

    _homes: Mapping[str, str]

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in self._homes):
            super().__setattr__(name, value)


def names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package with the public names ``homes``: name -> submodule that has it."""
    module = sys.modules[package]
    module.__dict__["_homes"] = homes
    module.__class__ = _Package

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        module.__dict__[name] = value
        return value

    return getattr_
