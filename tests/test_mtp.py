"""Multi-token-prediction heads: converted, exported, computed, and guessing without changing a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import container, reference, runner
from gguflike.cli import main
from gguflike.engine import Engine
from gguflike.errors import UnsupportedError
from gguflike.families import registry
from gguflike.families.parts import Graph
from gguflike.reference.forward import blocks
from gguflike.reference.parts import Context
from gguflike.runner import Model
from gguflike.runner.drafting import Asked
from gguflike.runner.mtp import MTPHead
from tests import tiny
from tests.measures import relative_error
from tests.test_engine import ask

D, FF, E, VOCAB, LAYERS = 64, 64, 4, 300, 2
COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": 2 * FF,
    "moe_intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "attention_bias": False,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
GLM: dict[str, Any] = {
    **COMMON,
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "n_routed_experts": E,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "head_dim": 32,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
}


def attention(layer: str) -> dict[str, tuple[int, ...]]:
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")},
        **{f"{layer}self_attn.{name}_proj.weight": (rows, D) for name, rows in (("q", 64), ("k", 32), ("v", 32))},
        f"{layer}self_attn.o_proj.weight": (D, 64),
        **{f"{layer}self_attn.{name}_norm.weight": (32,) for name in "qk"},
    }


def feed_forward(place: str, size: int) -> dict[str, tuple[int, ...]]:
    return {
        **{f"{place}.{name}_proj.weight": (size, D) for name in ("gate", "up")},
        f"{place}.down_proj.weight": (D, size),
    }


def mixture(layer: str) -> dict[str, tuple[int, ...]]:
    made = {f"{layer}mlp.gate.weight": (E, D), f"{layer}mlp.gate.e_score_correction_bias": (E,)}
    for expert in range(E):
        made |= feed_forward(f"{layer}mlp.experts.{expert}", FF)
    return made | feed_forward(f"{layer}mlp.shared_experts", FF)


HEAD = f"model.layers.{LAYERS}."
TRUNK = {
    "model.embed_tokens.weight": (VOCAB, D),
    **attention("model.layers.0."),
    **feed_forward("model.layers.0.mlp", 2 * FF),
    **attention("model.layers.1."),
    **mixture("model.layers.1."),
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
}
GLM_HEAD = {
    **attention(HEAD),
    **mixture(HEAD),
    f"{HEAD}eh_proj.weight": (D, 2 * D),
    f"{HEAD}enorm.weight": (D,),
    f"{HEAD}hnorm.weight": (D,),
}
OWN = {
    f"{HEAD}embed_tokens.weight": (VOCAB, D),
    f"{HEAD}shared_head.norm.weight": (D,),
    f"{HEAD}shared_head.head.weight": (VOCAB, D),
}


QWEN: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "vocab_size": VOCAB,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def gated(layer: str) -> dict[str, tuple[int, ...]]:
    return attention(layer) | feed_forward(f"{layer}mlp", FF) | {f"{layer}self_attn.q_proj.weight": (128, D)}


def delta_net(layer: str) -> dict[str, tuple[int, ...]]:
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")},
        **feed_forward(f"{layer}mlp", FF),
        f"{layer}linear_attn.in_proj_qkv.weight": (128, D),
        f"{layer}linear_attn.in_proj_z.weight": (64, D),
        **{f"{layer}linear_attn.in_proj_{name}.weight": (2, D) for name in "ab"},
        f"{layer}linear_attn.conv1d.weight": (128, 1, 4),
        **{f"{layer}linear_attn.{name}": (2,) for name in ("dt_bias", "A_log")},
        f"{layer}linear_attn.norm.weight": (32,),
        f"{layer}linear_attn.out_proj.weight": (D, 64),
    }


QWEN_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **delta_net("model.layers.0."),
    **gated("model.layers.1."),
    "model.norm.weight": (D,),
    **gated("mtp.layers.0."),
    "mtp.fc.weight": (D, 2 * D),
    **{f"mtp.{name}.weight": (D,) for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")},
}


LITE: dict[str, Any] = {
    **{name: value for name, value in GLM.items() if name not in ("head_dim", "use_qk_norm", "partial_rotary_factor")},
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
}


def latent(layer: str) -> dict[str, tuple[int, ...]]:
    place = f"{layer}self_attn."
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")},
        f"{place}q_a_proj.weight": (32, D),
        f"{place}q_a_layernorm.weight": (32,),
        f"{place}q_b_proj.weight": (2 * 64, 32),
        f"{place}kv_a_proj_with_mqa.weight": (32 + 32, D),
        f"{place}kv_a_layernorm.weight": (32,),
        f"{place}kv_b_proj.weight": (2 * 64, 32),
        f"{place}o_proj.weight": (D, 64),
    }


LITE_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **latent("model.layers.0."),
    **feed_forward("model.layers.0.mlp", 2 * FF),
    **latent("model.layers.1."),
    **mixture("model.layers.1."),
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
    **latent(HEAD),
    **mixture(HEAD),
    **{
        name: shape
        for name, shape in GLM_HEAD.items()
        if name.endswith(("eh_proj.weight", "norm.weight")) and "self_attn" not in name and "layernorm" not in name
    },
    f"{HEAD}shared_head.norm.weight": (D,),
}


HY: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if name != "first_k_dense_replace"},
    "architectures": ["HYV3ForCausalLM"],
    "model_type": "hy_v3",
    "num_experts": E,
    "num_shared_experts": 1,
    "router_scaling_factor": 1.5,
    "mlp_layer_types": ["dense", "sparse"],
    "head_dim": 32,
}


def of_hy(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names that Hy 3 has for what GLM has."""
    names = {
        "mlp.gate.weight": "mlp.router.gate.weight",
        "mlp.gate.e_score_correction_bias": "mlp.expert_bias",
        "mlp.shared_experts.": "mlp.shared_mlp.",
        "shared_head.norm.": "final_layernorm.",
    }
    made = {}
    for name, shape in shapes.items():
        for before, after in names.items():
            name = name.replace(before, after)
        made[name] = shape
    return made


