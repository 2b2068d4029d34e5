"""What config.json does not say is what the configuration classes of Transformers assume."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gguflike.families import registry
from tests.interop.families.table import TABLE

transformers = pytest.importorskip("transformers")

#: Rows whose class assumes something else: a base of the rotation that no published file leaves to it; the defaults of
#: a text model inside of another; tied matrices, which the tensors tell.
OTHERWISE = {"EuroBertModel", "VoxtralForConditionalGeneration", "PaddleOCRVLForConditionalGeneration"}
ROWS = [
    row
    for row in TABLE.values()
    if (row.registered or row.model_class) in registry.CLASSES and row.architecture in registry.ARCHITECTURES
]


def graph(row: Any, config: dict[str, Any]) -> Any:
    full = {**config, "architectures": [row.registered or row.model_class]}
    full |= dict.fromkeys(registry.for_config(full).scalars, [0.5] * 4)
    family = registry.for_config(full)
    return family.graph(family.from_config(full)[0])


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_absent_keys_mean_what_transformers_takes_them_for(row: Any) -> None:
    model_class = getattr(transformers, row.model_class, None)
    if model_class is None or row.name in OTHERWISE:
        pytest.skip("no such class here" if model_class is None else "assumes otherwise, as said above")
    kind = model_class.config_class
    whole = kind(**copy.deepcopy(dict(row.config))).to_dict()
    for name in ("transformers_version", "dtype"):
        whole.pop(name, None)
    assert graph(row, {"model_type": kind.model_type, **row.config}) == graph(row, whole)
