"""Rotary position embeddings: the frequencies of a `Rope`, and the tensors that divide them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Rope, Scaling

if TYPE_CHECKING:
    import numpy.typing as npt


def frequencies(rope: Rope, factors: npt.NDArray[Any] | None = None) -> tuple[npt.NDArray[np.float64], float]:
    """(radians per position of each pair, float64 (n_rot / 2,); what cosines and sines are multiplied by).

    ``factors`` (n_rot / 2,), the values of the tensor that `divisor` names, divide the frequencies where it names one.
    """
    omega = rope.base ** (-np.arange(0, rope.n_rot, 2, dtype=np.float64) / rope.n_rot)
    if rope.divisors:
        if factors is None:
            raise ValueError(f"this rotation divides its frequencies by {rope.divisors[0]}, which was not given")
        omega = omega / factors.astype(np.float64)
    scaling = rope.scaling
    if scaling is None:
        return omega, 1.0
    magnitude = scaling.magnitude
    if scaling.kind == "linear":
        omega = omega / scaling.factor
    elif scaling.kind == "yarn":
        kept = _kept_share(rope, scaling)
        omega = omega / scaling.factor * (1.0 - kept) + omega * kept
        magnitude = yarn_magnitude(scaling.factor) if magnitude is None else magnitude
    return omega, 1.0 if magnitude is None else magnitude


def yarn_magnitude(factor: float, multiplier: float = 1.0) -> float:
    """1 + 0.1 m ln(factor), by which YaRN sharpens attention over longer contexts; 1 where nothing is stretched."""
    return 1.0 + 0.1 * multiplier * math.log(factor) if factor > 1.0 else 1.0


def scaling_kind(name: str) -> Literal["linear", "yarn", "longrope"]:
    """The kind of `Scaling` that a file names. UnsupportedError for others."""
    for kind in ("linear", "yarn", "longrope"):
        if name == kind:
            return kind
    raise UnsupportedError(
        "rope scaling", field="rope.scaling.type", expected="none, linear, yarn or longrope", got=repr(name)
    )


def divisor(rope: Rope, context: int) -> str | None:
    """The tensor that frequencies are divided by in a run with a context of so many positions, if any.

    Of two, the first is for contexts longer than the model was first trained with, the second for others.
    """
    if not rope.divisors:
        return None
    short = rope.scaling is not None and context <= rope.scaling.context
    return rope.divisors[-1] if short else rope.divisors[0]


def _kept_share(rope: Rope, scaling: Scaling) -> npt.NDArray[np.float64]:
    """YaRN: 1 for the fast pairs, kept as they are; 0 for the slow ones, interpolated; a ramp between them."""

    def pair(turns: float) -> float:
        """The pair that turns ``turns`` times within the original context."""
        return rope.n_rot * math.log(scaling.context / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(rope.n_rot - 1, high)
    ramp = (np.arange(rope.n_rot // 2) - low) / max(0.001, high - low)
    share: npt.NDArray[np.float64] = 1.0 - np.clip(ramp, 0.0, 1.0)
    return share


def llama3_factors(
    theta: float, head_dim: int, factor: float, low: float, high: float, original_context: float
) -> npt.NDArray[np.float32]:
    """Divisor of each rotary frequency, float32 of shape (head_dim / 2,), as ``rope_freqs.weight`` stores them.

    Llama 3.1's rule: wavelengths shorter than context/high stay, longer than context/low are divided by ``factor``,
    and between them the frequency is blended linearly in context/wavelength.
    """
    frequency = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)  # (head_dim / 2,)
    turns = original_context * frequency / (2 * math.pi)  # rotations within the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)


def recognise_llama3(factors: npt.NDArray[np.float32], theta: float) -> tuple[float, float, float, float]:
    """The (factor, low, high, original context) that give ``factors``, for files that hold only the factors.

    All published Llama 3 models use low 1, high 4 and context 8192; UnsupportedError where those do not fit.
    """
    found = (float(factors.max()), 1.0, 4.0, 8192.0)
    made = llama3_factors(theta, 2 * len(factors), *found)
    if not np.allclose(made, factors, rtol=1e-4, atol=0.0):
        raise UnsupportedError(
            "rope frequency factors that are not Llama 3's",
            tensor="rope_freqs.weight",
            expected="low_freq_factor 1, high_freq_factor 4, original context 8192",
        )
    return found
