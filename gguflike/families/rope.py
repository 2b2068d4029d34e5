"""Rotary position settings: the three spellings of config.json, flattened to one and back, and the frequencies.

Transformers 4 writes ``rope_theta`` and ``rope_scaling``, Transformers 5 one ``rope_parameters``. Flattened, they are
``rope.theta``, ``rope.type`` and the numbers that the type uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.families.parts import Rope, Scaling
from gguflike.frozen import frozen

if TYPE_CHECKING:
    import numpy.typing as npt

CONFIG_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})


@frozen
class _Kind:
    """One rope type: where its numbers go when flattened, and the values Transformers assumes (None: required)."""

    prefix: str
    numbers: Mapping[str, tuple[str, float | None]]


_CONTEXT = "original_max_position_embeddings"
_KINDS: Mapping[str, _Kind] = {
    "default": _Kind("", {}),
    "linear": _Kind("rope.scaling.", {"factor": ("factor", None)}),
    "yarn": _Kind(
        "rope.scaling.",
        {
            "factor": ("factor", None),
            _CONTEXT: ("original_context_length", None),
            "beta_fast": ("yarn_beta_fast", 32.0),
            "beta_slow": ("yarn_beta_slow", 1.0),
        },
    ),
    "llama3": _Kind(
        "rope.llama3.",
        {
            "factor": ("factor", None),
            "low_freq_factor": ("low_freq_factor", None),
            "high_freq_factor": ("high_freq_factor", None),
            _CONTEXT: ("original_context_length", None),
        },
    ),
}
# Settings that are accepted only with the value that llama.cpp computes with.
_FIXED: Mapping[str, Any] = {"partial_rotary_factor": 1.0, "truncate": True}
_NAMES = frozenset({"rope_type", "type", "rope_theta"})


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope.*`` entries from either spelling. CheckpointError if they contradict, UnsupportedError for others."""
    spellings = [_dict(config, key) for key in ("rope_parameters", "rope_scaling")]
    flat = [_flatten(each, config) for each in spellings if each] or [_flatten({}, config)]
    if flat[0] != flat[-1]:
        raise CheckpointError(
            "rope_parameters and rope_scaling contradict each other",
            field="config.json",
            expected=str(flat[0]),
            got=str(flat[-1]),
            remedy="keep the one that is right",
        )
    return flat[0]


def _dict(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{key} is not an object", field="config.json", got=repr(value))
    return value or {}


def _flatten(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    name = given.get("rope_type", given.get("type")) or "default"
    if not isinstance(name, str) or name not in _KINDS:
        raise UnsupportedError("rope type", field="config.json", expected="one of " + ", ".join(_KINDS), got=repr(name))
    kind = _KINDS[name]
    flat: dict[str, Any] = {"rope.theta": _theta(given, config)}
    if kind.prefix == "rope.scaling.":
        flat["rope.scaling.type"] = name
    for key, (target, default) in kind.numbers.items():
        value = given.get(key, default)
        if value is None and key == _CONTEXT:
            value = config.get(key, config.get("max_position_embeddings"))
        flat[kind.prefix + target] = _number(key, value)
    for key, value in given.items():
        if key not in _NAMES and key not in kind.numbers:
            _check_extra(key, value, name, flat)
    return flat


def _theta(given: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    values = {_number("rope_theta", v) for v in (given.get("rope_theta"), config.get("rope_theta")) if v is not None}
    if len(values) > 1:
        raise CheckpointError("two values of rope_theta", field="config.json", got=str(sorted(values)))
    return values.pop() if values else 10000.0


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"rope setting {name} is not a positive number", field="config.json", got=repr(value))
    return float(value)


def _check_extra(key: str, value: Any, kind: str, flat: Mapping[str, Any]) -> None:
    """A setting beside the numbers of the type must be unset, or say what is computed anyway."""
    if value is None or (key in _FIXED and value == _FIXED[key]):
        return
    if key == "attention_factor" and kind == "yarn":
        computed = 0.1 * math.log(flat["rope.scaling.factor"]) + 1.0
        if isinstance(value, int | float) and math.isclose(value, computed, rel_tol=1e-6):
            return
    raise UnsupportedError(f"rope setting {key} with type {kind}", field="config.json", got=repr(value))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``rope.*`` entries as Transformers 4 writes them; Transformers 5 reads that too."""
    if "rope.theta" not in flat:  # the model rotates nothing
        return {}
    config: dict[str, Any] = {"rope_theta": flat["rope.theta"], "rope_scaling": None}
    name = "llama3" if "rope.llama3.factor" in flat else flat.get("rope.scaling.type", "default")
    kind = _KINDS[name]
    if kind.numbers:
        numbers = {key: flat[kind.prefix + target] for key, (target, _) in kind.numbers.items()}
        config["rope_scaling"] = {"rope_type": name, **numbers}
    return config


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
        magnitude = 1.0 + 0.1 * math.log(scaling.factor) if magnitude is None else magnitude
    return omega, 1.0 if magnitude is None else magnitude


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
