"""gguflike.edit: metadata that change, and all that must not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.container import Typed, ValueType, layout, reheader, system
from gguflike.container.digest import SIGNATURE_PREFIX
from gguflike.edit import Edited, edit, known_type, value_of
from gguflike.errors import ArgumentError, DigestError, GGUFLikeError, OutputError, UnsupportedError
from tests import tiny, tiny_gguf
from tests.shared_blocks import clones

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

BEFORE: dict[str, Any] = {
    "general.architecture": "toy",
    "general.name": "first",
    "toy.context_length": 128,
    "toy.rope.freq_base": 10000.0,
    "toy.flags": Typed([1, 2, 3], ValueType.ARRAY, ValueType.UINT8),
    "tokenizer.chat_template": "{{ messages }}",
    "toy.on": True,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of ours, with digests."""
    made = tmp_path / "toy.gguf"
    rng = np.random.default_rng(0)
    tensors = [
        gguflike.quantize(rng.standard_normal(shape).astype(np.float32), "Q8_0", name=name)
        for name, shape in (("one", (3, 32)), ("two", (5, 64)), ("three", (1, 32)))
    ]
    gguflike.write(made, BEFORE, tensors)
    return made


def contents(path: Path) -> tuple[dict[str, tuple[Any, Any, Any]], dict[str, bytes]]:
    """Metadata with types, but for the digest of the header, and the bytes of tensors."""
    with gguflike.open(path, shards=False) as file:
        metadata = {key: file.metadata.typed(key) for key in file.metadata if key != "gguflike.digest.header"}
        found = {
            key: (np.asarray(value.value).tolist(), value.type, value.item_type) for key, value in metadata.items()
        }
        return found, {name: tensor.data.tobytes() for name, tensor in file.tensors.items()}


def check(path: Path, before: tuple[dict[str, Any], dict[str, bytes]], **changed: Any) -> dict[str, Any]:
    """Nothing but what is ``changed`` differs (None: gone), and the file is sound; its metadata."""
    metadata, tensors = contents(path)
    assert tensors == before[1]
    keys = {key.replace("__", "."): value for key, value in changed.items()}
    assert {key: value for key, value in metadata.items() if key not in keys} == {
        key: value for key, value in before[0].items() if key not in keys
    }
    for key, value in keys.items():
        assert (metadata[key][0] if key in metadata else None) == value
    report = gguflike.verify(path)
    assert report.ok
    assert report.digests
    return metadata


def test_values_keep_their_types(path: Path) -> None:
    before = contents(path)
    values = {"general.name": "second", "toy.context_length": 256, "toy.flags": [7], "toy.rope.freq_base": 5e5}
    result = edit(path, values=values)
    found = check(path, before, general__name="second", toy__context_length=256, toy__flags=[7],
                  **{"toy__rope.freq_base": 5e5})  # fmt: skip
    assert found["toy.flags"][1:] == (ValueType.ARRAY, ValueType.UINT8)
    assert found["toy.context_length"][1] is ValueType.UINT32
    assert [(change.key, change.new.value if change.new else None) for change in result.changes] == list(values.items())
    assert list(found)[:7] == list(BEFORE)  # in their places


def test_unset_and_rename(path: Path) -> None:
    before = contents(path)
    edit(path, unset=["toy.on"], rename={"general.name": "general.basename"}, values={"toy.new": [1.5, 2.5]})
    found = check(path, before, toy__on=None, general__name=None, general__basename="first", toy__new=[1.5, 2.5])
    assert list(found)[1] == "general.basename"


