"""Encoders: hidden states, pooled embeddings and the scores of classifiers."""

from __future__ import annotations

from typing import Any

from tests.interop.families.row import VOCABULARY, Row, layers, rope, text


def _pooling(mode: str, size: int = 64) -> dict[str, Any]:
    """The files by which sentence-transformers says how token states become one vector."""
    return {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": size,
            "pooling_mode_cls_token": mode == "cls",
            "pooling_mode_mean_tokens": mode == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_lasttoken": mode == "last",
        },
    }


_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_ROBERTA = {
    **_BERT,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
_LABELS = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
_MODERN = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "layer_types": layers("fssf"),
    "local_attention": 16,
    "rope_parameters": {"full_attention": rope(160000.0), "sliding_attention": rope(10000.0)},
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
# As published, in words of its own code.
_NOMIC_MOE = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_inner": 96,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 2048,
    "max_trained_positions": 2048,
    "type_vocab_size": 1,
    "layer_norm_epsilon": 1e-5,
    "pad_token_id": 1,
    "activation_function": "gelu",
    "causal": False,
    "qkv_proj_bias": True,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "prenorm": False,
    "rotary_emb_base": 10000.0,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "moe_every_n_layers": 2,
    "moe_top_k": 2,
    "moe_normalize_expert_weights": False,
    "num_experts": 8,
}
# llama.cpp's converter reads config.json by the class of transformers, for which these are other words.
_OF_TRANSFORMERS = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 16,
    "layer_norm_eps": 1e-5,
    "rope_parameters": rope(10000.0),
    "max_position_embeddings": ...,
}

ROWS = (
    Row("BertModel", "bert", _BERT, "wordpiece", "hidden", _pooling("mean")),
    Row("BertForSequenceClassification", "bert", {**_BERT, **_LABELS}, "wordpiece", "scores"),
    Row("RobertaModel", "bert", _ROBERTA, "framed bpe", "hidden", _pooling("cls")),
    Row("XLMRobertaModel", "bert", _ROBERTA, "unigram", "hidden", _pooling("cls")),
    Row(
        "XLMRobertaForSequenceClassification",
        "bert",
        {**_ROBERTA, "id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}},
        "unigram",
        "scores",
    ),
    Row(
        "DistilBertModel",
        "bert",
        {
            "vocab_size": VOCABULARY,
            "dim": 64,
            "hidden_dim": 96,
            "n_layers": 3,
            "n_heads": 4,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
        },
        "wordpiece",
        "hidden",
        _pooling("cls"),
    ),
    Row(
        "JinaEmbeddingsV3Model",
        "jina-bert-v3",
        {**_ROBERTA, "rope_parameters": rope(20000.0)},
        "unigram",
        "hidden",
        _pooling("mean"),
    ),
    Row(
        "NomicBertModel",
        "nomic-bert",
        {**_BERT, "rope_parameters": rope(1000.0)},
        "wordpiece",
        "hidden",
        _pooling("mean"),
        published={
            "n_positions": 8192,
            "max_trained_positions": 2048,
            "activation_function": "swiglu",
            "causal": False,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "prenorm": False,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
        },
    ),
    Row(
        "NomicBertModel/experts",
        "nomic-bert-moe",
        _NOMIC_MOE,
        "wordpiece",
        "hidden",
        _pooling("mean"),
        published=_OF_TRANSFORMERS,
    ),
    Row(
        "NomicBertModel/experts without bias",
        "nomic-bert-moe",
        _NOMIC_MOE,
        "wordpiece",
        "hidden",
        _pooling("mean"),
        published=_OF_TRANSFORMERS,
        gains={"experts.bias": 0.0},
    ),
    Row(
        "ModernBertModel",
        "modern-bert",
        _MODERN,
        "framed bpe",
        "hidden",
        _pooling("cls"),
        published={"layer_norm_eps": 1e-5},
    ),
    Row(
        "ModernBertForSequenceClassification",
        "modern-bert",
        {**_MODERN, **_LABELS, "classifier_pooling": "mean"},
        "framed bpe",
        "scores",
        published={"layer_norm_eps": 1e-5},
    ),
    Row(
        "Gemma3TextModel",
        "gemma-embedding",
        text(
            head_dim=32,
            query_pre_attn_scalar=32,
            num_hidden_layers=7,
            sliding_window=16,
            layer_types=layers("sssssfs"),
            use_bidirectional_attention=True,
            rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope(1e4)},
            tie_word_embeddings=True,
        ),
        "spm",
        "hidden",
        _pooling("mean"),
    ),
    Row("Qwen3Model", "qwen3", text(head_dim=32, rope_parameters=rope(1e6)), "bpe", "hidden", _pooling("last")),
    Row(
        "EuroBertModel",
        "eurobert",
        text(classifier_pooling="mean", mask_token_id=4),
        "framed bpe",
        "hidden",
        _pooling("mean"),
    ),
)