HY_WEIGHTS = of_hy({**TRUNK, **GLM_HEAD, f"{HEAD}shared_head.norm.weight": (D,)})

#: By a tensor that the others lack.
OF = {
    f"{HEAD}mlp.router.gate.weight": HY,
    f"{HEAD}self_attn.q_proj.weight": GLM,
    f"{HEAD}self_attn.q_a_proj.weight": LITE,
    "mtp.fc.weight": QWEN,
}


def values(shapes: dict[str, tuple[int, ...]], seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        made[name] = x + np.float32(1) if "norm" in name else x
    return made


def right(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A model whose next token depends on the last alone, and a head that is given only that, so that it is right."""
    made = dict(weights)
    for name, x in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
            made[name] = 0 * x
        elif x.shape == (D,):  # of a norm, to which Qwen adds one
            made[name] = 0 * x + np.float32(f"{HEAD}eh_proj.weight" in weights)
        elif x.shape == (D, 2 * D):
            made[name] = np.concatenate([np.eye(D), np.zeros((D, D))], axis=1).astype(np.float32)
    return made


def checkpoint(folder: Path, weights: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(tiny.safetensors(weights))
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(VOCAB)))
    return folder


def converted(folder: Path, weights: dict[str, np.ndarray], kind: str = "F32", config: Any = None) -> Path:
    config = config or next(config for head, config in OF.items() if head in weights)
    gguflike.convert(checkpoint(folder / "hf", weights, config), folder / "m.gguf", kind)
    return folder / "m.gguf"


def stored(path: Path) -> dict[str, np.ndarray]:
    with container.open(path) as file:
        return {name: tensor.dequantize().reshape(tensor.shape) for name, tensor in file.tensors.items()}


VARIANTS = {
    "hy": HY_WEIGHTS,
    "shared": {**TRUNK, **GLM_HEAD},
    "own": {**TRUNK, **GLM_HEAD, **OWN},
    "apart": QWEN_WEIGHTS,
    "latent": LITE_WEIGHTS,
}
PROMPT = [10, 20, 30, 40, 50, 60, 70]


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back(tmp_path: Path, variant: str) -> None:
    weights = values(VARIANTS[variant])
    path = converted(tmp_path, weights)
    with container.open(path) as file:
        assert file.metadata[f"{file.architecture}.block_count"] == LAYERS + 1
        assert file.metadata[f"{file.architecture}.nextn_predict_layers"] == 1
        roles = {name.split(".", 2)[2] for name in file.infos if name.startswith(f"blk.{LAYERS}.nextn.")}
    own = {
        "shared": (),
        "own": ("embed_tokens", "shared_head_norm", "shared_head_head"),
        "apart": ("shared_head_norm",),
        "latent": ("shared_head_norm",),
        "hy": ("shared_head_norm",),
    }
    assert roles == {f"nextn.{role}.weight" for role in ("eh_proj", "enorm", "hnorm", *own[variant])}
    gguflike.export(path, tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    count = config["mtp_num_hidden_layers" if variant == "apart" else "num_nextn_predict_layers"]
    assert (config["num_hidden_layers"], count) == (LAYERS, 1)
    gguflike.convert(tmp_path / "back", tmp_path / "again.gguf", "F32")
    again = stored(tmp_path / "again.gguf")
    assert all(np.array_equal(x, again[name]) for name, x in stored(path).items())


def test_heads_that_config_json_promises_and_the_checkpoint_lacks(tmp_path: Path) -> None:
    path = converted(tmp_path, values(TRUNK), config=GLM)
    with container.open(path) as file:
        assert file.metadata["glm4moe.block_count"] == LAYERS
        assert "glm4moe.nextn_predict_layers" not in file.metadata
    with runner.load(path) as model:
        assert not model.graph.mtp
        with pytest.raises(UnsupportedError, match="no multi-token-prediction head"):
            model.generate(PROMPT, draft="mtp")
        with pytest.raises(UnsupportedError, match="no multi-token-prediction head"):
            Engine(model, draft="mtp")


def test_layers_left_out_may_be_heads(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "hf", values(VARIANTS["shared"]), GLM)
    for pruned, counts in (([0], (2, 1)), ([LAYERS], (2, 0))):
        gguflike.convert(folder, tmp_path / "m.gguf", "F32", prune_layers=pruned, overwrite=True)
        with container.open(tmp_path / "m.gguf") as file:
            found = [file.metadata[f"glm4moe.{key}"] for key in ("block_count", "nextn_predict_layers")]
        assert tuple(found) == counts
        with runner.load(tmp_path / "m.gguf") as model:
            assert len(model.graph.mtp) == counts[1]
            assert len(model.graph.blocks) == counts[0] - counts[1]


def test_heads_of_deepseek_v3_are_left_out_and_said(tmp_path: Path) -> None:
    """As llama.cpp's converter does, though files that have them are taken."""
    config = LITE | {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
    folder = checkpoint(tmp_path / "hf", values(LITE_WEIGHTS), config)
    plan = gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    assert any("what predicts further tokens is left out" in notice for notice in plan.notices)
    with container.open(tmp_path / "m.gguf") as file:
        assert file.metadata["deepseek2.block_count"] == LAYERS


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_head_is_its_equations(tmp_path: Path, variant: str) -> None:
    """h'_i = block(M [norm(e_{i+1}); norm(h_i)]); logits of token i + 2 are O norm(h'_i). The block is a model's: the
    last of one that has it as its second layer."""
    weights = values(VARIANTS[variant])
    path = converted(tmp_path, weights)
    with container.open(path) as file:
        family = registry.for_gguf(str(file.architecture))
        graph = family.graph(family.from_file(file.metadata, file.infos))
    tensors = stored(path)
    of = {role: tensors.get(f"blk.{LAYERS}.nextn.{role}.weight") for role in ("embed_tokens", "eh_proj", "enorm")}
    of |= {role: tensors.get(f"blk.{LAYERS}.nextn.{role}.weight") for role in ("hnorm", "shared_head_head")}
    embedding = tensors["token_embd.weight"] if of["embed_tokens"] is None else of["embed_tokens"]
    norm = tensors.get(f"blk.{LAYERS}.nextn.shared_head_norm.weight", tensors["output_norm.weight"])
    output = of["shared_head_head"]
    output = tensors.get("output.weight", tensors["token_embd.weight"]) if output is None else output
    hidden = reference.hidden(graph, tensors, PROMPT)[:-1]
    pair = np.concatenate([rms(embedding[PROMPT[1:]], of["enorm"]), rms(hidden, of["hnorm"])], axis=1)
    x = pair @ of["eh_proj"].T
    other = {
        **{name: tensor for name, tensor in tensors.items() if not name.startswith("blk.")},
        **{f"blk.0.{name.split('.', 2)[2]}": x for name, x in tensors.items() if name.startswith(f"blk.{LAYERS}.")},
    }
    alone = Graph(graph.embedding, graph.blocks[1:2], None, graph.head)
    want = rms(blocks(alone, other, x, Context(length=len(x))), norm) @ output.T
    assert relative_error(reference.mtp.logits(graph, tensors, PROMPT), want) < 1e-5
    with runner.load(path, cache_type="f32") as model:
        head = MTPHead(model, model._passes)
        for position in (0, 1, 4):  # in pieces, of one token and of several
            ids = PROMPT[position : {0: 1, 1: 4, 4: -1}[position]]
            model.extend(ids, position)
        followed = head._followed[0]
        found = head._read(followed, PROMPT, len(PROMPT) - 1)
        assert found is not None
        assert relative_error(found[0][0], want[-1]) < 1e-4
        head.close()


def texts(model: Model, kind: str, **settings: Any) -> list[Any]:
    prompts = [PROMPT, [5, 6], [7] * 40, [*PROMPT[:4], 99]]
    return [model.generate(prompt, 40, **settings).result() for prompt in prompts]


SETTINGS: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 2}, {"lookup": 2}]


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "with lookup"])
@pytest.mark.parametrize("variant", ["own", "apart", "latent"])
def test_a_head_changes_no_text(tmp_path: Path, variant: str, kind: str, settings: dict[str, Any]) -> None:
    with runner.load(converted(tmp_path, values(VARIANTS[variant]), kind)) as model:
        want = texts(model, kind, **settings)
        made = texts(model, kind, draft="mtp", draft_tokens=3, **settings)
        assert [each.tokens for each in made] == [each.tokens for each in want]
        assert sum(each.drafted for each in made) > 0


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_that_is_right_is_accepted(tmp_path: Path, kind: str, variant: str) -> None:
    weights = right(values(VARIANTS[variant]))
    if variant == "own":
        weights[f"{HEAD}embed_tokens.weight"] = weights["model.embed_tokens.weight"]
        weights[f"{HEAD}shared_head.head.weight"] = weights["lm_head.weight"]
    with runner.load(converted(tmp_path, weights, kind)) as model:
        for made, want in zip(texts(model, kind, draft="mtp", draft_tokens=4), texts(model, kind), strict=True):
            assert made.tokens == want.tokens
            assert made.accepted == made.drafted > len(want.tokens) / 2
        with Engine(model, parallel=2, draft="mtp", draft_tokens=4) as engine:
            heard = [ask(engine, prompt, 40) for prompt in (PROMPT, [5, 6], [7] * 40)]
            for each, want in zip(heard, texts(model, kind), strict=False):
                result = each.wait()
                assert result.tokens == want.tokens
                assert result.accepted == result.drafted > 10


