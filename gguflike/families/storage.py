"""What llama.cpp's quantizer asks about an architecture by its name: the exceptions to rules that go by tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gguflike.frozen import frozen


@frozen
class Storage:
    """Exceptions for one architecture.

    ``wide_layers``: models of so many layers have values so narrow that more bits for them cost nothing (all such
    models, or where ``grouped``, those with fewer key-value heads than query heads). ``lean``: the mixes spend less on
    attention outputs and ffn_down. ``unquantized`` and ``careful`` match names of weight matrices that are never
    quantized, and of such that never get fewer than 8 bits.
    """

    wide_layers: int = 0
    grouped: bool = False
    lean: bool = False
    unquantized: re.Pattern[str] | None = None
    careful: re.Pattern[str] | None = None


_PLAIN = Storage()
_STORAGE: Mapping[str, Storage] = {
    "llama": Storage(wide_layers=80, grouped=True),
    "qwen2": Storage(wide_layers=80),
    "deci": Storage(wide_layers=80),
    "olmo": Storage(wide_layers=80),
    "jais2": Storage(wide_layers=68),
    "falcon": Storage(lean=True),
    "glm5-next": Storage(
        unquantized=re.compile(
            r"hc_|indexer\.(attn_q_b|attn_k|proj)|indexer_compressor_(gate|ape)|ssm_([fg]_[ab]|beta)\.weight"
            r"|attn_(kv_a_mqa|[kv]_b)\.weight"
        ),
        careful=re.compile(r"attn_q_[ab]|nextn\.eh_proj"),
    ),
}


def storage_of(architecture: str) -> Storage:
    """The exceptions for an architecture, as general.architecture names it; none for one that is not listed."""
    return _STORAGE.get(architecture, _PLAIN)
