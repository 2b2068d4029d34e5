"""Texts as vectors and scores: the runner against the reference, on tiny encoders and decoders made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import reference
from gguflike.checkpoint.tokenizer import metadata_from_folder
from gguflike.errors import ArgumentError, ArgumentTypeError, GGUFError, UnsupportedError
from gguflike.families.parts import Attention, Branch, Embedding, FeedForward, Graph, Norm, Rope
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.reference.extras import pooled
from gguflike.runner import Model
from gguflike.runner.embedding import paired
from gguflike.runner.tokenizer import Tokenizer
from tests import by_hand
from tests.by_hand import CONTEXT, IDS, TOKENS, WIDTH
from tests.small_tokenizers import byte_level, write_folder

Load = Callable[..., tuple[Model, dict[str, np.ndarray]]]
NEAR = 1e-4  # keys and values are kept in float16
TANH = Layer("cls", WIDTH, WIDTH, bias=True, activation="tanh")
GELU = Layer("cls", WIDTH, WIDTH, activation="gelu", norm=Norm("cls.norm", WIDTH, 1e-5, "layer"))
OUTPUT = Layer("cls.output", 3, WIDTH, bias=True)


def layer_norm(role: str) -> Norm:
    return Norm(role, WIDTH, 1e-12, "layer", bias=True)


def bert(pooling: Pooling, **embedding: Any) -> Graph:
    """Two blocks in BERT's order, with positions and types."""
    attention = Attention(WIDTH, 4, 4, 16, None, True, True, causal=False)
    hidden = FeedForward(WIDTH, 96, bias=True, activation="gelu", gated=False)
    block = (
        Branch(None, attention, layer_norm("attn_output_norm"), post=True),
        Branch(None, hidden, layer_norm("layer_output_norm"), post=True),
    )
    settings = {"positions": CONTEXT, "types": 2, "norm": layer_norm("token_embd_norm"), **embedding}
    return Graph(Embedding(TOKENS, WIDTH, **settings), (block, block), None, pooling)


def rotary(pooling: Pooling) -> Graph:
    """A block that sees everything and one with a window, in ModernBERT's order."""

    def block(window: int) -> Any:
        attention = Attention(WIDTH, 4, 4, 16, Rope(16, 1000.0, "neox"), fused=True, causal=False, window=window)
        hidden = FeedForward(WIDTH, 96, activation="gelu", fused=True)
        return Branch(by_hand.rms("attn_norm"), attention), Branch(by_hand.rms("ffn_norm"), hidden)

    return Graph(Embedding(TOKENS, WIDTH), (block(0), block(16)), by_hand.rms("output_norm"), pooling)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    def made(graph: Graph, kind: str = "F32", **settings: Any) -> tuple[Model, dict[str, np.ndarray]]:
        weights = by_hand.write(tmp_path / "x.gguf", graph, kind)
        model = by_hand.load(tmp_path / "x.gguf", graph, monkeypatch, **settings)
        return model, {name: value.astype(np.float64) for name, value in weights.items()}

    return made


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("kind", ["mean", "cls", "last"])
def test_vectors_are_those_of_the_reference(kind: Any, load: Load) -> None:
    graph = bert(Pooling(kind, WIDTH))
    model, weights = load(graph)
    states = reference.hidden(graph, weights, IDS)
    assert error(model.hidden(IDS), states) < NEAR
    texts = ["first", "a longer text than the first", "x"]
    vectors = model.embed(texts)
    assert vectors.shape == (3, WIDTH)
    assert vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        want = pooled(graph.head, weights, reference.hidden(graph, weights, model.tokenize(text)))  # type: ignore[arg-type]
        assert error(vector, unit(want)) < NEAR
        assert error(model.embed(text, normalize=False)[0], want) < NEAR
    other = pooled(Pooling("mean" if kind == "cls" else "cls", WIDTH), weights, states)
    assert error(unit(model.hidden(IDS).mean(0) if kind == "cls" else model.hidden(IDS)[0]), unit(other)) < NEAR


def test_a_vector_does_not_depend_on_other_texts(load: Load) -> None:
    model, _ = load(bert(Pooling("mean", WIDTH)))
    alone = model.embed("one text")[0]
    among = model.embed(["something long before it, " * 3, "one text", "another", "one text"])
    assert (among[1] == alone).all()
    assert (among[3] == alone).all()


