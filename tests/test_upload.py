"""GGUF files into a repository, through the real client of huggingface_hub, and the page that says what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import gguflike
from gguflike import model_card
from gguflike.cli import main
from gguflike.errors import ArgumentError, GGUFError, OutputError, RemoteError
from gguflike.upload import upload
from tests import hub_server, tiny
from tests.hub_server import Hub

# How huggingface_hub sends files is what its client of HTTP calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with hub_server.in_use(monkeypatch, tmp_path) as running:
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        yield running


def model(path: Path, **metadata: object) -> Path:
    """A file as a conversion writes it."""
    said = {
        "general.architecture": "llama",
        "general.name": "Tiny | *Model*",
        "general.license": "apache-2.0",
        "general.languages": ["en", "de"],
        "general.tags": ["text-generation"],
        "general.source.repo_url": "https://huggingface.co/org/Tiny",
        "general.dataset.count": 1,
        "general.dataset.0.repo_url": "https://huggingface.co/datasets/org/data",
        "general.file_type": 7,
        "gguflike.version": "0.1.0",
        "gguflike.recipe": "Q8_0",
        "gguflike.source": "org/Tiny",
        "gguflike.source.revision": COMMIT,
        "gguflike.imatrix": "wiki.imatrix",
        **metadata,
    }
    gguflike.write(path, said, [gguflike.quantize(np.ones((4, 64), "f4"), "Q8_0", name="token_embd.weight")])
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def front_matter(page: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(page.split("---\n")[1])
    return found


def test_files_and_a_page_are_added_to_a_new_repository(hub: Hub, tmp_path: Path) -> None:
    paths = [model(tmp_path / "Tiny-Q8_0.gguf"), model(tmp_path / "Tiny-F16.gguf", **{"gguflike.recipe": "F16"})]
    planned = upload(paths, "me/Tiny-GGUF", private=True, dry_run=True)
    assert "me/Tiny-GGUF" not in hub.repos
    done = upload(paths, "me/Tiny-GGUF", private=True)
    assert planned.page == done.page
    sha, files = hub.repos["me/Tiny-GGUF"].files("main") or ("", {})
    assert done.url == f"{hub.url}/me/Tiny-GGUF/commit/{sha}"
    assert {name: files[name] for name in ("Tiny-Q8_0.gguf", "Tiny-F16.gguf")} == {
        p.name: p.read_bytes() for p in paths
    }
    assert files["README.md"].decode() == done.page
    assert hub.commits[0] == {"created": "me/Tiny-GGUF", "private": True}
    assert hub.commits[1]["summary"].startswith("Add Tiny-Q8_0.gguf and 1 more")
    again = upload(paths, "me/Tiny-GGUF")
    assert (again.url, again.unchanged, again.page) == (None, ("Tiny-Q8_0.gguf", "Tiny-F16.gguf"), None)
    assert len(hub.commits) == 2


def test_the_page_says_what_the_files_say(tmp_path: Path, hub: Hub) -> None:
    path = model(tmp_path / "Tiny-Q8_0.gguf")
    page = upload(path, "me/Tiny-GGUF", dry_run=True).page
    assert page is not None
    assert front_matter(page) == {
        "base_model": ["org/Tiny"],
        "base_model_relation": "quantized",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "datasets": ["org/data"],
        "library_name": "gguf",
        "tags": ["gguf", "imatrix", "text-generation"],
    }
    for words in (
        r"# Tiny \| \*Model\*, GGUF",
        "[org/Tiny](https://huggingface.co/org/Tiny)",
        f"| `Tiny-Q8_0.gguf` | `Q8_0` | 256 | 8.50 | {path.stat().st_size:,} bytes | `{digest(path)}` |",
        f"recipe Q8\\_0, source org/Tiny, at commit `{COMMIT}`, importance matrix wiki.imatrix, gguflike 0.1.0",
        "llama-cli -hf me/Tiny-GGUF:Q8_0",
        "gguflike chat me/Tiny-GGUF:Q8_0",
    ):
        assert words in page, words


@pytest.mark.parametrize(
    ("metadata", "matter"),
    [
        ({"general.license": "My Licence v1", "general.license.link": "https://x/y"},
         {"license": "other", "license_name": "My Licence v1", "license_link": "https://x/y"}),
        ({"general.source.repo_url": "https://elsewhere/x", "general.base_model.count": 1,
          "general.base_model.0.repo_url": "https://huggingface.co/a/b"}, {"base_model": ["a/b"]}),
        ({"general.name": "---\nlicense: mit\n---\n<script>"}, {"license": "apache-2.0"}),
        ({"general.tags": ["x: y", "- z"]}, {"tags": ["gguf", "imatrix", "x: y", "- z"]}),
    ],
)  # fmt: skip
def test_front_matter(hub: Hub, tmp_path: Path, metadata: dict[str, object], matter: dict[str, object]) -> None:
    page = upload(model(tmp_path / "x.gguf", **metadata), "me/x", dry_run=True).page
    assert page is not None
    assert matter.items() <= front_matter(page).items()
    assert "<script>" not in page.replace("\\<script\\>", "")
    assert "gguflike chat hf://me/x/x.gguf" in page


def test_of_other_files_the_page_says_less() -> None:
    entry = model_card.Entry("x.gguf", 10, "0" * 64, None, 5, None, {})
    page = model_card.page("me/x", [entry])
    assert front_matter(page) == {"library_name": "gguf", "tags": ["gguf"]}
    assert page.startswith("---\n")
    assert "# x, GGUF" in page
    assert "How they were made" not in page


def test_an_adapter_is_applied_not_run(hub: Hub, tmp_path: Path) -> None:
    page = upload(model(tmp_path / "x.gguf", **{"general.type": "adapter"}), "me/x", dry_run=True).page
    assert page is not None
    assert front_matter(page)["base_model_relation"] == "adapter"
    assert "llama-cli -m MODEL.gguf --lora x.gguf" in page
    assert "gguflike chat" not in page


def test_shards_go_together(hub: Hub, tmp_path: Path) -> None:
    gguflike.convert(tiny.checkpoint(tmp_path / "folder"), tmp_path / "x.gguf", "F16", split_max_tensors=9)
    shards = sorted(tmp_path.glob("x-*-of-*.gguf"))
    assert len(shards) > 1
    plan = upload(shards[0], "me/x")
    assert [entry.name for entry in plan.entries] == [path.name for path in shards]
    assert {path.name for path in shards} <= set((hub.repos["me/x"].files("main") or ("", {}))[1])


def test_nothing_there_is_replaced_unasked(hub: Hub, tmp_path: Path) -> None:
    path = model(tmp_path / "x.gguf")
    hub.repo("me/x", {"README.md": b"mine", "x.gguf": b"other"})
    with pytest.raises(OutputError, match=r"me/x/x.gguf: the repository has another file of that name; .*--overwrite"):
        upload(path, "me/x")
    hub.repo("me/x", {"README.md": b"mine"})
    assert upload(path, "me/x").page is None
    assert (hub.repos["me/x"].files("main") or ("", {}))[1]["README.md"] == b"mine"
    assert upload(path, "me/x", overwrite=True).page is not None
    assert (hub.repos["me/x"].files("main") or ("", {}))[1]["README.md"] != b"mine"


def test_a_branch_is_made(hub: Hub, tmp_path: Path) -> None:
    hub.repo("me/x", {"README.md": b"mine"})
    upload(model(tmp_path / "x.gguf"), "me/x@dev")
    assert "x.gguf" in (hub.repos["me/x"].files("dev") or ("", {}))[1]
    assert "x.gguf" not in (hub.repos["me/x"].files("main") or ("", {}))[1]


def test_what_cannot_be_uploaded(hub: Hub, tmp_path: Path) -> None:
    path = model(tmp_path / "x.gguf")
    for repo in ("name", "org/name:Q8_0", "hf://org/name/x.gguf", str(path)):
        with pytest.raises(ArgumentError, match="not the name of a repository"):
            upload(path, repo)
    (tmp_path / "other").mkdir()
    with pytest.raises(ArgumentError, match="two files of one name"):
        upload([path, model(tmp_path / "other" / "x.gguf")], "me/x")
    with pytest.raises(ArgumentError, match="no files"):
        upload([], "me/x")
    (tmp_path / "x.txt").write_text("<html>")
    with pytest.raises(GGUFError, match="web page"):
        upload(tmp_path / "x.txt", "me/x")
    hub.fault("/upload/", hub_server.status(400), method="PUT")
    with pytest.raises(RemoteError, match=r"me/y: the server refuses; got Bad request"):
        upload(path, "me/y")
    hub.fault("/api/repos/create", hub_server.status(403), method="POST")
    with pytest.raises(RemoteError, match=r"access is forbidden; .*use a token with the right to do this"):
        upload(path, "me/x")


def test_the_command(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(model(tmp_path / "Tiny-Q8_0.gguf"))
    assert main(["upload", path, "me/x", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("me/x (a new public repository)\n  Tiny-Q8_0.gguf")
    assert "base_model:" in out
    assert main(["upload", path, "me/x", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"][0]["added"]
    assert document["url"].startswith(hub.url)
    assert main(["upload", path, "me/x"]) == 0
    assert capsys.readouterr().out.endswith("README.md  stays as it is\nnothing to add\n")
    assert main(["upload", path, "nonsense"]) == 2
    assert main(["inspect", "me/x"]) == 0  # and there it is
