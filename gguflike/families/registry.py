"""The model families by the names they go by. A family's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gguflike.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from gguflike.families.family import Family

# Class of Transformers -> where its family is: "module:CONSTANT" below this package.
CLASSES = {
    "LlamaForCausalLM": "llama:LLAMA",
    "MistralForCausalLM": "llama:MISTRAL",
    "Qwen2ForCausalLM": "qwen:QWEN2",
    "Qwen3ForCausalLM": "qwen:QWEN3",
    "Qwen2VLForConditionalGeneration": "qwen:QWEN2VL",
    "Qwen2_5_VLForConditionalGeneration": "qwen:QWEN2VL",
    "Qwen3VLForConditionalGeneration": "qwen:QWEN3VL",
    "SeedOssForCausalLM": "seed_oss:SEED_OSS",
    "Ernie4_5ForCausalLM": "ernie:ERNIE",
    "Ernie4_5_ForCausalLM": "ernie:ERNIE",
    "SmolLM3ForCausalLM": "smollm3:SMOLLM3",
    "GraniteForCausalLM": "granite:GRANITE",
    "Ministral3ForCausalLM": "mistral3:MISTRAL3",
    "Mistral3ForConditionalGeneration": "mistral3:MISTRAL3",
    "MixtralForCausalLM": "mixtral:MIXTRAL",
    "AfmoeForCausalLM": "afmoe:AFMOE",
    "Cohere2MoeForCausalLM": "cohere_moe:COHERE_MOE",
    "HunYuanMoEV1ForCausalLM": "hunyuan_moe:HUNYUAN_MOE",
    "Llama4ForCausalLM": "llama4:LLAMA4",
    "Llama4ForConditionalGeneration": "llama4:LLAMA4",
    "MellumForCausalLM": "mellum:MELLUM",
    "GptOssForCausalLM": "gpt_oss:GPT_OSS",
    "Glm4MoeForCausalLM": "sigmoid_moe:GLM4MOE",
    "SolarOpenForCausalLM": "sigmoid_moe:SOLAR_OPEN",
    "Dots1ForCausalLM": "sigmoid_moe:DOTS1",
    "HYV3ForCausalLM": "sigmoid_moe:HY_V3",
    "ExaoneMoeForCausalLM": "sigmoid_moe:EXAONE_MOE",
    "ExaoneMoEForCausalLM": "sigmoid_moe:EXAONE_MOE",
    "MiniMaxM2ForCausalLM": "sigmoid_moe:MINIMAX_M2",
    "Ernie4_5_MoeForCausalLM": "ernie_moe:ERNIE_MOE",
    "GraniteMoeForCausalLM": "granite_moe:GRANITE_MOE",
    "GraniteMoeSharedForCausalLM": "granite_moe:GRANITE_MOE_SHARED",
    "Qwen2MoeForCausalLM": "qwen_moe:QWEN2MOE",
    "Qwen3MoeForCausalLM": "qwen_moe:QWEN3MOE",
    "OlmoeForCausalLM": "qwen_moe:OLMOE",
    "Lfm2ForCausalLM": "lfm2:LFM2",
    "LFM2ForCausalLM": "lfm2:LFM2",
    "MambaForCausalLM": "mamba:MAMBA",
    "FalconMambaForCausalLM": "mamba:MAMBA",
    "Mamba2ForCausalLM": "mamba:MAMBA2",
    "GraniteMoeHybridForCausalLM": "granite_hybrid:GRANITE_HYBRID",
    "BambaForCausalLM": "granite_hybrid:BAMBA",
    "NemotronHForCausalLM": "nemotron_h:NEMOTRON_H",
    "FalconH1ForCausalLM": "falcon_h1:FALCON_H1",
    "JambaForCausalLM": "jamba:JAMBA",
    "Lfm2MoeForCausalLM": "lfm2:LFM2MOE",
    "Qwen3_5ForCausalLM": "qwen35:QWEN35",
    "Qwen3_5ForConditionalGeneration": "qwen35:QWEN35",
    "Qwen3_5MoeForCausalLM": "qwen35:QWEN35MOE",
    "Qwen3_5MoeForConditionalGeneration": "qwen35:QWEN35MOE",
    "Qwen3NextForCausalLM": "qwen35:QWEN3NEXT",
    "DeepseekV2ForCausalLM": "deepseek:DEEPSEEK_V2",
    "DeepseekV3ForCausalLM": "deepseek:DEEPSEEK_V3",
    "Glm4MoeLiteForCausalLM": "deepseek:GLM4_MOE_LITE",
    "YoutuForCausalLM": "deepseek:YOUTU",
    "BertModel": "bert:BERT",
    "BertForMaskedLM": "bert:BERT",
    "BertForSequenceClassification": "bert:BERT",
    "RobertaModel": "bert:ROBERTA",
    "RobertaForSequenceClassification": "bert:ROBERTA",
    "XLMRobertaModel": "bert:XLM_ROBERTA",
    "XLMRobertaForSequenceClassification": "bert:XLM_ROBERTA",
    "CamembertModel": "bert:XLM_ROBERTA",
    "DistilBertModel": "bert:DISTILBERT",
    "DistilBertForMaskedLM": "bert:DISTILBERT",
    "NomicBertModel": "bert:NOMIC_BERT",
    "ModernBertModel": "modern_bert:MODERN_BERT",
    "ModernBertForMaskedLM": "modern_bert:MODERN_BERT",
    "ModernBertForSequenceClassification": "modern_bert:MODERN_BERT",
    "Gemma4ForCausalLM": "gemma4:GEMMA4",
    "Gemma4ForConditionalGeneration": "gemma4:GEMMA4",
    "Gemma4UnifiedForConditionalGeneration": "gemma4:GEMMA4",
    "GemmaForCausalLM": "gemma:GEMMA",
    "Gemma2ForCausalLM": "gemma:GEMMA2",
    "Gemma3ForCausalLM": "gemma:GEMMA3",
    "Gemma3ForConditionalGeneration": "gemma:GEMMA3",
    "Phi3ForCausalLM": "phi:PHI3",
    "PhiForCausalLM": "phi:PHI2",
    "GlmForCausalLM": "glm:GLM",
    "Glm4ForCausalLM": "glm:GLM4",
    "OlmoForCausalLM": "olmo:OLMO",
    "Olmo2ForCausalLM": "olmo:OLMO2",
    "Olmo3ForCausalLM": "olmo:OLMO2",
    "Exaone4ForCausalLM": "exaone:EXAONE4",
    "Exaone4_5_ForConditionalGeneration": "exaone:EXAONE4",
    "CohereForCausalLM": "cohere:COHERE",
    "Cohere2ForCausalLM": "cohere:COHERE2",
    "HunYuanDenseV1ForCausalLM": "hunyuan:HUNYUAN",
    "NemotronForCausalLM": "nemotron:NEMOTRON",
    "Starcoder2ForCausalLM": "starcoder:STARCODER2",
    "StableLmForCausalLM": "stablelm:STABLELM",
    "GPTNeoXForCausalLM": "gptneox:GPTNEOX",
    "GPT2LMHeadModel": "gpt2:GPT2",
    "FalconForCausalLM": "falcon:FALCON",
    "ArceeForCausalLM": "arcee:ARCEE",
    "Jais2ForCausalLM": "jais2:JAIS2",
    "BitNetForCausalLM": "bitnet:BITNET",
    "GraniteSWAForCausalLM": "granite_swa:GRANITE_SWA",
}
# ``general.architecture`` -> the family that speaks for such files, where several write them.
ARCHITECTURES = {
    "llama": "llama:LLAMA",
    "qwen2": "qwen:QWEN2",
    "qwen3": "qwen:QWEN3",
    "qwen2vl": "qwen:QWEN2VL",
    "qwen3vl": "qwen:QWEN3VL",
    "seed_oss": "seed_oss:SEED_OSS",
    "ernie4_5": "ernie:ERNIE",
    "smollm3": "smollm3:SMOLLM3",
    "granite": "granite:GRANITE",
    "mistral3": "mistral3:MISTRAL3",
    "gpt-oss": "gpt_oss:GPT_OSS",
    "glm4moe": "sigmoid_moe:GLM4MOE",
    "dots1": "sigmoid_moe:DOTS1",
    "hy_v3": "sigmoid_moe:HY_V3",
    "exaone-moe": "sigmoid_moe:EXAONE_MOE",
    "minimax-m2": "sigmoid_moe:MINIMAX_M2",
    "ernie4_5-moe": "ernie_moe:ERNIE_MOE",
    "granitemoe": "granite_moe:GRANITE_MOE",
    "afmoe": "afmoe:AFMOE",
    "cohere2moe": "cohere_moe:COHERE_MOE",
    "hunyuan-moe": "hunyuan_moe:HUNYUAN_MOE",
    "llama4": "llama4:LLAMA4",
    "mellum": "mellum:MELLUM",
    "qwen2moe": "qwen_moe:QWEN2MOE",
    "qwen3moe": "qwen_moe:QWEN3MOE",
    "olmoe": "qwen_moe:OLMOE",
    "lfm2": "lfm2:LFM2",
    "mamba": "mamba:MAMBA",
    "mamba2": "mamba:MAMBA2",
    "granitehybrid": "granite_hybrid:GRANITE_HYBRID",
    "nemotron_h": "nemotron_h:NEMOTRON_H",
    "nemotron_h_moe": "nemotron_h:NEMOTRON_H_MOE",
    "falcon-h1": "falcon_h1:FALCON_H1",
    "jamba": "jamba:JAMBA",
    "lfm2moe": "lfm2:LFM2MOE",
    "qwen35": "qwen35:QWEN35",
    "qwen35moe": "qwen35:QWEN35MOE",
    "qwen3next": "qwen35:QWEN3NEXT",
    "deepseek2": "deepseek:DEEPSEEK_V3",
    "bert": "bert:BERT",
    "nomic-bert": "bert:NOMIC_BERT",
    "modern-bert": "modern_bert:MODERN_BERT",
    "gemma4": "gemma4:GEMMA4",
    "gemma": "gemma:GEMMA",
    "gemma2": "gemma:GEMMA2",
    "gemma3": "gemma:GEMMA3",
    "phi3": "phi:PHI3",
    "phi2": "phi:PHI2",
    "chatglm": "glm:GLM",
    "glm4": "glm:GLM4",
    "olmo": "olmo:OLMO",
    "olmo2": "olmo:OLMO2",
    "exaone4": "exaone:EXAONE4",
    "command-r": "cohere:COHERE",
    "cohere2": "cohere:COHERE2",
    "hunyuan-dense": "hunyuan:HUNYUAN",
    "nemotron": "nemotron:NEMOTRON",
    "starcoder2": "starcoder:STARCODER2",
    "stablelm": "stablelm:STABLELM",
    "gptneox": "gptneox:GPTNEOX",
    "gpt2": "gpt2:GPT2",
    "falcon": "falcon:FALCON",
    "arcee": "arcee:ARCEE",
    "jais2": "jais2:JAIS2",
    "bitnet": "bitnet:BITNET",
    "granite_swa": "granite_swa:GRANITE_SWA",
}


def for_config(config: Mapping[str, Any]) -> Family[Any]:
    """The family of a checkpoint, by the ``architectures`` of its config.json."""
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            "architectures must name one model class",
            field="config.json",
            expected="a list of one name",
            got=repr(names),
        )
    return _find(CLASSES, names[0], "config.json").of_config(config)


def for_gguf(architecture: str) -> Family[Any]:
    """The family of a GGUF file, by its ``general.architecture``."""
    return _find(ARCHITECTURES, architecture, "general.architecture")


def _find(table: Mapping[str, str], name: str, where: str) -> Family[Any]:
    if name not in table:
        raise UnsupportedError("model architecture", field=where, expected="one of " + ", ".join(table), got=repr(name))
    module, _, constant = table[name].partition(":")
    family: Family[Any] = getattr(importlib.import_module(f"gguflike.families.{module}"), constant)
    return family
