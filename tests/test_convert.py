"""Checkpoint -> GGUF: the bytes, the metadata, the plan, and everything that must be refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.checkpoint import LazyTensor, safetensors
from gguflike.checkpoint.hub import repository
from gguflike.convert import ConversionPlan, convert, export
from gguflike.convert.encode import Job
from gguflike.convert.sources import CheckpointSource, check
from gguflike.errors import CheckpointError, OutputError, QuantizationError, UnsupportedError
from tests import tiny

GOLDEN = Path(__file__).parent / "goldens" / "tiny_llama_f32.json"


def permuted(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows as llama.cpp wants them, one by one: row 2j of a head is row j, row 2j+1 is row j + half."""
    rows = []
    for head in range(len(x) // head_dim):
        for j in range(head_dim // 2):
            rows += [head * head_dim + j, head * head_dim + j + head_dim // 2]
    return x[rows]


def expected(dtype: str = "F32", head_dim: int = 8, **changes: Any) -> dict[str, np.ndarray]:
    """GGUF name -> float32 values of the tiny checkpoint."""
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **tiny.MATRICES,
    }
    made = {}
    for name, x in tiny.weights(tiny.config(head_dim=head_dim, **changes), dtype).items():
        stem, kind = name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        turned = permuted(x, head_dim) if "q_proj" in name or "k_proj" in name else x
        made[f"{prefix}{names[stem]}.{kind}"] = turned
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("checkpoints") / "Tiny-35K-Instruct")


def test_the_golden_bytes(folder: Path, tmp_path: Path) -> None:
    """Names, shapes and SHA-256 of every tensor, committed; and the same from the definition of the permutation."""
    convert(folder, tmp_path / "x.gguf", "F32")
    got = {
        name: [list(map(int, reversed(t.shape))), hashlib.sha256(np.ascontiguousarray(t.data).tobytes()).hexdigest()]
        for name, t in tiny.gguf_tensors(tmp_path / "x.gguf").items()
    }
    made = {
        name: [list(x.shape), hashlib.sha256(x.astype("<f4").tobytes()).hexdigest()] for name, x in expected().items()
    }
    assert got == made == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_the_gguf_package_reads_the_values(stored: str, kind: str, tmp_path: Path) -> None:
    import gguf.quants

    folder = tiny.checkpoint(tmp_path / "x", dtype=stored, attention_bias=True, mlp_bias=True, head_dim=16)
    convert(folder, tmp_path / "x.gguf", kind)
    tensors = tiny.gguf_tensors(tmp_path / "x.gguf")
    values = expected(stored, head_dim=16, attention_bias=True, mlp_bias=True)
    assert tensors.keys() == values.keys()
    for name, x in values.items():
        vector = x.ndim == 1
        assert tensors[name].tensor_type.name == ("F32" if vector else kind)
        got = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        step = np.abs(x).max() / 127 if kind == "Q8_0" and not vector else 0
        if kind == "F16" and not vector:
            x = x.astype(np.float16).astype(np.float32)
        elif kind == "BF16" and not vector:
            x = gguf.quants.dequantize(
                gguf.quants.quantize(x, gguf.GGMLQuantizationType.BF16), tensors[name].tensor_type
            )
        np.testing.assert_allclose(got, x, rtol=0, atol=step)


def test_metadata_is_what_llama_cpp_expects(folder: Path, tmp_path: Path) -> None:
    """Keys, types and values as convert_hf_to_gguf writes them, and our provenance."""
    convert(folder, tmp_path / "x.gguf", "Q8_0")
    fields = tiny.gguf_fields(tmp_path / "x.gguf")
    model = {k: v for k, v in fields.items() if not k.startswith(("tokenizer.", "gguflike.digest."))}
    assert model == {
        "general.architecture": ("STRING", "llama"),
        "general.type": ("STRING", "model"),
        "general.name": ("STRING", "Tiny 35K Instruct"),
        "general.basename": ("STRING", "Tiny"),
        "general.finetune": ("STRING", "Instruct"),
        "general.size_label": ("STRING", "35K"),
        "general.file_type": ("UINT32", 7),
        "general.quantization_version": ("UINT32", 2),
        "llama.block_count": ("UINT32", 2),
        "llama.context_length": ("UINT32", 128),
        "llama.embedding_length": ("UINT32", 32),
        "llama.feed_forward_length": ("UINT32", 64),
        "llama.attention.head_count": ("UINT32", 4),
        "llama.attention.head_count_kv": ("UINT32", 2),
        "llama.attention.key_length": ("UINT32", 8),
        "llama.attention.value_length": ("UINT32", 8),
        "llama.attention.layer_norm_rms_epsilon": ("FLOAT32", float(np.float32(1e-5))),
        "llama.rope.dimension_count": ("UINT32", 8),
        "llama.rope.freq_base": ("FLOAT32", 10000.0),
        "llama.vocab_size": ("UINT32", 260),
        "gguflike.version": ("STRING", gguflike.__version__),
        "gguflike.source": ("STRING", "Tiny-35K-Instruct"),
        "gguflike.recipe": ("STRING", "Q8_0"),
    }
    assert len(fields["tokenizer.ggml.tokens"][1]) == 260
    assert fields["tokenizer.ggml.model"] == ("STRING", "gpt2")


def test_card_generation_config_and_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.checkpoint(tmp_path / "models--some-org--Tiny-v2" / "snapshots" / "0123abc")
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags: [a, 'b']\nmodel-index:\n- name: x\n  results: []\n"
        'license_name: "x"\nextra:\n  nested: 1\n---\n# Title\nlicense: wrong\n'
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"temperature": 0.7, "top_k": 40, "top_p": 1, "eos_token_id": 257})
    )
    monkeypatch.setattr(repository, "snapshot", lambda *_, **__: folder)
    convert("some-org/Tiny-v2", tmp_path / "x.gguf", "F32", name="A name", tensor_types=["attn_v=F16"])
    fields = tiny.gguf_fields(tmp_path / "x.gguf")
    found = {k: v for k, v in fields.items() if k.startswith(("general.", "gguflike.")) and "digest" not in k}
    assert found == {
        "general.architecture": ("STRING", "llama"),
        "general.type": ("STRING", "model"),
        "general.name": ("STRING", "A name"),
        "general.organization": ("STRING", "Some Org"),
        "general.basename": ("STRING", "Tiny"),
        "general.version": ("STRING", "v2"),
        "general.size_label": ("STRING", "35K"),
        "general.license": ("STRING", "apache-2.0"),
        "general.license.name": ("STRING", "x"),
        "general.tags": ("ARRAY of STRING", ["a", "b"]),
        "general.languages": ("ARRAY of STRING", ["en", "de"]),
        "general.source.repo_url": ("STRING", "https://huggingface.co/some-org/Tiny-v2"),
        "general.sampling.top_k": ("INT32", 40),
        "general.sampling.top_p": ("FLOAT32", 1.0),
        "general.sampling.temp": ("FLOAT32", float(np.float32(0.7))),
        "general.file_type": ("UINT32", 0),
        "general.quantization_version": ("UINT32", 2),
        "gguflike.version": ("STRING", gguflike.__version__),
        "gguflike.source": ("STRING", "some-org/Tiny-v2"),
        "gguflike.source.revision": ("STRING", "0123abc"),
        "gguflike.recipe": ("STRING", "F32"),
        "gguflike.recipe.overrides": ("ARRAY of STRING", ["attn_v=F16"]),
    }


