"""What a name that is no local path stands for: a repository of the Hub, one of its files, or a URL. Nothing is asked
of any server."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from gguflike.errors import UnsupportedError

#: Hosts whose addresses name repositories, beside that of HF_ENDPOINT.
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
ENDPOINT = "https://huggingface.co"

_WORD = r"[A-Za-z0-9_][\w.-]*"
_REVISION = r"refs/(?:pr|convert)/[\w.-]+|[\w.%+-]+"
_SHORT = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>{_REVISION}))?(?::(?P<type>[\w.-]+))?", re.ASCII)
_LONG = re.compile(rf"{_SHORT.pattern}(?:/(?P<file>[^?#]+))?", re.ASCII)
_PAGES = re.compile(
    rf"(?P<repo>{_WORD}/{_WORD})(?:/(?:resolve|blob|raw|tree)/(?P<revision>{_REVISION})(?:/(?P<file>.+))?)?/?", re.ASCII
)
_OTHER_KINDS = ("datasets/", "spaces/", "buckets/")


class Reference(NamedTuple):
    """A repository ``repo`` (org/name) at a ``revision`` and in it a ``file``, or the ``type`` of a file to choose; or,
    where ``repo`` is empty, the ``url`` of a file elsewhere."""

    repo: str = ""
    revision: str | None = None
    file: str | None = None
    type: str | None = None
    url: str = ""

    def __str__(self) -> str:
        if self.url:
            return self.url
        revision = self.revision or ""
        known = revision.startswith(("refs/pr/", "refs/convert/"))
        place = f"{self.repo}@{revision if known else quote(revision, safe='')}" if revision else self.repo
        return f"hf://{place}/{self.file}" if self.file else f"{place}:{self.type}" if self.type else place


def endpoint() -> str:
    """Where the Hub is: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def is_hub(url: str) -> bool:
    """Whether an address is one of the Hub itself, which may see the token."""
    there, hub = urlsplit(url), urlsplit(endpoint())
    return (there.scheme, there.netloc) == (hub.scheme, hub.netloc)


def parse(name: str) -> Reference | None:
    """The reference that ``name`` is: ``org/name[@revision][:TYPE]``, ``hf://org/name[@revision][/file]``, an address
    on the Hub, or any other URL; None for what looks like a path.

    UnsupportedError for a reference that is malformed, or to what is no repository of a model.
    """
    scheme, separator, rest = name.partition("://")
    if not separator:
        first = name.partition("/")[0].lower()
        if first in HOSTS:
            return _address(name, name.partition("/")[2])
        match = _SHORT.fullmatch(name)
        is_path = match is None or (name.lower().endswith(".gguf") and match["type"] is None)
        return None if match is None or is_path else _of(match)
    if scheme.lower() == "hf":
        match = _LONG.fullmatch(rest.rstrip("/"))
        if match is None or rest.startswith(_OTHER_KINDS):
            raise _malformed(name, "hf://org/name, with @revision and /file where they are needed")
        return _of(match)
    if scheme.lower() not in ("http", "https"):
        raise _malformed(name, "hf:// or https://")
    try:
        parts = urlsplit(name)
        _ = parts.port  # which is looked at only when it is asked for
    except ValueError:  # of brackets, of a port that is no number or too large
        raise _malformed(name, "the URL of a file") from None
    if (parts.hostname or "") in HOSTS or name.startswith(f"{endpoint()}/"):
        prefix = urlsplit(endpoint()).path if name.startswith(f"{endpoint()}/") else ""
        return _address(name, parts.path[len(prefix) :].lstrip("/"))
    if not parts.hostname or not parts.path.strip("/"):
        raise _malformed(name, "the URL of a file")
    return Reference(url=name)


def _address(name: str, path: str) -> Reference:
    match = _PAGES.fullmatch(unquote(path))
    if match is None or path.startswith(_OTHER_KINDS):
        raise _malformed(name, "the address of a model, org/name, or of one of its files")
    return Reference(match["repo"], match["revision"], match["file"])


def _of(match: re.Match[str]) -> Reference:
    found = match.groupdict()
    revision = found["revision"]
    return Reference(found["repo"], revision and unquote(revision), found.get("file"), found["type"])


def _malformed(name: str, expected: str) -> UnsupportedError:
    return UnsupportedError("names no model that can be fetched", path=name, expected=expected)
