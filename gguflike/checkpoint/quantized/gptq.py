"""GPTQ: integers of 2, 3, 4 or 8 bits in 32-bit words, with a scale and a zero for each group of input columns.

``weight[o, i] = scales[g, o] * (q[i, o] - zeros[g, o])`` with ``g = g_idx[i]``, where q follow each other in the bits
of ``qweight`` (words, outputs) along the inputs, zeros in those of ``qzeros`` (groups, words) along the outputs
(AutoGPTQ, nn_modules/qlinear). Files of the first format hold zeros less 1. GPTQModel subtracts that from whole words,
also where numbers of 3 bits reach across them (utils/model.py, convert_gptq_v2_to_v1_format_module); AutoGPTQ, from
each number.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np
import numpy.typing as npt

from gguflike.checkpoint.quantized.pool import REMEDY, Pool, Settings, exactly, expect_shape
from gguflike.checkpoint.quantized.tensors import Computed, Floats, computed, groups_of_columns, unpacked
from gguflike.checkpoint.safetensors import LazyTensor, widened
from gguflike.errors import CheckpointError, UnsupportedError

BITS = (2, 3, 4, 8)
#: Settings of how weights were found, and of what computes with them.
HOW = """
    damp_percent damp_auto_increment desc_act static_groups sym true_sequential model_name_or_path model_file_base_name
    model_seqlen block_name_to_quantize module_name_preceding_first_block batch_size pad_token_id max_input_length
    cache_block_outputs modules_in_block_to_quantize act_group_aware tokenizer dataset exllama_config use_exllama
    disable_exllama use_cuda_fp16 backend meta lm_head quantizer offload_to_disk offload_to_disk_path mse
    mock_quantization hyb_act v2 gptaq foem parallel_packing pack_impl fail_safe failsafe inside_layer_modules
    outside_layer_modules version iters lr autoround_version low_gpu_mem_usage nsamples seqlen
    minmax_lr enable_minmax_tuning enable_quanted_input enable_norm_bias_tuning amp block_list gradient_accumulate_steps
    scale_dtype train_bs act_bits act_data_type act_dynamic act_group_size act_sym data_type quant_block_list
    super_bits super_group_size to_quant_block_names