def test_llama3_scaling_becomes_a_tensor(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = tiny.checkpoint(
        tmp_path / "x", head_dim=16, rope_scaling={**scaling, "original_max_position_embeddings": 8192}
    )
    convert(folder, tmp_path / "x.gguf", "Q8_0")
    factors = tiny.gguf_tensors(tmp_path / "x.gguf")["rope_freqs.weight"]
    assert factors.tensor_type.name == "F32"
    # theta 10000, 16 dimensions: frequency j turns 1303.797 * 10**(-j/2) times in 8192 positions; above 4 it stays,
    # below 1 it is divided by 8, and frequency 6 with 1.303797 turns is blended
    blend = (1.303797 - 1) / 3
    want = [1, 1, 1, 1, 1, 1, 1 / ((1 - blend) / 8 + blend), 8]
    np.testing.assert_allclose(factors.data, want, rtol=1e-4)


TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K", "Q4_K_S", "Q4_K_M", "Q2_K", "TQ2_0"]


@pytest.mark.parametrize("kind", TYPES)
def test_plan_and_file_agree(kind: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "x", hidden_size=256, head_dim=64, intermediate_size=288, num_hidden_layers=1)
    plan = convert(folder, tmp_path / "x.gguf", kind)
    assert (tmp_path / "x.gguf").stat().st_size == plan.file_bytes
    tensors = tiny.gguf_tensors(tmp_path / "x.gguf")
    for planned in plan.tensors:
        tensor = tensors[planned.name]
        assert (tensor.tensor_type.name, tensor.n_bytes) == (planned.format.name, planned.nbytes)
    bits = 8 * sum(t.n_bytes for t in tensors.values()) / sum(int(t.n_elements) for t in tensors.values())
    assert plan.bits_per_weight == pytest.approx(bits)
    assert plan.parameters == sum(int(t.n_elements) for t in tensors.values())
    text = str(plan)
    assert f"{plan.file_bytes:,} bytes" in text
    assert f"{bits:.3f} bits per weight" in text
    assert ("whose block does not divide rows of 288" in text) == bool(plan.substitutions) == (kind in TYPES[5:])
    report = gguflike.verify(tmp_path / "x.gguf")
    assert report.ok
    assert report.digests


def test_dry_run_reads_no_tensor_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("gguflike.checkpoint.safetensors._read_into", fail)
    plan = convert(folder, tmp_path / "x.gguf", "Q4_K_M", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert convert(folder, None, "Q4_K_M", dry_run=True).file_bytes == plan.file_bytes
    with pytest.raises(OutputError, match="names no target"):
        convert(folder, None, "Q4_K_M")


def test_progress_counts_every_byte(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    plan = convert(folder, tmp_path / "x.gguf", "Q8_0", progress=lambda *call: seen.append(call))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {total for _, total, _ in seen} == {plan.file_bytes}
    assert [what for _, _, what in seen] == ["header", *(t.name for t in plan.tensors)]
    assert seen[-1][0] <= plan.file_bytes


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_makes_the_same_bytes(pool: type[Executor], folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "one.gguf", "F16")
    options: dict[str, Any] = {"max_workers": 2}
    if pool is ProcessPoolExecutor:
        import multiprocessing

        options["mp_context"] = multiprocessing.get_context("spawn")
    seen: list[int] = []
    with pool(**options) as executor:
        convert(folder, tmp_path / "two.gguf", "F16", executor=executor, progress=lambda done, *_: seen.append(done))
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    plan = convert(folder, None, "F16", dry_run=True)
    assert seen == sorted(seen)
    assert len(seen) == 1 + len(plan.tensors)
    assert seen[-1] == plan.file.header_bytes + sum(tensor.nbytes for tensor in plan.tensors)


def test_an_executor_passes_errors_on(tmp_path: Path) -> None:
    bad = tiny.weights(tiny.config())["model.norm.weight"].copy()
    bad[3] = np.inf
    folder = tiny.checkpoint(tmp_path / "x", change={"model.norm.weight": bad})
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(QuantizationError, match=r"model.norm.weight.*inf at index \(3,\)"),
    ):
        convert(folder, tmp_path / "x.gguf", "F16", executor=executor)
    assert not (tmp_path / "x.gguf").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_slabs_make_the_same_bytes(folder: Path) -> None:
    """A slab never splits a head, and the encoders work row by row."""
    plan = convert(folder, None, "Q4_0", dry_run=True)
    for planned in plan.tensors:
        job = Job(planned.source, planned.format.name)
        whole = np.concatenate(list(job.parts()))
        parts = list(job.parts(slab_bytes=3 * 32 * 4))
        assert np.array_equal(np.concatenate(parts), whole)
        if len(planned.shape) == 2:
            heads = isinstance(planned.source, CheckpointSource) and planned.source.group == 8
            assert len(parts) == -(-planned.shape[0] // (8 if heads else 3 if planned.shape[1] == 32 else 1))


def refused(
    tmp_path: Path, error: type[Exception], message: str, kind: str = "F16", folder: Path | None = None, **options: Any
) -> None:
    """Conversion fails so, the old target stands as it was, and nothing else is left."""
    target = tmp_path / "old.gguf"
    target.write_bytes(b"old")
    with pytest.raises(error, match=message):
        convert(folder or tmp_path / "x", target, kind, **{"overwrite": True, **options})
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.gguf", "x"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("kind", ["F32", "Q4_K_M"])
def test_not_finite(value: float, stored: str, kind: str, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    bad = tiny.weights(tiny.config(), stored)[name].copy()
    bad[13, 7] = value  # reported where it stands in the checkpoint, not in the permuted tensor
    tiny.checkpoint(tmp_path / "x", dtype=stored, change={name: bad})
    refused(tmp_path, QuantizationError, rf"{name}.*not finite; got -?(nan|inf) at index \(13, 7\)", kind)


@pytest.mark.parametrize(
    ("stored", "kind", "value"),
    [
        ("BF16", "F16", 65536.0),
        ("F32", "F16", -65520.0),
        ("F32", "BF16", 3.4e38),
        ("F32", "Q8_0", 65536.0),
        ("F64", "F32", 1e39),
    ],
)
def test_values_beyond_the_type(stored: str, kind: str, value: float, tmp_path: Path) -> None:
    big = tiny.weights(tiny.config(), stored)["lm_head.weight"].astype(np.float64 if stored == "F64" else np.float32)
    big[259, 0] = value
    tiny.checkpoint(tmp_path / "x", dtype=stored, change={"lm_head.weight": big})
    message = "not finite; got inf" if stored == "F64" else "too large for the type; expected at most"
    refused(tmp_path, QuantizationError, rf"lm_head.weight.*{message}.*at index \(259, 0\)", kind)


def test_the_largest_values_pass(tmp_path: Path) -> None:
    for kind, value, stored in (("F16", 65519.0, 65504.0), ("BF16", 3.395e38, 3.3895313892515355e38)):
        big = tiny.weights(tiny.config())["lm_head.weight"].copy()
        big[0, 0] = value
        folder = tiny.checkpoint(tmp_path / kind, change={"lm_head.weight": big})
        path = tmp_path / f"{kind}.gguf"
        convert(folder, path, kind)
        assert gguflike.open(path).tensors["output.weight"].dequantize()[0, 0] == np.float32(stored)


def test_tensors_and_rules_must_agree(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    path = folder / "model.safetensors"
    good = tiny.weights(tiny.config())
    tiny.checkpoint(folder)

    def with_tensors(tensors: dict[str, np.ndarray]) -> None:
        path.write_bytes(tiny.safetensors(tensors))

    with_tensors({k: v for k, v in good.items() if k != "model.norm.weight"})
    refused(tmp_path, CheckpointError, r"'model.norm.weight': tensor is missing; expected shape \(32,\)")
    with_tensors({**good, "model.layers.0.self_attn.q_norm.weight": np.ones(8, "f4")})
    refused(tmp_path, UnsupportedError, "q_norm.weight': 1 tensor that no model of architecture llama has")
    with_tensors({**good, "model.layers.2.mlp.up_proj.weight": good["model.layers.1.mlp.up_proj.weight"]})
    refused(tmp_path, CheckpointError, "more layers than config.json says; expected num_hidden_layers 2; got 3 layers")
    with_tensors({**good, "model.norm.weight": np.ones(33, "f4")})
    refused(tmp_path, CheckpointError, r"wrong shape; expected \(32,\); got \(33,\)")
    with_tensors({**good, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, "f4")})
    convert(folder, tmp_path / "old.gguf", "F32", overwrite=True)  # Llama 1 checkpoints carry it; it is no weight
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**4}))
    refused(tmp_path, CheckpointError, "more layers than there are tensors")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "x")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data.replace(b'"F32"', b'"I32"', 1))
    refused(
        tmp_path,
        UnsupportedError,
        "embed_tokens.weight': the checkpoint is quantized by a scheme that is not known",
    )


