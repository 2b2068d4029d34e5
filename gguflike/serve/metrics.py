"""Counters of the server in Prometheus's text format.

What llama-server counts has its names, so that dashboards for it work.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguflike.runner import Generation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds that separate the buckets of the histograms.
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How often values fell up to each of ``BOUNDS``."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(BOUNDS, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        lines, below = [], 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {below}"]


class Metrics:
    """Counts of one server; all methods are called on the loop's thread."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: dict[tuple[str, int], int] = {}
        self.prompt_tokens = self.cached_tokens = self.predicted_tokens = 0
        self.longest = self.drafted = self.accepted = self.encodings = 0
        self.prompt_seconds = self.predicted_seconds = 0.0
        self.generations: dict[str, int] = {}
        self.first_token, self.duration = Histogram(), Histogram()

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        key = (endpoint, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.duration.add(seconds)

    def generated(self, generation: Generation) -> None:
        self.prompt_tokens += generation.prompt_tokens - generation.cached_tokens
        self.cached_tokens += generation.cached_tokens
        self.predicted_tokens += len(generation.tokens)
        self.longest = max(self.longest, generation.prompt_tokens + len(generation.tokens))
        self.drafted += generation.drafted
        self.accepted += generation.accepted
        self.prompt_seconds += generation.prefill_seconds
        self.predicted_seconds += generation.decode_seconds
        reason = generation.finish_reason
        self.generations[reason] = self.generations.get(reason, 0) + 1

    def encoded(self, tokens: int, seconds: float) -> None:
        """A text became a vector, or was ranked, which takes one pass of the model."""
        self.prompt_tokens += tokens
        self.prompt_seconds += seconds
        self.encodings += 1

    def text(self, gauges: Mapping[str, tuple[str, float]], counters: Mapping[str, tuple[str, float]]) -> str:
        """All of them. ``gauges`` and ``counters`` are the engines': name -> what it is, and its value."""
        lines: list[str] = []

        def add(kind: str, name: str, about: str, values: Sequence[str]) -> None:
            lines.extend([f"# HELP {name} {about}", f"# TYPE {name} {kind}", *values])

        def single(kind: str, name: str, about: str, value: float) -> None:
            add(kind, name, about, [f"{name} {value:.10g}"])

        single("counter", "llamacpp:prompt_tokens_total", "Prompt tokens computed.", self.prompt_tokens)
        single(
            "counter", "llamacpp:prompt_tokens_cached_total", "Prompt tokens not computed again.", self.cached_tokens
        )
        single("counter", "llamacpp:prompt_seconds_total", "Seconds of computing prompts.", self.prompt_seconds)
        single("counter", "llamacpp:tokens_predicted_total", "Tokens generated.", self.predicted_tokens)
        single("counter", "llamacpp:tokens_predicted_seconds_total", "Seconds of generating.", self.predicted_seconds)
        single("counter", "llamacpp:n_tokens_max", "Tokens of the longest text with its prompt.", self.longest)
        single("counter", "llamacpp:spec_decode_num_draft_tokens_total", "Tokens guessed.", self.drafted)
        single("counter", "llamacpp:spec_decode_num_accepted_tokens_total", "Of them right.", self.accepted)
        per_s = self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0
        single("gauge", "llamacpp:prompt_tokens_seconds", "Prompt tokens computed per second.", per_s)
        per_s = self.predicted_tokens / self.predicted_seconds if self.predicted_seconds else 0.0
        single("gauge", "llamacpp:predicted_tokens_seconds", "Tokens generated per second.", per_s)
        for name, (about, value) in counters.items():
            single("counter", name, about, value)
        for name, (about, value) in gauges.items():
            single("gauge", name, about, value)
        add(
            "counter",
            "gguflike_generations_total",
            "Texts by why they ended.",
            [f'gguflike_generations_total{{reason="{reason}"}} {n}' for reason, n in sorted(self.generations.items())],
        )
        add(
            "counter",
            "gguflike_http_requests_total",
            "Answers by endpoint and status.",
            [
                f'gguflike_http_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
                for (endpoint, status), count in sorted(self.requests.items())
            ],
        )
        name = "gguflike_time_to_first_token_seconds"
        add("histogram", name, "From the request to its first token.", self.first_token.lines(name))
        name = "gguflike_http_request_duration_seconds"
        add("histogram", name, "From the request to the end of its answer.", self.duration.lines(name))
        single("gauge", "gguflike_start_time_seconds", "When the server started, in seconds since 1970.", self.started)
        return "\n".join(lines) + "\n"