@pytest.mark.parametrize("layers", [(TANH, OUTPUT), (GELU, OUTPUT), (OUTPUT,)], ids=["tanh", "gelu", "output"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_scores_are_those_of_the_reference(layers: Any, probabilities: bool, load: Load) -> None:
    head = Pooling("mean" if layers[0] is GELU else "cls", WIDTH, layers, ("no", "maybe", "yes"), probabilities)
    graph = bert(head)
    model, weights = load(graph)
    assert model.labels == ("no", "maybe", "yes")
    ids = model.tokenize("a text")
    want = pooled(head, weights, reference.hidden(graph, weights, ids))
    assert error(model.scores(["a text"])[0], want) < NEAR
    first, second = model.tokenize("a question"), model.tokenize("its answer")
    states = reference.hidden(graph, weights, [*first, *second], second=len(first))
    got = model.scores([("a question", "its answer"), "a text"])
    assert error(got[0], pooled(head, weights, states)) < NEAR
    assert error(got[1], want) < NEAR


def test_tokens_of_the_second_text_are_told(load: Load) -> None:
    model, _ = load(bert(Pooling("mean", WIDTH)))
    one = model.hidden(IDS)
    assert error(model.hidden(IDS, second=4), one) > 1e-2
    assert (model.hidden(IDS) == one).all()
    graph = bert(Pooling("mean", WIDTH), types=1)
    model, _ = load(graph)
    assert (model.hidden(IDS, second=4) == model.hidden(IDS)).all()


def test_a_reranker_gives_one_score_for_a_document(load: Load) -> None:
    model, _ = load(bert(Pooling("cls", WIDTH, (Layer("cls.output", 1, WIDTH),), ("",))))
    documents = ["a document", "another"]
    want = [model.scores([("query", document)])[0, 0] for document in documents]
    assert model.rerank("query", documents).tolist() == want
    model, _ = load(bert(Pooling("cls", WIDTH, (OUTPUT,), ("no", "maybe", "yes"))))
    with pytest.raises(UnsupportedError, match="3 labels"):
        model.rerank("query", documents)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_text_longer_than_a_batch_is_seen_as_a_whole(kind: str, load: Load) -> None:
    graph = rotary(Pooling("mean", WIDTH))
    model, weights = load(graph, kind, context=1300)
    ids = np.random.default_rng(3).integers(0, TOKENS, 1234).tolist()
    tolerance = NEAR if kind == "F32" else 5e-2
    want = reference.hidden(graph, weights, ids)
    assert error(model.hidden(ids), want) < tolerance
    assert error(model.hidden(ids[:700]), reference.hidden(graph, weights, ids[:700])) < tolerance


def test_a_decoder_has_vectors_when_asked(load: Load) -> None:
    graph = by_hand.graph()
    model, weights = load(graph, context=1300)
    with pytest.raises(ArgumentError, match="pooling"):
        model.embed("text")
    text = "of several batches " * 40
    states = reference.hidden(graph, weights, model.tokenize(text))
    assert len(states) > 512
    for kind, want in (("last", states[-1]), ("mean", states.mean(axis=0)), ("cls", states[0])):
        assert error(model.embed(text, pooling=kind)[0], unit(want)) < 1e-3


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_common_beginning_gives_the_same_bits(kind: str, load: Load) -> None:
    model, _ = load(by_hand.graph(), kind)
    texts = [f"the same instruction for all of them: {end}" for end in ("one", "another", "", "one and more")]
    alone = []
    for text in texts:
        model.forget(0)
        alone.append(model.embed(text, pooling="last")[0])
    together = model.embed([*texts, *reversed(texts)], pooling="last")
    assert (together == np.stack([*alone, *reversed(alone)])).all()


def test_vectors_between_the_pieces_of_a_stream(load: Load) -> None:
    model, _ = load(by_hand.graph())
    want = model.generate("a prompt", 12).result().tokens
    got = []
    for piece in model.generate("a prompt", 12):
        got.append(piece.token)
        model.embed("something else", pooling="mean")
    assert got == want


def test_an_encoder_has_no_text_to_continue(load: Load) -> None:
    model, _ = load(bert(Pooling("mean", WIDTH)))
    for call in (lambda: model.generate("x"), lambda: model.logits([1]), lambda: model.extend([1], 0)):
        with pytest.raises(UnsupportedError, match="not logits"):
            call()
    with pytest.raises(UnsupportedError, match="does not score"):
        model.scores(["x"])
    with pytest.raises(UnsupportedError, match="does not score"):
        model.rerank("x", ["y"])


def test_a_classifier_has_no_vectors(load: Load) -> None:
    model, _ = load(bert(Pooling("cls", WIDTH, (OUTPUT,), ("a", "b", "c"))))
    with pytest.raises(UnsupportedError, match="scores texts"):
        model.embed("x")


def test_pooling_must_be_said(load: Load) -> None:
    model, _ = load(bert(Pooling("none", WIDTH)))
    with pytest.raises(ArgumentError, match="does not say"):
        model.embed("x")
    with pytest.raises(ArgumentError, match="mean, cls, last"):
        model.embed("x", pooling="max")
    assert error(model.embed("x", pooling="cls")[0], unit(model.hidden(model.tokenize("x"))[0])) < 1e-6


@pytest.mark.parametrize("texts", [b"bytes", 3, [b"bytes"], ["text", 3], {"a": 1}])
def test_what_is_no_text(texts: Any, load: Load) -> None:
    model, _ = load(bert(Pooling("mean", WIDTH)))
    with pytest.raises(ArgumentTypeError, match="not text"):
        model.embed(texts)


def test_no_texts(load: Load) -> None:
    model, _ = load(bert(Pooling("cls", WIDTH, (OUTPUT,), ("a", "b", "c"))))
    with pytest.raises(ArgumentError, match="no texts"):
        model.scores([])
    with pytest.raises(ArgumentTypeError, match="not a list"):
        model.scores("text")
    with pytest.raises(ArgumentTypeError, match="not a pair"):
        model.scores([("a", "b", "c")])  # type: ignore[list-item]


def test_a_text_longer_than_the_context(load: Load) -> None:
    model, _ = load(bert(Pooling("cls", WIDTH, (Layer("cls.output", 1, WIDTH),), ("",))))
    long = "x" * (CONTEXT + 5)
    with pytest.raises(UnsupportedError, match="truncate"):
        model.scores([long])
    assert (model.scores([long], truncate=True) == model.scores(["x" * CONTEXT])).all()
    pair = model.scores([("query", long)], truncate=True)
    assert (pair == model.scores([("query", "x" * (CONTEXT - len("query")))])).all()
    with pytest.raises(UnsupportedError, match="longer than the context"):
        model.scores([(long, "document")], truncate=True)


def bert_tokenizer(**changes: Any) -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581one", "\u2581two", "\u2581three"]
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3, 3, 3, 3, 1, 1, 1],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
    }
    return Tokenizer({**metadata, **changes})


