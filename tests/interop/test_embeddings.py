"""Vectors and scores of texts beside transformers' and llama.cpp's: the real MiniLM, and tiny models with all that may
follow a pooling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.container import GGUFFile
from gguflike.errors import UnsupportedError
from gguflike.runner.embedding import paired
from tests.interop.conftest import MODELS
from tests.interop.families import TABLE
from tests.interop.families.converter import Converter
from tests.interop.families.files import differences
from tests.interop.families.make import make
from tests.interop.families.processes import Kept
from tests.measures import relative_error

MEAN = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
TEXTS = [
    "",
    "a",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "Wie spät ist es? Straße, Äpfel, Übung.",
    "Où est la bibliothèque ? L'été, déjà vu.",
    "¿Dónde está el niño? ¡Mañana!",
    "Привет, как дела? Это проверка.",
    "今天天气很好，我们去公园吧。",  # noqa: RUF001
    "これはテストです。カタカナとひらがな。",
    "안녕하세요, 테스트입니다.",
    "مرحبا بالعالم",
    "שלום עולם",
    "Γειά σου Κόσμε",  # noqa: RUF001
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया",
    "emoji 😀🚀 and symbols ©®™ €100 x²",
    "def f(x):\n    return x ** 2  # code",
    "word " * 300,
    "It was the best of times, it was the worst of times, " * 36,
]
#: The least cosine to transformers of any of the texts. Of Q8_0 it is that of the empty one: "[CLS] [SEP]".
LEAST = {"F32": 0.99999, "F16": 0.99999, "Q8_0": 0.998}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 as published."""
    published = MODELS / "minilm"
    if not published.exists():
        pytest.fail(f"{published} is missing: the folder of sentence-transformers/all-MiniLM-L6-v2")
    folder = tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2"
    folder.mkdir()
    for path in published.iterdir():
        (folder / path.name).symlink_to(path)
    if not (folder / "1_Pooling").exists():  # where only the files beside the model were fetched
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(MEAN))
    return folder


@pytest.fixture(scope="module")
def converted(minilm: Path) -> Callable[[str], Path]:
    def made(kind: str) -> Path:
        path = minilm.parent / f"minilm-{kind}.gguf"
        if not path.exists():
            gguflike.convert(minilm, path, kind)
        return path

    return made


@pytest.fixture(scope="module")
def wanted(minilm: Path) -> np.ndarray:
    """Vectors of length 1 by transformers."""
    return by_transformers(minilm, TEXTS)


