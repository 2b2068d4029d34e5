"""Models that are refused by name, and why: what their graphs need and no part computes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_WINDOWED_LATENTS = "latent attention with windows, gates and sizes of its own in some layers, beside indexers"
_QWEN4 = "layers are joined by hyper-connections, and it looks up n-grams of tokens in a table"
_GLM5_NEXT = "layers are joined by hyper-connections, and some have Kimi's delta attention"
_HYPER = "layers are joined by hyper-connections"
_ENCODER_DECODER = "a decoder that attends to an encoder's output"
_ALIBI = "scores fall with distance (ALiBi)"
_GEMMA3N = "layers predict and correct several streams (AltUp), beside low-rank ones (Laurel)"
_LIGHTNING = "lightning attention"
_RWKV = "RWKV's time mixing"
_ASSISTANT = "a model that drafts for another one, whose states it reads"
_IMAGES = "images are tokens of its vocabulary, and its norms differ between heads"
_SPEECH = "it makes sound"

#: Class of Transformers -> what it needs.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "BloomForCausalLM": _ALIBI,
        "BloomModel": _ALIBI,
        "ChameleonForConditionalGeneration": _IMAGES,
        "DeepseekV4ForCausalLM": _HYPER,
        "Dots3NoteForCausalLM": _WINDOWED_LATENTS,
        "Dots3NoteForConditionalGeneration": _WINDOWED_LATENTS,
        "Gemma3nForCausalLM": _GEMMA3N,
        "Gemma3nForConditionalGeneration": _GEMMA3N,
        "Gemma4AssistantForCausalLM": _ASSISTANT,
        "Gemma4UnifiedAssistantForCausalLM": _ASSISTANT,
        "Glm5NextForConditionalGeneration": _GLM5_NEXT,
        "HYV4ForCausalLM": _HYPER,
        "MPTForCausalLM": _ALIBI,
        "MT5ForConditionalGeneration": _ENCODER_DECODER,
        "MiniMaxForCausalLM": _LIGHTNING,
        "MptForCausalLM": _ALIBI,
        "MuseGlimmerAssistantModel": _ASSISTANT,
        "PocketTTSModel": _SPEECH,
        "Qwen4ExpForCausalLM": _QWEN4,
        "Qwen4ExpForConditionalGeneration": _QWEN4,
        "RwkvForCausalLM": _RWKV,
        "T5EncoderModel": _ENCODER_DECODER,
        "T5ForConditionalGeneration": _ENCODER_DECODER,
        "UMT5ForConditionalGeneration": _ENCODER_DECODER,
    }
)

#: ``general.architecture`` -> what it needs.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "bloom": _ALIBI,
        "chameleon": _IMAGES,
        "deepseek4": _HYPER,
        "dots3note": _WINDOWED_LATENTS,
        "gemma3n": _GEMMA3N,
        "gemma4-assistant": _ASSISTANT,
        "glm5-next": _GLM5_NEXT,
        "hy_v4": _HYPER,
        "jina-bert-v2": _ALIBI,
        "minimax-01": _LIGHTNING,
        "mpt": _ALIBI,
        "qwen4exp": _QWEN4,
        "rwkv6": _RWKV,
        "rwkv7": _RWKV,
        "t5": _ENCODER_DECODER,
        "t5encoder": _ENCODER_DECODER,
    }
)
