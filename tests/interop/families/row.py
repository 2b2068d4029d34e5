"""What a row of the table of model classes says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: Rows of every embedding; the byte-level tokenizer has a few tokens fewer, so that padding tokens occur.
VOCABULARY = 384
BOS, EOS, PAD = 1, 2, 3
#: GLM's <|endoftext|>, <|user|> and <|observation|>.
GLM_ENDS = [4, 10, 12]
#: An id that no test text contains: the placeholder of images, videos and sounds.
PLACEHOLDER = VOCABULARY - 1


@dataclass(frozen=True)
class Row:
    """A class of transformers as a tiny checkpoint: every kind of layer that its models have occurs in it."""

    name: str  # the class, and a variant behind a slash
    architecture: str  # general.architecture of its GGUF file
    config: Mapping[str, Any]  # arguments of its configuration class
    tokenizer: Literal["bpe", "framed bpe", "spm", "wordpiece", "unigram"] = "bpe"
    #: What is compared: logits of every token, final hidden states, or the scores of a classifier.
    result: Literal["logits", "hidden", "scores"] = "logits"
    #: Further files of the folder, by name, as JSON.
    files: Mapping[str, Any] = field(default_factory=dict)
    #: Keys of config.json as published, which transformers 5 no longer writes and llama.cpp's converter reads;
    #: ... for one that only transformers 5 writes.
    published: Mapping[str, Any] = field(default_factory=dict)
    #: What tokenizer_config.json says beside the usual.
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    #: Part of tensors' names -> what their values are multiplied by, for models with unusual scales.
    gains: Mapping[str, float] = field(default_factory=dict)
    #: The class in ``architectures`` of config.json, where llama.cpp knows it by another name than transformers.
    registered: str | None = None

    @property
    def model_class(self) -> str:
        """The class of transformers."""
        return self.name.partition("/")[0]

    @property
    def routed(self) -> bool:
        """Whether experts are chosen."""
        return any("experts" in key for key in {**self.config, **self.config.get("text_config", {})})


def text(**changes: Any) -> dict[str, Any]:
    """The configuration of a small decoder; a change to ... leaves the key out."""
    base = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "tie_word_embeddings": False,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def rope(theta: float = 10000.0, kind: str = "default", **more: Any) -> dict[str, Any]:
    """``rope_parameters`` of one kind of layer."""
    return {"rope_type": kind, "rope_theta": theta, **more}


def layers(pattern: str, **kinds: str) -> list[str]:
    """``layer_types`` from a letter per layer: f(ull), s(liding), c(hunked) attention, l(inear attention)."""
    names = {
        "f": "full_attention",
        "s": "sliding_attention",
        "c": "chunked_attention",
        "l": "linear_attention",
        **kinds,
    }
    return [names[letter] for letter in pattern]


LLAMA3 = rope(
    500000.0,
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = rope(10000.0, "yarn", factor=4.0, original_max_position_embeddings=32)
