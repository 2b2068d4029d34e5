"""Text models inside of models that see or hear, which are of another class: LLaVA, SmolVLM, Voxtral and their like.

Their config.json has that of the text model as ``text_config``, whose ``model_type`` says which family it is of; the
rest of their tensors is left out. (Text towers that differ from every text model have families of their own.)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.family import Family, text_config
from gguflike.families.llama import LLAMA
from gguflike.frozen import replace

# Beginnings of names -> what it is that the text model does without.
_LEFT_OUT = MappingProxyType(
    {
        r"(model\.)?(vision_(tower|model|encoder)|visual_embeddings_table|vqmodel)\.": "the vision tower",
        r"(model\.)?(audio_tower|encoder)\.": "the audio tower",
        r"(model\.)?(multi_modal_projector|mm_projector|vision_projection|connector|projector|aligner|merger)\.": (
            "the projector"
        ),
        r"(model\.)?image_newline$": "the end of a row of an image",
        r"(model\.)?generation_(aligner|embeddings|head)\.": "what makes images",
    }
)
# Transformers 5.24 saves layers of Kimi's text model by the name that its vision tower has for its own.
_RENAMED = ((r"^language_model\.model\.blocks\.", "language_model.model.layers."),)
# Idefics' text configurations say of a resampler that the model has none.
_UNUSED = frozenset({"neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor"})
_OFF = MappingProxyType({"qk_layer_norms": (False,), "use_resampler": (False,)})


# What Kimi's code calls a text model -> what Transformers does.
_SAME = MappingProxyType({"kimi_k2": "deepseek_v3"})


def _text_model(values: Mapping[str, Any]) -> Family[Any]:
    """The family of the text model."""
    from gguflike.families import assumed, registry

    text = text_config(values)
    kind = _SAME.get(text.get("model_type", ""), text.get("model_type")) or assumed.type_of_text(
        registry.class_of(values)
    )
    model_class = assumed.class_of_type(kind) or ""
    if not model_class.endswith("ForCausalLM"):
        raise UnsupportedError(
            "text model of a model that sees or hears",
            field="config.json: text_config.model_type",
            expected="that of a known class for text, such as llama or qwen2",
            got=repr(kind),
        )
    return _with_towers(registry.for_config({**text, "architectures": [model_class]}))


def _with_towers(family: Family[Any]) -> Family[Any]:
    """A family that leaves out what is not its text model."""
    return replace(
        family,
        left_out=MappingProxyType({**family.left_out, **_LEFT_OUT}),
        renamed=(*_RENAMED, *family.renamed),
        inert=family.inert | _UNUSED,
        implemented=MappingProxyType({**_OFF, **family.implemented}),
    )


TOWER = replace(
    _with_towers(LLAMA),
    variant=_text_model,
)
KIMI = replace(TOWER, name="deepseek2")
