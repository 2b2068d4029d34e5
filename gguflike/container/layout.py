"""Where everything stands in a file: limits, sizes, offsets, and the arithmetic that checks them.

Sizes read from a file are Python integers, so they never wrap; each is compared with what 64-bit readers can hold
(``INT64_MAX``) and with the bytes the file has before anything is allocated or sliced.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from gguflike.blocks import BlockFormat, format_by_id
from gguflike.errors import GGUFError

MAGIC = b"GGUF"
VERSION = 3  # what we write
READABLE_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
ARCHITECTURE_KEY = "general.architecture"
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # and a tensor's name: the shape that it has in its network

PADDING_KEY = "gguflike.padding"  # zero bytes, with which the data begin where they did, or whole blocks further on

INT64_MAX = 2**63 - 1  # llama.cpp keeps dimensions and sizes in int64
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES = 63  # GGML_MAX_NAME is 64 with the closing NUL
READABLE_NAME_BYTES = 127  # what stable-diffusion.cpp and gguf-py write, of networks that llama.cpp does not run
MAX_KEY_BYTES = 65535  # the GGUF specification's limit
MAX_ALIGNMENT = 1 << 21  # the largest page a file is mapped with; more is only a way to inflate a file
MAX_HEADER_BYTES = 1 << 28  # about 15 times the largest header known (262k tokens, 514k merges): bounds time and memory

HEADER_BYTES = 24  # magic, version, tensor count, metadata count
MIN_KV_BYTES = 8 + 1 + 4 + 1  # key length, one character, value type, the smallest value
MIN_TENSOR_BYTES = 8 + 1 + 4 + 0 + 4 + 8  # name length, one character, dimension count, none, type, offset
MIN_STRING_BYTES = 8

_REMOVED = "removed from ggml; requantize the model from its float weights"
_BITNET = "a type of the BitNet fork; bitnet.cpp reads it"
_IK = "a type of the ik_llama.cpp fork with its own block layout; ik_llama.cpp reads it"
_IK_NAMES = {
    97: "Q8_0_X4", 98: "Q8_1_X4", 99: "Q8_2_X4", 133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64", 137: "IQ2_K",
    138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K", 141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 147: "Q8_K16",
    148: "Q8_K32", 149: "Q8_KR8", 150: "Q8_K128", 151: "Q8_KV", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT",
    155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT", 202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8",
    210: "Q2_K_R4", 211: "Q3_K_R4", 212: "Q4_K_R4", 213: "Q5_K_R4", 214: "Q6_K_R4", 216: "IQ2_XXS_R4",
    217: "IQ2_XS_R4", 218: "IQ3_XXS_R4", 219: "IQ1_S_R4", 220: "IQ4_NL_R4", 221: "IQ3_S_R4", 222: "IQ2_S_R4",
    223: "IQ4_XS_R8", 229: "IQ1_M_R4", 230: "BF16_R16", 233: "Q6_0_R4", 335: "IQ2_BN_R4", 337: "IQ2_K_R4",
    338: "IQ3_K_R4", 339: "IQ4_K_R4", 340: "IQ5_K_R4", 344: "IQ4_KS_R4", 352: "IQ5_KS_R4", 397: "Q8_K_R16",
    398: "Q8_KV_R8", 399: "Q8_K_R8",
}  # fmt: skip

# Type ids that are not in the table but were, or are elsewhere: refused by name. (name, why)
FOREIGN_TYPES: dict[int, tuple[str, str]] = {
    4: ("Q4_2", _REMOVED),
    5: ("Q4_3", _REMOVED),
    31: ("Q4_0_4_4", "removed from ggml: Q4_0 repacked for Arm; requantize to Q4_0"),
    32: ("Q4_0_4_8", "removed from ggml: Q4_0 repacked for Arm; requantize to Q4_0"),
    33: ("Q4_0_8_8", "removed from ggml: Q4_0 repacked for Arm; requantize to Q4_0"),
    36: ("I2_S (BitNet) or IQ4_NL_4_4 (removed from ggml)", _BITNET),
    37: ("I8_S (BitNet) or IQ4_NL_4_8 (removed from ggml)", _BITNET),
    38: ("TL1 (BitNet) or IQ4_NL_8_8 (removed from ggml)", _BITNET),
} | {number: (name, _IK) for number, name in _IK_NAMES.items()}


class TensorSpec(NamedTuple):
    """What a tensor will be: enough to plan a file. ``shape`` in numpy order (the last axis is the row)."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat


