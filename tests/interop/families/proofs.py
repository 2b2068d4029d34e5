"""The proofs of one model class: the same file as llama.cpp's converter, the same logits everywhere, and the way back.

Everything is made from the tiny checkpoint of a row (make.py). transformers computes in float32, attention written out
and no cache; llama.cpp keeps keys and values in float32 and multiplies without flash attention, which rounds to
float16: what is left between the two is a few 1e-6, and 3e-4 where an activation is a GELU (llama.cpp looks it up in a
table of float16).
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gguflike
from gguflike.errors import GGUFLikeError
from gguflike.families import config as configs
from gguflike.families import refused, registry
from gguflike.families.parts import Graph
from gguflike.families.parts.extras import Pooling
from gguflike.reference import forward
from gguflike.reference.extras import pooled
from gguflike.runner import Model
from gguflike.runner.pooling import Pooler
from tests.interop.families.converter import Converter
from tests.interop.families.files import differences
from tests.interop.families.make import make
from tests.interop.families.processes import Kept, Refused
from tests.interop.families.row import Row
from tests.measures import relative_error

#: Ordinary tokens of every vocabulary, enough to leave windows of 16 and contexts of 32 behind.
IDS = np.random.default_rng(5).integers(32, 360, 72).tolist()
#: Where a text is cut when it is computed in pieces.
CUTS = (0, 1, 7, 24, 41, 72)
#: Relative errors allowed, to transformers: of the reference, of llama.cpp, of the runner (with a cache of float32),
#: and of the exported folder, where a logarithm takes back an exponential.
TOLERANCE = {"reference": 1e-4, "llama.cpp": 1e-3, "runner": 1e-4, "back": 1e-5}
#: Of our runner to llama.cpp, on one file: each rounds activations to eight bits in its own blocks.
QUANTIZED_TOLERANCE = {"Q8_0": 1e-1, "Q4_K_M": 1e-1}


class Cell(NamedTuple):
    """What a proof found. ``text`` is a figure, or what went wrong."""

    proven: bool
    text: str


class Oracles:
    """llama.cpp and its converter, started when first asked, for the proofs of many rows."""

    def __init__(self) -> None:
        self.converter = Converter()
        self.llama_cpp = Kept(Path(__file__).with_name("llamacpp_process.py"))

    def close(self) -> None:
        self.converter.close()
        self.llama_cpp.close()


def has_family(row: Row) -> bool:
    """Whether gguflike converts the class."""
    return (row.registered or row.model_class) in registry.CLASSES


class Proofs:
    """The proofs of a row, in a ``folder`` of their own. Each property makes what it needs, once."""

    def __init__(self, row: Row, folder: Path, oracles: Oracles) -> None:
        self.row, self.folder, self.oracles = row, folder, oracles

    @cached_property
    def checkpoint(self) -> Path:
        return make(self.row.name, self.folder / "checkpoint")

    @cached_property
    def file(self) -> Path:
        """Our F32 file."""
        return self.converted("F32")

    def converted(self, kind: str) -> Path:
        path = self.folder / f"{kind}.gguf"
        gguflike.convert(self.checkpoint, path, kind)
        return path

    @cached_property
    def wanted(self) -> np.ndarray:
        """What transformers computes."""
        return by_transformers(self.checkpoint, self.row)

    def run(self, names: Iterable[str]) -> dict[str, Cell]:
        """The proofs called ``names``. What raises one of our errors is not proven, with what it says."""
        if not has_family(self.row):
            needs = refused.CLASSES.get(self.row.registered or self.row.model_class)
            said = f"refused: {needs}" if needs else "there is no family for it"
            return dict.fromkeys(names, Cell(False, said))
        converted = _cell(Proofs.plan, self)
        if not converted.proven:
            return dict.fromkeys(names, converted)
        return {name: _cell(PROOFS[name], self) for name in names}

    def plan(self) -> Cell:
        """The checkpoint can be converted at all."""
        gguflike.convert(self.checkpoint, None, "F32", dry_run=True)
        return Cell(True, "")

    def converter(self) -> Cell:
        """Names, shapes and values of tensors, and keys, are those of llama.cpp's converter."""
        theirs = self.folder / "theirs.gguf"
        self.oracles.converter.convert(self.row, self.checkpoint, theirs)
        found, _ = differences(self.row, self.file, theirs)
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        return Cell(not found, "; ".join(found[:3]) + more if found else "same")

    def reference(self) -> Cell:
        """The graph's definition in numpy computes what transformers computes."""
        return _judged("reference", by_reference(self.file, self.row), self.wanted)

    def llama_cpp(self) -> Cell:
        """llama.cpp computes on our file what transformers computes."""
        return _judged("llama.cpp", self.by_llama_cpp(self.file), self.wanted)

    def by_llama_cpp(self, path: Path) -> np.ndarray:
        out = self.folder / "llama.cpp.npy"
        pooling = {"logits": None, "hidden": "none", "scores": "rank"}[self.row.result]
        self.oracles.llama_cpp.ask(path=str(path), ids=IDS, out=str(out), pooling=pooling)
        return np.asarray(np.load(out))

    def runner(self) -> Cell:
        """Our runner computes what transformers computes: in one piece, in several, and token by token."""
        context = 128 if self.row.result == "logits" else None
        with gguflike.load(self.file, threads=1, context=context, cache_type="f32") as model:
            whole = by_runner(model, self.row)
            if self.row.result != "logits":
                return _judged("runner", whole, self.wanted)
            pieces = [model.extend(IDS[a:b], a, all_logits=True) for a, b in pairwise(CUTS)]
            single = [model.extend(IDS[i : i + 1], i, all_logits=True) for i in range(len(IDS))]
        ways = [whole, np.concatenate(pieces), np.concatenate(single)]
        errors = [typical_error(self.row, logits, self.wanted) for logits in ways]
        return _judged("runner", whole, self.wanted, max(errors))

    def back(self) -> Cell:
        """The exported folder has all tensors that transformers asks for, no others, and gives the same logits."""
        folder = self.folder / "back"
        gguflike.export(self.file, folder)
        got = by_transformers(folder, self.row)
        error = relative_error(got, self.wanted)
        return Cell(error < TOLERANCE["back"], "same" if error == 0 else f"{error:.0e}")

    def quantized(self) -> Cell:
        """Q8_0 and Q4_K_M load in llama.cpp and in ours, and give about the same."""
        said = []
        proven = True
        for kind, tolerance in QUANTIZED_TOLERANCE.items():
            path = self.converted(kind)
            theirs = self.by_llama_cpp(path)
            with gguflike.load(path, threads=1, context=128 if self.row.result == "logits" else None) as model:
                error = typical_error(self.row, by_runner(model, self.row), theirs)
            proven &= error < tolerance
            said.append(f"{error:.0e}")
        return Cell(proven, ", ".join(said))


