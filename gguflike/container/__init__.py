"""The container: GGUF files, read and written. Importing this does not import numba."""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.container.layout import TensorInfo, TensorSpec
    from gguflike.container.metadata import Metadata
    from gguflike.container.plan import FilePlan, plan
    from gguflike.container.reader import GGUFFile
    from gguflike.container.shards import open
    from gguflike.container.slot import Receipt, Slot
    from gguflike.container.target import check_free, check_target
    from gguflike.container.values import Typed, ValueType
    from gguflike.container.writer import Writer, write

__all__ = [
    "FilePlan",
    "GGUFFile",
    "Metadata",
    "Receipt",
    "Slot",
    "TensorInfo",
    "TensorSpec",
    "Typed",
    "ValueType",
    "Writer",
    "check_free",
    "check_target",
    "open",
    "plan",
    "write",
]

__getattr__ = lazy.names(
    __name__,
    {
        "FilePlan": "plan",
        "GGUFFile": "reader",
        "Metadata": "metadata",
        "Receipt": "slot",
        "Slot": "slot",
        "TensorInfo": "layout",
        "TensorSpec": "layout",
        "Typed": "values",
        "ValueType": "values",
        "Writer": "writer",
        "check_free": "target",
        "check_target": "target",
        "open": "shards",
        "plan": "plan",
        "write": "writer",
    },
)
