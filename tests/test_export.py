"""GGUF -> Hugging Face folder: the inverse of conversion, by the same rows."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors

import gguflike
from gguflike import checkpoint
from gguflike.checkpoint.save import Entry, header, index, shards, write_tensors
from gguflike.convert import convert, export
from gguflike.errors import GGUFError, OutputError, QuantizationError, UnsupportedError
from tests import tiny
from tests.tiny import VARIANTS


def read(folder: Path) -> dict[str, tuple[str, bytes]]:
    """name -> (dtype, bytes) of all tensors, through our reader (which is checked against the library elsewhere)."""
    return {name: (t.dtype, t.read().tobytes()) for name, t in checkpoint.open(folder).tensors.items()}


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_is_bit_exact(variant: str, stored: str, tmp_path: Path) -> None:
    changes = {"num_key_value_heads": 4, **VARIANTS[variant]} if variant == "all heads" else VARIANTS[variant]
    changes = {k: 4 if k == "num_key_value_heads" and v is None else v for k, v in changes.items()}
    source = tiny.checkpoint(tmp_path / "hf", dtype=stored, **changes)
    convert(source, tmp_path / "x.gguf", stored)
    plan = export(tmp_path / "x.gguf", tmp_path / "back")
    assert plan.dtype == stored
    assert read(tmp_path / "back") == read(source)
    before, after = (json.loads((f / "config.json").read_text()) for f in (source, tmp_path / "back"))
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps",
                "intermediate_size", "vocab_size", "max_position_embeddings", "rope_theta", "tie_word_embeddings",
                "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id", "hidden_act"):  # fmt: skip
        assert after[key] == before[key], key
    assert after["head_dim"] == before.get("head_dim", 8)
    assert after["architectures"] == ["LlamaForCausalLM"]
    assert after["torch_dtype"] == {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[stored]
    convert(tmp_path / "back", tmp_path / "again.gguf", stored)
    again, first = (tiny.gguf_tensors(tmp_path / name) for name in ("again.gguf", "x.gguf"))
    assert {n: t.data.tobytes() for n, t in again.items()} == {n: t.data.tobytes() for n, t in first.items()}


def test_the_library_reads_it(tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F32")
    export(tmp_path / "x.gguf", tmp_path / "back")
    weights = tiny.weights(tiny.config())
    with safetensors.safe_open(tmp_path / "back" / "model.safetensors", "np") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(weights)
        for name, x in weights.items():
            np.testing.assert_array_equal(file.get_tensor(name), x)
    names = {path.name for path in (tmp_path / "back").iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    from tokenizers import Tokenizer

    original, exported = (Tokenizer.from_file(str(tmp_path / f / "tokenizer.json")) for f in ("hf", "back"))
    assert exported.encode("Hello, <s> wörld").ids == original.encode("Hello, <s> wörld").ids


def test_quantized_values_come_as_float32(tmp_path: Path) -> None:
    source = tiny.checkpoint(tmp_path / "hf")
    convert(source, tmp_path / "x.gguf", "Q8_0")
    export(tmp_path / "x.gguf", tmp_path / "back")
    tensors = tiny.gguf_tensors(tmp_path / "x.gguf")
    got = checkpoint.open(tmp_path / "back").tensors
    for hf, name in (("model.embed_tokens.weight", "token_embd.weight"), ("lm_head.weight", "output.weight")):
        assert got[hf].dtype == "F32"
        want = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        np.testing.assert_array_equal(got[hf].read(), want)


def test_dtype_is_a_choice(tmp_path: Path) -> None:
    source = tiny.checkpoint(tmp_path / "hf")
    convert(source, tmp_path / "x.gguf", "F32")
    for dtype, stored in (("f16", "F16"), ("bf16", "BF16"), ("f32", "F32")):
        export(tmp_path / "x.gguf", tmp_path / dtype, dtype)
        assert {kind for kind, _ in read(tmp_path / dtype).values()} == {stored}
    x = tiny.weights(tiny.config())["lm_head.weight"]
    half = checkpoint.open(tmp_path / "f16").tensors["lm_head.weight"].read()
    np.testing.assert_array_equal(half, x.astype(np.float16))
    with pytest.raises(UnsupportedError, match="expected auto, f32, f16, bf16; got 'int8'"):
        export(tmp_path / "x.gguf", tmp_path / "y", "int8")


def test_auto_keeps_vectors_that_16_bits_do_not_hold(tmp_path: Path) -> None:
    norm = np.linspace(0.9, 1.1, 32, dtype=np.float32)
    convert(tiny.checkpoint(tmp_path / "hf", change={"model.norm.weight": norm}), tmp_path / "x.gguf", "F16")
    export(tmp_path / "x.gguf", tmp_path / "back")
    tensors = checkpoint.open(tmp_path / "back").tensors
    assert tensors["model.norm.weight"].dtype == "F32"
    np.testing.assert_array_equal(tensors["model.norm.weight"].read(), norm)
    assert tensors["lm_head.weight"].dtype == "F16"


def test_too_large_for_f16(tmp_path: Path) -> None:
    big = tiny.weights(tiny.config())["lm_head.weight"].copy()
    big[3, 5] = 1e5
    convert(tiny.checkpoint(tmp_path / "hf", change={"lm_head.weight": big}), tmp_path / "x.gguf", "F32")
    with pytest.raises(QuantizationError, match=r"'output.weight': value is too large.*at index \(3, 5\)"):
        export(tmp_path / "x.gguf", tmp_path / "back", "f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "x.gguf"]


def test_large_models_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.checkpoint(tmp_path / "hf")
    convert(source, tmp_path / "x.gguf", "F32")
    monkeypatch.setattr(shards, "__defaults__", (40_000,))
    plan = export(tmp_path / "x.gguf", tmp_path / "back")
    files = sorted(path.name for path in (tmp_path / "back").glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) == len(plan.files) > 2
    assert read(tmp_path / "back") == read(source)
    document = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert document["metadata"]["total_size"] == plan.tensor_bytes


def test_shards_and_headers() -> None:
    entries = [Entry("a", "F32", (4,)), Entry("b", "F16", (3,)), Entry("c", "F32", (100,)), Entry("d", "F32", ())]
    assert [[e.name for e in files] for files in shards(entries, 24).values()] == [["a", "b"], ["c"], ["d"]]
    assert list(shards(entries)) == ["model.safetensors"]
    head, order = header(entries)
    assert len(head) % 8 == 0
    assert [entry.name for entry in order] == ["a", "c", "d", "b"]  # wide types first: every tensor is aligned
    assert index(shards(entries, 24))["weight_map"]["c"] == "model-00002-of-00003.safetensors"


def test_plan_and_progress(tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F16")
    plan = export(tmp_path / "x.gguf", tmp_path / "back", dry_run=True)
    assert not (tmp_path / "back").exists()
    assert f"float16: {plan.tensor_bytes:,} bytes of tensors" in str(plan)
    seen: list[tuple[int, int, str]] = []
    export(tmp_path / "x.gguf", tmp_path / "back", progress=lambda *call: seen.append(call))
    assert seen[-1][:2] == (plan.tensor_bytes, plan.tensor_bytes)
    assert len(seen) == len(plan.runs)


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F32")
    (tmp_path / "back").mkdir()
    export(tmp_path / "x.gguf", tmp_path / "back")  # an empty one is as good as none
    before = read(tmp_path / "back")
    with pytest.raises(OutputError, match="the target exists"):
        export(tmp_path / "x.gguf", tmp_path / "back")
    with pytest.raises(OutputError, match="the target exists"):
        export(tmp_path / "x.gguf", tmp_path / "x.gguf")
    assert read(tmp_path / "back") == before
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


KILLED = """
import os, signal, sys
from gguflike.convert import export
def progress(done, total, what):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
export(sys.argv[1], sys.argv[2], progress=progress)
"""


def test_killing_leaves_nothing_at_the_target(tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F32")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "x.gguf", tmp_path / "back"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "back").exists()
    export(tmp_path / "x.gguf", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf", "x.gguf"]  # the rest was swept away


def other(path: Path, add: Any = None, drop: tuple[str, ...] = (), head_dim: int = 8, **metadata: Any) -> Path:
    """The tiny model as another program might write it."""
    convert(tiny.checkpoint(path.parent / "hf", head_dim=head_dim), path.parent / "x.gguf", "F32", overwrite=True)
    with gguflike.open(path.parent / "x.gguf") as file:
        values = {k: file.metadata.typed(k) for k in file.metadata if not k.startswith("gguflike.")}
        kept = [t for name, t in file.tensors.items() if name not in drop]
        gguflike.write(path, {k: v for k, v in {**values, **metadata}.items() if v is not None}, [*kept, *(add or [])])
    return path


def test_llama3_factors_of_other_writers(tmp_path: Path) -> None:
    from gguflike.families.rope import llama3_factors

    factors = gguflike.quantize(llama3_factors(10000.0, 16, 32.0, 1.0, 4.0, 8192.0), "F32", name="rope_freqs.weight")
    export(other(tmp_path / "y.gguf", add=[factors], head_dim=16), tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_generation_config(tmp_path: Path) -> None:
    extra = {"tokenizer.ggml.eot_token_id": 5, "general.sampling.temp": 0.6, "general.sampling.top_k": 20}
    extra |= {"general.sampling.penalty_repeat": 1.05}
    export(other(tmp_path / "y.gguf", **extra), tmp_path / "back")
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text()) == {
        "bos_token_id": 256,
        "eos_token_id": [5, 257],
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }


ODD = {
    "a boolean": True,
    "a text": "1",
    "an array": np.array([1, 2], np.int32),
    "an array of none": np.array([], np.int32),
    "texts": ["1"],
    "NaN": float("nan"),
    "infinity": float("inf"),
}


def test_values_of_the_wrong_kind_are_one_error(tmp_path: Path) -> None:
    keys = [
        *(f"general.sampling.{key}" for key in ("temp", "top_k", "top_p", "min_p", "penalty_repeat")),
        *(f"tokenizer.ggml.{key}_token_id" for key in ("bos", "eos", "eot", "padding")),
        *("tokenizer.chat_template", "tokenizer.chat_template.tools"),
    ]
    with gguflike.open(other(tmp_path / "x.gguf")) as file:
        metadata, tensors = file.metadata.typed_dict(), list(file.tensors.values())
        for key, (name, value) in itertools.product(keys, ODD.items()):
            if "template" in key and name == "a text":
                continue
            gguflike.write(tmp_path / "y.gguf", {**metadata, key: value}, tensors)
            with pytest.raises(GGUFError, match=rf"y\.gguf, {key}: wrong (kind of value|type); expected .*; got "):
                export(tmp_path / "y.gguf", tmp_path / "back", dry_run=True)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("value", [-1, 10**6])
def test_ids_that_no_token_has_are_not_exported(value: int, tmp_path: Path) -> None:
    """Readers of GGUF take what is assumed for such a vocabulary, which is none here."""
    extra = {f"tokenizer.ggml.{key}_token_id": value for key in ("eos", "eot", "padding")}
    export(other(tmp_path / "y.gguf", **extra), tmp_path / "back")
    for name in ("config.json", "generation_config.json"):
        document = json.loads((tmp_path / "back" / name).read_text())
        assert {key: document[key] for key in document if key.endswith("token_id")} == {"bos_token_id": 256}


def test_files_that_do_not_fit_the_family(tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            export(other(tmp_path / "y.gguf", **changes), tmp_path / "back")
        assert not (tmp_path / "back").exists()

    more = gguflike.quantize(np.ones(32, "f4"), "F32", name="blk.0.attn_q_norm.weight")
    refused(UnsupportedError, "attn_q_norm.weight': 1 tensor that no model of architecture llama has", add=[more])
    refused(GGUFError, "'output_norm.weight': tensor is missing", drop=("output_norm.weight",))
    refused(GGUFError, "tensor has the wrong shape", **{"llama.feed_forward_length": 96})
    refused(GGUFError, "more layers than tensors", **{"llama.block_count": 10**4})
    refused(UnsupportedError, "model architecture.*got 'gpt9'", **{"general.architecture": "gpt9"})
    refused(GGUFError, "names no architecture", **{"general.architecture": None})


def test_folders_above_the_target_are_made(tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F32")
    export(tmp_path / "x.gguf", tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c" / "config.json").exists()


def test_a_folder_that_cannot_be_opened_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F32")
    real = os.open

    def refuse(path: Any, flags: int, *mode: int) -> int:
        if ".gguflike-" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        export(tmp_path / "x.gguf", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "x.gguf"]


def test_vectors_that_the_dtype_does_not_hold_stay_float32(tmp_path: Path) -> None:
    """By rounding, and by size."""
    for dtype, value in (("F16", 1.0 + 2.0**-12), ("F16", 1e6), ("BF16", 1.0 + 2.0**-9)):
        norm = np.full(32, value, np.float32)
        folder = tiny.checkpoint(tmp_path / f"{dtype}{value}", change={"model.norm.weight": norm})
        convert(folder, tmp_path / "x.gguf", dtype, overwrite=True)
        plan = export(tmp_path / "x.gguf", tmp_path / "out", dry_run=True)
        kinds = {entry.name: entry.dtype for entries in plan.files.values() for entry in entries}
        assert plan.dtype == dtype
        assert kinds["model.norm.weight"] == "F32"
        assert kinds["lm_head.weight"] == dtype


@pytest.mark.parametrize(("missing", "fits"), [(0, True), (1, False)])
def test_space_is_checked_for_tensors_and_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, fits: bool
) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "F32")
    needed = export(tmp_path / "x.gguf", tmp_path / "out", dry_run=True).tensor_bytes + (1 << 20)
    free = os.statvfs_result((4096, 1, needed, 0, needed - missing, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    with nullcontext() if fits else pytest.raises(OutputError, match="free space"):
        export(tmp_path / "x.gguf", tmp_path / "out")


@pytest.mark.parametrize("files", [1, 2, 3])
def test_an_index_stands_beside_more_than_one_file(tmp_path: Path, files: int) -> None:
    entries = [Entry(f"t{number}", "F32", (4,)) for number in range(files)]
    split = shards(entries, 16)
    assert len(split) == files
    write_tensors(tmp_path, split, lambda entry: [memoryview(bytes(entry.nbytes))])
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    indices = [json.loads(path.read_text()) for path in tmp_path.glob("*.index.json")]
    assert [sorted(index["weight_map"]) for index in indices] == [[e.name for e in entries]] * (files > 1)


def test_hyper_parameters_that_a_checkpoint_holds_as_tensors(tmp_path: Path) -> None:
    """Apertus has the constants of its activation in each layer, in shapes of their own; GGUF has them as keys."""
    names = {"attention_layernorm": (32,), "feedforward_layernorm": (32,), "mlp.up_proj": (64, 32)}
    names |= {"mlp.down_proj": (32, 64), "self_attn.q_norm": (16,), "self_attn.k_norm": (16,)}
    names |= {f"self_attn.{name}_proj": (32, 32) for name in "qkvo"}
    rng = np.random.default_rng(3)
    shapes = {"model.embed_tokens.weight": (260, 32), "model.norm.weight": (32,)}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in names.items()}
    constants = {"alpha_n": (1,), "alpha_p": (1,), "beta": (), "eps": ()}
    shapes |= {f"model.layers.{i}.mlp.act_fn.{name}": shape for i in range(2) for name, shape in constants.items()}
    tensors = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {**sizes, "architectures": ["ApertusForCausalLM"], "vocab_size": 260, "tie_word_embeddings": True}
    folder = tiny.checkpoint(tmp_path / "in")
    (folder / "model.safetensors").write_bytes(tiny.safetensors(tensors))
    (folder / "config.json").write_text(json.dumps(config))
    gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    with gguflike.open(tmp_path / "m.gguf") as file:
        eps = [tensors[f"model.layers.{i}.mlp.act_fn.eps"].item() for i in range(2)]
        assert file.metadata["xielu.eps"].tolist() == eps
        assert not any("act_fn" in name for name in file.tensors)
    gguflike.export(tmp_path / "m.gguf", tmp_path / "out")
    back = checkpoint.open(tmp_path / "out").tensors
    assert back.keys() == tensors.keys()
    for name, want in tensors.items():
        assert back[name].shape == want.shape
        np.testing.assert_array_equal(back[name].read_f32(), want, name)