PROOFS: Mapping[str, Callable[[Proofs], Cell]] = {
    "converter": Proofs.converter,
    "reference": Proofs.reference,
    "llama.cpp": Proofs.llama_cpp,
    "runner": Proofs.runner,
    "back": Proofs.back,
    "quantized": Proofs.quantized,
}


def _cell(proof: Callable[[Proofs], Cell], proofs: Proofs) -> Cell:
    try:
        return proof(proofs)
    except (GGUFLikeError, Refused) as error:
        return Cell(False, f"{type(error).__name__}: {error}")
    except Exception as error:  # a defect of a family is no reason to stop
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Cell(False, f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})")


def typical_error(row: Row, got: np.ndarray, want: np.ndarray) -> float:
    """The relative error; where experts are chosen, the median of those of the tokens: rounding of keys to float16, or
    of activations to eight bits, tips choices that hang in the balance, and then that token is another."""
    if not row.routed:
        return relative_error(got, want)
    return float(np.median([relative_error(a, b) for a, b in zip(got, want, strict=True)]))


def _judged(oracle: str, got: np.ndarray, want: np.ndarray, error: float | None = None) -> Cell:
    if got.shape != want.shape:
        return Cell(False, f"shape {got.shape}, not {want.shape}")
    error = relative_error(got, want) if error is None else error
    return Cell(bool(error < TOLERANCE[oracle]), f"{error:.0e}")


def by_transformers(folder: Path, row: Row) -> np.ndarray:
    """What transformers computes for a folder: logits (tokens, vocabulary), hidden states (tokens, width) or scores
    (1, labels), float32; or what a model of own.py does. AssertionError where the folder lacks a tensor, or has one
    that the model does not."""
    import torch
    import transformers

    from tests.interop.families import own

    if row.name in own.OWN:
        return np.asarray(own.computed(row.name, folder, IDS))
    [name] = json.loads((folder / "config.json").read_text())["architectures"]
    model_class = getattr(transformers, row.model_class if name == row.registered else name)
    model, info = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    # poolers of encoders have no place in GGUF, and hidden states do not need them
    missing = sorted(key for key in info["missing_keys"] if row.result != "hidden" or "pooler." not in key)
    assert not missing, f"missing: {missing[:5]}"
    assert not info["unexpected_keys"], f"unexpected: {sorted(info['unexpected_keys'])[:5]}"
    with torch.no_grad():
        return np.asarray(_forward(model.eval(), torch.tensor([IDS]), row).float().numpy())


def _forward(model: Any, ids: Any, row: Row) -> Any:
    if row.result == "scores":
        return model(ids).logits
    if row.result == "hidden":
        return model(ids).last_hidden_state[0]
    try:
        return model(ids, use_cache=False).logits[0]
    except AttributeError:  # transformers 5.24's Qwen3VLMoe asks for the outputs of images that are not there
        if hasattr(model, "language_model"):  # and its Llama4
            return model.language_model(ids, use_cache=False).logits[0]
        return model.lm_head(model.model.language_model(ids, use_cache=False).last_hidden_state)[0]


def graph_of(path: Path) -> Graph:
    """The graph of a GGUF file."""
    with gguflike.open(path) as file:
        assert file.architecture
        family = registry.for_gguf(file.architecture).of_file(file.metadata, file.infos)
        return family.graph(configs.from_gguf(family.config, family.name, file.metadata, file.infos.keys()))


def by_runner(model: Model, row: Row) -> np.ndarray:
    """What the runner computes, all tokens at once."""
    if row.result == "logits":
        return np.asarray(model.logits(IDS))
    hidden = model.hidden(IDS)
    if row.result == "hidden":
        return np.asarray(hidden)
    head = model.graph.head
    assert isinstance(head, Pooling)
    return np.asarray(Pooler(head, model.weights).pooled(hidden, head.kind))[None]


def by_reference(path: Path, row: Row) -> np.ndarray:
    """What the numpy reference computes for a file."""
    with gguflike.open(path) as file:
        weights = {name: tensor.dequantize() for name, tensor in file.tensors.items()}
    graph = graph_of(path)
    if row.result == "logits":
        return np.asarray(forward.logits(graph, weights, IDS))
    hidden = forward.hidden(graph, weights, IDS)
    if row.result == "hidden":
        return np.asarray(hidden)
    assert isinstance(graph.head, Pooling)
    return np.asarray(pooled(graph.head, weights, hidden))[None]