@hypothesis.given(
    st.dictionaries(
        st.sampled_from([*[*BEFORE][1:], "a.b", "general.tags", "toy.long"]),
        st.one_of(
            st.none(), st.text(max_size=300), st.integers(0, 1 << 24), st.booleans(), st.floats(0, 1e6, width=32)
        ),
        min_size=1,
    )
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_whatever_is_changed_all_else_stays(tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, Any]) -> None:
    made = tmp_path_factory.mktemp("edit") / "m.gguf"
    gguflike.write(made, BEFORE, [gguflike.quantize(np.ones((2, 32), np.float32), "Q4_0", name="t")])
    before = contents(made)
    unset = [key for key, value in wanted.items() if value is None and key in BEFORE]
    values = {key: value for key, value in wanted.items() if value is not None}
    try:
        edit(made, values=values, unset=unset, force=True)
    except ArgumentError:  # a value that its type cannot hold
        assert contents(made) == before
        return
    check(made, before, **{key.replace(".", "__"): value for key, value in wanted.items()})
    assert os.listdir(made.parent) == ["m.gguf"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("general.alignment", "where tensors stand"),
        ("split.count", "which file of a model"),
        ("gguflike.digest.header", "kept right by themselves"),
        ("gguflike.signature.key", "signs a file"),
        ("comfy.gguf.orig_shape.one", "which shape"),
        ("gguflike.padding", "fills up the header"),
    ],
)
def test_what_nobody_may_change(path: Path, key: str, why: str) -> None:
    before = path.read_bytes()
    for asked in ({"values": {key: 64}}, {"unset": [key]}, {"rename": {"general.name": key}}):
        with pytest.raises(ArgumentError, match=why):
            edit(path, force=True, **asked)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_types_that_do_not_fit(path: Path) -> None:
    before = path.read_bytes()
    for key, value in (
        ("toy.context_length", "many"),
        ("toy.context_length", -1),
        ("toy.context_length", Typed(1.5, ValueType.FLOAT32)),
        ("general.name", 5),
        ("tokenizer.ggml.scores", Typed([1], ValueType.ARRAY, ValueType.INT32)),
        ("general.tags", "one"),
    ):
        with pytest.raises(ArgumentError, match=key):
            edit(path, values={key: value})
        assert path.read_bytes() == before
    edit(path, values={"toy.context_length": Typed(1.5, ValueType.FLOAT32)}, force=True)
    with gguflike.open(path) as file:
        assert file.metadata.type_of("toy.context_length") is ValueType.FLOAT32


def test_keys_that_are_not_there_or_are(path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"general\.nam: no such metadata.*did you mean general\.name"):
        edit(path, unset=["general.nam"])
    with pytest.raises(ArgumentError, match=r"toy\.on: is there already"):
        edit(path, rename={"general.name": "toy.on"})
    with pytest.raises(ArgumentError, match="both unset and renamed"):
        edit(path, unset=["toy.on"], rename={"toy.on": "toy.off"})


def test_a_dry_run_and_a_copy(path: Path, tmp_path: Path) -> None:
    before = contents(path)
    data = path.read_bytes()
    planned = edit(path, values={"general.name": "second" * 20}, dry_run=True)
    assert path.read_bytes() == data
    out = tmp_path / "new" / "copy.gguf"
    made = edit(path, out, values={"general.name": "second" * 20})
    assert path.read_bytes() == data
    assert (made.file_bytes, made.header_bytes) == (planned.file_bytes, planned.header_bytes)
    assert out.stat().st_size == made.file_bytes
    check(out, before, general__name="second" * 20)
    with pytest.raises(OutputError, match="the target exists"):
        edit(path, out, values={"general.name": "third"})
    edit(path, out, values={"general.name": "third"}, overwrite=True)
    check(out, before, general__name="third")


def test_the_header_may_keep_its_size(path: Path) -> None:
    assert edit(path, values={"general.name": "FIRST"}).keeps_place
    assert not edit(path, values={"general.name": "first" * 100}).keeps_place
    changed = path.stat().st_mtime_ns
    result = edit(path, values={"general.name": "first" * 100})
    assert result.changes == ()
    assert path.stat().st_mtime_ns == changed  # what is so already is not written


def test_files_of_others_stay_without_digests(tmp_path: Path) -> None:
    made = tmp_path / "m.gguf"
    tiny_gguf.write(made, "Q4_0")
    before = contents(made)
    edit(made, values={"general.name": "mine"})
    metadata, tensors = contents(made)
    assert tensors == before[1]
    assert metadata == {**before[0], "general.name": ("mine", ValueType.STRING, None)}


