"""Fake-quantizing modules for torch, whose weights are at every step what exact GGUF blocks decode to.

    quantize(model, "Q2_K")                           its nn.Linear now compute with blocks, and train through them
    ...                                               any training
    model.save_pretrained(folder, state_dict=state_dict(model))
    export(model, folder, "out.gguf")                 the same blocks, bit for bit, in a file

torch is not a dependency: install the extra ``gguflike[torch]``. Gradients go straight through rounding; those of
scales are LSQ's (arXiv 1902.08153), times its factor 1 / sqrt(weights of the step * largest level).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import gguflike
from gguflike import container
from gguflike.blocks import format_by_name
from gguflike.calibrate.grids import GRIDS, Grid, Numbers
from gguflike.calibrate.trained import MOVES, Moves, linear_step
from gguflike.container import Typed, ValueType
from gguflike.convert.from_checkpoint import plan_conversion
from gguflike.convert.planning import most_of
from gguflike.convert.sources import check
from gguflike.errors import ArgumentError, check_choice
from gguflike.tensor import QuantizedTensor

StrPath = str | os.PathLike[str]
_MOST = 65504.0  # of float16


class _Straight(torch.autograd.Function):
    """``rounded`` in place of ``x``, with the gradient of ``x`` where it is ``inside``."""

    @staticmethod
    def forward(context: Any, x: Any, rounded: Any, inside: Any) -> Any:  # noqa: ARG004
        context.save_for_backward(inside)
        return rounded.clone()

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        (inside,) = context.saved_tensors
        return gradient * inside, None, None


class _Shrunk(torch.autograd.Function):
    """``x`` as it is, with a gradient times ``factor``."""

    @staticmethod
    def forward(context: Any, x: Any, factor: float) -> Any:
        context.factor = factor
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        return gradient * context.factor, None


class FakeQuantized(torch.nn.Module):
    """A parametrization of a weight (n, k): what blocks of ``type`` decode to, float32, after rounding it to them.

    It begins with the blocks of the plain encoder, with ``importance`` (k,) by column if given. Trainable are "d" and
    "m", logarithms of factors of super-scales (rounded to float16), with ``moves`` "integers" also "scales" and
    "minima", positions in the tables of integers; with "codes" levels follow the weight, else they stay.

    ArgumentError for a type whose levels are no scalars, or rows that are no multiple of its blocks, QuantizationError
    for weights that are not finite, or beyond what the type can store.
    """

    def __init__(self, weight: Any, type: str, moves: Moves = "codes", importance: Any = None) -> None:
        super().__init__()
        check_choice("moves", moves, MOVES)
        fmt = format_by_name(type)
        if fmt.name not in GRIDS:
            raise ArgumentError("levels of the type are no scalars", field="type", expected=", ".join(GRIDS), got=type)
        if weight.ndim != 2 or weight.shape[1] % fmt.block_size:
            expected = f"(rows, a multiple of {fmt.block_size})"
            raise ArgumentError("no matrix of blocks", field="weight", expected=expected, got=tuple(weight.shape))
        self.grid: Grid = GRIDS[fmt.name]
        self.moves = moves
        floats = weight.detach().float().cpu().numpy()
        check(floats, "weight", 0, fmt.limit)
        numbers = self.grid.parse(gguflike.quantize(floats, fmt.name, importance=importance).rows)
        for name, value in numbers._asdict().items():
            self.register_buffer(f"first_{name}", torch.from_numpy(value.copy()))
        for name in ("levels", "scales", "minima"):
            self.register_buffer(f"table_{name}", torch.from_numpy(getattr(self.grid, name).copy()), persistent=False)
        found = {"d": self.grid.d_at.size, "m": self.grid.m_at.size}
        for name, places in (("scales", self.grid.scales_at), ("minima", self.grid.minima_at)):
            found[name] = places.size if moves != "scales" and linear_step(getattr(self.grid, name)) else 0
        for name, there in found.items():
            start = getattr(numbers, name).astype(np.float32) if name in ("scales", "minima") else None
            value = np.zeros_like(getattr(numbers, name), np.float32) if start is None else start
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value)) if there else None)

    def _half(self, name: str) -> Any:
        first, logarithm = getattr(self, f"first_{name}"), getattr(self, name)
        if logarithm is None:
            return first
        share = (self.grid.block * max(abs(float(self.grid.levels[0])), float(self.grid.levels[-1]))) ** -0.5
        scaled = (first * torch.exp(_Shrunk.apply(logarithm, share))).clamp(-_MOST, _MOST)
        return _Straight.apply(scaled, scaled.half().float(), torch.ones_like(scaled))

    def _integer(self, name: str) -> tuple[Any, Any]:
        """Positions, and what they stand for."""
        table, moved = getattr(self, f"table_{name}"), getattr(self, name)
        if moved is None:
            positions = getattr(self, f"first_{name}")
            return positions, table[positions.long()]
        inside = (moved >= 0) & (moved <= len(table) - 1)
        positions = moved.detach().clamp(0, len(table) - 1).round()
        value = table[0] + moved * (table[1] - table[0])
        return positions.to(torch.uint8), _Straight.apply(value, table[positions.long()], inside)

    def _steps(self) -> dict[str, Any]:
        """All but the codes, and the factor and the shift of each weight."""
        d, m = self._half("d"), self._half("m")
        (scales, scale), (minima, minimum) = self._integer("scales"), self._integer("minima")
        per, size = self.grid.block // self.grid.size, self.grid.size
        factor = (d.repeat_interleave(per, 1) * scale).repeat_interleave(size, 1)
        shift = (m.repeat_interleave(per, 1) * minimum).repeat_interleave(size, 1)
        return {"d": d, "m": m, "scales": scales, "minima": minima, "factor": factor, "shift": shift}

    def _codes(self, weight: Any, factor: Any, shift: Any) -> tuple[Any, Any]:
        """Positions of the levels, and the levels."""
        first = self.first_codes.long()
        if self.moves != "codes":
            return first, self.table_levels[first]
        still = factor == 0
        real = (weight.float() + shift) / torch.where(still, torch.ones_like(factor), factor)
        levels = self.table_levels
        between = (levels[1:] + levels[:-1]) / 2
        codes = torch.where(still, first, torch.searchsorted(between, real.detach().contiguous()))
        inside = ~still & (real >= levels[0]) & (real <= levels[-1])
        return codes, _Straight.apply(real, levels[codes], inside)

    def forward(self, weight: Any) -> Any:
        """What the blocks decode to."""
        # Some ten tensors as large as the weight are steps of its rounding: made again in the backward pass, not kept.
        return checkpoint(self._decoded, weight, use_reentrant=False, preserve_rng_state=False)

    def _decoded(self, weight: Any) -> Any:
        steps = self._steps()
        _, levels = self._codes(weight, steps["factor"], steps["shift"])
        return (steps["factor"] * levels - steps["shift"]).to(weight.dtype)

    def right_inverse(self, values: Any) -> Any:
        """Weights are assigned as they are."""
        return values

    def numbers(self, weight: Any) -> Numbers:
        """The numbers of the blocks for the weight behind them."""
        with torch.no_grad():
            steps = self._steps()
            codes, _ = self._codes(weight, steps["factor"], steps["shift"])
            parts = {**steps, "codes": codes.to(torch.uint8)}
            return Numbers(*(np.ascontiguousarray(parts[name].cpu().numpy()) for name in Numbers._fields))

    def blocks(self, weight: Any) -> np.ndarray[Any, Any]:
        """The blocks, uint8 (n, bytes of a row), which decode to what `forward` gives."""
        return self.grid.pack(self.numbers(weight))


def quantize(
    model: Any, type: str, moves: Moves = "codes", chosen: Callable[[str], bool] = lambda name: name != "lm_head"
) -> list[str]:
    """Have every nn.Linear of a model whose name is ``chosen`` (all but the head) compute with blocks of ``type``; give
    their names.

    ArgumentError where there is none whose rows are whole blocks; such with other rows stay as they are. Nothing is
    changed where one is quantized already, or cannot be.
    """
    size, found = format_by_name(type).block_size, {}
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and chosen(name) and module.weight.shape[1] % size == 0:
            if parametrize.is_parametrized(module, "weight"):
                raise ArgumentError("quantized already, or parametrized otherwise", field="model", got=name)
            found[name] = module, FakeQuantized(module.weight, type, moves).to(module.weight.device)
    if not found:
        expected = f"rows of {size} columns, or a multiple"
        raise ArgumentError("no nn.Linear that can be quantized", field="model", expected=expected)
    for module, made in found.values():
        parametrize.register_parametrization(module, "weight", made)
    return list(found)


def _quantized(model: Any) -> Iterator[tuple[str, FakeQuantized, Any, Any]]:
    """Of each quantized module: name, parametrization, the weight behind, and what it computes with."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            made = module.parametrizations.weight
            if isinstance(made[0], FakeQuantized):
                yield name, made[0], made.original, module.weight


