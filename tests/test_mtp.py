"""Multi-token-prediction heads: converted, exported, computed, and guessing without changing a text."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import container, reference, runner
from gguflike.checkpoint.folder import open as open_folder
from gguflike.cli import main
from gguflike.engine import Engine
from gguflike.errors import UnsupportedError
from gguflike.families import registry
from gguflike.families.parts import Graph
from gguflike.reference.formulas import Context
from gguflike.reference.forward import blocks
from gguflike.runner import Model
from gguflike.runner.drafting import Asked
from gguflike.runner.mtp import MTPHeads
from tests import tiny
from tests.engines import ask
from tests.measures import relative_error
from tests.mtp_models import (
    CONFIGS,
    EXAONE,
    GLM,
    HEAD,
    LAYERS,
    LITE,
    LITE_WEIGHTS,
    PROMPT,
    TRUNK,
    VARIANTS,
    checkpoint,
    converted,
    right,
    stored,
    values,
)

#: How many layers come before the heads, how many heads there are, and what the first has of its own.
LAYERS_BEFORE = dict.fromkeys(VARIANTS, LAYERS) | {"two layers": 3}
THREE = ("three", "three, fused")  # heads, which are MiMo's
HEADS = dict.fromkeys(VARIANTS, 1) | dict.fromkeys(THREE, 3)
ROLES = dict.fromkeys(VARIANTS, ("shared_head_norm",)) | {
    "shared": (),
    **dict.fromkeys(("own", "norms on both sides"), ("embed_tokens", "shared_head_norm", "shared_head_head")),
    **dict.fromkeys(THREE, ()),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back(tmp_path: Path, variant: str) -> None:
    path, layers, heads = converted(tmp_path, values(VARIANTS[variant])), LAYERS_BEFORE[variant], HEADS[variant]
    with container.open(path) as file:
        assert file.metadata[f"{file.architecture}.block_count"] == layers + heads
        assert file.metadata[f"{file.architecture}.nextn_predict_layers"] == heads
        roles = {name.split(".", 2)[2] for name in file.infos if name.startswith(f"blk.{layers}.nextn.")}
    assert roles == {f"nextn.{role}.weight" for role in ("eh_proj", "enorm", "hnorm", *ROLES[variant])}
    gguflike.export(path, tmp_path / "back")
    shapes = {tensor.name: tensor.shape for tensor in open_folder(tmp_path / "back").tensors.values()}
    assert shapes == VARIANTS[variant]
    gguflike.convert(tmp_path / "back", tmp_path / "again.gguf", "F32")
    again = stored(tmp_path / "again.gguf")
    assert all(np.array_equal(x, again[name]) for name, x in stored(path).items())


@pytest.mark.parametrize("variant", ["apart", "shared", "windows", "two layers", "centered"])
def test_config_json_counts_the_heads(tmp_path: Path, variant: str) -> None:
    gguflike.export(converted(tmp_path, values(VARIANTS[variant])), tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["mtp_num_hidden_layers" if variant == "apart" else "num_nextn_predict_layers"] == 1
    layers = config["layers_block_type"] if variant == "two layers" else range(config["num_hidden_layers"])
    assert len(layers) == LAYERS_BEFORE[variant]


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


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mtp_layer_types": ["full_attention"]}, r"mtp_layer_types: .*not that of the first layer; expected 'sliding"),
        (
            {"mtp_layer_types": ["sliding_attention"], "mtp_sliding_windows": [4]},
            r"windows: .*expected 8 for each; got",
        ),
    ],
)
def test_heads_of_k_exaone_attend_as_the_first_layer_does(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    folder = checkpoint(tmp_path / "hf", values(VARIANTS["windows"]), EXAONE | said)
    with pytest.raises(UnsupportedError, match=message):
        gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    same = {"mtp_layer_types": ["sliding_attention"], "mtp_sliding_windows": [8], "mtp_share_layers": False}
    other = checkpoint(tmp_path / "same", values(VARIANTS["windows"]), EXAONE | same)
    gguflike.convert(other, tmp_path / "same.gguf", "F32")
    ours, unsaid = stored(tmp_path / "same.gguf"), stored(converted(tmp_path / "unsaid", values(VARIANTS["windows"])))
    assert ours.keys() == unsaid.keys()
    assert all(np.array_equal(x, unsaid[name]) for name, x in ours.items())


def test_rows_of_several_devices_are_refused(tmp_path: Path) -> None:
    """Published files of MiMo V2.5 have queries, keys and values of each device in turn, in 8-bit floats."""
    config = CONFIGS["three, fused"] | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    weights = values(VARIANTS["three, fused"])
    folder = checkpoint(tmp_path / "hf", weights, config)
    packed: dict[str, Any] = {}
    for name, x in weights.items():
        packed[name] = ("F32", x.shape, x.tobytes())
        if "qkv_proj" in name:
            packed[name] = ("F8_E4M3", x.shape, bytes(x.size))
            packed[f"{name}_scale_inv"] = (
                "F32",
                (-(-len(x) // 128), 1),
                np.ones(-(-len(x) // 128), np.float32).tobytes(),
            )
    (folder / "model.safetensors").write_bytes(tiny.packed(packed))
    with pytest.raises(UnsupportedError, match="queries, keys and values in one quantized matrix"):
        gguflike.convert(folder, tmp_path / "m.gguf", "F32")


NORM = "nextn.shared_head_norm.weight"


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    result: np.ndarray = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight
    return result


def layer_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return rms(x - x.mean(axis=-1, keepdims=True), weight)


#: Where the block of a head is not the second layer's with other weights.
ALONE = ("without indexer", "windows", "two layers", "centered", *THREE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_their_equations(tmp_path: Path, variant: str) -> None:
    """h'_i = block(M [norm(e_{i+1+k}); norm(h_i)]) where h_i is what the model, or head k - 1, made; logits of token
    i + 2 + k are O norm(h'_i). The block is a model's: the last of one that has it as its second layer."""
    path, layer = converted(tmp_path, values(VARIANTS[variant])), LAYERS_BEFORE[variant]
    with container.open(path) as file:
        family = registry.for_gguf(str(file.architecture))
        graph = family.graph(family.from_file(file.metadata, file.infos))
    tensors = stored(path)
    trunk = blocks(graph, tensors, tensors["token_embd.weight"][PROMPT], Context(length=len(PROMPT)))
    of_norms = layer_norm if variant == "centered" else rms
    h = trunk if variant in THREE else of_norms(trunk, tensors["output_norm.weight"])
    for number in range(HEADS[variant]):
        own = {name.split(".", 2)[2]: x for name, x in tensors.items() if name.startswith(f"blk.{layer + number}.")}
        embedding = own.get("nextn.embed_tokens.weight", tensors["token_embd.weight"])
        output = own.get("nextn.shared_head_head.weight", tensors.get("output.weight", tensors["token_embd.weight"]))
        norm = own.get("nextn.shared_head_norm.weight", tensors["output_norm.weight"])
        norm = own.get("layer_output_norm.weight", norm)
        e, h = embedding[PROMPT[1 + number :]], h[:-1]
        x = np.concatenate([of_norms(e, own["nextn.enorm.weight"]), of_norms(h, own["nextn.hnorm.weight"])], axis=1)
        x = x @ own["nextn.eh_proj.weight"].T
        other = {name: tensor for name, tensor in tensors.items() if not name.startswith("blk.")}
        other |= {f"blk.0.{role}": tensor for role, tensor in own.items()}
        block = graph.mtp[number].blocks if variant in ALONE else graph.blocks[1:2]
        x = blocks(Graph(graph.embedding, block, None, graph.head), other, x, Context(length=len(x)))
        normed = (layer_norm if variant == "two layers" else of_norms)(x, norm)
        h, want = (x if variant in THREE else normed), normed @ output.T * graph.head.scale
        assert relative_error(reference.mtp.logits(graph, tensors, PROMPT, number), want) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_read_as_the_reference_does(tmp_path: Path, variant: str) -> None:
    """Whatever pieces a text comes in, behind another or not, and with guesses in between, each head tells what the
    reference tells of the text and what the heads before it guessed."""
    text, path = [*PROMPT, 80], converted(tmp_path, values(VARIANTS[variant]))
    with runner.load(path, cache_type="f32") as model:
        tensors, heads = stored(path), MTPHeads(model, model._passes)
        for pieces in ((1, 3, 3), (7,), (5, 1, 1)):
            position = 0
            for size in pieces:
                model.extend([*text[position : position + size], 99, 98][: len(text) - position], position)
                position += size
                model.forget(position)  # as what was guessed wrongly
                before = text[: position + 1]
                [draft] = heads.guess([Asked(before, heads.slots[0], 3)])
                assert len(draft) == 3
                for number in range(HEADS[variant]):
                    told = reference.mtp.logits(model.graph, tensors, before + draft[:number], number)[-1]
                    assert told[draft[number]] > told.max() - 1e-3
        heads.close()


def texts(model: Model, kind: str, **settings: Any) -> list[Any]:
    prompts = [PROMPT, [5, 6], [7] * 40, [*PROMPT[:4], 99]]
    return [model.generate(prompt, 40, **settings).result() for prompt in prompts]


def test_heads_have_the_threads_of_the_model(tmp_path: Path) -> None:
    with runner.load(converted(tmp_path, values(VARIANTS["three"])), threads=2) as model:
        model.generate(PROMPT, 4).result()
        before = set(threading.enumerate())
        made = model.generate(PROMPT, 12, draft="mtp").result()
        assert made.drafted > 0
        assert set(threading.enumerate()) == before
        heads = MTPHeads(model, model._passes)
        heads.close()  # which leaves the model its threads
        assert set(threading.enumerate()) == before


SETTINGS: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 2}, {"lookup": 2}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "with lookup"])
@pytest.mark.parametrize(
    ("variant", "kind"),
    [("own", "Q8_0"), ("apart", "F32"), ("three", "F32"), ("three", "Q8_0"), ("two layers", "Q8_0")],
)
def test_heads_change_no_text(tmp_path: Path, variant: str, kind: str, settings: dict[str, Any]) -> None:
    with runner.load(converted(tmp_path, values(VARIANTS[variant]), kind)) as model:
        want = texts(model, kind, **settings)
        made = texts(model, kind, draft="mtp", draft_tokens=3, **settings)
        assert [each.tokens for each in made] == [each.tokens for each in want]
        assert sum(each.drafted for each in made) > 0


@pytest.mark.parametrize(("kind", "of_token"), [("F32", True), ("Q8_0", False)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_that_are_right_are_accepted(tmp_path: Path, kind: str, variant: str, of_token: bool) -> None:
    weights = right(values(VARIANTS[variant]), of_token)
    if f"{HEAD}embed_tokens.weight" in weights:
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


@pytest.mark.parametrize("variant", ["shared", "three"])
def test_many_texts_with_heads(tmp_path: Path, variant: str) -> None:
    with runner.load(converted(tmp_path, values(VARIANTS[variant]), "Q8_0")) as model:
        want = texts(model, "Q8_0")
        with Engine(model, parallel=3, queue=9, draft="mtp", draft_tokens=3) as engine:
            prompts = [PROMPT, [5, 6], [7] * 40, [*PROMPT[:4], 99]]
            heard = [ask(engine, prompt, 40) for prompt in prompts * 2]
            assert [each.wait().tokens for each in heard] == [each.tokens for each in want] * 2
            assert engine.stats().drafted > 0


def test_a_single_head_goes_on_by_itself(tmp_path: Path) -> None:
    path = converted(tmp_path, values(VARIANTS["own"]))
    with runner.load(path, cache_type="f32") as model:
        tensors, heads = stored(path), MTPHeads(model, model._passes)
        model.extend(PROMPT[:-1], 0)
        (draft,) = heads.guess([Asked(PROMPT, heads.slots[0], 3)])
        mtp = model.graph.mtp[0]
        before, ids = reference.hidden(model.graph, tensors, PROMPT)[:-1], PROMPT[1:]
        for guessed in draft:  # each behind what the head made of those before
            made = rms(reference.mtp.made(mtp, tensors, ids, before), tensors[f"blk.{LAYERS}.{NORM}"])
            logits = made[-1] @ tensors[f"blk.{LAYERS}.nextn.shared_head_head.weight"].T
            assert logits[guessed] > logits.max() - 1e-3
            before, ids = np.concatenate([before, made[-1:]]), [*ids, guessed]
        assert heads.guess([Asked([1, 2, 3], heads.slots[0], 3)]) == [[]]  # another text than the slot has
        heads.close()


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
