"""The fields of ``Sampling`` as keyword arguments, for type checkers; nothing imports it when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class Settings(TypedDict, total=False):
    """Keyword arguments of ``Sampling``."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    logit_bias: Mapping[int, float]
    order: tuple[str, ...]
    seed: int | None
