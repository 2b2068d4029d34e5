"""Any network to GGUF: the names of its tensors as they are, types by rules that know no architecture, and back.

What readers of such files agree on is ComfyUI-GGUF's: a tensor that stands in another shape than the network's, because
blocks need rows (the kernels of convolutions have rows of 3) and GGUF has at most four axes, has the network's shape in
``comfy.gguf.orig_shape.NAME``. `container.open` gives it back with that shape.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.blocks import FORMATS, format_by_name
from gguflike.checkpoint import LazyTensor, weights
from gguflike.checkpoint.safetensors import FLOATS, GGUF_TYPES, ROUNDED
from gguflike.checkpoint.source import called
from gguflike.container import Typed, ValueType
from gguflike.container.layout import MAX_DIMS, ORIGINAL_SHAPE
from gguflike.container.splitting import Split
from gguflike.convert import metadata as general
from gguflike.convert import planning
from gguflike.convert import recipe as recipes
from gguflike.convert.facts import Facts
from gguflike.convert.mixes import COPY, Recipe
from gguflike.convert.model_names import title
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.selection import Selection
from gguflike.convert.sources import Floats, Source, check
from gguflike.errors import ArgumentError, CheckpointError, QuantizationError, UnsupportedError, check_text, counted
from gguflike.tensor import QuantizedTensor

#: The dtype of most tensors, and, behind a dot and another dtype, the names of those that have that.
DTYPE_KEY = "gguflike.generic.dtype"
ROW = 256  # values of a row of what is flattened, as of ComfyUI-GGUF: whole blocks of every type
FLATTENED = 512  # values of the smallest tensor that is
SMALL = 1024  # values of the largest tensor that is not quantized whatever it is, as of ComfyUI-GGUF
UNKNOWN = "generic"  # general.architecture where nothing is said

# Norms, and what is added to activations or scales them.
_DELICATE = re.compile(r"norm|pos_embed|positional|modulation$|scale_shift_table|logit_scale|register_tokens", re.I)
# Names of files that say nothing of the network: their folder's does.
_UNSAYING = re.compile(r"(diffusion_pytorch_|pytorch_)?model(-\d+-of-\d+)?(\.fp16)?")
_SCALE = re.compile(r"(^|\.)(scale_weight|weight_scale(_inv)?|scaled_fp8)$")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class _OneTensor:
    """A tensor of a checkpoint, by its ``name`` and in the ``shape`` that it has in the file."""

    name: str
    shape: tuple[int, ...]
    tensor: LazyTensor
    group: int = 1

    @property
    def origin(self) -> str:
        return self.tensor.name


@dataclass(frozen=True)
class GenericSource(_OneTensor):
    """A tensor of floats."""

    @property
    def stored(self) -> str:
        return self.tensor.dtype

    def read(self, start: int, stop: int, limit: float) -> Floats:
        if not self.shape:
            rows = self.tensor.read_f32()
        else:
            each, row = prod(self.shape[1:]), prod(self.tensor.shape[1:])
            first, last = start * each, stop * each
            low, high = (first // row, -(-last // row)) if row else (0, 0)
            values = self.tensor.read_f32(low, high).reshape(-1)[first - low * row : last - low * row]
            rows = values.reshape(stop - start, *self.shape[1:])
        check(rows, self.name, start, limit)
        return np.ascontiguousarray(rows) if self.shape else rows


@dataclass(frozen=True)
class IntegerSource(_OneTensor):
    """A tensor of integers or truth values, as the narrowest of GGUF's integers that holds them."""

    @property
    def stored(self) -> str:
        return GGUF_TYPES[self.tensor.dtype]

    def read(self, start: int, stop: int, limit: float) -> Floats:
        rows = self.part(start, stop).dequantize()
        check(rows, self.name, start, limit)
        return rows

    def part(self, start: int, stop: int) -> QuantizedTensor:
        """Rows as they will stand. QuantizationError where a number of 64 bits without a sign is too large."""
        fmt = FORMATS[self.stored]
        values = self.tensor.read(start, stop) if self.shape else self.tensor.read()
        if values.dtype.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
            raise QuantizationError("number is too large for the type", tensor=self.name, got=int(values.max()))
        data = np.ascontiguousarray(values.astype(fmt.dtype[0])).reshape(-1).view(np.uint8)
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        return QuantizedTensor(self.name, fmt, shape, data)

    def beside(self) -> list[Source]:
        return []


def plan_generic(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    type: str,
    selection: Selection,
    arch: str | None = None,
    name: str | None = None,
    split: Split | None = None,
) -> ConversionPlan:
    """The plan of a file of any network from a file of safetensors, or a folder of them.

    Norms, vectors and tensors of up to 1024 values stay as they are, but bfloat16 is widened to F32, which every reader
    has. With the type COPY, all of it stays. ArgumentError for an architecture that is no word, UnsupportedError for a
    dtype that GGUF has no type for.
    """
    label, found = _open(Path(src))
    recipe = _recipe(type, found.tensors.values())
    architecture = UNKNOWN if arch is None else _architecture(arch)
    sources = [_source(tensor) for tensor in found.tensors.values()]
    shapes = {source.name: source.tensor.shape for source in sources if source.shape != source.tensor.shape}
    wide = [source.name for source in sources if source.stored in ROUNDED]
    metadata = {
        "general.architecture": architecture,
        "general.name": name or title(label),
        "general.file_type": recipe.file_type if recipe is not COPY else 0,
        "general.quantization_version": general.QUANTIZATION_VERSION,
        **general.provenance(label, recipe, selection, None),
        **dtypes(found.tensors),
        **{
            f"{ORIGINAL_SHAPE}{key}": Typed([*shape], ValueType.ARRAY, ValueType.INT32) for key, shape in shapes.items()
        },
    }
    notices = [*found.notices, *([f"{counted(len(wide), 'tensor')} of float64 rounded to float32"] if wide else [])]
    notices += _scaled(found.tensors)
    return planning.make(
        source=label,
        target=out,
        recipe=recipe,
        facts=Facts(n_layer=0),
        sources=sources,
        metadata=selection.with_overrides(metadata),
        fixed=partial(fixed_type, recipe, shapes),
        inputs=found.files,
        selection=replace(selection, pure=True),
        notices=notices,
        split=split,
    )


