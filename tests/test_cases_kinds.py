"""Values of a wrong kind in config.json and generation_config.json: an error or a notice, never taken for none."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguflike.checkpoint.tokenizer.read import read
from gguflike.convert import convert
from gguflike.errors import CheckpointError, GGUFLikeError
from gguflike.families import registry
from tests import tiny
from tests.small_tokenizers import byte_level, write_folder
from tests.test_family_configs import ROWS, as_read

ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>", "pad_token": "</s>"}
NO_IDS: list[Any] = ["1", 1.0, 1.5, True, {}, {"id": 1}, [1, "2"], [1.0], [True], [[1]], [1, None], "", "</s>"]


@pytest.mark.parametrize("named", [{}, NAMED], ids=["unnamed", "named"])
@pytest.mark.parametrize("place", ["config.json", "text_config", "generation_config.json"])
def test_ids_that_are_no_whole_numbers(tmp_path: Path, named: dict[str, str], place: str) -> None:
    """Refused, as by Transformers 5, whether the tokenizer's files name the token or not."""
    folder = write_folder(tmp_path, byte_level(), tokenizer_config=named)
    for role in ROLES:
        for value in NO_IDS:
            stated = {f"{role}_token_id": value}
            config = {"text_config": stated} if place == "text_config" else stated if place == "config.json" else {}
            file = place if "." in place else "config.json"
            with pytest.raises(CheckpointError) as caught:
                read(folder, config, stated if place.startswith("generation") else {})
            assert caught.value.field == f"{file}: {role}_token_id"
            assert caught.value.got == repr(value)
            assert caught.value.expected == "a whole number, or a list of them"


