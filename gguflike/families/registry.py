"""The model families by the names they go by. A family's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gguflike.errors import CheckpointError, UnsupportedError, such_as

if TYPE_CHECKING:
    from gguflike.families.family import Family

# One row a family: where it is ("module:CONSTANT" below this package), its ``general.architecture``, and its classes of
# Transformers. Where several families have one architecture, the first is asked for it, and says by ``file_variant``
# which of them a file is of; a family without a class here is a ``variant`` of one that has it. A family imports those
# that it is made of; one of them that means it asks for it by its place (``at``), so that no imports go in circles.
FAMILIES = (
    # Dense decoders
    ("llama:LLAMA", "llama", "LlamaForCausalLM"),
    ("llama:MISTRAL", "llama", "MistralForCausalLM"),
    (
        "towers:TOWER",
        "llama",
        "AudioFlamingo3ForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "GlmAsrForConditionalGeneration",
        "GotOcr2ForConditionalGeneration",
        "GraniteSpeechForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
        "InternVLForConditionalGeneration",
        "JanusForConditionalGeneration",
        "Lfm2VlForConditionalGeneration",
        "LightOnOcrForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "MiniCPMV4_6ForConditionalGeneration",
        "Ovis2ForConditionalGeneration",
        "Qwen2AudioForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
        "VideoLlama3ForConditionalGeneration",
        "VoxtralForConditionalGeneration",
    ),
    ("mistral3:MISTRAL3", "mistral3", "Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    ("qwen:QWEN2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen:QWEN3", "qwen3", "Qwen3ForCausalLM"),
    ("qwen:QWEN2VL", "qwen2vl", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    ("qwen:QWEN3VL", "qwen3vl", "Qwen3VLForConditionalGeneration"),
    ("seed_oss:SEED_OSS", "seed_oss", "SeedOssForCausalLM"),
    ("ernie:ERNIE", "ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    ("smollm3:SMOLLM3", "smollm3", "SmolLM3ForCausalLM"),
    ("gemma:GEMMA", "gemma", "GemmaForCausalLM"),
    ("gemma:GEMMA2", "gemma2", "Gemma2ForCausalLM"),
    ("gemma:GEMMA3", "gemma3", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    (
        "gemma4:GEMMA4",
        "gemma4",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
    ),
    ("phi:PHI3", "phi3", "Phi3ForCausalLM"),
    ("phi:PHI2", "phi2", "PhiForCausalLM"),
    ("glm:GLM", "chatglm", "GlmForCausalLM"),
    ("glm:GLM4", "glm4", "Glm4ForCausalLM"),
    ("glm:GLM4V", "glm4", "Glm4vForConditionalGeneration", "GlmOcrForConditionalGeneration"),
    ("granite:GRANITE", "granite", "GraniteForCausalLM"),
    ("minicpm:MINICPM", "minicpm", "MiniCPMForCausalLM"),
    ("granite_swa:GRANITE_SWA", "granite_swa", "GraniteSWAForCausalLM"),
    ("olmo:OLMO", "olmo", "OlmoForCausalLM"),
    ("olmo:OLMO2", "olmo2", "Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    ("exaone:EXAONE4", "exaone4", "Exaone4ForCausalLM", "Exaone4_5_ForConditionalGeneration"),
    ("cohere:COHERE", "command-r", "CohereForCausalLM"),
    ("cohere:COHERE2", "cohere2", "Cohere2ForCausalLM"),
    ("hunyuan:HUNYUAN", "hunyuan-dense", "HunYuanDenseV1ForCausalLM"),
    ("nemotron:NEMOTRON", "nemotron", "NemotronForCausalLM"),
    ("starcoder:STARCODER2", "starcoder2", "Starcoder2ForCausalLM"),
    ("stablelm:STABLELM", "stablelm", "StableLmForCausalLM"),
    ("gptneox:GPTNEOX", "gptneox", "GPTNeoXForCausalLM"),
    ("gpt2:GPT2", "gpt2", "GPT2LMHeadModel"),
    ("falcon:FALCON", "falcon", "FalconForCausalLM"),
    ("arcee:ARCEE", "arcee", "ArceeForCausalLM"),
    ("jais2:JAIS2", "jais2", "Jais2ForCausalLM"),
    ("bitnet:BITNET", "bitnet", "BitNetForCausalLM"),
    ("apertus:APERTUS", "apertus", "ApertusForCausalLM"),
    ("gpt2:GPT_BIGCODE", "starcoder", "GPTBigCodeForCausalLM"),
    ("ernie:PADDLE_OCR", "paddleocr", "PaddleOCRVLForConditionalGeneration"),
    # Mixtures of experts
    ("mixtral:MIXTRAL", "llama", "MixtralForCausalLM"),
    ("phimoe:PHIMOE", "phimoe", "PhimoeForCausalLM", "PhiMoEForCausalLM"),
    ("qwen_moe:QWEN2MOE", "qwen2moe", "Qwen2MoeForCausalLM"),
    ("qwen_moe:QWEN3MOE", "qwen3moe", "Qwen3MoeForCausalLM"),
    ("qwen_moe:QWEN3VLMOE", "qwen3vlmoe", "Qwen3VLMoeForConditionalGeneration"),
    ("qwen_moe:OLMOE", "olmoe", "OlmoeForCausalLM"),
    ("granite_moe:GRANITE_MOE", "granitemoe", "GraniteMoeForCausalLM"),
    ("granite_moe:GRANITE_MOE_SWA", "granite_swa", "GraniteMoeSWAForCausalLM"),
    ("granite_moe:GRANITE_MOE_SHARED", "granitemoe", "GraniteMoeSharedForCausalLM"),
    ("gpt_oss:GPT_OSS", "gpt-oss", "GptOssForCausalLM"),
    ("sigmoid_moe:GLM4MOE", "glm4moe", "Glm4MoeForCausalLM"),
    ("sigmoid_moe:GLM4V_MOE", "glm4moe", "Glm4vMoeForConditionalGeneration"),
    ("sigmoid_moe:DOTS1", "dots1", "Dots1ForCausalLM"),
    ("sigmoid_moe:HY_V3", "hy_v3", "HYV3ForCausalLM"),
    ("sigmoid_moe:EXAONE_MOE", "exaone-moe", "ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    ("sigmoid_moe:MINIMAX_M2", "minimax-m2", "MiniMaxM2ForCausalLM"),
    (
        "minimax_m3:MINIMAX_M3",
        "minimax-m3",
        "MiniMaxM3SparseForConditionalGeneration",
        "MiniMaxM3SparseForCausalLM",
        "MiniMaxM3VLForCausalLM",
    ),
    ("sigmoid_moe:SOLAR_OPEN", "glm4moe", "SolarOpenForCausalLM"),
    ("ernie_moe:ERNIE_MOE", "ernie4_5-moe", "Ernie4_5_MoeForCausalLM"),
    ("hunyuan_moe:HUNYUAN_MOE", "hunyuan-moe", "HunYuanMoEV1ForCausalLM"),
    ("cohere_moe:COHERE_MOE", "cohere2moe", "Cohere2MoeForCausalLM"),
    ("afmoe:AFMOE", "afmoe", "AfmoeForCausalLM"),
    ("llama4:LLAMA4", "llama4", "Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    ("mimo2:MIMO2", "mimo2", "MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    ("mellum:MELLUM", "mellum", "MellumForCausalLM"),
    ("laguna:LAGUNA", "laguna", "LagunaForCausalLM"),
    # Latent attention
    ("deepseek:DEEPSEEK_V2", "deepseek2", "DeepseekV2ForCausalLM"),
    ("deepseek:DEEPSEEK_V3", "deepseek2", "DeepseekV3ForCausalLM"),
    (
        "towers:KIMI",
        "deepseek2",
        "Kimi_K25ForConditionalGeneration",
        "KimiK25ForConditionalGeneration",
        "KimiVLForConditionalGeneration",
    ),
    ("deepseek:MISTRAL4", "mistral4", "Mistral4ForCausalLM"),
    ("deepseek:GLM4_MOE_LITE", "deepseek2", "Glm4MoeLiteForCausalLM"),
    ("deepseek:YOUTU", "deepseek2", "YoutuForCausalLM"),
    ("minicpm:MINICPM3", "minicpm3", "MiniCPM3ForCausalLM"),
    ("sparse_latent:DEEPSEEK_V32", "deepseek32", "DeepseekV32ForCausalLM"),
    ("sparse_latent:GLM5", "glm-dsa", "GlmMoeDsaForCausalLM"),
    # Recurrent and hybrid
    ("mamba:MAMBA", "mamba", "MambaForCausalLM", "FalconMambaForCausalLM"),
    ("mamba:MAMBA2", "mamba2", "Mamba2ForCausalLM"),
    ("qwen35:QWEN35", "qwen35", "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    ("qwen35:QWEN35MOE", "qwen35moe", "Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    ("qwen35:QWEN3NEXT", "qwen3next", "Qwen3NextForCausalLM"),
    ("granite_hybrid:GRANITE_HYBRID", "granitehybrid", "GraniteMoeHybridForCausalLM"),
    ("granite_hybrid:BAMBA", "granitehybrid", "BambaForCausalLM"),
    ("nemotron_h:NEMOTRON_H", "nemotron_h", "NemotronHForCausalLM"),
    ("nemotron_h:NEMOTRON_H_MOE", "nemotron_h_moe"),
    ("falcon_h1:FALCON_H1", "falcon-h1", "FalconH1ForCausalLM"),
    ("jamba:JAMBA", "jamba", "JambaForCausalLM"),
    ("kimi_linear:KIMI_LINEAR", "kimi-linear", "KimiLinearForCausalLM"),
    ("lfm2:LFM2", "lfm2", "Lfm2ForCausalLM", "LFM2ForCausalLM"),
    ("lfm2:LFM2MOE", "lfm2moe", "Lfm2MoeForCausalLM"),
    # Encoders and embedding models
    ("bert:BERT", "bert", "BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    ("nomic:NOMIC_BERT", "nomic-bert", "NomicBertModel"),
    ("nomic:NOMIC_BERT_MOE", "nomic-bert-moe"),
    ("jina:JINA_V3", "jina-bert-v3", "JinaEmbeddingsV3Model", "JinaEmbeddingsV3ForMaskedLM"),
    ("bert:ROBERTA", "bert", "RobertaModel", "RobertaForSequenceClassification"),
    ("bert:XLM_ROBERTA", "bert", "XLMRobertaModel", "XLMRobertaForSequenceClassification", "CamembertModel"),
    ("bert:DISTILBERT", "bert", "DistilBertModel", "DistilBertForMaskedLM"),
    (
        "modern_bert:MODERN_BERT",
        "modern-bert",
        "ModernBertModel",
        "ModernBertForMaskedLM",
        "ModernBertForSequenceClassification",
    ),
    ("embedders:GEMMA_EMBEDDING", "gemma-embedding", "Gemma3TextModel"),
    ("embedders:EUROBERT", "eurobert", "EuroBertModel", "EuroBertForMaskedLM"),
    ("embedders:QWEN3_EMBEDDING", "qwen3", "Qwen3Model"),
)
CLASSES = {name: place for place, _, *classes in FAMILIES for name in classes}
ARCHITECTURES = {architecture: place for place, architecture, *_ in reversed(FAMILIES)}


def for_config(config: Mapping[str, Any]) -> Family[Any]:
    """The family of a checkpoint, by the class of models that its config.json means."""
    return family_of(class_of(config)).of_config(config)


def class_of(config: Mapping[str, Any]) -> str:
    """The class of models that config.json means: what ``architectures`` names, or else what ``model_type`` does.

    CheckpointError where it says neither, UnsupportedError where it says nothing that is known.
    """
    from gguflike.families import assumed, kinds

    kinds.check_kinds({key: config.get(key) for key in ("architectures", "model_type")})
    names = config.get("architectures") or []
    found = next((name for name in names if name in CLASSES), None)
    found = found or next((name for name in names if _needs(name, "CLASSES")), None)
    found = found or assumed.class_of_type(config.get("model_type"))
    if found is None and not names:
        raise CheckpointError(
            "config.json does not say of which class the model is",
            field="config.json: architectures",
            expected="a list of one name, such as LlamaForCausalLM, or a model_type, such as llama",
            got=f"model_type {config.get('model_type')!r}",
        )
    return found or names[0]


def family_of(model_class: str) -> Family[Any]:
    """The family of a class of models."""
    return _find(CLASSES, model_class, "config.json: architectures", "CLASSES")


def for_gguf(architecture: str) -> Family[Any]:
    """The family of a GGUF file, by its ``general.architecture``."""
    return _find(ARCHITECTURES, architecture, "general.architecture", "ARCHITECTURES")


def _find(table: Mapping[str, str], name: str, where: str, known: str) -> Family[Any]:
    if name not in table:
        if (needs := _needs(name, known)) is not None:
            raise UnsupportedError(f"{name} needs what this version does not compute: {needs}", field=where)
        raise UnsupportedError("model architecture", field=where, expected=such_as(table, name), got=repr(name))
    return at(table[name])


def at(place: str) -> Family[Any]:
    """The family at a place, "module:CONSTANT" below this package, whose module is imported now."""
    module, _, constant = place.partition(":")
    family: Family[Any] = getattr(importlib.import_module(f"gguflike.families.{module}"), constant)
    return family


def _needs(name: str, known: str) -> str | None:
    """What a model that is refused by name needs."""
    from gguflike.families import refused

    needs: str | None = getattr(refused, known).get(name)
    return needs