def test_an_output_matrix_of_a_tied_model_is_left_out_and_said_so(tmp_path: Path) -> None:
    same = tiny.weights(tiny.config(tie_word_embeddings=True))["model.embed_tokens.weight"]
    folder = tiny.checkpoint(tmp_path / "x", tie_word_embeddings=True, change={"lm_head.weight": same})
    plan = convert(folder, tmp_path / "x.gguf", "F32")
    assert plan.notices == ("lm_head.weight is left out: config.json says the model does not use it",)
    assert "notice: lm_head.weight is left out" in str(plan)
    assert "output.weight" not in tiny.gguf_tensors(tmp_path / "x.gguf")


@pytest.mark.parametrize("row", [0, 259])
def test_an_output_matrix_that_differs_from_the_tied_embedding_is_kept(
    row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "COMPARED", 7 * 32)  # in pieces
    head = tiny.weights(tiny.config(tie_word_embeddings=True))["model.embed_tokens.weight"].copy()
    head[row, 31] += 1
    folder = tiny.checkpoint(tmp_path / "x", tie_word_embeddings=True, change={"lm_head.weight": head})
    plan = convert(folder, tmp_path / "x.gguf", "F32")
    assert plan.notices == (
        "lm_head.weight is kept: config.json ties it to model.embed_tokens.weight, but the two differ",
    )
    stored = tiny.gguf_tensors(tmp_path / "x.gguf")
    np.testing.assert_array_equal(stored["output.weight"].data, head)
    assert not np.array_equal(stored["token_embd.weight"].data, head)
    export(tmp_path / "x.gguf", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False


def test_tensors_of_other_types_are_compared_by_value(tmp_path: Path) -> None:
    def stored(x: np.ndarray, dtype: str) -> LazyTensor:
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(tiny.safetensors({"x": x}, dtype))
        return safetensors.read_header(path)["x"]

    x = tiny.exactly(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "BF16")
    wide, narrow = stored(x, "F32"), stored(x, "BF16")
    assert safetensors.same_values(wide, narrow)
    assert not safetensors.same_values(stored(x + np.float32(1e-3), "F32"), narrow)
    assert not safetensors.same_values(stored(x[:2], "F64"), narrow)
    assert not safetensors.same_values(LazyTensor("x", "I8", (3, 4), "", 0, 0), narrow)


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    refused(tmp_path, UnsupportedError, "unknown type", "Q4_X", folder)
    refused(tmp_path, UnsupportedError, "no weight matrix has a name", folder=folder, tensor_types=["attn_w=Q8_0"])
    refused(tmp_path, UnsupportedError, "no weight matrix has a name", folder=folder, tensor_types=["norm=Q8_0"])
    refused(tmp_path, OutputError, "the target exists", folder=folder, overwrite=False)
    refused(tmp_path, CheckpointError, "importance matrix cannot be read", folder=folder, imatrix=tmp_path / "none")


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "x")
    source = folder / "model.safetensors"
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    for target in (source, tmp_path / "link", tmp_path / "hard"):
        with pytest.raises(OutputError, match="the target is also a source"):
            convert(folder, target, "Q8_0")
        assert source.read_bytes() == before


