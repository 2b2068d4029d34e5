"""Settings of sampling, checked when they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gguflike.errors import ArgumentError, check_choice
from gguflike.frozen import frozen

#: The steps in their usual order, which is llama.cpp's. A logit bias and a grammar come before them, the draw (by
#: mirostat, where that is on) behind them.
ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature")
#: llama.cpp's names of steps -> ours.
ALIASES: Mapping[str, str] = {"typ_p": "typical_p", "temp": "temperature"}


@frozen
class Sampling:
    """How the next token is chosen. By default the likeliest is taken; `chain` has the formula of each step.

    ``temperature`` 0 takes the likeliest of what the other steps leave, 1 leaves the model's probabilities as they are.
    Off are ``top_k`` 0, ``top_p`` 1, ``min_p`` 0, ``typical_p`` 1, ``top_n_sigma`` 0, ``xtc_probability`` 0,
    ``dry_multiplier`` 0, ``mirostat`` 0 (2 is its second version), ``repetition_penalty`` 1, ``frequency_penalty`` 0
    and ``presence_penalty`` 0. Penalties look at the last ``penalty_last_n`` tokens (0: none, -1: all), those of the
    prompt included, DRY at the last ``dry_penalty_last_n``. ``logit_bias`` is added to the logits of token ids; minus
    infinity forbids one. ``order`` lists the steps; one that is left out must be off. ``seed`` (0 or more) makes the
    text repeatable; None draws another each time.

    ArgumentError for a value out of range, ArgumentTypeError for one of another kind; both name the field.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: Mapping[int, float] = {}
    order: tuple[str, ...] = ORDER
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value in list(self.__dict__.items()):
            usual = getattr(Sampling, name)
            if value is not usual and (type(value) is not type(usual) or value != usual):  # the defaults are right
                from gguflike.runner.sampling.checks import CHECKS  # a greedy text does without

                self.__dict__[name] = CHECKS[name](name, value)
        self._check_order()

    def _check_order(self) -> None:
        if self.order is ORDER:
            return
        self.__dict__["order"] = steps = tuple(ALIASES.get(step, step) for step in self.order)
        for step in steps:
            check_choice("order", step, ORDER)
        if len(set(self.order)) < len(self.order):
            raise ArgumentError("a step stands twice", field="order", got=", ".join(self.order))
        for step in ORDER:
            if step not in self.order and self.uses(step):
                what = "other than 1" if step == "temperature" else "on"
                raise ArgumentError(
                    f"{step} is {what}, but not among the steps",
                    field="order",
                    expected=f"{step} somewhere",
                    got=", ".join(self.order) or "no steps",
                    remedy="add it, or leave its setting out" if step != "temperature" else "add it, or set it to 1",
                )

    def uses(self, step: str) -> bool:
        """Whether a step of ``ORDER`` may change anything."""
        return _USED[step](self)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token by the model's own logits is taken, whatever came before."""
        changing = ("penalties", "dry", "typical_p", "xtc")
        return self.temperature == 0 and not self.logit_bias and not any(map(self.uses, changing))

    def check_vocabulary(self, size: int) -> None:
        """Raise ArgumentError where the bias names a token that a vocabulary of ``size`` tokens does not have."""
        beyond = [token for token in self.logit_bias if token >= size]
        if beyond:
            raise ArgumentError("no such token", field="logit_bias", expected=f"0 to {size - 1}", got=beyond[0])


_USED: dict[str, Callable[[Sampling], bool]] = {
    "penalties": lambda s: (
        s.penalty_last_n != 0 and (s.repetition_penalty, s.frequency_penalty, s.presence_penalty) != (1, 0, 0)
    ),
    "dry": lambda s: s.dry_multiplier != 0 and s.dry_penalty_last_n != 0,
    "top_n_sigma": lambda s: s.top_n_sigma > 0,
    "top_k": lambda s: s.top_k > 0,
    "typical_p": lambda s: s.typical_p < 1,
    "top_p": lambda s: s.top_p < 1,
    "min_p": lambda s: s.min_p > 0,
    "xtc": lambda s: s.xtc_probability > 0,
    "temperature": lambda s: s.temperature != 1,
}
