"""What config.json and sentence-transformers say of pooling and of classifiers, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from gguflike.errors import UnsupportedError

Kind = Literal["none", "mean", "cls", "last"]
#: llama.cpp's numbers (``pooling_type``). 4, "rank", is a classifier's, whose pooling its head says.
KINDS: dict[int, Kind] = {0: "none", 1: "mean", 2: "cls", 3: "last"}
RANK = 4


def kind_of(number: int | None) -> Kind:
    """The kind of pooling of llama.cpp's number, of vectors; None: none. UnsupportedError for others."""
    kind = KINDS.get(number or 0)
    if kind is None:
        expected = ", ".join(f"{number} ({kind})" for number, kind in KINDS.items())
        raise UnsupportedError("pooling", field="pooling_type", expected=expected, got=number)
    return kind


#: Those that sentence-transformers knows.
NUMBERS = (1, 2, 3)


def labelled(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with what a classifier's labels say as ``labels``, ``n_labels`` and ``scored``.

    ``id2label`` that Transformers fills in by itself ("LABEL_0", "LABEL_1") names nothing.
    """
    made = {key: value for key, value in values.items() if key not in ("id2label", "label2id", "num_labels")}
    classes = values.get("architectures") or [""]
    if not str(classes[0]).endswith("ForSequenceClassification"):
        return made
    given = values.get("id2label") or {str(i): f"LABEL_{i}" for i in range(values.get("num_labels", 2))}
    names = [str(given[key]) for key in sorted(given, key=int)]
    made |= {"scored": True, "n_labels": len(names)}
    if names != ["LABEL_0", "LABEL_1"]:
        made["labels"] = names
    return made


def spelled_labels(stem: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The opposite of `labelled`, for the classes ``<stem>Model`` and ``<stem>ForSequenceClassification``."""

    def spelled(config: dict[str, Any]) -> dict[str, Any]:
        scored, count = config.pop("scored", False), config.pop("n_labels", 2)
        labels = config.pop("labels", None) or [f"LABEL_{i}" for i in range(count)]
        if not scored:
            return {**config, "architectures": [f"{stem}Model"]}
        named = {str(i): label for i, label in enumerate(labels)}
        back = {label: i for i, label in enumerate(labels)}
        return {**config, "architectures": [f"{stem}ForSequenceClassification"], "id2label": named, "label2id": back}

    return spelled


#: Names of models that rank documents by the words that they would answer with -> these words, the good one first.
_ANSWERS = {"qwen3-reranker": ("yes", "no")}


def answers(names: Iterable[str]) -> tuple[str, ...]:
    """The words that a reranker answers with which a checkpoint is by one of its names; none for other models.

    Nothing else tells it from a model that makes text.
    """
    lowered = [name.lower() for name in names]
    return next((words for name, words in _ANSWERS.items() if any(name in each for each in lowered)), ())


_OF_NAME = {"mean": 1, "cls": 2, "lasttoken": 3}
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


def pooling_type(config: Mapping[str, Any]) -> int:
    """llama.cpp's number of what sentence-transformers' ``1_Pooling/config.json`` says. UnsupportedError for others."""
    chosen = [name for flag, name in _FLAGS.items() if config.get(flag)] or [str(config.get("pooling_mode"))]
    others = [flag for flag, value in config.items() if value is True and flag.startswith("pooling_mode_")]
    others = [flag for flag in others if flag not in _FLAGS]
    if len(chosen) != 1 or chosen[0] not in _OF_NAME or others:
        raise UnsupportedError(
            "pooling", field="1_Pooling/config.json", expected="one of " + ", ".join(_OF_NAME), got=[*chosen, *others]
        )
    return _OF_NAME[chosen[0]]


def pooling_config(number: int, size: int) -> dict[str, Any]:
    """The opposite of `pooling_type`: ``1_Pooling/config.json`` for vectors of ``size`` values."""
    chosen = {value: key for key, value in _OF_NAME.items()}[number]
    return {"word_embedding_dimension": size, **{flag: name == chosen for flag, name in _FLAGS.items()}}