def test_ids_that_are_no_tokens_and_other_tokens_than_the_file_says(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(), tokenizer_config=NAMED)
    count = len(read(folder, {}).metadata["tokenizer.ggml.tokens"])
    ids = {role: read(folder, {}).metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    for role in ROLES:
        for value in (-1, -5, count, 2**40, [count], [-1]):
            notices = read(folder, {f"{role}_token_id": value}).notices
            index = value[0] if isinstance(value, list) else value
            said = f"config.json says {role}_token_id {index}, but there are only the tokens 0 to {count - 1}: left out"
            assert notices == (said,)
        for nothing in (None, []):
            assert read(folder, {f"{role}_token_id": nothing}, {f"{role}_token_id": nothing}).notices == ()
    found = read(folder, {"bos_token_id": 5}, {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"]})
    (notice,) = found.notices
    assert notice.startswith("config.json says bos_token_id 5, ")
    assert notice.endswith(f"the file says {ids['bos']}, '<s>'")


@pytest.mark.parametrize("value", [0, {}, "", [0], False, [""], [None], "LlamaForCausalLM", ["LlamaForCausalLM", 0]])
def test_classes_that_are_no_names(tmp_path: Path, value: Any) -> None:
    """Though model_type says which class it is."""
    folder = tiny.checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": value}))
    with pytest.raises(CheckpointError, match="architectures: wrong kind of value; expected a list of names") as caught:
        convert(folder, None, dry_run=True)
    assert caught.value.got == repr(value)


def test_settings_of_generation_that_are_left_out_are_told_of(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path)
    odd = {"top_k": "40", "top_p": [1], "temperature": True, "min_p": {}, "penalty_last_n": 1.5, "mirostat": 2**31}
    (folder / "generation_config.json").write_text(json.dumps({**odd, "xtc_threshold": None, "repetition_penalty": 2}))
    plan = convert(folder, None, dry_run=True)
    assert {key for key in plan.metadata if ".sampling." in key} == {"general.sampling.penalty_repeat"}
    for key, value in odd.items():
        notice = f"generation_config.json: {key} is left out; expected "
        assert any(each.startswith(notice) and each.endswith(f", got {value!r}") for each in plan.notices), key
    assert not any("xtc_threshold" in each or "penalty:" in each for each in plan.notices)


NO_TRUTH: list[Any] = ["true", 1, 0, [], {}, ""]
NO_TEXT: list[Any] = [5, True, [], {}, ["a"]]
NO_TOKEN: list[Any] = [5, True, [], {}, {"content": 5}, ["</s>"]]
NO_TOKENS: list[Any] = ["x", 5, True, [5], [{"content": None}], {"a": 5}]
NO_ID: list[Any] = ["1", 1.5, 1.0, True, -1, [], {}]
FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
MARKS = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix")
#: What is of a wrong kind in the files of a tokenizer, by file and place.
TOKENIZER_KINDS: list[tuple[str, tuple[Any, ...], list[Any]]] = [
    *(("tokenizer_config", (f"{role}_token",), NO_TOKEN) for role in (*ROLES, "cls")),
    *(("special_tokens_map", (f"{role}_token",), NO_TOKEN) for role in ("bos", "eos")),
    *(("tokenizer_config", (f"add_{key}",), NO_TRUTH) for key in ("bos_token", "eos_token", "prefix_space")),
    *(("tokenizer_config", (f"{key}_special_tokens",), NO_TOKENS) for key in ("additional", "extra")),
    ("tokenizer_config", ("added_tokens_decoder",), ["x", 5, [], {"x": "a"}, {"-1": "a"}, {"9" * 5000: "a"}, {"0": 5}]),
    *(("tokenizer_config", ("added_tokens_decoder", "0", flag), NO_TRUTH) for flag in FLAGS),
    ("tokenizer_config", ("tokenizer_class",), NO_TEXT),
    ("tokenizer_config", ("chat_template",), [5, True, {}, [{"name": 5, "template": "x"}], [{"name": "a"}], [5]]),
    ("added_tokens", ("<new>",), [*NO_ID, None]),
    ("tokenizer", ("added_tokens",), ["x", {}, 5, False, ""]),
    *(("tokenizer", ("added_tokens", 0, flag), NO_TRUTH) for flag in FLAGS),
    ("tokenizer", ("added_tokens", 0, "id"), NO_ID),
    ("tokenizer", ("added_tokens", 0, "content"), [*NO_TEXT, None]),
    *(("tokenizer", (key,), ["x", 5, [], False]) for key in ("truncation", "padding")),
    *(("tokenizer", ("model", key), NO_TRUTH) for key in ("byte_fallback", "fuse_unk", "ignore_merges")),
    *(("tokenizer", ("model", key), NO_TEXT) for key in MARKS),
    ("tokenizer", ("model", "dropout"), ["x", True, -1, 2, [], {}]),
    ("tokenizer", ("model", "merges"), ["x", {}, 5, [5], [["a"]], [[1, 2]], False]),
]


@pytest.mark.parametrize(("file", "place", "values"), TOKENIZER_KINDS, ids=lambda each: str(each)[:60])
def test_files_of_a_tokenizer(tmp_path: Path, file: str, place: tuple[Any, ...], values: list[Any]) -> None:
    """One error that names file and key; the same files with a null there are read."""

    def reading(value: Any) -> Any:
        files: dict[str, Any] = {
            "tokenizer": byte_level(),
            "tokenizer_config": {"added_tokens_decoder": {"0": {"content": "<|end|>"}}},
            "special_tokens_map": {},
            "added_tokens": {},
        }
        *outer, key = place
        at = files[file]
        for each in outer:
            at = at[each]
        at[key] = value
        return read(write_folder(tmp_path, files.pop("tokenizer"), **files), {})

    for value in values:
        with pytest.raises(CheckpointError) as caught:
            reading(value)
        error = caught.value
        assert Path(error.path or "").name == f"{file}.json", value
        assert str(place[0]) in str(error.field), value
    if None not in values:
        reading(None)


# Objects of towers and labels, and sizes of what is not converted.
INSIDE_OF_OTHERS = ("vision_config", "audio_config", "id2label", "label2id")
ELSEWHERE = ("mm_tokens_per_image", "projection_hidden_size", "projector_hidden_size", "vocab_size_per_layer_input")
ODD: list[Any] = ["", "x", True, {}, {"a": 1}]


def keys(config: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The places of values in config.json."""
    for key, value in config.items():
        yield (key,)
        if isinstance(value, dict) and key not in INSIDE_OF_OTHERS:
            yield from ((key, *inner) for inner in keys(value))


@pytest.mark.parametrize(
    "row", {registry.for_config(as_read(row)).name: row for row in ROWS}.values(), ids=lambda r: r.name
)
def test_no_value_of_a_wrong_kind_is_taken_for_none(row: Any) -> None:
    """Whatever a key is read by: texts and objects instead of numbers, numbers and texts instead of switches."""
    config = as_read(row)
    if row.name == "ApertusForCausalLM":
        return  # which takes numbers from tensors
    family = registry.for_config(config)
    for *outer, key in keys(config):
        if key in (*family.inert, *ELSEWHERE) or key.endswith(("_token_id", "_token_index")):
            continue
        without, changed = copy.deepcopy(config), copy.deepcopy(config)
        here, there = without, changed
        for each in outer:
            here, there = here[each], there[each]
        own = here.pop(key)
        for odd in ODD:
            if own is None or isinstance(own, type(odd)):
                continue
            there[key] = odd
            assert outcome(changed) != outcome(without), f"{key}: {odd!r}"


def outcome(config: dict[str, Any]) -> Any:
    """What is read, and told; an error is unlike any other."""
    try:
        family = registry.for_config(config)
        return (family.name, *family.from_config(config))
    except GGUFLikeError:
        return object()
