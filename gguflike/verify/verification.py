"""Checking a file: its structure, its contents against the digests it carries, and what else can be known.

A file that gguflike wrote carries digests (spec/metadata.md): then every byte is accounted for, and a changed one is
traced to its tensor or to the header. Of other files it can be seen whether their structure is sound, their scales are
finite, their values such as trained weights have and their metadata such as models of their architecture have; a weight
that is another plausible one cannot, and the report says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguflike import container
from gguflike.container import GGUFFile, TensorInfo, consistency
from gguflike.container.digest import TENSORS_KEY, Recorded, header_digest, recorded
from gguflike.container.findings import SEVERITIES, Finding, Severity, odd
from gguflike.container.finite import NotFinite, first_not_finite
from gguflike.container.places import Gaps
from gguflike.container.plausible import Plausible
from gguflike.container.reader import RefusedFile
from gguflike.container.validate import refused, validate
from gguflike.errors import GGUFError
from gguflike.locate import locate
from gguflike.progress import Progress
from gguflike.verify import meaning

CHUNK = 1 << 20  # bytes read at a time: bounds the memory
COPIED = 3  # tensors that contradict their digests at least where these are taken for those of another file


@dataclass(frozen=True)
class Report:
    """What ``verify`` found. ``digests``: whether the contents of every file were compared with digests.

    ``paths`` are the files looked at (several for a split model), of ``file_bytes`` together; ``tensors`` and
    ``data_bytes`` count what was read of tensors.
    ``against`` is the repository that the files were compared with, ``signed`` whether signatures were looked at.
    ``opened`` is false where the file is refused by its header, so that nothing behind it was looked at: ``findings``
    have what the parser fails at, or all tensors that are where they must not be, of each rule the first 20 by name.
    """

    paths: tuple[str, ...]
    findings: tuple[Finding, ...]
    digests: bool
    tensors: int
    data_bytes: int
    opened: bool = True
    file_bytes: int = 0
    against: str | None = None
    signed: bool = False

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return self.passes("error")

    def passes(self, severity: Severity) -> bool:
        """Whether no finding is of that severity or a worse one."""
        return not any(SEVERITIES.index(each.severity) <= SEVERITIES.index(severity) for each in self.findings)

    def count(self, severity: Severity) -> int:
        """How many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def scope(self) -> str:
        """What the check covered, in a sentence."""
        if not self.opened:
            return "checked nothing behind the header, which cannot be used"
        more = ["the signature"] if self.signed else []
        more += [f"the digest that {self.against} has"] if self.against else []
        if self.digests:
            more = ["the SHA-256 of the header and of every tensor", *more]
        checked = f"checked {', '.join(['structure', 'values', 'metadata', *more[:-1]])}"
        if more:
            return f"{checked} and {more[-1]}"
        return "checked structure, values and metadata: without digests other plausible weights cannot be seen"

    def check(self) -> None:
        """Raise the first error: DigestError where contents changed, else GGUFError."""
        for finding in self.findings:
            if finding.severity == "error":
                raise finding.error()


def verify(
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    against: str | None = None,
    key: str | os.PathLike[str] | None = None,
) -> Report:
    """Check a GGUF file, or all shards of a split model. Reads everything once, in pieces of a megabyte.

    ``path`` may also name a file of the Hub or behind a URL (`gguflike.locate`), which is fetched into a cache. A bad
    file is reported, not raised; OSError where the file cannot be opened or read, RemoteError where it cannot be had.

    ``against`` is a repository of the Hub, or a file in one (``hf://org/repo/file.gguf``), that must have the same
    bytes; ArgumentError where it is none, RemoteError where it cannot be asked. ``key`` is a PEM file with an Ed25519
    public key, with which each file must be signed (`gguflike.verify.signature`).
    """
    path = locate(path, progress)
    findings: list[Finding] = []
    try:
        whole = container.open(path)
    except GGUFError as error:
        found = _refused(error, os.fspath(path))
        return Report((found[0].path,), found, False, 0, 0, opened=False)
    files = whole.shards
    try:
        checks = [_FileCheck(file) for file in files]
        total = sum(check.data_bytes for check in checks)
        done = 0
        for check in checks:
            done = check.run(progress, done, total)
            findings += check.findings
        findings += consistency.shards(files[0], files[1:])
        disagree = any(finding.rule in ("M-010", "M-011") for finding in findings)
        if key is not None:
            from gguflike.verify import signature

            for file in files:
                findings += signature.check(file, key)
        if against is not None:
            from gguflike.verify import origin

            findings += origin.compare([file.path for file in files], against, progress)
        findings += (each for each in meaning.findings(whole) if each.rule != "M-032" or not disagree)  # says it again
        return Report(
            tuple(file.path for file in files),
            tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
            all(check.digests is not None for check in checks),
            sum(len(file.infos) for file in files),
            total,
            file_bytes=sum(file.file_bytes for file in files),
            against=against,
            signed=key is not None,
        )
    finally:
        whole.close()