class TensorInfo(NamedTuple):
    """Where a tensor stands. ``shape`` in numpy order, ``offset`` absolute in its file, both sizes in bytes.

    ``shard`` counts the file it stands in from 0; a file that is not split has only shard 0.
    """

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    offset: int
    nbytes: int
    shard: int = 0

    @property
    def weights(self) -> int:
        """How many it holds."""
        return prod(self.shape)

    @property
    def bits(self) -> float:
        """Bits of a weight; 0 where there is none."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0


def align_up(offset: int, alignment: int) -> int:
    """The next multiple of ``alignment`` (a power of two) at or after ``offset``."""
    return (offset + alignment - 1) & -alignment


def check_alignment(value: int) -> bool:
    """Whether a data alignment is allowed: a power of two up to MAX_ALIGNMENT."""
    return 1 <= value <= MAX_ALIGNMENT and value & (value - 1) == 0


def tensor_bytes(dims: tuple[int, ...], fmt: BlockFormat) -> int:
    """Bytes of a tensor with ggml's ``dims`` (fastest axis first). GGUFError C-021 and C-023, without a place.

    A dimension of zero is fine (llama.cpp loads it, too), but hides no overflow: the product is taken without zeros.
    """
    weights = prod(dims) or prod(dim for dim in dims if dim)
    if weights > INT64_MAX:
        raise GGUFError("dimensions overflow 64 bits", rule="C-021", expected="at most 2^63 - 1 weights", got=dims)
    row = dims[0] if dims else 1
    if row % fmt.block_size:
        raise GGUFError(
            f"a row of {row} weights is not a whole number of {fmt.name} blocks",
            rule="C-023",
            expected=f"a multiple of {fmt.block_size}",
            got=row,
        )
    size = weights // fmt.block_size * fmt.block_bytes
    if size > INT64_MAX:
        raise GGUFError("tensor size overflows 64 bits", rule="C-021", expected="at most 2^63 - 1 bytes", got=dims)
    return 0 if 0 in dims else size


def known_format(type_id: int) -> BlockFormat:
    """The row for a type id. GGUFError C-022, naming ids known from elsewhere, without a place."""
    fmt = format_by_id(type_id)
    if fmt is not None:
        return fmt
    if type_id in FOREIGN_TYPES:
        name, why = FOREIGN_TYPES[type_id]
        raise GGUFError(f"tensor type {name} is not ggml's", rule="C-022", got=f"type id {type_id}", remedy=why)
    raise GGUFError(
        "unknown tensor type",
        rule="C-022",
        expected="an id of ggml's table of types",
        got=f"type id {type_id}",
        remedy="the file is damaged, or made by a fork or a newer ggml",
    )


def check_name(data: bytes, longest: int = READABLE_NAME_BYTES) -> str:
    """A tensor name from its bytes. GGUFError C-017 (length), C-018 (UTF-8 without NUL), without a place."""
    if not 1 <= len(data) <= longest:
        raise GGUFError("tensor name has a bad length", rule="C-017", expected=f"1 to {longest} bytes", got=len(data))
    return _text(data, "tensor name", "C-018")


def check_key(data: bytes) -> str:
    """A metadata key from its bytes. GGUFError C-008 (length), C-009 (UTF-8 without NUL), without a place."""
    if not 1 <= len(data) <= MAX_KEY_BYTES:
        raise GGUFError("key has a bad length", rule="C-008", expected=f"1 to {MAX_KEY_BYTES} bytes", got=len(data))
    return _text(data, "key", "C-009")


def _text(data: bytes, what: str, rule: str) -> str:
    # C readers stop at a NUL: "a\0b" and "a" would be one name there and two here
    problem = "holds a NUL" if 0 in data else "is not UTF-8"
    try:
        if 0 not in data:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise GGUFError(f"{what} {problem}", rule=rule, got=repr(data[:80]))