"""


@dataclass(frozen=True)
class GPTQ(Computed):
    """A matrix (outputs, inputs). What zeros lack is added to their words, ``to_words`` in turn, or ``to_numbers``."""

    words: LazyTensor
    zeros: LazyTensor
    scales: LazyTensor
    groups_of: LazyTensor | None
    bits: int
    to_words: tuple[int, ...]
    to_numbers: int

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.shape[0] if stop is None else stop
        values: Floats = unpacked(self.words.read_columns(start, stop).T, self.bits).astype(np.float32)
        return grouped(values, self._zeros(start, stop), columns_of(self.scales, start, stop).T, self._groups())

    def _groups(self) -> npt.NDArray[np.int64] | None:
        """The group of each input; None where they follow each other, all of one size."""
        count, inputs = self.scales.shape[0], self.shape[1]
        if self.groups_of is None:
            return None
        groups = groups_of_columns(self.groups_of, count)
        in_order = inputs % count == 0 and np.array_equal(groups, np.arange(inputs) // (inputs // count))
        return None if in_order else groups

    def _zeros(self, start: int, stop: int) -> Floats:
        """The zeros (outputs, groups)."""
        whole = lcm(32, self.bits)  # bits of words that hold whole numbers
        numbers, words = whole // self.bits, whole // 32
        first, last = start // numbers, -(-stop // numbers)
        stored = self.zeros.read_columns(first * words, last * words).view(np.uint32)
        if self.to_words:
            stored = stored + np.resize(np.array(self.to_words, np.uint32), stored.shape[1])
        found: Floats = unpacked(stored, self.bits)[:, start - first * numbers :].T[: stop - start].astype(np.float32)
        found += self.to_numbers
        return found


def grouped(values: Floats, zeros: Floats, scales: Floats, groups: npt.NDArray[np.int64] | None = None) -> Floats:
    """``(values - zeros) * scales`` of numbers (rows, groups), in place; ``groups`` are those of the columns, where
    they do not follow each other, all of one size."""
    if groups is None:
        parts = values.reshape(*zeros.shape, -1)
        parts -= zeros[..., None]
        parts *= scales[..., None]
    else:
        values -= np.take(zeros, groups, axis=1)
        values *= np.take(scales, groups, axis=1)
    return values


def columns_of(tensor: LazyTensor, start: int, stop: int) -> Floats:
    """Columns of a matrix of floats, as float32."""
    return widened(tensor.read_columns(start, stop), tensor.dtype)


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` gptq; say what they were."""
    bits = settings.integer("bits", "w_bit", among=BITS)
    group = settings.integer("group_size", "q_group_size", default=-1)
    by_module = bool(settings.get("dynamic", "extra_config", default={}))
    form = settings.choice("checkpoint_format", "format", among=("gptq", "gptq_v2"), default="gptq")
    settings.choice("pack_dtype", among=("int32",), default="int32")
    if settings.get("is_marlin_format"):
        raise UnsupportedError("GPTQ weights in Marlin's arrangement", field=settings.field, remedy=REMEDY)
    settings.inert(HOW)
    by_words = "gptqmodel" in str(settings.get("meta", default={})).lower()
    widths = set()
    for module in pool.modules(".qweight"):
        made = _matrix(pool, module, form == "gptq", by_words)
        widths.add(made.bits)
        inputs, groups = made.shape[1], made.scales.shape[0]
        if not by_module and (made.bits != bits or groups != (1 if group < 1 else -(-inputs // group))):
            raise CheckpointError(
                "a quantized weight is not what the settings say",
                path=made.path,
                tensor=f"{module}.qweight",
                expected=f"{bits} bits in groups of {group}",
                got=f"{made.bits} bits in {groups} groups of {inputs} columns",
            )
        pool.give(made)
    listed = " or ".join(map(str, sorted(widths)))
    return f"GPTQ {listed} bits, " + (f"groups of {group}" if group > 0 else "one group for each row")


# What GPTQModel adds to words of numbers that are too small by 1.
_ONES = {2: (0x55555555,), 3: (0x24924924, 0x92492492, 0x49249249), 4: (0x11111111,), 8: (0x01010101,)}


def _matrix(pool: Pool, module: str, less: bool, by_words: bool) -> GPTQ:
    name = f"{module}.weight"
    words = pool.take(f"{module}.qweight", name, {"I32", "U32"})
    zeros, scales = (
        pool.take(f"{module}.qzeros", words.name, {"I32", "U32"}),
        pool.take(f"{module}.scales", words.name, {"F16", "BF16", "F32"}),
    )
    groups_of = pool.maybe(f"{module}.g_idx", {"I32", "I64"})
    for part in (words, zeros, scales):
        if len(part.shape) != 2 or 0 in part.shape:
            raise CheckpointError(
                "part of a quantized weight is no matrix", path=part.path, tensor=part.name, got=part.shape
            )
    groups, outputs = scales.shape
    expect_shape(zeros, (groups, zeros.shape[1]))
    bits = exactly(32 * zeros.shape[1], outputs, zeros, "bits of zeros")
    inputs = exactly(32 * words.shape[0], bits, words, "bits")
    if bits not in BITS or words.shape[1] != outputs:
        raise CheckpointError(
            "parts of a quantized weight do not fit each other",
            path=words.path,
            tensor=words.name,
            expected=f"{outputs} columns, of 2, 3, 4 or 8 bits",
            got=f"shape {words.shape}, with zeros of {bits} bits",
        )
    if groups_of is not None:
        expect_shape(groups_of, (inputs,))
    else:
        exactly(inputs, groups, scales, "groups")
    return computed(
        GPTQ,
        name,
        (outputs, inputs),
        words,
        words=words,
        zeros=zeros,
        scales=scales,
        groups_of=groups_of,
        bits=bits,
        to_words=_ONES[bits] if less and (by_words or bits != 3) else (),
        to_numbers=int(less and bits == 3 and not by_words),
    )
