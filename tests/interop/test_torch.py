"""Gradients of the reference against those of transformers, and the fake-quantizing modules of gguflike.torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.blocks import FORMATS
from gguflike.calibrate.grids import GRIDS
from gguflike.calibrate.trained import Trained
from gguflike.convert.recipe import RECIPES
from gguflike.errors import ArgumentError, OutputError, QuantizationError
from gguflike.reference.gradient.graph import gradients
from gguflike.tensor import QuantizedTensor
from tests import tiny
from tests.interop.families.make import make
from tests.interop.families.proofs import IDS, graph_of
from tests.interop.families.table import TABLE

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch")

ROWS = [
    *("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM", "GptOssForCausalLM"),
    *("DeepseekV3ForCausalLM", "Mamba2ForCausalLM", "Qwen3NextForCausalLM", "CohereForCausalLM", "GPT2LMHeadModel"),
]


@pytest.mark.parametrize("name", [name for name in ROWS if name in TABLE])
def test_gradients_are_those_of_torch(name: str, tmp_path: Path) -> None:
    """By the embedding's rows, to which all of the model goes back, of a loss over all logits."""
    import transformers

    folder = make(name, tmp_path / "hf")
    gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    row = TABLE[name]
    model_class = getattr(transformers, row.model_class)
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    logits = model(torch.tensor([IDS]), use_cache=False).logits[0]
    by = np.random.default_rng(0).standard_normal(tuple(logits.shape)).astype(np.float32)
    (logits * torch.from_numpy(by)).sum().backward()
    want = model.get_input_embeddings().weight.grad.numpy()
    with gguflike.open(tmp_path / "m.gguf") as file:
        weights = {each: tensor.dequantize() for each, tensor in file.tensors.items()}
    embedding = "token_embd.weight"
    _, found = gradients(graph_of(tmp_path / "m.gguf"), weights, IDS, lambda _: (0.0, by), [embedding])
    got = found[embedding][: len(want)]
    assert abs(got - want).max() < 2e-3 * abs(want).max()


def test_training_keeps_no_step_of_the_rounding() -> None:
    """For the backward pass there is the weight that multiplies, and what it multiplies, as without quantization."""
    from gguflike.torch import quantize

    def saved(model: Any) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            held = model(torch.ones(4, 512))  # noqa: F841
            return sum(storages.values())

    plain, fake = (torch.nn.Sequential(torch.nn.Linear(512, 64), torch.nn.Linear(64, 256)) for _ in range(2))
    assert quantize(fake, "Q4_0") == ["0", "1"]
    assert saved(fake) <= saved(plain) + 4 * (512 * 64 + 64 * 256)


@pytest.mark.parametrize("moves", ["scales", "integers", "codes"])
@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q4_0", "Q5_1", "IQ4_XS", "IQ4_NL", "MXFP4", "TQ2_0"])
def test_modules_compute_what_their_blocks_decode_to(name: str, moves: Any) -> None:
    """Before and after steps of training, whose gradients are those of our own training but for LSQ's factor."""
    from gguflike.torch import FakeQuantized

    x = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(x.copy()))
    module, ours = FakeQuantized(weight, name, moves), None
    grid = GRIDS[name]
    by = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    for step in range(3):
        values = module(weight)
        stored = QuantizedTensor("x", FORMATS[name], x.shape, module.blocks(weight).reshape(-1))
        assert np.array_equal(stored.dequantize().view(np.uint32), values.detach().numpy().view(np.uint32))
        module.zero_grad()
        weight.grad = None
        values.backward(torch.from_numpy(by)) if values.requires_grad else None
        if step == 0:
            ours = Trained(grid, module.numbers(weight), moves, x)
            if moves == "codes":
                ours.parameters["weights"][...] = x
            want = ours.pull(module.numbers(weight), by)
            share = (grid.block * max(abs(float(grid.levels[0])), float(grid.levels[-1]))) ** -0.5
            for key, gradient in want.items():
                got = (weight if key == "weights" else getattr(module, key)).grad.numpy()
                factor = share if key in "dm" else 1.0
                assert np.allclose(got, gradient * factor, rtol=1e-3, atol=1e-4 * abs(gradient).max())
        with torch.no_grad():
            for parameter in (weight, *module.parameters()):
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad / (parameter.grad.abs().max() + 1e-9)


def test_a_trained_model_is_the_file_that_is_exported(tmp_path: Path) -> None:
    """Llama permutes the rows of queries and keys on the way to GGUF."""
    import transformers

    from gguflike.torch import export, quantize, state_dict

    folder = tiny.checkpoint(tmp_path / "hf", hidden_size=256, intermediate_size=256, head_dim=64)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = quantize(model, "Q3_K")
    assert len(names) == 14
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    ids = torch.tensor([list(range(40))])
    for _ in range(3):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    want = model(ids).logits[0].detach().numpy()
    with pytest.raises(ArgumentError, match="rows of the model are not in the checkpoint"):
        export(model, folder, tmp_path / "wrong.gguf")
    model.save_pretrained(tmp_path / "trained", state_dict=state_dict(model))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "trained" / name).write_bytes((folder / name).read_bytes())
    for path in (tmp_path / "trained").iterdir():
        with pytest.raises(OutputError, match="the target is also a source"):
            export(model, tmp_path / "trained", path, overwrite=True)
    written = export(model, tmp_path / "trained", tmp_path / "out.gguf")
    assert len(written) == 14
    with pytest.raises(OutputError, match="the target exists"):
        export(model, tmp_path / "trained", tmp_path / "out.gguf")
    with pytest.raises(ArgumentError, match="no module computes with blocks"):
        export(torch.nn.Linear(256, 4), tmp_path / "trained", tmp_path / "none.gguf")
    with gguflike.open(tmp_path / "out.gguf") as file:
        assert file.metadata["general.file_type"] == RECIPES["Q3_K_S"].file_type
        assert all(file.tensors[name].format.name == "Q3_K" for name in written)
        weights = {each: tensor.dequantize() for each, tensor in file.tensors.items()}
    got = gguflike.reference.logits(graph_of(tmp_path / "out.gguf"), weights, list(range(40)))
    assert abs(got - want).max() < 1e-4 * abs(want).max()


def test_what_cannot_be_quantized_is_an_error() -> None:
    from gguflike.torch import FakeQuantized, quantize

    weight = torch.zeros(4, 100)
    with pytest.raises(ArgumentError, match="no scalars"):
        FakeQuantized(weight, "IQ2_XS")
    with pytest.raises(ArgumentError, match="no matrix of blocks"):
        FakeQuantized(weight, "Q4_0")
    with pytest.raises(ArgumentError, match=r"no nn\.Linear"):
        quantize(torch.nn.Sequential(torch.nn.Linear(100, 4)), "Q4_0")
    model = torch.nn.Sequential(torch.nn.Linear(32, 4), torch.nn.Linear(32, 4))
    for value, said in ((1e9, "too large for the type"), (float("nan"), "not finite")):
        model[1].weight.data[2, 3] = value
        with pytest.raises(QuantizationError, match=said):
            quantize(model, "Q4_0")
        assert not hasattr(model[0], "parametrizations")  # nothing is changed
    model[1].weight.data[2, 3] = 0
    assert quantize(model, "Q4_0") == ["0", "1"]
    with pytest.raises(ArgumentError, match="quantized already"):
        quantize(model, "Q8_0")
