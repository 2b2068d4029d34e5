"""The container: GGUF files, read and written. Importing this does not import numba.

Reading:

    reader       a file: its header at once, tensors when they are asked for
    shards       a model in several files, opened as one
    overlay      a file of which some tensors are those of another
    view         what a header says, for who judges a file without its data
    header       the parser: every number is checked against the bytes that are left
    cursor       a place in a header, which errors name
    strings      where an array of strings ends, without a Python step for each
    metadata     metadata as a mapping whose values are decoded when they are asked for
    values       the types of metadata, and a value's bytes
    layout       limits, sizes and offsets, and the arithmetic that checks them
    file_types   llama.cpp's numbers for mixes of block types
    scales       the scales of blocks as numbers

Checking, for `gguflike.verify`:

    findings     one thing that is wrong or odd, and the rule it breaks
    validate     all rules for headers and sizes, once
    places       whether each tensor has bytes of its own
    consistency  whether records agree with each other
    finite       whether the floats in blocks are finite
    plausible    whether values are such as trained weights have
    pieces       files that by their names are parts of others

Writing:

    plan         a header and the place of every tensor, from names, shapes and types
    splitting    the same for several files
    writer       data in any order, from any thread or process
    unfinished   one file while it is written: what is there, digests, the journal
    journal      what is complete, for a writer that goes on after a kill
    slot         a tensor's place, which another process can fill
    digest       where content digests stand, and what they cover
    reheader     another header, for data that stay as they are and are not looked at
    restate      the same, with every tensor read and compared with its digest
    target       the hidden temporary file, moved to its place when it is complete
    publish      how files and folders appear complete or not at all
    claimed      folders that one process at a time works in
    system       file calls that not every system has
"""

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