def test_a_full_disk_is_noticed_before(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def full(path: Any) -> Any:
        status = real(path)
        return os.statvfs_result((*status[:4], 1, *status[5:]))

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(OutputError, match="not enough free space"):
        convert(folder, tmp_path / "x.gguf", "F32")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from gguflike.checkpoint import LazyTensor, safetensors
from gguflike.convert import convert, export
calls = 0
def progress(done, total, what):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
convert(sys.argv[1], sys.argv[2], "F16", progress=progress, overwrite=True)
"""


def test_killing_leaves_the_old_file_or_none(folder: Path, tmp_path: Path) -> None:
    """SIGKILL after the header, in the middle, and after the last tensor; the next run cleans up and succeeds."""
    target = tmp_path / "x.gguf"
    plan: ConversionPlan = convert(folder, None, "F16", dry_run=True)
    for old in (None, b"old"):
        for call in (1, len(plan.tensors) // 2, len(plan.tensors) + 1):
            target.unlink(missing_ok=True)
            if old is not None:
                target.write_bytes(old)
            done = subprocess.run([sys.executable, "-c", KILLED, folder, target, str(call)], check=False)
            assert done.returncode == -signal.SIGKILL
            assert (target.read_bytes() if target.exists() else None) == old
    convert(folder, target, "F16", overwrite=True)
    assert gguflike.verify(target).ok
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 11.0, -11.0])
def test_values_are_checked_against_the_limit_of_the_type(value: float) -> None:
    rows = np.zeros((3, 4), np.float32)
    rows[0, 0], rows[0, 1] = 10.0, -10.0
    check(rows, "w", 100, 10.0)
    check(rows[:0], "w", 100, 10.0)
    rows[2, 1] = rows[2, 3] = value
    with pytest.raises(QuantizationError) as caught:
        check(rows, "w", 100, 10.0)
    assert caught.value.tensor == "w"
    assert caught.value.got == f"{np.float32(value)} at index (102, 1)"
    assert caught.value.expected == ("at most 10" if np.isfinite(value) else None)