def test_what_stands_between_and_behind_tensors_stays(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")
    with gguflike.open(path) as before:
        data = path.read_bytes()[before.data_offset :]
    edit(path, values={"general.name": "a longer name than before, by far" * 3})
    with gguflike.open(path) as after:
        assert path.read_bytes()[after.data_offset :] == data


def test_a_damaged_header_is_not_vouched_for(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b"first")
    data[place : place + 5] = b"FIRST"
    path.write_bytes(data)
    with pytest.raises(DigestError, match="M-003"):
        edit(path, values={"toy.on": False})
    assert path.read_bytes() == data


def test_a_signature_goes_with_the_header_that_it_signs(tmp_path: Path, path: Path) -> None:
    key = SIGNATURE_PREFIX + "ed25519"
    with gguflike.open(path) as file:
        plan = gguflike.container.plan({**BEFORE, key: "0" * 128}, [], signature=True)
        assert file.tensors
    signed = tmp_path / "signed.gguf"
    with gguflike.container.Writer(signed, plan):
        pass
    assert edit(signed, values={"toy.on": True}).notices == ()  # nothing changes
    result = edit(signed, values={"toy.on": False})
    assert "sign the file again" in result.notices[0]
    with gguflike.open(signed) as file:
        assert key not in file.metadata
    assert gguflike.verify(signed).ok


def test_the_shard_that_has_the_metadata(tmp_path: Path) -> None:
    gguflike.convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "model.gguf", "F16")
    gguflike.split(tmp_path / "model.gguf", tmp_path / "parts.gguf", split_max_tensors=8)
    first, second, third = sorted(tmp_path.glob("parts-*.gguf"))
    others = second.read_bytes(), third.read_bytes()
    before = contents(first)
    result = edit(second, values={"general.name": "split"})
    assert Path(result.path) == first
    assert (second.read_bytes(), third.read_bytes()) == others
    check(first, before, general__name="split")
    with pytest.raises(UnsupportedError, match="split model"):
        edit(first, tmp_path / "other.gguf", values={"general.name": "split"})


def test_modes_stay(path: Path) -> None:
    path.chmod(0o640)
    edit(path, values={"general.name": "x" * 50})
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["write_at", "copy", "sync", "sync_folder"])
def test_a_call_that_fails_leaves_old_or_new(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, wanted = path.read_bytes(), path.with_name("wanted.gguf")
    edit(path, wanted, values={"general.name": "second" * 10})
    new = wanted.read_bytes()
    wanted.unlink()

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, name, fails)
    with pytest.raises(OutputError, match="No space left"):
        edit(path, values={"general.name": "second" * 10})
    assert path.read_bytes() == (new if name == "sync_folder" else old)
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


def test_a_system_that_copies_nothing_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    before = contents(path)
    monkeypatch.setattr(os, "copy_file_range", refuses, raising=False)
    edit(path, values={"general.name": "second" * 10})
    check(path, before, general__name="second" * 10)