def test_how_pairs_are_framed() -> None:
    pair = paired(bert_tokenizer(), "one", "two three")
    assert pair.ids == [2, 4, 3, 5, 6, 3]  # [CLS] one [SEP] two three [SEP]
    assert pair.second == 3
    doubled = paired(bert_tokenizer(**{"tokenizer.ggml.add_sep_token": True}), "one", "two")
    assert doubled.ids == [2, 4, 3, 3, 5, 3]


def test_a_template_for_pairs_takes_texts_as_texts(tmp_path: Path) -> None:
    template = "<s>q {query} d {document} {other}</s>"
    folder = write_folder(tmp_path, byte_level(), tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"})
    metadata = metadata_from_folder(folder, {})
    tokenizer = Tokenizer({**metadata, "tokenizer.chat_template.rerank": template})
    plain = tokenizer.encode("q is {document} </s> it d yes <s> {other}", False, False)
    start, end = (tokenizer.encode(text, False, True) for text in ("<s>", "</s>"))
    assert len(start) == len(end) == 1
    pair = paired(tokenizer, "is {document} </s> it", "yes <s>")
    assert pair.ids == [*start, *plain, *end]
    assert pair.second == len(pair.ids)


def test_positions_that_the_model_has_not_learned(load: Load) -> None:
    with pytest.raises(ArgumentError, match=f"at most {CONTEXT}"):
        load(bert(Pooling("mean", WIDTH)), context=CONTEXT + 1)


def test_states_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = rotary(Pooling("mean", WIDTH))
    by_hand.write(tmp_path / "x.gguf", graph)
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    data[-4 * WIDTH :] = np.full(WIDTH, np.nan, np.float32).tobytes()
    (tmp_path / "x.gguf").write_bytes(data)
    model = by_hand.load(tmp_path / "x.gguf", graph, monkeypatch)
    with pytest.raises(GGUFError, match="hidden states are NaN"):
        model.embed("x")
