"""ERNIE 4.5, dense, and the text tower of PaddleOCR-VL."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    rope_of,
)
from gguflike.families.family import NESTED_NAMES, Family
from gguflike.families.parts import Graph
from gguflike.families.qwen import SEEING, VISION, sections
from gguflike.frozen import frozen, replace


@frozen
class Ernie(Decoder):
    """Hyper-parameters; one key says whether matrices have biases."""

    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    attention_bias: bool = key(None, "use_bias", default=False, tensor="blk.0.attn_q.bias")
    mlp_bias: bool = key(None, "use_bias", default=False, tensor="blk.0.ffn_up.bias")
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


def ernie(c: Ernie) -> Graph:
    """Llama's graph; adjacent pairs turn in the checkpoint, too."""
    block = pre_norm(c, attention(c, rope_of(c, "norm")), feed_forward(c))
    return decoder(c, lambda _: block)


@frozen
class Paddle(Ernie):
    """Hyper-parameters of the text tower of PaddleOCR-VL, whose names LlamaForCausalLM has, too."""

    attention_bias: bool = key(None, ("attention_bias", "use_bias"), default=False, tensor="blk.0.attn_q.bias")
    mlp_bias: bool = key(None, ("mlp_bias", "use_bias"), default=False, tensor="blk.0.ffn_up.bias")
    sections: tuple[int, ...] = sections((16, 24, 24, 0))


def paddle(c: Paddle) -> Graph:
    """The same with pairs half a head apart."""
    block = pre_norm(c, attention(c, rope_of(c, "neox")), feed_forward(c))
    return decoder(c, lambda _: block)


ERNIE = Family(
    name="ernie4_5",
    config=Ernie,
    graph=ernie,
    origins=DECODER_NAMES,
    renamed=(*NESTED_NAMES, (r"^ernie\.", "model.")),
    implemented=MappingProxyType({**SILU, "compression_ratio": (1.0,)}),
    inert=INERT_KEYS | {"use_flash_attention"},
    constants=exported("Ernie4_5ForCausalLM", "ernie4_5"),
)

PADDLE_OCR = replace(
    ERNIE,
    name="paddleocr",
    config=Paddle,
    graph=paddle,
    left_out=MappingProxyType({**VISION, r"(model\.)?(mlp_AR|projector)\.": "the projector of images"}),
    inert=ERNIE.inert | SEEING,
    constants=exported("LlamaForCausalLM", "llama"),
)
