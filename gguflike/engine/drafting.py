"""Guesses at what texts go on with, which a pass can check as fast as it computes a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.runner.speculate import Lookup

if TYPE_CHECKING:
    from gguflike.engine.job import Job


class Drafts:
    """The drafts of jobs that ask for them."""

    def __init__(self) -> None:
        self._lookups: dict[int, Lookup] = {}  # by the job's id

    def propose(self, jobs: Sequence[Job], most: int) -> None:
        """Give each job its draft, all together at most so many tokens."""
        self._lookups = {job.id: self._lookups[job.id] for job in jobs if job.id in self._lookups}
        each = most // max(1, len(jobs))
        for job in jobs:
            if job.request.lookup:
                lookup = self._lookups.get(job.id)
                if lookup is None:
                    lookup = self._lookups[job.id] = Lookup(job.tokens, job.request.lookup)
                job.draft = lookup.propose(job.tokens, min(each, job.room - 1))
