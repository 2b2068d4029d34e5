"""The command line for hands that are used to llama.cpp's programs: their words mean here what they mean there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike import container
from gguflike.cli import main
from gguflike.convert import convert, export, quantize_file
from gguflike.errors import ArgumentError, ArgumentTypeError, OutputError, UnsupportedError, did_you_mean, in_flags
from tests import tiny
from tests.imatrix_files import imatrix_gguf

SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of five layers that differ."""
    return tiny.checkpoint(tmp_path_factory.mktemp("habits") / "tiny", num_hidden_layers=5, **SHAPE)


@pytest.fixture
def f32(folder: Path, tmp_path: Path) -> Path:
    path = folder.parent / "tiny-F32.gguf"
    if not path.exists():
        convert(folder, path, "F32")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def types(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def told(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def test_a_newcomers_first_ten_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand in llama.cpp's README files, with the name of the program changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(folder)
    matrix = {"blk.0.ffn_down.weight": np.ones((1, 256), np.float32)}
    imatrix_gguf(tmp_path / "imatrix.gguf", matrix, {name: np.ones((1, 1)) for name in matrix})
    commands = [
        ("convert models/tiny --outfile models/tiny-f16.gguf --outtype f16", "models/tiny-f16.gguf"),
        ("convert --outtype auto --outfile models/own-{ftype}.gguf models/tiny", "models/own-f16.gguf"),
        ("convert models/tiny/ --outtype q8_0", "models/tiny/tiny-Q8_0.gguf"),
        ("quantize models/tiny-f16.gguf models/tiny-Q4_K_M.gguf Q4_K_M", "models/tiny-Q4_K_M.gguf"),
        ("quantize models/tiny-f16.gguf q5_k_m", "models/tiny-Q5_K_M.gguf"),
        ("quantize --imatrix imatrix.gguf models/tiny-f16.gguf models/i.gguf 12 2", "models/i.gguf"),
        ("quantize --leave-output-tensor --tensor-type attn_v=q8_0 models/tiny-f16.gguf a.gguf Q4_0 2", "a.gguf"),
        ("quantize --allow-requantize --pure models/tiny-Q4_K_M.gguf b.gguf Q4_0", "b.gguf"),
        ("quantize --dry-run models/tiny-f16.gguf Q4_K", None),
        ("run -m models/tiny-f16.gguf -p AB -n 4 -t 2 -c 64 --temp 0", None),
    ]
    for line, target in commands:
        out = told(capsys, *line.split())
        if target is not None:
            assert out.splitlines()[-1] == f"wrote {target}"
            assert gguflike.verify(target).ok
    general = gguflike.open("models/i.gguf").metadata["general.file_type"]
    assert general == 12  # Q3_K_M, by llama-quantize's number
    mixed, pure = types(tmp_path / "a.gguf"), types(tmp_path / "b.gguf")
    names = ("output.weight", "blk.3.attn_v.weight", "blk.3.attn_q.weight")
    assert [mixed[name] for name in names] == ["F16", "Q8_0", "Q4_0"]
    assert set(pure.values()) == {"F32", "Q4_0"}
    (folder / "tiny-Q8_0.gguf").unlink()


# Words that are nearly right


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("convrt x y", "no command 'convrt'; did you mean convert?"),
        ("llama-quantize x y", "did you mean quantize?"),
        ("convert x y --outtypes f16", "did you mean --outtype?"),
        ("convert x y --tensor_type a=q8_0", "did you mean --tensor-type?"),
        ("convert x y --no-lazy", "leave it out: tensors are streamed"),
        ("convert x y --remote", "a Hub id such as org/name"),
        ("convert x --mmproj y", "not converted, its text model is"),
        ("convert x y -t Q4KM", "did you mean Q4_K_M?"),
        ("convert x y -t fp16", "did you mean F16?"),
        ("convert x y -t 8", "-t is the type, such as -t Q8_0; 8 threads are --threads 8"),
        ("quantize x y Q4_0 -t 8", "-t is the type, such as -t Q8_0; 8 threads are --threads 8"),
        ("quantize x y Q4-K-M", "'Q4-K-M' is no type; did you mean Q4_K_M?"),
        ("quantize x Q4-K-M", "the type is required, such as -t Q4_K_M; did you mean Q4_K_M?"),
        ("quantize x y Q4_0 0", "threads: 0 is not 1 or more"),
        ("quantize x y Q4_0 2 3", "unrecognized arguments: 3"),
        ("quantize x y Q4_0 -t Q8_0", "type is given twice: Q8_0 and Q4_0"),
        ("quantize x Q4_0", "OUT is required"),
        ("quantize x y Q4_0 --output-tensor-type q4_k_m", "--output-tensor-type: unknown block type"),
        ("quantize x y Q4_0 --tensor-type attn_v=q80", "did you mean Q8_0?"),
        ("quantize x y Q4_0 --tensor-type attn_v=i32", "no type of weights"),
        ("quantize x y Q4_0 --pure --token-embedding-type f64", "no type of weights"),
        ("quantize x y Q4_0 --tensor-type attn_v", "--tensor-type: not an override"),
        ("quantize x y Q4_0 --tensor-type-file no.txt", "--tensor-type-file: cannot be read: No such file"),
        ("quantize x y Q4_0 --override-kv a.b=long:3", "--override-kv: not a metadata value"),
        ("quantize x y Q4_0 --override-kv a.b=int:x", "--override-kv: not a metadata value"),
        ("quantize x y Q4_0 --override-kv a.b=bool:1", "--override-kv: not a metadata value"),
        ("quantize x y Q4_0 --prune-layers a", "not numbers of layers"),
        ("quantize x y Q4_0 --include-weights a --exclude-weights b", "cannot be given with --include-weights"),
        ("run -p x", "MODEL is required"),
        ("run x -m y -p z", "two prompts: -p and"),
        ("export x", "OUT is required"),
        ("export x y --dtype f61", "invalid choice: 'f61'"),
        ("export x y z", "unrecognized arguments: z"),
    ],
)
def test_words_that_are_nearly_right(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in told(capsys, *line.split(), status=2)


def test_near_words() -> None:
    names = ["Q4_K_M", "Q8_0", "F16"]
    assert [did_you_mean(word, names) for word in ("q4km", "zzz")] == ["did you mean Q4_K_M?", None]
    flags = {"dtype": "--dtype", "overwrite": "--overwrite", "keys": "--key"}
    text = 'say `dtype="f32"`, `overwrite=True`, `keys=["a"]`, `keys` or `with Writer(...)`, not `other`'
    assert in_flags(text, flags) == ("say --dtype f32, --overwrite, --key a, --key or `with Writer(...)`, not `other`")


# What exists, and what does not yet


def test_what_exists_is_replaced_only_where_asked(
    folder: Path, f32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, back = tmp_path / "a" / "b" / "x.gguf", tmp_path / "a" / "back"
    commands = [
        ("convert", folder, target, "-t", "F16"),
        ("quantize", f32, target, "-t", "F16"),
        ("export", f32, back),
    ]
    for command in (commands[0], commands[2]):
        told(capsys, *command)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command in commands:
        said = told(capsys, *command, status=1)
        assert "the target exists; choose another name, or replace it by --overwrite" in said
        assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for command in commands:
        told(capsys, *command, "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.keys() == before.keys()
    for call in (lambda: quantize_file(f32, target, "F16"), lambda: export(f32, back)):
        with pytest.raises(OutputError, match="`overwrite=True`"):
            call()


def test_only_an_export_is_replaced_by_one(f32: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    export(f32, back)
    (back / "old.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"more than an export.*got old.safetensors"):
        export(f32, back, overwrite=True)
    (back / "old.safetensors").unlink()
    (back / "config.json").write_text("old")
    export(f32, back, overwrite=True)
    assert (back / "config.json").stat().st_size > 100
    checkpoint = tiny.checkpoint(tmp_path / "checkpoint")
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(OutputError, match=r"a checkpoint that is no export.*got model.safetensors"):
        export(f32, checkpoint, overwrite=True)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "checkpoint", "tiny-F32.gguf"]


def test_folders_that_were_made_go_where_nothing_was_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguflike.convert import execute

    monkeypatch.setattr(execute, "prepare", lambda *_: 1 / 0)
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError):
        convert(folder, tmp_path / "there" / "a" / "b" / "x.gguf", "F32")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_file_in_place_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="cannot write"):
        convert(folder, tmp_path / "file" / "a" / "x.gguf", "F32")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_without_hard_links_the_file_is_renamed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT, where the default would fail else."""
    import errno
    import os

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    convert(folder, tmp_path / "x.gguf", "F32")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("m-F16.gguf", "m-Q8_0.gguf"),
        ("m.Q4_K_M.gguf", "m-Q8_0.gguf"),
        ("m-bf16-00001-of-00002.gguf", "m-Q8_0.gguf"),
        ("org/m-7b", "m-7b-Q8_0.gguf"),
        ("F16.gguf", "F16-Q8_0.gguf"),
    ],
)
def test_names_of_files_in_a_folder(source: str, name: str, tmp_path: Path) -> None:
    from gguflike.convert.target import place

    assert place(tmp_path, source, "Q8_0") == tmp_path / name
    assert place(f"{tmp_path}/x-{{ftype}}.{{FTYPE}}", source, "Q8_0") == tmp_path / "x-q8_0.Q8_0"


# Types of single tensors


def test_types_of_single_tensors(f32: Path, tmp_path: Path) -> None:
    listed = tmp_path / "types.txt"
    listed.write_text("blk.0.ffn_(up|down)=q8_0 ATTN_K=f16\nffn_down=q2_k\n")

    def chosen(**options: Any) -> dict[str, str]:
        plan = quantize_file(f32, None, "Q4_K_M", dry_run=True, **options)
        return {tensor.name: tensor.format.name for tensor in plan.tensors}

    own = chosen()
    changed = chosen(tensor_types=["attn_v=Q5_1"], tensor_type_file=listed)
    assert {name: kind for name, kind in changed.items() if kind != own[name]} == {
        **{f"blk.{i}.attn_v.weight": "Q5_1" for i in range(5)},
        **{f"blk.{i}.attn_k.weight": "F16" for i in range(5)},
        **{f"blk.0.ffn_{part}.weight": "Q8_0" for part in ("up", "down")},
        **{f"blk.{i}.ffn_down.weight": "Q2_K" for i in range(1, 5)},
    }
    ends = chosen(
        output_tensor_type="q5_0", token_embedding_type="q8_0", tensor_types=["output.weight=q4_0", "embd=q4_0"]
    )
    assert (ends["output.weight"], ends["token_embd.weight"]) == ("Q5_0", "Q8_0")
    pure = chosen(pure=True)
    assert set(pure.values()) == {"F32", "Q4_K"}
    assert chosen(pure=True, tensor_types=["attn_v=q8_0"])["blk.2.attn_v.weight"] == "Q8_0"
    assert chosen(leave_output_tensor=True)["output.weight"] == "F32"


def test_a_tied_embedding_is_the_output(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tied", tie_word_embeddings=True, **SHAPE)

    def embedding(**options: Any) -> str:
        plan = convert(folder, None, "Q4_K_M", dry_run=True, **options)
        return next(t.format.name for t in plan.tensors if t.name == "token_embd.weight")

    assert embedding() == "Q6_K"
    assert embedding(output_tensor_type="q8_0") == "Q8_0"
    assert embedding(output_tensor_type="q8_0", token_embedding_type="q4_0") == "Q4_0"
    assert embedding(output_tensor_type="q8_0", pure=True) == "Q4_K"
    assert embedding(leave_output_tensor=True) == "Q6_K"


def test_a_type_that_does_not_fit_is_substituted(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "x", hidden_size=96, head_dim=16)
    plan = convert(folder, None, "Q4_K_M", dry_run=True, pure=True, token_embedding_type="q2_k")
    assert {t.name: t.format.name for t in plan.substitutions}["token_embd.weight"] == "IQ4_NL"
    assert plan.by_type().keys() == {"Q5_0", "IQ4_NL", "F32"}


def test_the_output_keeps_what_the_checkpoint_has(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "x", dtype="BF16")
    kinds = {
        kind: {t.name: t.format.name for t in plan.tensors}["output.weight"]
        for kind in ("F16", "Q8_0")
        if (plan := convert(folder, None, kind, dry_run=True, leave_output_tensor=True))
    }
    assert kinds == {"F16": "BF16", "Q8_0": "BF16"}


def test_which_importance_is_used(f32: Path, tmp_path: Path) -> None:
    names = ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight", "blk.1.attn_q.weight"]
    ones = {name: np.ones((1, 256), np.float32) for name in names}
    matrix = imatrix_gguf(tmp_path / "i.gguf", ones, {name: np.ones((1, 1)) for name in names})

    def used(**options: Any) -> list[str]:
        plan = quantize_file(f32, None, "Q4_0", dry_run=True, imatrix=matrix, **options)
        return [tensor.name for tensor in plan.tensors if tensor.importance is not None]

    assert sorted(used()) == sorted(names)
    assert used(include_weights=["ffn_down", "nothing"]) == names[:2]
    assert used(exclude_weights=["ffn_down"]) == names[2:]
    assert used(include_weights=["nothing"]) == []
    for field in ("include_weights", "exclude_weights"):
        with pytest.raises(ArgumentError, match=f"{field}: there is no importance matrix"):
            quantize_file(f32, None, "Q4_0", dry_run=True, **{field: ["ffn_down"]})  # type: ignore[arg-type]


# Changes to the model


def test_layers_are_left_out(folder: Path, f32: Path, tmp_path: Path) -> None:
    whole = tiny.gguf_tensors(f32)
    names = ["blk.0.ffn_down.weight", "blk.2.ffn_down.weight", "blk.3.ffn_down.weight"]
    ones = {name: np.full((1, 256), i + 1, np.float32) for i, name in enumerate(names)}
    matrix = imatrix_gguf(tmp_path / "i.gguf", ones, {name: np.ones((1, 1)) for name in names})
    from_checkpoint = convert(folder, tmp_path / "c.gguf", "F32", prune_layers=[3, 1], imatrix=matrix)
    quantize_file(f32, tmp_path / "q.gguf", "F32", prune_layers=[1, 3, 3])
    assert [t.name for t in from_checkpoint.tensors if "ffn_down" in t.name] == [
        *("blk.0.ffn_down.weight", "blk.1.ffn_down.weight", "blk.2.ffn_down.weight")
    ]
    planned = quantize_file(f32, None, "Q4_0", dry_run=True, prune_layers=[1, 3], imatrix=matrix)
    importance = {t.name: t.importance for t in planned.tensors if t.importance is not None}
    assert {name: float(each[0, 0]) for name, each in importance.items()} == {
        "blk.0.ffn_down.weight": 1.0,
        "blk.1.ffn_down.weight": 2.0,
    }
    for path in (tmp_path / "c.gguf", tmp_path / "q.gguf"):
        pruned = tiny.gguf_tensors(path)
        kept = {0: 0, 1: 2, 2: 4}
        for name, tensor in pruned.items():
            layer = name.split(".")[1] if name.startswith("blk.") else None
            old = name if layer is None else name.replace(f"blk.{layer}.", f"blk.{kept[int(layer)]}.")
            assert tensor.data.tobytes() == whole[old].data.tobytes()
        assert len(pruned) == len(whole) - 2 * sum(name.startswith("blk.0.") for name in whole)
        with gguflike.open(path) as file:
            assert file.metadata["llama.block_count"] == 3
    with gguflike.load(tmp_path / "q.gguf") as model:
        assert np.isfinite(model.logits([1, 2])).all()
    for layers in ([5], [0, 1, 2, 3, 4]):
        with pytest.raises(ArgumentError, match="prune_layers: no such layer, or no layer left; expected some of 0 to"):
            quantize_file(f32, None, "F32", dry_run=True, prune_layers=layers)


def test_lists_of_one_value_for_each_layer_lose_the_same(tmp_path: Path) -> None:
    tensors = [gguflike.quantize(np.ones((2, 32)), "F32", name=f"blk.{i}.attn_q.weight") for i in range(4)]
    metadata = {
        **{"general.architecture": "new", "new.block_count": 4, "new.attention.head_count_kv": [1, 2, 3, 4]},
        **{"new.leading_dense_block_count": 3, "new.other": [1, 2, 3], "new.full_attention_interval": 2},
    }
    gguflike.write(tmp_path / "a.gguf", metadata, tensors)
    plan = quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "COPY", prune_layers=[1])
    said = "new.full_attention_interval counts layers and stays 2: the layers left may be of other kinds"
    assert plan.notices == (said,)
    with gguflike.open(tmp_path / "b.gguf") as file:
        assert list(file.metadata["new.attention.head_count_kv"]) == [1, 3, 4]
        assert file.metadata["new.leading_dense_block_count"] == 2
        assert list(file.metadata["new.other"]) == [1, 2, 3]


def test_keys_set_by_hand(f32: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        *("--override-kv", "tokenizer.ggml.eos_token_id=int:3", "--override-kv", "my.text=str:a=b:c"),
        *("--override-kv", "llama.rope.freq_base=float:5e5", "--override-kv", "my.flag=bool:false"),
        *("--override-kv", "my.small=int:-7"),
    ]
    told(capsys, "quantize", f32, tmp_path / "a.gguf", "COPY", *flags)
    told(capsys, "convert", folder, tmp_path / "b.gguf", "-t", "F32", *flags)
    for path in (tmp_path / "a.gguf", tmp_path / "b.gguf"):
        with gguflike.open(path) as file:
            got = {key: file.metadata[key] for key in file.metadata if key.startswith(("my.", "llama.rope.freq"))}
            assert got == {"my.text": "a=b:c", "my.flag": False, "my.small": -7, "llama.rope.freq_base": 5e5}
            assert file.metadata["tokenizer.ggml.eos_token_id"] == 3
            assert file.metadata.type_of("tokenizer.ggml.eos_token_id").name == "UINT32"
    plan = quantize_file(f32, None, "Q8_0", dry_run=True, override_kv={"general.name": "x", "my.list": [1, 2]})
    assert (plan.metadata["general.name"], plan.metadata["my.list"]) == ("x", [1, 2])
    assert plan.metadata["gguflike.recipe.options"] == ["override-kv=general.name", "override-kv=my.list"]
    with pytest.raises(ArgumentError, match="override_kv: out of range; expected 0 to 4294967295"):
        quantize_file(f32, None, "F32", dry_run=True, override_kv=["llama.block_count=int:-1"])


def test_notices_are_errors_where_strict(f32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize_file(f32, tmp_path / "q8.gguf", "Q8_0", strict=True)
    said = told(capsys, "quantize", tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0", "--strict", status=1)
    assert "1 notice, each an error by --strict; got encoded anew" in said
    assert not (tmp_path / "q4.gguf").exists()
    told(capsys, "quantize", tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0", "--strict", "--allow-requantize")
    with pytest.raises(UnsupportedError, match="IQ2_XS loses much without an importance matrix"):
        quantize_file(f32, None, "IQ2_XS", dry_run=True, strict=True)
    ragged = tiny.checkpoint(tmp_path / "ragged", hidden_size=96, head_dim=16)
    with pytest.raises(UnsupportedError, match="substituted"):
        convert(ragged, None, "Q4_K_M", dry_run=True, strict=True)


def test_a_copy_has_every_byte(f32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize_file(f32, tmp_path / "q4.gguf", "Q4_K_M")
    document = json.loads(told(capsys, "quantize", tmp_path / "q4.gguf", tmp_path / "copy.gguf", "copy", "--json"))
    assert (document["type"], document["notices"]) == ("COPY", [])
    a, b = (gguflike.open(tmp_path / name) for name in ("q4.gguf", "copy.gguf"))
    assert {key: str(a.metadata[key]) for key in a.metadata} == {key: str(b.metadata[key]) for key in b.metadata}
    assert (tmp_path / "q4.gguf").read_bytes() == (tmp_path / "copy.gguf").read_bytes()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"output_tensor_type": "Q9"}, ArgumentError),
        ({"token_embedding_type": 8}, ArgumentTypeError),
        ({"tensor_type_file": "/no/such/file"}, ArgumentError),
        ({"include_weights": "ffn"}, ArgumentTypeError),
        ({"include_weights": [1]}, ArgumentTypeError),
        ({"include_weights": ["a"], "exclude_weights": ["b"]}, ArgumentError),
        ({"prune_layers": "1,2"}, ArgumentTypeError),
        ({"prune_layers": [-1]}, ArgumentError),
        ({"prune_layers": [1.0]}, ArgumentTypeError),
        ({"override_kv": "a=int:1"}, ArgumentTypeError),
        ({"override_kv": ["a"]}, ArgumentError),
        ({"tensor_type": ["a=q8_0"]}, TypeError),
    ],
)
def test_arguments_that_are_not_valid(options: dict[str, Any], kind: type[Exception], f32: Path) -> None:
    with pytest.raises(kind):
        quantize_file(f32, None, "F32", dry_run=True, **options)


def test_the_same_shards(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = convert(folder, tmp_path / "f.gguf", "F32", split_max_tensors=10)
    first = plan.paths[0]
    out = told(capsys, "quantize", first, tmp_path / "q.gguf", "q8_0", "--keep-split")
    assert out.splitlines()[-1].endswith(f"q-00001-of-{len(plan.paths):05}.gguf and {len(plan.paths) - 1} more")
    for number, path in enumerate(plan.paths):
        with container.open(path, shards=False) as a:
            other = path.replace("/f-", "/q-")
            with container.open(other, shards=False) as b:
                assert list(a.infos) == list(b.infos), number
    without = quantize_file(first, None, "Q8_0", dry_run=True, keep_split=True, prune_layers=[0])
    assert sum(len(file.tensors) for file in without.files) == len(without.tensors) < len(plan.tensors)
    with pytest.raises(ArgumentError, match="keep_split"):
        quantize_file(first, None, "Q8_0", dry_run=True, keep_split=True, split_max_tensors=3)
