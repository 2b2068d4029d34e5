"""What GGUF cannot say of a tokenizer is told, or refused where the ids of ordinary texts would differ.

Each row is one of a kind that people have reported. The oracle is the ``tokenizers`` package on the source itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Original

from gguflike.checkpoint.tokenizer import Reading, read
from gguflike.checkpoint.tokenizer_json import tokenizer_json_from_metadata
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.convert.proof import prove
from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import SPACE, added, byte_level, spm_metadata, write_folder

WORDS = [SPACE + "t", "he", "in", SPACE + "a", "er", SPACE + "the", "ing", SPACE * 2, "there", SPACE, *"thinegrasx"]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def spm(**changes: Any) -> dict[str, Any]:
    """tokenizer.json of a SentencePiece vocabulary, made of its scores; ``changes`` replace top-level parts."""
    metadata = spm_metadata([*WORDS, "<|x|>"])
    metadata["tokenizer.ggml.token_type"][-1] = 4
    return tokenizer_json_from_metadata(metadata) | changes


def metaspace(scheme: str | None = None, **changes: Any) -> dict[str, Any]:
    step = {"type": "Metaspace", "replacement": SPACE, "split": False} | changes
    return step if scheme is None else step | {"prepend_scheme": scheme}


def template(*before: str, behind: tuple[str, ...] = (), ids: dict[str, int] | None = None) -> dict[str, Any]:
    def pieces(texts: tuple[str, ...]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text, "type_id": 0}} for text in texts]

    known = {"<|end|>": 0, "<s>": 1, "</s>": 2} | (ids or {})
    return {
        "type": "TemplateProcessing",
        "single": [*pieces(before), {"Sequence": {"id": "A", "type_id": 0}}, *pieces(behind)],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [known[t]], "tokens": [t]} for t in (*before, *behind)},
    }


def model(**changes: Any) -> dict[str, Any]:
    return byte_level()["model"] | changes


def with_flags(content: str, special: bool = True, **flags: bool) -> list[dict[str, Any]]:
    return [*byte_level()["added_tokens"], added(268, content, special) | flags]


def without_byte() -> dict[str, Any]:
    made = byte_level()
    vocab = {token: index for token, index in made["model"]["vocab"].items() if token != "\u00c3"}
    return made | {"model": made["model"] | {"vocab": vocab, "unk_token": "<s>"}}


def reading(folder: Path, document: dict[str, Any], **files: dict[str, Any]) -> Reading:
    """The reading, after its proof."""
    found = read(write_folder(folder, document, **files), {})
    prove(found, found.metadata)
    return found


@pytest.mark.parametrize(
    ("document", "settings", "notice"),
    [
        (byte_level(), {}, None),
        (byte_level(post_processor=template("<s>")), {"bos_token": "<s>", "add_bos_token": True}, None),
        (
            byte_level(post_processor=template("<s>")),
            {"add_bos_token": False},
            "add_bos_token=false, but .* adds '<s>'",
        ),
        (byte_level(), {"bos_token": "<s>", "add_bos_token": True}, "add_bos_token=true, but .* adds none"),
        (byte_level(), {"eos_token": "</s>", "add_eos_token": True}, "add_eos_token=true, but .* adds none"),
        (
            byte_level(post_processor=template("<s>")),
            {"bos_token": "<|end|>"},
            "begins a text with '<s>', while bos_token",
        ),
        (
            byte_level(post_processor=template(behind=("<|end|>",))),
            {"eos_token": "</s>"},
            "ends a text with '<|end|>', while eos_token",
        ),
        (byte_level(post_processor=template("<s>", "<|end|>")), {}, "begins a text with '<s>', '<|end|>', of which"),
        (
            byte_level(post_processor={"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}),
            {"bos_token": "<s>", "eos_token": "</s>"},
            None,
        ),
        (byte_level(added_tokens=with_flags("<m>", rstrip=True)), {}, r"'<m>' takes .* behind it along \(rstrip\)"),
        (byte_level(added_tokens=with_flags("<m>", lstrip=True)), {}, r"'<m>' takes .* before it along \(lstrip\)"),
        (
            byte_level(added_tokens=with_flags("us", False, single_word=True)),
            {},
            r"'us' is found between .*single_word",
        ),
        (byte_level(added_tokens=with_flags("<m>", normalized=True)), {}, None),
        (byte_level(normalizer={"type": "NFC"}), {}, "normalized to NFC"),
        (byte_level(model=model(dropout=0.1)), {}, r"dropout 0\.1 .* is left out"),
        (
            byte_level(pre_tokenizer=byte_level()["pre_tokenizer"] | {"add_prefix_space": True}),
            {},
            "add_prefix_space.; llama.cpp does not",
        ),
        (
            byte_level(pre_tokenizer=byte_level()["pre_tokenizer"] | {"add_prefix_space": True}),
            {"tokenizer_class": "GPT2TokenizerFast"},
            "add_prefix_space=false counts",
        ),
        (
            byte_level(decoder={"type": "Replace", "pattern": {"String": "a"}, "content": "b"}),
            {},
            "what the decoder does .*'a'",
        ),
        (
            byte_level(added_tokens=[*byte_level()["added_tokens"], added(300, "hello")]),
            {},
            "'hello' has id 262 .* 300",
        ),
        (
            byte_level(model=model(vocab=byte_level()["model"]["vocab"] | {"<|im_end|>": 267}), added_tokens=[]),
            {},
            "know '<|im_end|>' by the text",
        ),
        (byte_level(truncation={"max_length": 2}, padding={"pad_id": 0}), {}, None),
        (spm(), {}, None),
        (spm(), {"tokenizer_class": "LlamaTokenizer", "legacy": False}, "transformers 5 ignores it"),
        (spm(), {"tokenizer_class": "LlamaTokenizer", "legacy": True}, None),
        (spm(normalizer=None, pre_tokenizer=metaspace("first")), {}, r"Metaspace \('first'\) puts a space"),
        (spm(normalizer=None, pre_tokenizer=metaspace("always")), {}, "no space before a text that begins with one"),
        (spm(normalizer=None, pre_tokenizer=metaspace("never")), {}, None),
        (
            spm(normalizer=None, pre_tokenizer=metaspace(add_prefix_space=True, split=True)),
            {},
            f"splits a text at its spaces, so that '{SPACE * 2}' are never used",
        ),
        (
            spm(added_tokens=[e | {"normalized": True} for e in spm()["added_tokens"]]),
            {},
            "'<unk>', .* normalized text",
        ),
        (
            spm(
                decoder={
                    "type": "Sequence",
                    "decoders": [{"type": "Replace", "pattern": {"String": "o "}, "content": "o"}],
                }
            ),
            {},
            "what the decoder does .*'o '",
        ),
    ],
    ids=str,
)
def test_what_is_told(tmp_path: Path, document: dict[str, Any], settings: dict[str, Any], notice: str | None) -> None:
    """The proof passes: nothing but what the notice says is lost."""
    found = reading(tmp_path, document, tokenizer_config=settings)
    if notice is None:
        assert not found.notices
    else:
        assert any(re.search(notice, each) for each in found.notices), found.notices


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (byte_level(model=model(end_of_word_suffix="</w>")), "end_of_word_suffix: BPE that marks parts of words"),
        (byte_level(model=model(continuing_subword_prefix="##")), "continuing_subword_prefix: BPE that marks"),
        (without_byte(), r"unk_token: the vocabulary lacks bytes.*got 255 bytes"),
        (byte_level(normalizer={"type": "Lowercase"}), "normalizer is not handled.*Lowercase"),
        (byte_level(normalizer={"type": "NFKC"}), "normalizer is not handled.*NFKC"),
        (spm(normalizer={"type": "Lowercase"}), "normalizer is not handled"),
        (spm(normalizer=None), "spaces stay spaces"),
        (spm(normalizer=REPLACE, pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer step is not handled"),
        (byte_level(post_processor={"type": "Other"}), "post_processor is not handled"),
    ],
)
def test_what_is_refused_and_accepted_leniently(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    folder = write_folder(tmp_path, document)
    with pytest.raises(UnsupportedError, match=message):
        read(folder, {})
    if "post_processor" not in message and "pre_tokenizer" not in message:
        assert message.split(":")[-1].strip()[:12] in " ".join(read(folder, {}, lenient=True).notices)


def test_bytes_are_missing(tmp_path: Path) -> None:
    document = spm()
    document["model"]["vocab"] = {t: i for t, i in document["model"]["vocab"].items() if t != "<0x41>"}
    with pytest.raises(UnsupportedError, match=r"lacks tokens for bytes.*no '<0x41>'"):
        read(write_folder(tmp_path, document), {})


@pytest.mark.parametrize(
    "settings",
    [
        {"pad_token": "<pad>"},
        {"bos_token": {"content": "<|begin|>"}},
        {"additional_special_tokens": ["<s>", "<new>"]},
        {"extra_special_tokens": {"image_token": "<image>"}},
    ],
    ids=str,
)
def test_a_named_token_that_does_not_exist(tmp_path: Path, settings: dict[str, Any]) -> None:
    for name in ("tokenizer_config", "special_tokens_map"):
        folder = write_folder(tmp_path / name, byte_level(), **{name: settings})
        with pytest.raises(CheckpointError, match="names a token that does not exist") as caught:
            read(folder, {})
        assert (caught.value.path, caught.value.field) == (str(folder / f"{name}.json"), next(iter(settings)))


def test_a_token_beyond_the_embedding_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(added_tokens=with_flags("<pad>")))
    with pytest.raises(
        CheckpointError, match=r"ids below vocab_size 268; .*resize_token_embeddings\), or remove '<pad>'"
    ):
        read(folder, {"vocab_size": 268})


def test_named_tokens_are_markup_wherever_they_are(tmp_path: Path) -> None:
    """As in vocab.json of GPT-2, whose <|endoftext|> is no added token."""
    settings = {"eos_token": "hello", "additional_special_tokens": ["<tool>"]}
    found = reading(tmp_path, byte_level(), tokenizer_config=settings)
    tokenizer = Tokenizer(found.metadata)
    assert tokenizer.encode("hello<tool>", parse_special=True) == [262, 267]
    assert tokenizer.encode("<tool>")[0] != 267
    assert tokenizer.decode([262, 267], skip_special=True) == ""


def test_added_tokens_of_every_file(tmp_path: Path) -> None:
    decoder = {"267": {"content": "<tool>"}, "268": {"content": "<a>", "special": True}, "269": {"content": "<b>"}}
    folder = write_folder(
        tmp_path,
        byte_level(),
        tokenizer_config={"added_tokens_decoder": decoder},
        added_tokens={"<b>": 269, "<c>": 270},
    )
    found = read(folder, {})
    prove(found, found.metadata)
    assert found.metadata["tokenizer.ggml.tokens"][267:] == ["<tool>", "<a>", "<b>", "<c>"]
    assert found.metadata["tokenizer.ggml.token_type"][267:].tolist() == [4, 3, 4, 4]
    with pytest.raises(CheckpointError, match="added_tokens_decoder: malformed; got '-1'"):
        read(
            write_folder(tmp_path, byte_level(), tokenizer_config={"added_tokens_decoder": {"-1": {"content": "x"}}}),
            {},
        )


def test_all_ends_of_a_generation(tmp_path: Path) -> None:
    extra = [added(268 + n, text) for n, text in enumerate(("<e1>", "<e2>", "<e3>", "<|im_end|>"))]
    document = byte_level(added_tokens=[*byte_level()["added_tokens"], *extra])
    folder = write_folder(tmp_path, document, tokenizer_config={"eos_token": "</s>"})
    found = read(folder, {"eos_token_id": [2, 268, 400]}, {"eos_token_id": [269, 271]})
    # <|im_end|> is known by its text, so that the two places are left for the others.
    assert Vocabulary.from_metadata(found.metadata).end_ids == {0, 2, 268, 269, 271}
    assert found.notices == ("config.json says eos_token_id 400, but there are only the tokens 0 to 271: left out",)
    many = read(folder, {"eos_token_id": [2, 268]}, {"eos_token_id": [269, 270]})
    assert many.notices == ("GGUF has no place for so many tokens that end a generation: '<e3>' will end none",)


def test_the_token_that_encoding_adds_is_the_one_that_is_written(tmp_path: Path) -> None:
    processor = template("<s>", behind=("<|end|>",))
    settings = {"bos_token": "</s>", "eos_token": "</s>"}
    found = reading(tmp_path, byte_level(post_processor=processor), tokenizer_config=settings)
    tokenizer = Tokenizer(found.metadata)
    assert tokenizer.encode("hello") == [1, 262, 0]
    assert tokenizer.eos_ids == {0, 2}  # the former end is that of a turn


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (template("<x>", ids={"<x>": 999}), "adds a token that does not exist.*got '<x>', id 999"),
        ({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<zz>", None]}, "does not exist.*got '<zz>'"),
        (
            {"type": "RobertaProcessing", "sep": 7, "cls": ["<s>", 1]},
            "post_processor: malformed tokenizer.json; got sep",
        ),
        ({"type": "TemplateProcessing", "single": [7]}, "post_processor: malformed tokenizer.json; got 7"),
        ({"type": "TemplateProcessing", "single": "A"}, "post_processor: malformed tokenizer.json; got 'A'"),
    ],
)
def test_broken_post_processors(tmp_path: Path, processor: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(write_folder(tmp_path, byte_level(post_processor=processor)), {})


def test_a_merge_that_is_listed_twice(tmp_path: Path) -> None:
    """The second counts in ``tokenizers``, the first in llama.cpp: one is written."""
    document = byte_level()
    document["model"]["merges"] = [["l", "l"], ["h", "e"], ["he", "ll"], ["l", "o"], ["hell", "o"], ["l", "l"]]
    document["model"]["vocab"]["lo"] = 267
    document["added_tokens"] = document["added_tokens"][:3]
    found = reading(tmp_path, document)
    assert found.metadata["tokenizer.ggml.merges"] == ["h e", "he ll", "l o", "hell o", "l l"]
    original = Original.from_str(json.dumps(document))
    assert Tokenizer(found.metadata).encode("hello llo") == original.encode("hello llo").ids


def test_merges_whose_order_scores_cannot_say(tmp_path: Path) -> None:
    """The second way to make a word comes late: that is found where it matters, and only there."""
    words = ["ab", "abc", "bc", "cd", *"abcd", SPACE]
    merges = [["a", "b"], ["ab", "c"], ["b", "c"], ["c", "d"], ["a", "bc"]]
    document = tokenizer_json_from_metadata(spm_metadata(words))
    assert sorted(document["model"]["merges"]) == sorted(merges)
    document["model"]["merges"] = merges
    reading(tmp_path / "harmless", document)
    # cab is made early of ca and b, but late of c and ab: in "ccab", c joins with c before that.
    document = tokenizer_json_from_metadata(spm_metadata(["ab", "ca", "bca", "cc", "cab", "ba", *"abc", SPACE]))
    order = ["a b", "ca b", "b a", "c c", "c a", "c ab", "b ca"]
    assert sorted(order) == sorted(" ".join(merge) for merge in document["model"]["merges"])
    document["model"]["merges"] = order
    with pytest.raises(
        UnsupportedError, match=r"other token ids than the source for 'ccab'; expected \[.*\]; got \[.*\]"
    ):
        reading(tmp_path / "other", document)


def test_markup_strips_by_the_model_s_name(tmp_path: Path) -> None:
    """GGUF has no field for it, so readers go by names: what they keep is not told as lost, what they add is."""
    document = byte_level(added_tokens=with_flags("<|x|>", rstrip=True))
    folder = write_folder(tmp_path, document)
    assert "'<|x|>' takes" in " ".join(read(folder, {}).notices)
    phi = {"general.name": "Phi-3 mini"}
    found = read(folder, {}, general=phi)
    assert all("'<|x|>' takes" not in notice for notice in found.notices)
    assert "readers of GGUF let '<|end|>', '</s>', '<tool>' take" in " ".join(found.notices)
    prove(found, found.metadata | phi)
    tokenizer = Tokenizer(found.metadata | phi)
    assert tokenizer.encode("<|x|>  hello", parse_special=True) == [268, 262]
    masked = Vocabulary.from_metadata(found.metadata | {"general.architecture": "nomic-bert-moe"})
    assert masked.strips.takes("<mask>", "lstrip")
    assert not masked.strips.takes("<s>", "lstrip")
