"""Signatures by gguflike against the package cryptography and by hand, and what verify says of them and of the Hub's
digests."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.container import reheader, system
from gguflike.convert import split
from gguflike.errors import ArgumentError, DigestError, OutputError, RemoteError, UnsupportedError
from gguflike.verify import verify
from tests import hub_server
from tests.bad_vectors import bad
from tests.hub_server import Hub
from tests.shared_blocks import clones

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
signature = pytest.importorskip("gguflike.verify.signature")


def keys(folder: Path, name: str, seed: bytes) -> tuple[Path, Path]:
    """A private key and its public one, as PEM files."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    paths = folder / f"{name}.pem", folder / f"{name}.pub"
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    paths[0].write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    paths[1].write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture
def mine(tmp_path: Path) -> tuple[Path, Path]:
    return keys(tmp_path, "mine", bytes(range(32)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    tensors = [gguflike.quantize(rng.standard_normal((8, 256)), "Q8_0", name=f"blk.{i}.x") for i in range(3)]
    gguflike.write(tmp_path / "m.gguf", {"general.architecture": "llama", "general.name": "signed"}, tensors)
    return tmp_path / "m.gguf"


def fails(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def rules(path: Path, **asked: Any) -> list[str]:
    return [finding.rule for finding in verify(path, **asked).findings]


def test_signed_and_checked(model: Path, mine: tuple[Path, Path], tmp_path: Path) -> None:
    before = {name: tensor.data.tobytes() for name, tensor in gguflike.open(model).tensors.items()}
    assert rules(model, key=mine[1]) == ["M-041"]
    public = signature.sign(model, mine[0])
    assert rules(model) == rules(model, key=mine[1]) == []
    assert {name: tensor.data.tobytes() for name, tensor in gguflike.open(model).tensors.items()} == before
    assert "the signature" in verify(model, key=mine[1]).scope
    other = keys(tmp_path, "other", bytes(32))
    (finding,) = verify(model, key=other[1]).findings
    assert (finding.rule, finding.message, finding.got) == ("M-042", "signed with another key", public)


def test_the_message_is_what_the_spec_says(model: Path, mine: tuple[Path, Path]) -> None:
    """Taken apart by hand: only bytes, hashlib and the package cryptography."""
    signature.sign(model, mine[0])
    data = model.read_bytes()
    with gguflike.open(model) as file:
        header = bytearray(data[: file.data_offset])
        signed, public = file.metadata["gguflike.signature.ed25519"], file.metadata["gguflike.signature.key"]
        own = file.metadata["gguflike.digest.header"]
    assert data.count(signed.encode()) == data.count(own.encode()) == 1
    for text in (signed, own):
        at = header.index(text.encode())
        header[at : at + len(text)] = b"0" * len(text)
    message = b"gguflike signature 1\n" + hashlib.sha256(header).hexdigest().encode()
    ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signed), message)


def test_every_change_of_the_header_breaks_it(model: Path, mine: tuple[Path, Path]) -> None:
    """Also by one who computes the digests again."""
    signature.sign(model, mine[0])
    with gguflike.open(model) as file:
        metadata = {**file.metadata.typed_dict(), "general.name": "forged"}
        tensors = list(file.tensors.values())
        layout = gguflike.container.plan(
            metadata, [gguflike.container.TensorSpec(t.name, t.shape, t.format) for t in tensors], signature=True
        )
    with gguflike.container.Writer(model, layout) as out:
        for tensor in tensors:
            out.write(tensor.name, tensor.data)
    assert rules(model) == []
    assert rules(model, key=mine[1]) == ["M-042"]
    assert "general.name" not in str(verify(model, key=mine[1]).findings[0])
    with pytest.raises(gguflike.GGUFError):
        verify(model, key=mine[1]).check()


def test_a_second_signature_takes_the_place_of_the_first(model: Path, mine: tuple[Path, Path], tmp_path: Path) -> None:
    signature.sign(model, mine[0])
    first, changed = model.read_bytes(), model.stat().st_mtime_ns
    signature.sign(model, mine[0])
    assert (model.read_bytes(), model.stat().st_mtime_ns) == (first, changed)  # what is so already is not written
    other = keys(tmp_path, "other", bytes(32))
    signature.sign(model, other[0])
    assert (rules(model, key=other[1]), rules(model, key=mine[1])) == ([], ["M-042"])
    with gguflike.open(model) as file:
        assert model.read_bytes()[file.data_offset :] == first[file.data_offset :]
    assert len(model.read_bytes()) == len(first)


def test_a_second_signature_is_never_half_there(
    model: Path, mine: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature.sign(model, mine[0])
    first = model.read_bytes()
    other = keys(tmp_path, "other", bytes(32))
    for name in ("write_at", "copy", "sync"):
        with monkeypatch.context() as patched:
            patched.setattr(system, name, fails)
            with pytest.raises(OutputError, match="No space left"):
                signature.sign(model, other[0])
        assert model.read_bytes() == first
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".tmp"] == []


@pytest.fixture
def large(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, of several blocks."""
    tensors = [gguflike.quantize(np.ones((65, 512), np.float32), "Q8_0", name=f"t{n}") for n in range(3)]
    gguflike.write(model, {"general.architecture": "llama", "general.alignment": 64}, tensors)
    monkeypatch.setattr(reheader, "FILLED_BYTES", 1 << 14)
    return model


def test_signatures_share_the_data(large: Path, mine: tuple[Path, Path], tmp_path: Path) -> None:
    """The first as well as the second; the same bytes come out where nothing can be shared."""
    whole, other = large.read_bytes(), keys(tmp_path, "other", bytes(32))
    os.chmod(large, 0o640)  # noqa: PTH101
    results = []
    for shares in (True, False):
        large.write_bytes(whole)
        with pytest.MonkeyPatch.context() as patched:
            asked = clones(patched) if shares else []
            for private, public in (mine, other):
                with gguflike.open(large) as file:
                    size, place = file.file_bytes, file.data_offset
                signature.sign(large, private)
                assert rules(large, key=public) == []
                with gguflike.open(large) as file:
                    assert (file.data_offset - place) % 4096 == 0
                    assert large.read_bytes()[file.data_offset :] == whole[-(file.file_bytes - file.data_offset) :]
                    if shares:
                        count, offset, to = asked.pop()
                        assert (count, to - offset) == (size - offset, file.data_offset - place)
                        assert offset - place < 4096
            assert not asked
        assert stat.S_IMODE(large.stat().st_mode) == 0o640
        results.append(large.read_bytes())
    assert results[0] == results[1]


def test_data_out_of_order_are_laid_out_anew(
    tmp_path: Path, mine: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hole, bytes behind the end, or padding that is not zero: nothing of it is in the signed file."""
    asked, path = clones(monkeypatch), tmp_path / "m.gguf"
    monkeypatch.setattr(reheader, "FILLED_BYTES", 1 << 12)
    values = bad.floats(2001)
    first, second = values + bytes(28), values
    good = bad.build((), [bad.tensor("a", [2001], 0, 0), bad.tensor("b", [2001], 0, 8032)], first + second + bytes(28))
    hole = bad.build((), [bad.tensor("a", [2001], 0, 0), bad.tensor("b", [2001], 0, 8064)],
                     first + bytes(32) + second + bytes(28))  # fmt: skip
    turned = bad.build((), [bad.tensor("a", [2001], 0, 8032), bad.tensor("b", [2001], 0, 0)],
                       first + second + bytes(28))  # fmt: skip
    dirty = good[:-1] + b"x"
    for data, stays in ((good, True), (hole, False), (turned, False), (good + bytes(32), False), (dirty, False)):
        path.write_bytes(data)
        signature.sign(path, mine[0])
        assert rules(path, key=mine[1]) == []
        assert len(asked) == stays
        asked.clear()
        with gguflike.open(path) as file:
            assert all(file.tensors[name].data.tobytes() == values for name in "ab")


def test_a_header_that_others_changed_is_not_signed(model: Path, mine: tuple[Path, Path]) -> None:
    for _ in range(2):  # the first signature, and the second
        whole = model.read_bytes()
        model.write_bytes(whole.replace(b"llama", b"lLama"))
        with pytest.raises(DigestError, match="the header is not the one that was written"):
            signature.sign(model, mine[0])
        model.write_bytes(whole)
        signature.sign(model, mine[0])


def test_a_copy_is_not_signed(model: Path, mine: tuple[Path, Path], tmp_path: Path) -> None:
    signature.sign(model, mine[0])
    copy = tmp_path / "copy.gguf"
    with gguflike.open(model) as file:
        gguflike.write(copy, file.metadata, list(file.tensors.values()))
    assert rules(copy, key=mine[1]) == ["M-041"]  # what is signed is one file


def test_files_of_others_and_split_models(model: Path, mine: tuple[Path, Path], tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.gguf"
    foreign.write_bytes(bad.build((), [bad.ONE], bad.floats(8)))
    signature.sign(foreign, mine[0])
    assert rules(foreign, key=mine[1]) == []
    assert verify(foreign).digests
    (tmp_path / "parts").mkdir()
    done = split(model, tmp_path / "parts" / "part.gguf", split_max_tensors=1)
    signature.sign(done.paths[1], mine[0])
    assert len(done.paths) == 3
    assert rules(Path(done.paths[0]), key=mine[1]) == []


def test_a_damaged_file_is_not_signed(model: Path, mine: tuple[Path, Path]) -> None:
    data = bytearray(model.read_bytes())
    data[-40] ^= 1
    model.write_bytes(data)
    with pytest.raises(DigestError):
        signature.sign(model, mine[0])
    assert model.read_bytes() == data


@pytest.mark.parametrize("text", ["00", "x" * 128])
def test_a_malformed_signature(model: Path, mine: tuple[Path, Path], text: str) -> None:
    with gguflike.open(model) as file:
        tensors = list(file.tensors.values())
        metadata = {"gguflike.signature.ed25519": text, "gguflike.signature.key": "0" * 64}
        specs = [gguflike.container.TensorSpec(t.name, t.shape, t.format) for t in tensors]
    with gguflike.container.Writer(model, gguflike.container.plan(metadata, specs, signature=True)) as out:
        for tensor in tensors:
            out.write(tensor.name, tensor.data)
    assert rules(model, key=mine[1]) == ["M-043"]


def test_what_is_no_key(model: Path, mine: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for wrong in (mine[1], tmp_path / "text"):
        with pytest.raises(ArgumentError, match="not a private key"):
            signature.sign(model, wrong)
    with pytest.raises(ArgumentError, match="not a public key"):
        verify(model, key=mine[0])
    private = serialization.load_pem_private_key(mine[0].read_bytes(), None)
    locked = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (tmp_path / "locked").write_bytes(locked)
    with pytest.raises(ArgumentError, match="a key with a password"):
        signature.sign(model, tmp_path / "locked")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(mine[0].read_bytes()[:60])
    (tmp_path / "both").write_bytes(mine[0].read_bytes().replace(b"\n", b"\r\n"))
    for name, got in (("mine.pub", "a PEM of PUBLIC KEY"), ("cut", "a PEM of PRIVATE KEY"), ("empty", "an empty file")):
        with pytest.raises(ArgumentError) as caught:
            signature.sign(model, tmp_path / name)
        assert caught.value.got == got
    signature.sign(model, tmp_path / "both")
    assert rules(model, key=mine[1]) == []


def test_without_the_package(model: Path, mine: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "cryptography":
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnsupportedError, match=r"pip install 'gguflike\[sign\]'"):
        signature.sign(model, mine[0])


def test_the_command_line(model: Path, mine: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", str(model), "--key", str(mine[0])]) == 0
    assert "with the key that fits 03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8" in (
        capsys.readouterr().out  # of RFC 8032's arithmetic for the bytes 0 to 31
    )
    assert main(["verify", str(model), "--key", str(mine[1]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed"] is True
    assert main(["sign", str(model)]) == 2
    assert main(["sign", str(model), "--key", str(model)]) == 2


def test_verify_without_a_key_needs_no_package(model: Path, mine: tuple[Path, Path]) -> None:
    signature.sign(model, mine[0])
    code = "import sys, gguflike; gguflike.verify(sys.argv[1]).check(); print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Against a repository


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server.in_use(monkeypatch, tmp_path) as running:
        yield running


def test_against_a_repository(hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repo("org/m", {"m.gguf": model.read_bytes(), "README.md": b"text", "sub/other.gguf": b"GGUF"})
    for reference in ("org/m", "hf://org/m", "hf://org/m/m.gguf"):
        assert rules(model, against=reference) == []
    assert main(["verify", str(model), "--against", "hf://org/m"]) == 0
    assert "the digest that hf://org/m has" in capsys.readouterr().out
    renamed = tmp_path / "other-name.gguf"
    renamed.write_bytes(model.read_bytes())
    (finding,) = verify(renamed, against="org/m").findings
    assert (finding.rule, finding.got) == ("M-040", "m.gguf")
    assert rules(renamed, against="hf://org/m/m.gguf") == []
    data = bytearray(model.read_bytes())
    data[-40] ^= 1
    model.write_bytes(data)
    assert rules(model, against="org/m") == ["M-004", "M-040"]
    model.write_bytes(data[:-32])
    assert "M-040" in rules(model, against="org/m") or not verify(model, against="org/m").ok
    for wrong in ("nothing/like/it", "org/m:Q8_0", "https://example.com/m.gguf"):
        with pytest.raises(ArgumentError, match="names no repository"):
            verify(renamed, against=wrong)
    with pytest.raises(RemoteError):
        verify(renamed, against="org/none")


def test_split_models_against_a_repository(hub: Hub, model: Path, tmp_path: Path) -> None:
    done = split(model, tmp_path / "part.gguf", split_max_tensors=2)
    hub.repo("org/m", {Path(path).name: Path(path).read_bytes() for path in done.paths})
    assert rules(Path(done.paths[0]), against="org/m") == []
    hub.repo("org/n", {Path(done.paths[0]).name: Path(done.paths[0]).read_bytes()})
    assert rules(Path(done.paths[0]), against="org/n") == ["M-040"]
