"""What llama.cpp demands of attention, by the name of an architecture: files that break it are well-formed, run here,
and are refused there.

``rope.dimension_count`` and ``attention.key_length`` are read for all architectures alike. Of those in ``WHOLE`` the
graph asserts that all dimensions of a head turn (or the loader does, or takes the one for the other); of those in
``SQUARE`` the loader takes it for granted that the queries of all heads are as many values as the model is wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguflike.families.parts import Graph

WHOLE = frozenset(
    (
        *("apertus", "arcee", "cohere2moe", "dots1", "ernie4_5", "ernie4_5-moe", "exaone-moe", "exaone4", "falcon"),
        *("gpt-oss", "granite", "granite_swa", "granitemoe", "hunyuan-dense", "hunyuan-moe", "hy_v3", "jais2"),
        *("llama", "llama4", "mellum", "minicpm", "mistral3", "olmo", "olmo2", "olmoe", "paddleocr", "qwen2"),
        *("qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "seed_oss", "smollm3", "starcoder2"),
    )
)
SQUARE = frozenset(
    (
        *("bert", "bitnet", "cohere2", "command-r", "eurobert", "falcon", "gpt2", "gptneox", "jamba", "jina-bert-v3"),
        *("lfm2", "lfm2moe", "modern-bert", "nemotron", "nomic-bert", "nomic-bert-moe", "olmo", "olmo2", "olmoe"),
        *("phi2", "phi3", "phimoe", "qwen2", "qwen2moe", "qwen2vl", "stablelm", "starcoder", "starcoder2"),
    )
)


def broken(architecture: str, graph: Graph) -> list[tuple[str, str]]:
    """The keys, below the architecture, by which a model of this graph breaks what llama.cpp demands, and a sentence
    about each."""
    found = []
    for each in graph.attentions():
        turned = each.rope.n_rot if each.rope is not None else each.head_dim
        if architecture in WHOLE and turned != each.head_dim:
            share = f"{turned} of {each.head_dim} dimensions"
            said = f"llama.cpp refuses the file: {share} of a head turn, and in this architecture all do there"
            found.append(("rope.dimension_count", said))
        if architecture in SQUARE and each.q_size != each.n_embd:
            heads = f"{each.heads} heads of {each.head_dim} values"
            wide = f"{heads} are not the {each.n_embd} that the model is wide"
            said = f"llama.cpp refuses the file: {wide}, as they must be there in this architecture"
            found.append(("attention.key_length", said))
    return list(dict.fromkeys(found))
