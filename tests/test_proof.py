"""The proof at conversion: the ids of what was written are the source's, or the error shows the text and both."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Original

import gguflike
from gguflike.checkpoint.tokenizer import read
from gguflike.cli import main
from gguflike.convert import proof
from gguflike.errors import ArgumentError, CheckpointError, UnsupportedError
from tests import tiny
from tests.small_tokenizers import BERT_NAMES, XLMR_NAMES, bert, byte_level, spm_metadata, write_folder, xlmr

KEY = "tokenizer.ggml."


def test_the_texts_are_of_many_scripts_and_normalized() -> None:
    texts = "\n".join(proof.corpus())
    scripts = {unicodedata.name(c, "?").split()[0] for c in texts if c.isalpha()}
    assert len(scripts) > 40
    assert unicodedata.is_normalized("NFC", texts)
    assert {"\u200d", "\U0001f3fd", "\t", "<|im_start|>"} <= {
        part for part in ("\u200d", "\U0001f3fd", "\t", "<|im_start|>") if part in texts
    }
    assert {"\r\n", "\u00a0", "   "} <= {p for p in ("\r\n", "\u00a0", "   ") if p in "".join(proof._WHITE_SPACE)}


@pytest.mark.parametrize(
    ("document", "names", "changes", "shown"),
    [
        (byte_level(), {}, {"merges": ["h e", "l l"]}, "' w'"),
        (byte_level(), {}, {"pre": "smollm"}, "'12'"),
        (byte_level(), {}, {"add_bos_token": True, "bos_token_id": 1}, r"expected \[.*\]; got \[1, "),
        (byte_level(), {}, {"add_space_prefix": True}, r"expected \["),
        (byte_level(), {}, {"token_type": [3, 1, 3, *[1] * 264, 4]}, "<s>"),
        (bert(), BERT_NAMES, {"normalizer.lowercase": False}, ""),
        (xlmr(), XLMR_NAMES, {"scores": [0.0] * 4 + [-2.5, -40.0, -40.0] + [-2.0] * 17}, ""),
    ],
    ids=["merges", "splitting", "bos", "prefix", "markup", "case", "scores"],
)
def test_a_difference_is_shown(
    tmp_path: Path, document: dict[str, Any], names: dict[str, str], changes: dict[str, Any], shown: str
) -> None:
    found = read(write_folder(tmp_path, document, tokenizer_config=names), {})
    proof.prove(found, found.metadata)
    changed = {f"{KEY}{key}": value for key, value in changes.items()}
    with pytest.raises(UnsupportedError, match="other token ids than the source") as caught:
        proof.prove(found, found.metadata | changed)
    assert re.search(shown, str(caught.value))
    assert caught.value.path == str(tmp_path / "tokenizer.json")
    assert "`tokenizer_proof='warn'`" in str(caught.value)
    assert len(caught.value.what) < 80


def test_what_the_library_cannot_read_is_an_error(tmp_path: Path) -> None:
    document = byte_level()
    document["model"]["merges"].append(["x", "yz"])
    found = read(write_folder(tmp_path, document), {})
    with pytest.raises(CheckpointError, match=r"tokenizers cannot read it; got .*yz"):
        proof.prove(found, found.metadata)


def test_of_a_large_source_what_the_texts_need_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((Path(gguflike.__file__).parent / "data" / "austen-kjv-6m" / "tokenizer.json").read_text())
    texts = [*proof.corpus(), *proof._WHITE_SPACE]
    few, whole = (Original.from_str(json.dumps(d)) for d in (proof._reduced(document, texts), document))
    assert few.get_vocab_size() < whole.get_vocab_size()
    for text in texts:
        assert few.encode(text).ids == whole.encode(text).ids
    monkeypatch.setattr(proof, "_LARGE", 100)
    for place, source in (("a", document), ("b", spm_metadata(["ab", "abc", *"abc", "\u2581"]))):
        if place == "b":
            from gguflike.checkpoint.tokenizer_json import tokenizer_json_from_metadata

            source = tokenizer_json_from_metadata(source)
        found = read(write_folder(tmp_path / place, source), {})
        proof.prove(found, found.metadata)


def test_conversion_is_refused_before_anything_is_written_or_goes_on_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids of added tokens with a gap before them: the library numbers them anew."""
    folder = tiny.checkpoint(tmp_path / "model")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["added_tokens"].append(document["added_tokens"][0] | {"id": 259, "content": "<x>"})
    (folder / "tokenizer.json").write_text(json.dumps(document))
    out = tmp_path / "out.gguf"
    assert gguflike.convert(folder, out, "F32", dry_run=True).notices == ()
    with pytest.raises(UnsupportedError, match=r"for '<x>'; expected \[258\]; got \[259\]"):
        gguflike.convert(folder, out, "F32")
    assert not list(tmp_path.glob("*.gguf*"))
    (notice,) = gguflike.convert(folder, out, "F32", tokenizer_proof="warn").notices
    assert "other token ids" in notice
    assert "expected [258]; got [259]" in notice
    with pytest.raises(ArgumentError, match="tokenizer_proof: unknown value; expected error, warn"):
        gguflike.convert(folder, out, "F32", tokenizer_proof="never")
    arguments = ["convert", str(folder), "-o", str(out), "-t", "F32", "--overwrite"]
    assert main(arguments) == 1
    assert "--tokenizer-proof warn" in capsys.readouterr().err
    assert main([*arguments, "--tokenizer-proof=warn"]) == 0
    assert "notice: what the file says gives other token ids" in capsys.readouterr().out


def test_leniently_what_gguf_cannot_say_is_a_notice(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(document | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UnsupportedError, match="normalizer is not handled"):
        gguflike.convert(folder, None, "F32", dry_run=True)
    plan = gguflike.convert(folder, None, "F32", dry_run=True, tokenizer_proof="warn")
    assert "normalizer is not handled" in plan.notices[0]
