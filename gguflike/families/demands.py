"""What llama.cpp demands of a model, by the name of an architecture: files that break it are well-formed, run here, and
are refused there; and what it computes otherwise in all architectures.

``rope.dimension_count`` and ``attention.key_length`` are read for all architectures alike. Of those in ``WHOLE`` the
graph asserts that all dimensions of a head turn (or the loader does, or takes the one for the other); of those in
``SQUARE`` the loader takes it for granted that the queries of all heads are as many values as the model is wide.

A loader counts the tensors that it reads, and refuses a file with one more. ``READ`` and ``UNREAD`` have tensors that
configurations switch on and off, by their roles: the architectures that read them, or all but which; ``NEEDED`` those
without which nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gguflike.families.parts import Attention, Scaling
from gguflike.families.parts.latent import LatentAttention
from gguflike.families.parts.recurrent import DeltaNet, KimiDelta, Mamba, Mamba2, ShortConv

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
        *("bert", "bitnet", "chatglm", "cohere2", "command-r", "eurobert", "falcon", "gpt2", "gptneox", "jamba"),
        *("jina-bert-v3", "lfm2", "lfm2moe", "modern-bert", "nemotron", "nomic-bert", "nomic-bert-moe", "olmo"),
        *("olmo2", "olmoe", "phi2", "phi3", "phimoe", "qwen2", "qwen2moe", "qwen2vl", "stablelm", "starcoder"),
        "starcoder2",
    )
)
_BIASED = frozenset(
    (
        *("bert", "falcon-h1", "gpt2", "gptneox", "granite", "granite_swa", "granitehybrid", "granitemoe", "jais2"),
        *("jina-bert-v3", "llama", "minicpm", "mistral3", "nemotron", "nemotron_h", "nemotron_h_moe", "nomic-bert"),
        *("nomic-bert-moe", "phi2", "starcoder", "starcoder2"),
    )
)
READ: Mapping[str, frozenset[str]] = {
    "rope_freqs.weight": frozenset(
        (
            *("apertus", "arcee", "exaone-moe", "exaone4", "falcon-h1", "gemma4", "granite", "granite_swa"),
            *("granitehybrid", "granitemoe", "llama", "llama4", "minicpm", "mistral3"),
        )
    ),
    "attn_output.bias": _BIASED | {"apertus", "ernie4_5", "ernie4_5-moe", "gpt-oss", "paddleocr", "phimoe"},
    "ffn_up.bias": _BIASED,
    "ffn_down.bias": _BIASED,
    "ffn_gate.bias": frozenset(
        ("falcon-h1", "granite", "granite_swa", "granitehybrid", "granitemoe", "llama", "minicpm", "mistral3")
    ),
    **{f"shortconv.{part}.bias": frozenset() for part in ("conv", "in_proj", "out_proj")},
}
UNREAD: Mapping[str, frozenset[str]] = {
    "output.weight": frozenset(("bitnet", "cohere2", "command-r", "gemma", "gemma2")),
    "attn_q.bias": frozenset(("bitnet", "gemma4", "modern-bert")),
    "attn_qkv.bias": frozenset(("falcon", "modern-bert")),
    "attn_q_a.bias": frozenset(("deepseek2", "deepseek32", "glm-dsa", "mistral4")),
    "attn_kv_a_mqa.bias": frozenset(("deepseek2", "deepseek32", "glm-dsa", "mistral4")),
}
NEEDED: Mapping[str, frozenset[str]] = {
    "output.weight": frozenset(
        (
            *("apertus", "dots1", "exaone-moe", "gpt-oss", "gptneox", "kimi-linear", "mellum", "mimo2", "minimax-m2"),
            *("minimax-m3", "nemotron", "olmo2", "olmoe", "phi2", "phimoe", "qwen2moe", "stablelm"),
        )
    ),
    "output.bias": frozenset(("phi2", "phimoe")),
    "attn_output.bias": frozenset(("gpt-oss", "gpt2", "gptneox", "jais2", "phi2", "phimoe", "starcoder", "starcoder2")),
    "attn_qkv.bias": frozenset(("gpt2", "gptneox", "starcoder")),
    "ffn_up.bias": frozenset(("gpt2", "gptneox", "jais2", "phi2", "starcoder", "starcoder2")),
    "ssm_conv1d.bias": frozenset(
        ("falcon-h1", "granitehybrid", "jamba", "mamba", "mamba2", "nemotron_h", "nemotron_h_moe")
    ),
}
# The architectures whose loader reads where YaRN blends; others take 32 and 1.
BLENDED = frozenset(("mistral3",))
# The architectures whose loader reads rope_freqs.weight, which their graph does not.
IDLE = frozenset(("falcon-h1",))
# Those whose loader has as many heads of keys as of queries, and those of Mamba that are twice as wide inside.
EACH_ITS_KEY = frozenset(("dots1",))
TWICE = frozenset(("jamba", "mamba"))
_STATES = (DeltaNet, KimiDelta, Mamba, Mamba2, ShortConv)
# Those whose memory is of two kinds of layers, and which are not loaded without one of each: of some that keep keys and
# some that keep a state, and of some with a window and some without (of encoders), or at least one with one.
HYBRID = frozenset(
    (
        *("granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "qwen35"),
        *("qwen35moe", "qwen3next"),
    )
)
EITHER = frozenset(("gemma-embedding", "modern-bert"))
WINDOWED = EITHER | {
    *("afmoe", "cohere2", "cohere2moe", "exaone-moe", "gemma2", "gemma4", "gpt-oss", "granite_swa", "mimo2"),
}


def broken(architecture: str, graph: Graph) -> list[tuple[str, str]]:
    """What of a file, a key or a tensor, breaks what llama.cpp demands where a model is of this graph, and a sentence
    about each."""
    found = [*_tensors(architecture, graph), *_kinds(architecture, graph)]
    for each in graph.attentions():
        turned = each.rope.n_rot if each.rope is not None else each.head_dim
        if architecture in WHOLE and turned != each.head_dim:
            share = f"{turned} of {each.head_dim} dimensions"
            said = f"llama.cpp refuses the file: {share} of a head turn, and in this architecture all do there"
            found.append((f"{architecture}.rope.dimension_count", said))
        if architecture in SQUARE and each.q_size != each.n_embd:
            heads = f"{each.heads} heads of {each.head_dim} values"
            wide = f"{heads} are not the {each.n_embd} that the model is wide"
            said = f"llama.cpp refuses the file: {wide}, as they must be there in this architecture"
            found.append((f"{architecture}.attention.key_length", said))
        if architecture in EACH_ITS_KEY and each.kv_heads != each.heads:
            said = f"llama.cpp refuses the file: {each.heads} heads share {each.kv_heads} of keys, and none do there"
            found.append((f"{architecture}.attention.head_count_kv", said))
    for mixer in graph.mixers():
        inner = getattr(mixer, "inner", None)  # an attention beside them has none
        if architecture in TWICE and inner not in (None, 2 * graph.embedding.n_embd):
            said = f"llama.cpp refuses the file: {inner} values inside are not twice the width, as they must be there"
            found.append((f"{architecture}.ssm.inner_size", said))
    return list(dict.fromkeys(found))


def _kinds(architecture: str, graph: Graph) -> Iterator[tuple[str, str]]:
    """That layers are all of one kind, where some must be of another."""
    refused = "llama.cpp refuses the file: no layer"
    if architecture in HYBRID:
        for kind, parts in (("attends", (Attention, LatentAttention)), ("carries a state", _STATES)):
            if not any(isinstance(mixer, parts) for mixer in graph.mixers()):
                said = f"{refused} {kind}, as some must there in this architecture"
                yield f"{architecture}.attention.head_count_kv", said
    windows = {mixer.window > 0 for mixer in graph.attentions()}
    for has in (True, False):
        if architecture in (WINDOWED if has else EITHER) and has not in windows:
            kind = "has a window" if has else "sees everything"
            said = f"{refused} {kind}, as some must there in this architecture"
            yield f"{architecture}.attention.sliding_window", said


def _tensors(architecture: str, graph: Graph) -> Iterator[tuple[str, str]]:
    """The first tensor of each role that is one too many, or missing."""
    first: dict[str, str] = {}
    unused: dict[str, str] = {}
    for place in graph.tensors():
        (first if place.tensor.used else unused).setdefault(place.tensor.role, place.name)
    for role, name in first.items():
        if architecture in UNREAD.get(role, ()) or architecture not in READ.get(role, (architecture,)):
            yield name, f"llama.cpp refuses the file: it reads no {name} in this architecture"
    for role, name in unused.items():
        if role not in first and architecture in NEEDED.get(role, ()):
            yield name, f"llama.cpp refuses the file: it needs {name} in this architecture"


def notices(architecture: str, graph: Graph) -> list[str]:
    """What to tell of a model of this graph, whatever the family: what llama.cpp refuses, and computes otherwise."""
    return [*(said for _, said in broken(architecture, graph)), *differences(architecture, graph)]


def differences(architecture: str, graph: Graph) -> list[str]:
    """What llama.cpp computes otherwise of rotations, whatever the family."""
    scalings = {rope.scaling for rope in graph.ropes() if rope.scaling is not None and rope.scaling.kind == "yarn"}
    found = []
    if any(not scaling.truncate for scaling in scalings):
        found.append("llama.cpp rounds the pairs where YaRN blends outwards (truncate), which this model does not")
    if architecture in IDLE and any(rope.divisors for rope in graph.ropes()):
        found.append("llama.cpp does not turn by rope_freqs.weight in this architecture: it computes otherwise")
    usual = (Scaling.beta_fast, Scaling.beta_slow)
    for beta in sorted({(scaling.beta_fast, scaling.beta_slow) for scaling in scalings} - {usual}):
        if architecture not in BLENDED:
            fast, slow = (f"{each:g}" for each in beta)
            found.append(
                f"llama.cpp blends YaRN from {usual[0]:g} to {usual[1]:g} turns in this architecture, this model from "
                f"{fast} to {slow}: start it with --yarn-beta-fast {fast} --yarn-beta-slow {slow}"
            )
    return found