def by_transformers(folder: Path, texts: list[str]) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    with torch.no_grad():
        for text in texts:
            mean = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].mean(0)
            vectors.append((mean / mean.norm()).numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("kind", LEAST)
def test_vectors_are_those_of_transformers(kind: str, converted: Callable[[str], Path], wanted: np.ndarray) -> None:
    with gguflike.load(converted(kind)) as model:
        cosines = (model.embed(TEXTS) * wanted).sum(axis=1)
    assert cosines.min() > LEAST[kind]
    assert np.median(cosines) > 0.9995


@pytest.mark.parametrize("kind", LEAST)
def test_llama_cpp_gives_the_same_vectors(kind: str, converted: Callable[[str], Path], tmp_path: Path) -> None:
    llama_cpp = Kept(Path(__file__).parent / "families" / "llamacpp_process.py")
    with gguflike.load(converted(kind)) as model:
        for text in TEXTS:
            # by ids: llama.cpp splits composed Hangul and vowel signs in its own way
            llama_cpp.ask(
                path=str(converted(kind)), ids=model.tokenize(text), out=str(tmp_path / "x.npy"), pooling="mean"
            )
            theirs = np.load(tmp_path / "x.npy")[0]
            ours = model.embed(text)[0]
            assert ours @ theirs / np.linalg.norm(theirs) > (0.999 if kind == "Q8_0" else 0.99999), text
    llama_cpp.close()


def test_an_export_is_the_same_model(minilm: Path, converted: Callable[[str], Path], wanted: np.ndarray) -> None:
    folder = minilm.parent / "back"
    gguflike.export(converted("F32"), folder)
    assert relative_error(by_transformers(folder, TEXTS), wanted) < 1e-6
    types = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert types == ["Transformer", "Pooling", "Normalize"]


def test_linear_modules_follow_the_pooling(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make("Gemma3TextModel", tmp_path / "hf")
    rng = np.random.default_rng(0)
    modules = json.loads((folder / "modules.json").read_text())
    weights = {}
    for index, (rows, columns) in ((2, (96, 64)), (3, (64, 96))):
        name = f"{index}_Dense"
        weights[name] = (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
        sizes = {"in_features": columns, "out_features": rows, "bias": False}
        identity = {"activation_function": "torch.nn.modules.linear.Identity"}
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({**sizes, **identity}))
        save_file({"linear.weight": weights[name]}, folder / name / "model.safetensors")
        modules.append({"idx": index, "name": str(index), "path": name, "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    gguflike.convert(folder, tmp_path / "x.gguf", "F32")
    with gguflike.load(tmp_path / "x.gguf") as model:
        ids = model.tokenize("a text of some tokens")
        ours = model.embed("a text of some tokens", normalize=False)[0]
    want = weights["3_Dense"] @ (weights["2_Dense"] @ _hidden(folder, ids).mean(axis=0))
    assert relative_error(ours, want) < 1e-3
    llama_cpp = Kept(Path(__file__).parent / "families" / "llamacpp_process.py")
    llama_cpp.ask(path=str(tmp_path / "x.gguf"), ids=ids, out=str(tmp_path / "x.npy"), pooling="mean")
    llama_cpp.close()
    assert relative_error(np.load(tmp_path / "x.npy")[0], want) < 1e-3
    gguflike.export(tmp_path / "x.gguf", tmp_path / "back")
    for name, weight in weights.items():
        assert (load_file(tmp_path / "back" / name / "model.safetensors")["linear.weight"] == weight).all()
        assert json.loads((tmp_path / "back" / name / "config.json").read_text())["out_features"] == len(weight)
    assert relative_error(_hidden(tmp_path / "back", ids), _hidden(folder, ids)) == 0


def _hidden(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModel

    with torch.no_grad():
        return np.asarray(AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0].numpy())


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "XLMRobertaForSequenceClassification"])
def test_pairs_are_framed_as_transformers_frames_them(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = make(name, tmp_path / "hf")
    gguflike.convert(folder, tmp_path / "x.gguf", "F32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pair = ("what is it", "it is a thing of the time")
    inputs: Any = tokenizer(*pair, return_tensors="pt")
    with torch.no_grad():
        want = theirs(**inputs).logits.numpy()
    with gguflike.load(tmp_path / "x.gguf") as model:
        assert relative_error(model.scores([pair]), want) < 1e-3
        if len(model.labels) == 1:
            assert model.rerank(*pair).tolist() == model.scores([pair])[0].tolist()


def test_a_reranker_that_answers_yes_or_no(tmp_path: Path) -> None:
    """A file as llama.cpp's converter makes of Qwen3-Reranker."""
    folder = make("Qwen3Model", tmp_path / "hf")
    gguflike.convert(folder, tmp_path / "plain.gguf", "F32")
    path = tmp_path / "x.gguf"
    template = "<s>Is it so?\n<Query>: {query}\n<Document>: {document}</s>"
    with gguflike.open(tmp_path / "plain.gguf") as plain:
        words = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32) / 8
        tensors = [*plain.tensors.values(), gguflike.quantize(words, "F32", name="cls.output.weight")]
        gguflike.write(path, _as_reranker(plain, template), tensors)
    with gguflike.load(path) as model:
        assert model.labels == ("yes", "no")
        tokenizer = model.tokenizer
        scores = model.rerank("the query", ["a document", "another"])
        exact = tokenizer.encode(template.format(query="the query", document="a document"), False, True)
        llama_cpp = Kept(Path(__file__).parent / "families" / "llamacpp_process.py")
        llama_cpp.ask(path=str(path), ids=exact, out=str(tmp_path / "x.npy"), pooling="rank")
        llama_cpp.close()
        assert abs(scores[0] - np.load(tmp_path / "x.npy")[0, 0]) < 1e-4
        logits = words @ _hidden(folder, exact)[-1]
        assert abs(scores[0] - np.exp(logits[0]) / np.exp(logits).sum()) < 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_a_reranker_is_known_by_its_name(tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = make("Qwen3ForCausalLM", tmp_path / "made")
    folder = tmp_path / "Qwen3-Reranker-0.1B"
    model = AutoModelForCausalLM.from_pretrained(made)
    model.config.tie_word_embeddings = tied
    model.tie_weights()
    model.save_pretrained(folder)
    for path in made.glob("token*"):
        (folder / path.name).write_text(path.read_text())
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {"yes": 380, "no": 381}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    gguflike.convert(folder, tmp_path / "ours.gguf", "F32")
    converter = Converter()
    converter.convert(TABLE["Qwen3ForCausalLM"], folder, tmp_path / "theirs.gguf")
    converter.close()
    found, _ = differences(TABLE["Qwen3ForCausalLM"], tmp_path / "ours.gguf", tmp_path / "theirs.gguf")
    assert not found
    with gguflike.load(tmp_path / "ours.gguf") as ours, gguflike.load(tmp_path / "theirs.gguf") as theirs:
        scores = ours.rerank("a query", ["a document", "another"])
        assert (theirs.rerank("a query", ["a document", "another"]) == scores).all()
        ids = paired(ours.tokenizer, "a query", "a document").ids
        assert "<Query>: a query\n<Document>: a document" in ours.tokenizer.decode(ids)
        logits = model(torch_ids(ids)).logits[0, -1, [380, 381]].detach().numpy().astype(np.float64)
        assert abs(scores[0] - np.exp(logits[0]) / np.exp(logits).sum()) < 1e-3
    with pytest.raises(UnsupportedError, match="of the head only"):
        gguflike.export(tmp_path / "ours.gguf", tmp_path / "back")


def torch_ids(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])


def _as_reranker(plain: GGUFFile, template: str) -> dict[str, Any]:
    return {
        **{key: plain.metadata[key] for key in plain.metadata if not key.startswith("gguflike.")},
        "qwen3.pooling_type": 4,
        "qwen3.classifier.output_labels": ["yes", "no"],
        "tokenizer.chat_template.rerank": template,
    }
