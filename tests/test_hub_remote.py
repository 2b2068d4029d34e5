"""Files read by ranges, through the real client of huggingface_hub, from a server that makes mistakes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from gguflike.checkpoint.elsewhere import Extent
from gguflike.checkpoint.hub import ahead, client, downloads, reference, remote, retry
from gguflike.errors import RemoteError, UnsupportedError
from tests import hub_server
from tests.hub_server import Hub

BODY = np.random.default_rng(5).bytes(300_001)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(remote, "PART", 1 << 16)
    with hub_server.in_use(monkeypatch, tmp_path) as running:
        yield running


def large(hub: Hub, body: bytes = BODY, token: str | None = None) -> remote.RemoteFile:
    """A file that the Hub sends on to its storage."""
    hub.repo("org/name", {"model.safetensors": body}, token=token)
    found = client.list_repository("org/name")
    return remote.opened(remote.place(found, "model.safetensors"))


def test_a_large_file_is_read_in_parts_by_several_requests(hub: Hub) -> None:
    file = large(hub)
    assert file.size == len(BODY)
    assert file.read(0, len(BODY)) == BODY
    assert file.read(1000, 5) == BODY[1000:1005]
    assert file.read(len(BODY) - 3, 10) == BODY[-3:]
    ranges = hub.asked("/storage/")
    assert sorted(ranges[:5]) == sorted(f"bytes={i << 16}-{min((i + 1) << 16, len(BODY)) - 1}" for i in range(5))
    assert len(hub.asked("/resolve/")) <= 5  # the link is kept


def test_the_token_is_sent_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert large(hub, token="hf_secret").read(0, 9) == BODY[:9]
    sent = {path.split("/")[1]: authorization for _, path, _, authorization in hub.log}
    assert sent == {"api": "Bearer hf_secret", "org": "Bearer hf_secret", "storage": None}


@pytest.mark.parametrize("count", [0, 1, 40_000])
def test_a_cut_connection_continues_at_the_byte_it_reached(hub: Hub, count: int) -> None:
    file = large(hub)
    hub.fault("/storage/", hub_server.cut(count), times=3)
    assert file.read(0, 60_000) == BODY[:60_000]
    if count:
        starts = [int(each.split("=")[1].split("-")[0]) for each in hub.asked("/storage/") if each]
        assert starts[0] == 0
        assert all(0 < start <= 60_000 for start in starts[1:])


def test_busy_servers_are_asked_again_after_as_long_as_they_say(hub: Hub) -> None:
    file = large(hub)
    hub.fault("/storage/", hub_server.status(503))
    hub.fault("/storage/", hub_server.status(429, Retry_After="7"))
    hub.fault("/resolve/", hub_server.status(500))
    assert file.read(0, 100) == BODY[:100]
    assert sorted(hub.waits) == [0.5, 1.0, 7.0]
    hub.fault("/storage/", hub_server.status(503, Retry_After="4000"))
    with pytest.raises(
        RemoteError, match="the server has a fault; got HTTP status 503, the server asks to wait for 4000 s"
    ):
        file.read(0, 100)
    hub.fault("/storage/", hub_server.status(429), times=100)
    with pytest.raises(
        RemoteError, match="too many requests; got HTTP status 429, 7 times in a row; wait a while, or set"
    ):
        file.read(0, 100)


def test_retry_after_may_be_a_date() -> None:
    assert retry.retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry.retry_after({"retry-after": "12"}) == 12.0
    assert retry.retry_after({"retry-after": "soon"}) is None
    assert retry.retry_after({}) is None


def test_a_link_that_has_expired_is_renewed(hub: Hub) -> None:
    file = large(hub)
    file.read(0, 10)
    hub.links += 1
    assert file.read(10, 10) == BODY[10:20]
    assert len(hub.asked("/resolve/")) == 2
    hub.links += 2
    hub.fault("/storage/", hub_server.status(403), times=9)
    with pytest.raises(RemoteError, match="access is forbidden; got HTTP status 403"):
        file.read(10, 10)


def test_a_server_that_stalls_is_left_and_asked_for_the_rest(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    file = large(hub)
    hub.fault("/storage/", hub_server.stall(1))
    assert file.read(0, 1000) == BODY[:1000]
    assert hub.asked("/storage/") == ["bytes=0-999", "bytes=500-999"]


def test_a_connection_that_always_fails_is_given_up(hub: Hub) -> None:
    file = large(hub)
    hub.fault("/storage/", hub_server.cut(0), times=99)
    with pytest.raises(RemoteError, match=r"the connection fails; got 0 of 100 bytes \(.*\), 7 times in a row"):
        file.read(0, 100)
    assert hub.waits == list(retry.WAITS)


def test_what_is_not_the_file_that_the_list_has_is_refused(hub: Hub) -> None:
    file = large(hub)
    hub.fault("/storage/", hub_server.longer)
    with pytest.raises(
        RemoteError, match=rf"bytes: the file is not what it was.*expected {len(BODY)}; got {len(BODY)}7"
    ):
        file.read(0, 100)
    hub.fault("/storage/", hub_server.shifted)
    with pytest.raises(RemoteError, match="the server sends another part than it was asked for"):
        file.read(0, 100)
    hub.etags["model.safetensors"] = "0" * 64
    file._location = None
    with pytest.raises(
        RemoteError, match=rf"ETag: the file is not what it was.*expected {hashlib.sha256(BODY).hexdigest()}"
    ):
        file.read(0, 100)


def test_a_server_that_ignores_ranges(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large(hub)
    hub.fault("/storage/", hub_server.whole, times=9)
    assert file.read(0, 100) == BODY[:100]
    assert file.read(200_000, 100) == BODY[200_000:200_100]
    monkeypatch.setattr(remote, "SKIPPED", 1000)
    with pytest.raises(RemoteError, match=r"the server sends files whole.*--cache"):
        file.read(200_000, 100)


def test_a_plain_file_must_stay_what_it_was(hub: Hub) -> None:
    hub.files["/x.gguf"] = BODY
    file = remote.RemoteFile("x", f"{hub.storage_url}/x.gguf")
    assert file.size == len(BODY)
    assert file.read(0, 100) == BODY[:100]
    hub.files["/x.gguf"] = BODY[::-1]
    with pytest.raises(RemoteError, match="ETag: the file is not what it was"):
        file.read(0, 100)
    hub.files["/empty"] = b""
    assert remote.RemoteFile("e", f"{hub.storage_url}/empty").size == 0
    with pytest.raises(RemoteError, match="there is no such file; got HTTP status 404"):
        _ = remote.RemoteFile("n", f"{hub.storage_url}/nothing").size


def test_redirects_without_end(hub: Hub) -> None:
    for here, there in (("a", "b"), ("b", "a")):
        hub.fault(f"/{here}$", hub_server.status(302, Location=f"{hub.url}/{there}"), times=99)
    with pytest.raises(RemoteError, match="redirects without end"):
        _ = remote.RemoteFile("x", f"{hub.url}/a").size


def test_places_that_a_server_must_not_name(hub: Hub) -> None:
    for target in ("file:///etc/passwd", "ftp://x/y", ""):
        hub.fault("/a$", hub_server.status(302, Location=target))
        with pytest.raises(RemoteError, match="redirects to what is no address"):
            _ = remote.RemoteFile("x", f"{hub.url}/a").size
    hub.repo("org/name", {"../up.json": b"1", "a/../../up.json": b"1", "/etc/up.json": b"1", "config.json": b"{}"})
    assert list(client.list_repository("org/name").files) == ["config.json"]


def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    with pytest.raises(RemoteError, match="offline mode is enabled"):
        file.read(0, 10)
    with pytest.raises(RemoteError, match="org/name: not in the cache, and offline mode is on; unset HF_HUB_OFFLINE"):
        client.list_repository("org/name")
    assert hub.log == []


# Reading ahead


def test_what_is_read_ahead_is_what_is_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WINDOW", 4 << 16)
    file = large(hub)
    file.read(0, 1)
    hub.log.clear()
    spans = [Extent(file.name, file.size, start, 50_000) for start in (250_000, 0, 100_000)]
    with ahead.reading(spans):
        for start in (250_000, 0, 100_000):
            for at in range(start, start + 50_000, 12_500):
                data = bytearray(12_500)
                ahead.read_into(file.name, file.size, at, memoryview(data))
                assert data == BODY[at : at + 12_500]
    assert hub.asked("/storage/") != []
    assert set(hub.asked("/storage/")) == {f"bytes={s}-{s + 49_999}" for s in (250_000, 0, 100_000)}


def test_reading_ahead_stays_in_its_window_and_gives_way(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody comes for makes room in the end, and what was not fetched is read by itself."""
    monkeypatch.setattr(ahead, "WINDOW", 2 << 16)
    file = large(hub)
    with ahead.reading([Extent(file.name, file.size, 0, len(BODY))]) as reader:
        for at in (280_000, 270_000, 260_000, 299_000, 200_000, 210_000, 220_000, 230_000, 240_000, 250_000):
            data = bytearray(1000)
            ahead.read_into(file.name, file.size, at, memoryview(data))
            assert data == BODY[at : at + 1000]
            assert reader._bytes <= 3 << 16


