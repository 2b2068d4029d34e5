"""The public names: all there, cheap to import, and not shadowed by submodules of the same name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gguflike


@pytest.mark.parametrize("name", gguflike.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(gguflike, name) is not None
    assert name in dir(gguflike)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        gguflike.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["convert", "verify", "diff", "edit"])
def test_importing_the_submodule_keeps_the_function(name: str) -> None:
    code = f"import gguflike, gguflike.{name}; assert callable(gguflike.{name}); gguflike.{name}.__call__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_loads_no_third_party_package() -> None:
    code = "import sys, gguflike; print(*{m.split('.')[0] for m in sys.modules} & {'numpy', 'numba', 'tokenizers'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