@pytest.fixture
def large(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of ours that counts as large, of several blocks."""
    tensors = [gguflike.quantize(np.ones((64, 512), np.float32), "Q8_0", name=f"t{n}") for n in range(3)]
    gguflike.write(path, BEFORE, tensors)
    monkeypatch.setattr(reheader, "FILLED_BYTES", 1 << 14)
    return path


def test_blocks_are_shared_whatever_becomes_longer(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, before = clones(monkeypatch), contents(large)
    copied = []
    real = system.copy

    def copy(source: int, target: int, count: int, offset: int, to: int) -> int:
        copied.append(count)
        return real(source, target, count, offset, to)

    monkeypatch.setattr(system, "copy", copy)
    for name in ("x" * 10, "x" * 300, "y" * 9000, "z" * 70, "", "x" * 4000, "x" * 8000):
        with gguflike.open(large) as file:
            old_size, old_place = file.file_bytes, file.data_offset
        planned = edit(large, values={"general.name": name}, dry_run=True)
        result = edit(large, values={"general.name": name})
        assert (result.shares, planned.shares, planned.header_bytes) == (True, True, result.header_bytes)
        count, offset, to = asked[-1]
        assert (count, to - offset) == (old_size - offset, result.header_bytes - old_place)
        assert copied[-1] == offset - old_place < 4096
        found = contents(large)
        assert found[1] == before[1]
        assert found[0]["general.name"][0] == name
        assert {key: value for key, value in found[0].items() if key not in ("general.name", "gguflike.padding")} == {
            key: value for key, value in before[0].items() if key != "general.name"
        }
        assert gguflike.verify(large).ok
        assert len(os.listdir(large.parent)) == 1  # noqa: PTH208


def test_a_dry_run_says_what_this_file_system_does(large: Path) -> None:
    before = contents(large)
    planned = edit(large, values={"general.name": "x" * 300}, dry_run=True)
    assert len(os.listdir(large.parent)) == 1  # noqa: PTH208
    assert edit(large, values={"general.name": "x" * 300}).shares == planned.shares
    assert contents(large)[1] == before[1]
    assert gguflike.verify(large).ok


def test_a_header_with_padding_keeps_its_place(large: Path, tmp_path: Path) -> None:
    place = edit(large, values={"general.name": "x" * 100}).header_bytes
    for name in ("x" * 200, "x" * 3000, "x"):
        result = edit(large, values={"general.name": name})
        assert (result.header_bytes, result.keeps_place) == (place, True)
    with gguflike.open(large) as file:
        assert file.metadata.item_type_of("gguflike.padding") is ValueType.UINT8
        assert not file.metadata["gguflike.padding"].any()
        assert list(file.metadata)[-1] == "gguflike.padding"
        gguflike.write(tmp_path / "copy.gguf", file.metadata, list(file.tensors.values()))
    with gguflike.open(tmp_path / "copy.gguf") as file:
        assert "gguflike.padding" not in file.metadata  # it is of one header
    big = edit(large, values={"general.name": "x" * 300_000})
    assert big.header_bytes % 4096 == place % 4096
    small = edit(large, values={"general.name": "x"}).header_bytes  # what is much too much is not kept
    assert (small < 8192, small % 4096) == (True, place % 4096)


def test_every_length_of_a_header_ends_where_it_must(large: Path) -> None:
    with gguflike.open(large) as file:
        for length in range(file.data_offset - 80, file.data_offset + 4096 + 80):
            filled = reheader.filled(file, length)
            whole = length if filled is None else length + reheader.PADDING_BYTES + filled
            end = whole + -whole % 32
            assert end >= file.data_offset
            assert (end - file.data_offset) % 4096 == 0
            assert end - length < 4096 + 80
            assert filled is None or end == whole


def test_blocks_that_cannot_be_shared_are_copied(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuses(*_: Any) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuses)
    wanted = large.with_name("wanted.gguf")
    assert not edit(large, wanted, values={"general.name": "x" * 99}).shares
    clones(monkeypatch)
    assert edit(large, values={"general.name": "x" * 99}).shares
    assert large.read_bytes() == wanted.read_bytes()  # the same bytes on every file system


def test_a_file_that_is_cut_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = path.read_bytes()
    real = system.copy

    def cut(source: int, target: int, count: int, offset: int, to: int) -> int:
        os.truncate(path, len(whole) - 100)
        return real(source, target, count, offset, to)

    monkeypatch.setattr(system, "copy", cut)
    with pytest.raises(GGUFLikeError, match="shorter"):
        edit(path, values={"general.name": "second" * 10})
    assert path.read_bytes() == whole[:-100]
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("uint8:5", Typed(5, ValueType.UINT8)),
        ("int32:0x10", Typed(16, ValueType.INT32)),
        ("float32:1e-5", Typed(1e-5, ValueType.FLOAT32)),
        ("bool:true", Typed(True, ValueType.BOOL)),
        ("string:5", Typed("5", ValueType.STRING)),
        ("str:uint8:5", Typed("uint8:5", ValueType.STRING)),
        ("[int32]:[1, 2]", Typed([1, 2], ValueType.ARRAY, ValueType.INT32)),
        ("[string]:[]", Typed([], ValueType.ARRAY, ValueType.STRING)),
        ("https://host/a", "https://host/a"),
        ("true", True),
        ("12", 12),
        ("1.5", 1.5),
        ("[1, 2]", Typed([1, 2], ValueType.ARRAY, ValueType.INT32)),
        ("", ""),
    ],
)
def test_values_of_a_command_line(text: str, value: Any) -> None:
    assert value_of(text, "k") == value


@pytest.mark.parametrize(
    "text",
    [
        "uint8:x",
        "bool:yes",
        "[int32]:5",
        "[int32]:[1",
        "float32:",
        "float32:1e400",
        "-1e999",
        "9" * 5000,
        '[string]:{"a": 1}',
        "uint128:1",
        "array:[1]",
        "[array]:[[1]]",
        "[[uint8]]:[[1]]",
        "float:x",
    ],
)
def test_texts_that_are_no_such_value(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"k: is (no|larger|of no type)"):
        value_of(text, "k")


def test_types_are_those_that_llama_cpp_reads(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "F16")
    with gguflike.open(tmp_path / "m.gguf") as file:  # which gguf-py has written
        for key in file.metadata:
            assert known_type(key) in (known_type(key, file), None), key


def test_the_command(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(path)
    (tmp_path / "t.jinja").write_text("{% for m in messages %}é{% endfor %}\n", encoding="utf-8")
    command = ["edit", str(path), "--set", "general.name=a=b", "--set", "toy.flags=[4,5]", "--unset", "toy.on"]
    command += ["--set-file", f"tokenizer.chat_template={tmp_path / 't.jinja'}", "--rename", "toy.rope.freq_base=toy.x"]
    assert main([*command, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dry_run"] is True
    assert {each["key"]: each["new"] for each in document["changes"]}["toy.flags"] == [4, 5]
    assert contents(path) == before
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "general.name = 'a=b', was 'first'" in shown
    assert "toy.rope.freq_base is now toy.x" in shown
    template = "{% for m in messages %}é{% endfor %}\n"
    changed = {"toy__rope.freq_base": None, "toy__x": 10000.0, "tokenizer__chat_template": template}
    check(path, before, general__name="a=b", toy__flags=[4, 5], toy__on=None, **changed)


def test_values_are_written_as_inspect_writes_them(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"a.bytes": "0123", "a.inf": float("inf"), "a.nan": [float("nan"), 1.0, float("-inf")]}
    with gguflike.container.Writer(path, gguflike.container.plan(odd, [], digests=False)):
        pass
    path.write_bytes(path.read_bytes().replace(b"0123", b"\xff\xfe01"))  # as others write them
    assert main(["inspect", "--json", "--key", "a.*", str(path)]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen == {"a.bytes": {"bytes": "fffe3031"}, "a.inf": "Infinity", "a.nan": ["NaN", 1.0, "-Infinity"]}
    unset = [each for key in odd for each in ("--unset", key)]
    assert main(["edit", str(path), *unset, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {each["key"]: each["old"] for each in document["changes"]} == seen
    assert main(["edit", str(path), *unset]) == 0
    assert "fffe" in capsys.readouterr().out


#: What a text as the value of a key that has a type, or of a new one, is refused for; "" where it is not.
ROUNDED = {
    ("toy.rope.freq_base", "16777216"): "",
    (
        "toy.rope.freq_base",
        "16777217",
    ): "as FLOAT32; got 16777217; give.*or 16777217.0 for the nearest",
    ("toy.rope.freq_base", "-16777217"): "cannot be stored as FLOAT32",
    ("toy.rope.freq_base", "16777217.0"): "",
    ("toy.rope.freq_base", "10000000000"): "",
    ("toy.rope.freq_base", "100000000000"): "cannot be stored as FLOAT32",
    ("toy.rope.freq_base", "0.1"): "",
    ("toy.rope.freq_base", "1" + "0" * 39): "cannot be stored as FLOAT32",
    ("toy.rope.freq_base", "1" + "0" * 399): "cannot be stored as FLOAT32",
    ("toy.rope.freq_base", "1" + "0" * 5000): "larger than numbers of floating point",
    ("toy.rope.freq_base", "1e39"): "cannot be stored as FLOAT32",
    ("toy.rope.freq_base", "1e-50"): "cannot be stored as FLOAT32",
    ("toy.rope.freq_base", "1e-400"): "smaller than numbers of floating point",
    ("toy.rope.freq_base", "0e-400"): "",
    ("new.wide", "float64:9007199254740992"): "",
    ("new.wide", "float64:9007199254740993"): "cannot be stored as FLOAT64; got 9007199254740993",
    ("new.list", "[float32]:[1.5, 16777217]"): r"list\[1\].*cannot be stored as ARRAY of FLOAT32; got 16777217",
    ("new.list", "[float32]:[1.5, 16777216, 0.1]"): "",
    ("new.list", "[float64]:[1e400]"): "larger than numbers of floating point",
    ("new.list", "[int8]:[127, 128]"): "cannot be stored as ARRAY of INT8",
    ("new.list", "[int32]:[1.0]"): "cannot be stored as ARRAY of INT32",
    ("new.list", "[-1, 18446744073709551615]"): "64 bits do not hold.*got -1 to 18446744073709551615",
    ("new.key", "18446744073709551616"): "64 bits do not hold.*got 18446744073709551616",
    ("toy.context_length", "4294967296"): "cannot be stored as UINT32; got 4294967296",
    ("toy.context_length", "1e3"): "is no uint32",
}


@pytest.mark.parametrize(("key", "text"), ROUNDED, ids=[f"{key}={text[:30]}" for key, text in ROUNDED])
def test_a_number_is_stored_as_it_was_given_or_refused(key: str, text: str, path: Path) -> None:
    """Fractions are rounded to what the type holds; whole numbers are not."""

    def done() -> Edited:
        with gguflike.open(path) as file:
            value = value_of(text, key, known_type(key, file))
        return edit(path, values={key: value}, dry_run=True)

    if ROUNDED[key, text]:
        with pytest.raises(ArgumentError, match=ROUNDED[key, text]):
            done()
    else:
        assert done().changes[0].key == key


def test_usage_of_the_command(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, said in (
        ([], "nothing to change"),
        (["--set", "general.name"], "not --set KEY=VALUE"),
        (["--set", "toy.context_length=many"], "toy.context_length: is no uint32"),
        (["--set", "toy.context_length=int32:5"], "add --force"),
        (["--set", "a.b=1", "--set", "a.b=2"], "given twice"),
        (["--unset", "nope"], "no such metadata"),
        (["--unset", "general.name", "--unset", "general.name"], "general.name is given twice"),
        (["--set", "a.b=1", "--overwrite"], "--overwrite is of the copy that --out writes"),
        (["--set", "a.b=uint128:1"], "a.b: is of no type that GGUF has; expected one of uint8, int8"),
    ):
        assert main(["edit", str(path), *arguments]) == 2, arguments
        assert said in capsys.readouterr().err
    (tmp_path / "bad").write_bytes(b"\xff")
    assert main(["edit", str(path), "--set-file", f"a.b={tmp_path / 'bad'}"]) == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert main(["edit", str(path), "--set-file", f"a.b={tmp_path / 'none'}"]) == 1
    monkeypatch.setattr(layout, "MAX_HEADER_BYTES", 1 << 20)
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    assert main(["edit", str(path), "--set-file", f"a.b={tmp_path / 'endless'}"]) == 2
    assert "larger than any header" in capsys.readouterr().err
    for command in (["edit", "--set", "a.b=1"], ["split", str(tmp_path / "parts")], ["merge", str(tmp_path / "whole")]):
        assert main([command[0], "hf://org/name/m.gguf", *command[1:]]) == 1
        assert "files on disk alone; expected a path; download it first" in capsys.readouterr().err
    shutil.copy(path, tmp_path / "other.gguf")
    assert main(["edit", str(path), "--set", "a.b=1", "-o", str(tmp_path / "other.gguf")]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_what_was_done_is_told(path: Path) -> None:
    result = edit(path, values={"general.name": "second"})
    assert isinstance(result, Edited)
    [change] = result.changes
    assert (change.key, change.old, change.new) == (
        "general.name",
        Typed("first", ValueType.STRING),
        Typed("second", ValueType.STRING),
    )