def dtypes(tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """The dtypes that tensors had, as metadata."""
    counts = Counter(tensor.dtype for tensor in tensors.values())
    if not counts:
        return {}
    most = max(counts, key=lambda dtype: (counts[dtype], dtype))
    others = {dtype: [name for name, tensor in tensors.items() if tensor.dtype == dtype] for dtype in sorted(counts)}
    return {DTYPE_KEY: most, **{f"{DTYPE_KEY}.{dtype}": names for dtype, names in others.items() if dtype != most}}


def is_generic(metadata: Mapping[str, Any]) -> bool:
    """Whether a file says that it was made here."""
    return DTYPE_KEY in metadata


def fixed_type(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], source: Source) -> str | None:
    """The type of what recipes do not touch, else None. ``shapes``: those of the network, where they differ."""
    exact = GGUF_TYPES.get(source.stored, source.stored)
    if format_by_name(exact).is_integer or recipe is COPY:
        return exact
    if is_delicate(source.name, shapes.get(source.name, source.shape)):
        return exact if FORMATS[exact].dtype[0].kind == "f" else "F32"
    return None


def fixed_again(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], source: Source) -> str | None:
    """The same of a tensor of such a file, by the name that it has there."""
    stored = format_by_name(source.stored)
    keeps = stored.is_integer or recipe is COPY or is_delicate(source.name, shapes[source.origin])
    return source.stored if keeps else None


def is_delicate(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor stays in floats of the precision that it has."""
    return len(shape) < 2 or prod(shape) <= SMALL or _DELICATE.search(name) is not None


def _open(path: Path) -> tuple[str, weights.Weights]:
    if path.is_file():
        stem = path.name.partition(".safetensors")[0].removesuffix(path.suffix)
        return called(path.parent)[0] if _UNSAYING.fullmatch(stem) else stem, weights.of_file(path)
    if path.is_dir():
        return called(path)[0], weights.of_folder(path, {})
    raise CheckpointError(
        "no such file or folder", path=path, expected="a file of safetensors, or a folder with one or more of them"
    )


def _scaled(tensors: Mapping[str, LazyTensor]) -> list[str]:
    """A notice of 8-bit floats that stand for other values than theirs."""
    scales = [name for name in tensors if _SCALE.search(name)]
    coded = [tensor for tensor in tensors.values() if tensor.dtype in FLOATS and tensor.dtype not in FORMATS]
    if not scales or not coded:
        return []
    apart = f"{counted(len(coded), 'tensor')} of 8-bit floats and {counted(len(scales), 'scale')}, {scales[0]} first"
    return [f"{apart}, stay apart: most readers of such files do not multiply them"]


def _recipe(type: str, tensors: Iterable[LazyTensor]) -> Recipe:
    kind = type.upper() if isinstance(type, str) else type
    if kind == COPY.name:
        return COPY
    if kind == "AUTO":
        return recipes.by_name(recipes.half_type(tensor.dtype for tensor in tensors if len(tensor.shape) > 1))
    return recipes.by_name(type)


def _architecture(arch: str) -> str:
    check_text("arch", arch)
    if not _ARCHITECTURE.fullmatch(arch):
        raise ArgumentError("not a name of an architecture", field="arch", expected="such as flux", got=repr(arch))
    return arch


def _source(tensor: LazyTensor) -> GenericSource | IntegerSource:
    exact = GGUF_TYPES.get(tensor.dtype)
    if exact is None:
        raise UnsupportedError(
            f"tensor of dtype {tensor.dtype}, which GGUF has no type for",
            path=tensor.path,
            tensor=tensor.name,
            expected="one of " + ", ".join(GGUF_TYPES),
        )
    is_integer = format_by_name(exact).is_integer
    return (IntegerSource if is_integer else GenericSource)(tensor.name, _shape(tensor, is_integer), tensor)


def _shape(tensor: LazyTensor, is_integer: bool) -> tuple[int, ...]:
    """The shape in GGUF: the network's where it can be."""
    shape, size = tensor.shape, tensor.size
    if len(shape) > 2 and not is_integer and size >= FLATTENED and size % ROW == 0 and shape[-1] % ROW:
        return (size // ROW, ROW)
    return shape if len(shape) <= MAX_DIMS else (shape[0], prod(shape[1:]))


def dtypes_of(metadata: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The dtype that each tensor of a file had, as far as the file says it."""
    most = metadata.get(DTYPE_KEY)
    if not isinstance(most, str):
        return {}
    found = dict.fromkeys(names, most)
    for key in metadata:
        if key.startswith(f"{DTYPE_KEY}."):
            listed = metadata[key]
            of_dtype = key.removeprefix(f"{DTYPE_KEY}.")
            found |= {name: of_dtype for name in (listed if isinstance(listed, list) else ()) if name in found}
    return found