def _refused(error: GGUFError, path: str) -> tuple[Finding, ...]:
    """Why a file was not opened: the ``error``, and where that is about the whole file all others that are so, too."""
    first = Finding.of(error, path)
    with suppress(GGUFError, OSError), RefusedFile(first.path) as file:
        found = tuple(refused(file))
        if first in found:
            return found
    return (first,)


def _changed(what: str, got: str, stated: str) -> str:
    return f"{what} changed since it was written: its SHA-256 is {got}, recorded is {stated}"


class _FileCheck:
    """The check of one file; ``run`` fills ``findings``."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.infos = sorted(file.infos.values(), key=lambda info: info.offset)
        self.data_bytes = sum(info.nbytes for info in self.infos)
        self.digests: Recorded | None = None
        with suppress(GGUFError):  # which `validate` reports
            self.digests = recorded(file.metadata, list(file.infos))
        self.order = "<" if file.byteorder == "little" else ">"
        self.judged = file.kind == "model"  # sums and adapters are of other sizes
        self.buffer = bytearray(CHUNK)

    def add(self, severity: Severity, rule: str, message: str, **where: Any) -> None:
        self.findings.append(Finding(severity, rule, message, self.file.path, **where))

    def run(self, progress: Progress | None, done: int, total: int) -> int:
        self.findings += validate(self.file)
        self._header()
        self._padding()
        for info in self.infos:
            if progress:
                progress(done, total, info.name)
            self._tensor(info)
            done += info.nbytes
        if progress:
            progress(done, total, "")
        self._copied()
        return done

    def _copied(self) -> None:
        """M-005: digests that were copied with the metadata of another file, in place of all that they contradict. Of a
        file that was damaged, most are right."""
        wrong = [finding for finding in self.findings if finding.rule == "M-004"]
        header = any(finding.rule == "M-003" for finding in self.findings)
        if not (header and len(wrong) >= COPIED and 2 * len(wrong) >= len(self.infos)):
            return
        self.digests = None
        self.findings = [finding for finding in self.findings if finding.rule not in ("M-003", "M-004")]
        message = "the digests are of another file; programs that copy metadata, such as llama-quantize, leave them so"
        self.add("warning", "M-005", message, field=TENSORS_KEY)

    def _header(self) -> None:
        """The header's digest and the padding behind it."""
        file = self.file
        if self.digests:
            pieces = (piece for _, piece in self._pieces(0, file.data_offset, 1))
            got = header_digest(pieces, self.digests.header_at)
            if got != self.digests.header:
                self.add("error", "M-003", _changed("header", got, self.digests.header), field="header")
        self._zeros(file.header_bytes, min(file.data_offset, file.file_bytes), "behind the header")

    def _padding(self) -> None:
        """C-102 behind each tensor."""
        for gap in Gaps(self.file):
            self._zeros(gap.start, gap.padded, gap.behind)

    def _zeros(self, start: int, end: int, behind: str) -> None:
        for at, piece in self._pieces(start, end, 1):
            if bytes(piece).strip(b"\0"):
                bad = at + int(np.flatnonzero(np.frombuffer(piece, np.uint8))[0])
                self.add(odd(self.file), "C-102", f"padding {behind} is not zero", offset=bad)
                return

    def _tensor(self, info: TensorInfo) -> None:
        """Digest and finite values of one tensor, in one pass."""
        digest = hashlib.sha256()
        bad: NotFinite | None = None
        seen = Plausible(info, self.file.path) if self.judged else None
        read = 0
        for at, piece in self._pieces(info.offset, info.offset + info.nbytes, info.format.block_bytes):
            if self.digests:
                digest.update(piece)
            data = np.frombuffer(piece, np.uint8)
            if seen is not None:
                blocks = data.view(info.format.dtype if self.order == "<" else info.format.dtype.newbyteorder(">"))
                seen.add(data, blocks)
            if bad is None:
                bad = first_not_finite(data, info.format, self.order)
                if bad:
                    block = (at - info.offset) // info.format.block_bytes + bad.block
                    message = f"{bad.field!r} of block {block} ({info.format.name}) is not finite"
                    self.add(
                        "error", "C-107", message, tensor=info.name, offset=at + bad.block * info.format.block_bytes
                    )
            read += len(piece)
        if read < info.nbytes:
            self.add("error", "C-025", "the file became shorter while it was read", tensor=info.name)
            return
        if seen is not None:
            self.findings += seen.findings()
        if self.digests and digest.hexdigest() != self.digests.tensors[info.name]:
            message = _changed("data", digest.hexdigest(), self.digests.tensors[info.name])
            self.add("error", "M-004", message, tensor=info.name, offset=info.offset)

    def _pieces(self, start: int, end: int, unit: int) -> Iterator[tuple[int, memoryview]]:
        """Bytes ``start`` to ``end`` and their places, in pieces of whole units; each is overwritten by the next."""
        view = memoryview(self.buffer)
        while start < end:
            count = min(end - start, max(CHUNK // unit, 1) * unit)
            if self.file.fill(view[:count], start) < count:
                return
            yield start, view[:count]
            start += count