def state_dict(model: Any) -> dict[str, Any]:
    """The parameters of a model by the names that they had before `quantize`; weights are those it computes with."""
    result = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in name}
    return result | {f"{name}.weight": weight.detach().clone() for name, _, _, weight in _quantized(model)}


def export(model: Any, folder: StrPath, out: StrPath, overwrite: bool = False) -> list[str]:
    """Write the blocks of a model that was saved to ``folder`` (its ``state_dict`` in float32) to a GGUF file; give the
    names of the tensors that are blocks. All others are float32.

    Rows are found by their values, whatever order the file has them in: what is written decodes to the checkpoint's
    weights, bit for bit. ArgumentError where rows of the checkpoint are not the model's, or it has no blocks;
    OutputError where ``out`` exists, unless ``overwrite``, or is a file of the folder.
    """
    plan = plan_conversion(folder, None, "F32", tokenizer_proof="warn")
    container.check_target(out, plan.inputs)
    container.check_free(out, overwrite)
    blocks: dict[str, dict[bytes, np.ndarray[Any, Any]]] = {}
    for name, made, behind, weight in _quantized(model):
        if weight.dtype != torch.float32:
            got = str(weight.dtype).removeprefix("torch.")
            raise ArgumentError(
                "blocks decode to float32", field="model", expected="model.float()", got=f"{name}: {got}"
            )
        rows = blocks.setdefault(made.grid.format.name, {})
        rows.update(zip(map(bytes, weight.detach().cpu().numpy()), made.blocks(behind), strict=True))
    if not blocks:
        raise ArgumentError("no module computes with blocks", field="model", remedy="`quantize(model, type)` first")
    with tempfile.TemporaryDirectory(prefix="gguflike-") as temporary:
        floats = Path(temporary) / "floats.gguf"
        gguflike.convert(folder, floats, "F32", tokenizer_proof="warn", resume=False)
        written, left, tensors = [], set().union(*(rows for rows in blocks.values())), []
        with container.open(floats) as file:
            metadata = {
                key: file.metadata.typed(key) for key in file.metadata if not key.startswith("gguflike.digest.")
            }
            for name in file.infos:
                tensor = file.load(name)
                found = _found(tensor, blocks) if len(tensor.shape) > 1 else None
                if found is not None:
                    written.append(name)
                    left -= set(map(bytes, tensor.dequantize().reshape(-1, tensor.shape[-1])))
                tensors.append(tensor if found is None else found)
            if left:
                raise ArgumentError(
                    "rows of the model are not in the checkpoint", path=folder, field="folder", got=f"{len(left)} rows",
                    remedy="save it with state_dict=gguflike.torch.state_dict(model)",
                )  # fmt: skip
            recipe = most_of([tensor for tensor in tensors if tensor.name in set(written)])
            metadata["general.file_type"] = Typed(recipe.file_type, ValueType.UINT32)
            container.write(out, metadata, tensors, overwrite=overwrite, sources=plan.inputs)
    return written


def _found(tensor: QuantizedTensor, blocks: dict[str, dict[bytes, np.ndarray[Any, Any]]]) -> QuantizedTensor | None:
    """A tensor of floats as the blocks that decode to its rows, or None where it has others."""
    rows = list(map(bytes, tensor.dequantize().reshape(-1, tensor.shape[-1])))
    for kind, known in blocks.items():
        if all(row in known for row in rows):
            data = np.concatenate([known[row] for row in rows])
            return QuantizedTensor(tensor.name, format_by_name(kind), tensor.shape, data)
    return None