def test_what_nobody_wants_any_more_is_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an error beside it nor an interrupt waits for a server that says: in five minutes."""
    monkeypatch.setattr(retry, "wait", lambda seconds, stop: stop.wait(seconds))
    file = large(hub)
    file.read(0, 1)
    hub.fault("/storage/", hub_server.longer)
    hub.fault("/storage/", hub_server.status(429, Retry_After="300"), times=99)
    started = time.monotonic()
    with pytest.raises(RemoteError, match="not what it was"):
        file.read(0, len(BODY))
    with pytest.raises(KeyboardInterrupt), ahead.reading([Extent(file.name, file.size, 0, len(BODY))]):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 30


def test_reading_ahead_raises_what_a_request_met(hub: Hub) -> None:
    file = large(hub)
    hub.fault("/storage/", hub_server.status(404), times=99)
    data = memoryview(bytearray(10))
    with ahead.reading([Extent(file.name, file.size, 0, 100)]), pytest.raises(RemoteError, match="no such file"):
        ahead.read_into(file.name, file.size, 0, data)


# Repositories that refuse


@pytest.mark.parametrize("token", [None, "hf_x"])
def test_repositories_that_refuse_say_what_to_do(hub: Hub, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.repo("org/private", {}, token="other")
    for name in ("org/private", "org/none"):
        advice = "the token of an account that may read it" if token else "set HF_TOKEN or run `hf auth login`"
        with pytest.raises(RemoteError, match=rf"{name}: there is no such repository, or it is private; .*{advice}"):
            client.list_repository(name)
    hub.repo("org/gated", {"config.json": b"{}"}, gated=True)
    found = client.list_repository("org/gated")
    advice = "with the account of the token in use" if token else "then set HF_TOKEN"
    with pytest.raises(
        RemoteError, match=rf"org/gated: the repository is gated.*accept its conditions on {hub.url}.*{advice}"
    ):
        client.fetch(found, "config.json")
    hub.repo("org/open", {"config.json": b"{}"})
    with pytest.raises(RemoteError, match="org/open, revision: the repository has no such revision; got 'v9'"):
        client.list_repository("org/open", "v9")
    with pytest.raises(RemoteError, match=r"org/open/x.json: the repository has no such file"):
        client.fetch(client.list_repository("org/open"), "x.json")


def test_a_hub_that_is_busy_or_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/name", {})
    hub.fault("/api/models", hub_server.status(429, Retry_After="3"))
    hub.fault("/api/models", hub_server.status(503))
    assert client.list_repository("org/name").files == {}
    assert hub.waits == [3.0, 1.0]
    hub.fault("/api/models", hub_server.status(401))
    with pytest.raises(RemoteError, match=r"does not accept who asks; got .*; set HF_TOKEN"):
        client.list_repository("org/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"the Hub cannot be reached; got .*, 3 times in a row; check the network"):
        client.list_repository("org/name")


def test_what_is_downloaded_is_compared_with_the_hubs_digests(hub: Hub) -> None:
    files = {"model.gguf": BODY, "config.json": b'{"a": 1}'}
    hub.repo("org/name", files)
    found = client.list_repository("org/name")
    assert [client.fetch(found, name).read_bytes() for name in files] == list(files.values())
    wrong = found._replace(
        id="org/name", files={name: file._replace(sha256="0" * 64, blob=None) for name, file in found.files.items()}
    )
    for name in files:
        path = client.fetch(found, name)
        path.resolve().unlink()
        path.unlink()
        with pytest.raises(
            RemoteError, match=rf"org/name/{name}: what was downloaded is not what the Hub has.*{'0' * 64}"
        ):
            client.fetch(wrong, name)
        assert client.cached(found, name) is None


# Files behind other URLs


def test_a_file_behind_a_url_is_kept_and_continued(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GGUFLIKE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PIECE", 50_000)
    hub.files["/dir/m.gguf"] = BODY
    url = f"{hub.storage_url}/dir/m.gguf?x=1"
    hub.fault("m.gguf", hub_server.status(404), after=4)
    with pytest.raises(RemoteError, match="no such file"):
        downloads.fetch(url)
    folder = downloads.folder(url)
    assert [path.name for path in folder.glob("*.part")] == ["m.gguf.part"]
    assert not (folder / "m.gguf").exists()
    hub.log.clear()
    told: list[tuple[int, int, str]] = []
    path = downloads.fetch(url, lambda *progress: told.append(progress))
    assert path == folder / "m.gguf"
    assert path.read_bytes() == BODY
    assert told[0] == (150_000, len(BODY), "fetching m.gguf")  # what was there is not asked for again
    assert told[-1] == (len(BODY), len(BODY), "fetching m.gguf")
    hub.log.clear()
    assert downloads.fetch(url) == path
    assert hub.asked("m.gguf") == ["bytes=0-0"]
    hub.files["/dir/m.gguf"] = BODY[:1000]
    assert downloads.fetch(url).read_bytes() == BODY[:1000]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert downloads.fetch(url) == path
    with pytest.raises(RemoteError, match="not in the cache, and offline mode is on"):
        downloads.fetch(f"{hub.storage_url}/other.gguf")


# What names stand for


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("org/name", ("org/name", None, None, None)),
        ("org/name:q4_k_m", ("org/name", None, None, "q4_k_m")),
        ("org/name@v1.0:Q8_0", ("org/name", "v1.0", None, "Q8_0")),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3", None, None)),
        ("hf://org/name", ("org/name", None, None, None)),
        ("hf://org/name/a/b.gguf", ("org/name", None, "a/b.gguf", None)),
        ("hf://org/name@refs/pr/3/b.gguf", ("org/name", "refs/pr/3", "b.gguf", None)),
        ("hf://org/name@feature%2Fx/b.gguf", ("org/name", "feature/x", "b.gguf", None)),
        ("https://huggingface.co/org/name", ("org/name", None, None, None)),
        ("https://huggingface.co/org/name/tree/v2", ("org/name", "v2", None, None)),
        (
            "https://huggingface.co/org/name/resolve/main/x%20y.gguf?download=true",
            ("org/name", "main", "x y.gguf", None),
        ),
        ("https://hf.co/org/name/blob/main/d/x.gguf", ("org/name", "main", "d/x.gguf", None)),
        ("hf.co/org/name", ("org/name", None, None, None)),
    ],
)
def test_names_of_the_hub(name: str, stands_for: tuple[str, str | None, str | None, str | None]) -> None:
    found = reference.parse(name)
    assert found is not None
    assert (found.repo, found.revision, found.file, found.type) == stands_for
    assert reference.parse(str(found)) == found


def test_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("model.gguf", "./org/name", "/org/name", "org/name.gguf", "a/b/c", "~/x/y", "..", "a//b", "C:\\x", ""):
        assert reference.parse(path) is None, path
    found = reference.parse("https://example.org/x.gguf")
    assert found is not None
    assert (found.repo, found.url) == ("", "https://example.org/x.gguf")
    for name in (
        "ftp://x/y",
        "hf://name",
        "hf://datasets/org/name",
        "https://huggingface.co/datasets/org/n",
        "https://x",
        "https://[::1/x.gguf",
        "https://host:99999999/x.gguf",
        "https://host:port/x.gguf",
    ):
        with pytest.raises(UnsupportedError, match="names no model that can be fetched"):
            reference.parse(name)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub/")
    found = reference.parse("https://mirror.example/hub/org/name/resolve/main/x.gguf")
    assert found is not None
    assert (found.repo, found.file) == ("org/name", "x.gguf")