@pytest.mark.parametrize("variant", ["shared", "apart"])
def test_many_texts_with_a_head(tmp_path: Path, variant: str) -> None:
    with runner.load(converted(tmp_path, values(VARIANTS[variant]), "Q8_0")) as model:
        want = texts(model, "Q8_0")
        with Engine(model, parallel=3, queue=9, draft="mtp", draft_tokens=3) as engine:
            prompts = [PROMPT, [5, 6], [7] * 40, [*PROMPT[:4], 99]]
            heard = [ask(engine, prompt, 40) for prompt in prompts * 2]
            assert [each.wait().tokens for each in heard] == [each.tokens for each in want] * 2
            assert engine.stats().drafted > 0


def test_the_head_guesses_what_the_reference_guesses(tmp_path: Path) -> None:
    path = converted(tmp_path, values(VARIANTS["own"]))
    with runner.load(path, cache_type="f32") as model:
        tensors, head = stored(path), MTPHead(model, model._passes)
        model.extend(PROMPT[:-1], 0)
        (draft,) = head.guess([Asked(PROMPT, head.slots[0], 3)])
        mtp = model.graph.mtp[0]
        before, ids = reference.hidden(model.graph, tensors, PROMPT)[:-1], PROMPT[1:]
        for guessed in draft:  # each behind what the head made of those before
            hidden = reference.mtp.hidden(mtp, tensors, ids, before)
            logits = hidden[-1] @ tensors[f"blk.{LAYERS}.nextn.shared_head_head.weight"].T
            assert logits[guessed] > logits.max() - 1e-3
            before, ids = np.concatenate([before, hidden[-1:]]), [*ids, guessed]
        assert head.guess([Asked([1, 2, 3], head.slots[0], 3)]) == [[]]  # another text than the slot has
        head.close()


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = converted(tmp_path, right(values(VARIANTS["shared"])), "Q8_0")
    said = []
    for options in ([], ["--draft", "mtp"]):
        assert main(["run", str(path), "abc", "-n", "20", "--json", *options]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["tokens"] == said[1]["tokens"]
    assert said[1]["accepted"] == said[1]["drafted"] > 0
    gguflike.convert(checkpoint(tmp_path / "plain", values(TRUNK), GLM), tmp_path / "plain.gguf", "Q8_0")
    assert main(["run", str(tmp_path / "plain.gguf"), "abc", "--draft", "mtp"]) == 1
    assert "no multi-token-prediction head" in capsys.readouterr().err
