"""What config.json does not say is what the configuration classes of Transformers assume."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

from gguflike.errors import GGUFLikeError
from gguflike.families import registry
from gguflike.families.config import NESTED
from tests.interop.families.table import TABLE

transformers = pytest.importorskip("transformers")
gen_assumed = pytest.importorskip("scripts.gen_assumed")  # which imports it, too
own = pytest.importorskip("tests.interop.families.own")  # which imports torch

ROWS = [
    row
    for row in TABLE.values()
    if (row.registered or row.model_class) in registry.CLASSES
    and row.architecture in registry.ARCHITECTURES
    and hasattr(transformers, row.model_class)
    and row.name not in own.OWN  # whose configurations are not those of the class
]


def graph(model_class: str, config: dict[str, Any]) -> Any:
    full = {**config, "architectures": [model_class]}
    full |= {key: [0.5] * 4 for key in registry.for_config(full).small if "xielu" in key}
    family = registry.for_config(full)
    return family.graph(family.from_config(full)[0])


def whole(kind: Any, config: dict[str, Any]) -> dict[str, Any] | None:
    """What Transformers makes of a config.json, saved again. None where it takes none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = kind(**copy.deepcopy({key: value for key, value in config.items() if key != "model_type"}))
    except Exception:
        return None
    saved: dict[str, Any] = made.to_dict()
    return {key: value for key, value in saved.items() if key not in ("transformers_version", "dtype")}


def same(model_class: str, less: dict[str, Any], more: dict[str, Any], key: str) -> bool:
    """Whether two config.json are of one graph, or the first is an error that names the key, or both are errors."""
    try:
        made = graph(model_class, less)
    except GGUFLikeError as error:
        if key in str(error):
            return True
        with pytest.raises(GGUFLikeError):
            graph(model_class, more)
        return True
    return bool(made == graph(model_class, more))


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_absent_keys_mean_what_transformers_takes_them_for(row: Any) -> None:
    """All that a row's configuration leaves out; and each of its keys, left out besides."""
    kind, model_class = getattr(transformers, row.model_class).config_class, row.registered or row.model_class
    config = {"model_type": kind.model_type, **copy.deepcopy(dict(row.config))}
    complete = whole(kind, config)
    assert complete is not None
    assert graph(model_class, config) == graph(model_class, complete)
    nested = [key for key in NESTED if isinstance(config.get(key), dict)]
    paths = [(key,) for key in row.config if key not in nested]
    for path in paths + [(outer, key) for outer in nested for key in config[outer]]:
        less = copy.deepcopy(config)
        del (less[path[0]] if len(path) == 2 else less)[path[-1]]
        complete = whole(kind, less)
        assert complete is None or same(model_class, less, complete, path[-1]), path


@pytest.mark.parametrize("model_class", sorted(set(registry.CLASSES) & set(dir(transformers))))
def test_a_configuration_that_says_nothing_means_that_of_transformers(model_class: str) -> None:
    """Of every class, proven by a row or not."""
    kind = getattr(transformers, model_class).config_class
    said = {"model_type": gen_assumed.text_class(kind).model_type}
    less = said if gen_assumed.text_class(kind) is kind else {"model_type": kind.model_type, "text_config": said}
    complete = whole(kind, less)
    assert complete is not None
    assert same(model_class, less, complete, "layers_block_type")  # of NemotronH, assumed to be of mixed kinds


def test_the_table_of_what_is_assumed_is_that_of_this_version_of_transformers() -> None:
    made = gen_assumed.text()
    if f"Transformers {transformers.__version__}" not in gen_assumed.TARGET.read_text(encoding="utf-8"):
        pytest.skip("the table is of another version")
    assert made == gen_assumed.TARGET.read_text(encoding="utf-8")
