"""The table of settings: each is an option of commands, a variable of the environment, a key of the file of settings,
and most can be changed in a conversation by /set.

A row says all of that once. The names of how tokens are chosen are those of `gguflike.runner.sampling.Sampling`, which
checks their values.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gguflike.cli.arguments import count, number, positive, seed, switch, whole
from gguflike.frozen import frozen


@frozen
class Kind:
    """How a value is read from text, which types of TOML it may have, and in words what it is."""

    parse: Callable[[str], Any]
    types: tuple[type, ...]
    name: str


@frozen
class Setting:
    """One setting. ``flags`` are its options, the first the one that messages name; ``table`` is where it stands in the
    file, ``choices`` what it may be, ``many`` whether its option may be given several times."""

    name: str
    flags: tuple[str, ...]
    kind: Kind
    help: str
    metavar: str | None = None
    table: str = ""
    choices: tuple[str, ...] = ()
    many: bool = False

    @property
    def key(self) -> str:
        """Its name in the file."""
        return f"{self.table}.{self.name}" if self.table else self.name

    @property
    def word(self) -> str:
        """Its name in a conversation."""
        return self.name.replace("_", "-")

    def parse(self, text: str) -> Any:
        """The value that a text stands for. argparse.ArgumentTypeError where it is none."""
        value = self.kind.parse(text)
        if self.choices and value not in self.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(self.choices)}")
        return (value,) if self.many and isinstance(value, str) else value

    def typed(self, value: Any) -> Any:
        """The value of the file. argparse.ArgumentTypeError where it is of another type."""
        if not isinstance(value, self.kind.types) or (isinstance(value, bool) and bool not in self.kind.types):
            raise argparse.ArgumentTypeError(f"expected {self.kind.name}; got {value!r}")
        if isinstance(value, list):
            if not all(isinstance(item, str) for item in value):
                raise argparse.ArgumentTypeError(f"expected {self.kind.name}; got {value!r}")
            return tuple(value)
        if isinstance(value, dict):
            return _biases(",".join(f"{key}={bias}" for key, bias in value.items()))
        return value if isinstance(value, bool) else self.parse(str(value))


def _biases(text: str) -> dict[int, float]:
    """{5: -2.0, 7: 1.5} from "5=-2,7=1.5"."""
    found = {}
    for part in text.split(","):
        token, _, bias = part.partition("=")
        try:
            found[int(token)] = float(bias)
        except ValueError:
            raise argparse.ArgumentTypeError(f"not TOKEN=BIAS, such as 5=-2: {part!r}") from None
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.replace(";", ",").split(",") if word.strip())


def _texts(text: str) -> Any:
    """A text, or several as a JSON list."""
    if text.startswith("["):
        from gguflike import jsontext

        try:
            found = jsontext.parsed(text)
        except ValueError:
            return text
        if all(isinstance(item, str) for item in found):
            return tuple(found)
    return text


WHOLE = Kind(whole, (int,), "a whole number")
COUNT = Kind(count, (int,), "a whole number, 0 or more")
POSITIVE = Kind(positive, (int,), "a whole number, 1 or more")
NUMBER = Kind(number, (int, float), "a number")
SEED = Kind(seed, (int,), "a whole number, or -1")
TEXT = Kind(str, (str,), "text")
TEXTS = Kind(_texts, (str, list), "text, or a list of texts")
WORDS = Kind(_words, (list,), "a list of names")
SWITCH = Kind(switch, (bool,), "true or false")
BIASES = Kind(_biases, (dict,), "a table of tokens and numbers")


def _sampling(name: str, kind: Kind, help: str, metavar: str, *flags: str, many: bool = False) -> Setting:
    """A field of `Sampling`; its option is --name unless others are given."""
    return Setting(name, flags or (f"--{name.replace('_', '-')}",), kind, help, metavar, "sampling", many=many)


#: How a model is loaded.
LOADING = (
    Setting("threads", ("-t", "--threads"), POSITIVE, "threads (default: all CPUs)", "N"),
    Setting(
        "context", ("-c", "--context", "--ctx-size"), POSITIVE, "tokens to remember (default: the model's own)", "N"
    ),
    Setting(
        "cache_type",
        ("--cache-type",),
        TEXT,
        "what the cache holds: q8_0 takes half the memory of f16, f32 twice (default: f16)",
        choices=("f16", "q8_0", "f32"),
    ),
    Setting(
        "activations",
        ("--activations",),
        TEXT,
        "how activations become 8 bits: adaptive does so twice where a few are far larger than the others, for about "
        "half the error; static by ranges in the file (calibrate --activations), hybrid by those that cost nothing "
        "(default: dynamic)",
        choices=("dynamic", "adaptive", "static", "hybrid"),
    ),
)

#: How the next token is chosen, in the order in which it is done.
SAMPLING = (
    _sampling("temperature", NUMBER, "0 takes the likeliest", "T", "--temp", "--temperature"),
    _sampling("top_k", WHOLE, "sample from the K likeliest; 0: all", "K"),
    _sampling("top_p", NUMBER, "sample from the likeliest that sum to P", "P"),
    _sampling("min_p", NUMBER, "drop what is P times less likely than the best", "P"),
    _sampling(
        "typical_p", NUMBER, "sample from the most typical that sum to P; 1: off", "P", "--typical-p", "--typical"
    ),
    _sampling(
        "top_n_sigma", NUMBER, "drop logits N deviations below the best; 0: off", "N", "--top-n-sigma", "--top-nsigma"
    ),
    _sampling("xtc_probability", NUMBER, "how often XTC drops all but the last of the likely; 0: off", "P"),
    _sampling("xtc_threshold", NUMBER, "what XTC takes for likely (default: 0.1)", "P"),
    _sampling("dry_multiplier", NUMBER, "how much DRY takes from what prolongs a repetition; 0: off", "X"),
    _sampling("dry_base", NUMBER, "by which DRY takes more for each token of it (default: 1.75)", "X"),
    _sampling("dry_allowed_length", WHOLE, "tokens that may be repeated (default: 2)", "N"),
    _sampling("dry_penalty_last_n", WHOLE, "tokens in which DRY looks for repetitions; -1: all (default)", "N"),
    _sampling(
        *("dry_sequence_breakers", TEXTS, "where repetitions end; may be given several times", "TEXT"),
        "--dry-sequence-breaker",
        many=True,
    ),
    _sampling("mirostat", WHOLE, "2 keeps the surprise of the text constant; 0: off", "0|2"),
    _sampling("mirostat_tau", NUMBER, "the surprise, in bits (default: 5)", "X", "--mirostat-tau", "--mirostat-ent"),
    _sampling(
        "mirostat_eta", NUMBER, "how fast it is approached (default: 0.1)", "X", "--mirostat-eta", "--mirostat-lr"
    ),
    _sampling(
        *("repetition_penalty", NUMBER, "make tokens of late X times less likely; 1: off", "X"),
        *("--repetition-penalty", "--repeat-penalty"),
    ),
    _sampling("frequency_penalty", NUMBER, "taken from a logit for each time that its token stands there; 0: off", "X"),
    _sampling("presence_penalty", NUMBER, "taken from a logit if its token stands there; 0: off", "X"),
    _sampling(
        *("penalty_last_n", WHOLE, "tokens that penalties look at; 0: none, -1: all (default: 64)", "N"),
        *("--penalty-last-n", "--repeat-last-n"),
    ),
    _sampling("logit_bias", BIASES, "added to logits of token ids, such as 5=-2,7=1.5; -inf forbids one", "ID=X"),
    _sampling(
        "order", WORDS, "steps in their order, such as top_k,top_p,temperature", "STEPS", "--order", "--samplers"
    ),
    _sampling("seed", SEED, "make sampling repeatable; -1: another each time, which is said", "N", "-s", "--seed"),
)

#: What a text ends at, and how it is made.
TEXT_SETTINGS = (
    Setting("tokens", ("-n", "--tokens", "--predict"), COUNT, "tokens at most", "N"),
    Setting("stop", ("--stop",), TEXTS, "end before this text; may be given several times", "TEXT", many=True),
    Setting("lookup", ("--lookup",), COUNT, "guess N tokens at a time from what the text repeats; 0: none", "N"),
)

MTP = "mtp"  # in place of a draft model

#: By which model more is guessed.
DRAFTING = (
    Setting(
        "draft",
        ("--draft",),
        TEXT,
        "a smaller model of the same vocabulary that guesses for MODEL; mtp: the prediction heads of its own file",
        "FILE",
    ),
    Setting("draft_tokens", ("--draft-tokens",), POSITIVE, "so many tokens at a time (default: 8)", "N"),
)

#: How it is shown.
SHOWN = (
    Setting(
        "color",
        ("--color",),
        TEXT,
        "colours on standard output (default: auto, not where NO_COLOR is set)",
        choices=("auto", "always", "never"),
    ),
    Setting("wrap", ("--wrap",), SWITCH, "break lines at words on a terminal (default: yes)"),
    Setting("quiet", ("-q", "--quiet"), SWITCH, "no line of figures after a text"),
)

#: What a conversation begins with.
SYSTEM = (
    Setting("system", ("--system", "--system-prompt"), TEXT, "system message", "TEXT", "chat"),
    Setting("think", ("--think",), SWITCH, "let a model think first that can do with and without", None, "chat"),
)

#: What a conversation does.
CONVERSATION = (
    Setting(
        "on_full",
        ("--on-full",),
        TEXT,
        "where the context is full, stop and say so, or drop the oldest turns (default: stop)",
        None,
        "chat",
        ("stop", "drop"),
    ),
    Setting("history", ("--history",), SWITCH, "keep what is typed for the next time (default: yes)", None, "chat"),
)

#: Not options: which model is meant.
NAMES = (
    Setting("model", (), TEXT, "what run and chat take where no model is named"),
    Setting("models_dir", (), TEXT, "folder in which models are looked up by name"),
)

ALL: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (*NAMES, *LOADING, *TEXT_SETTINGS, *DRAFTING, *SHOWN, *SAMPLING, *SYSTEM, *CONVERSATION)
}


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, settings: Iterable[Setting], **defaults: Any
) -> None:
    """Add the options of ``settings``. What none of option, environment and file says is as in ``defaults``."""
    for each in settings:
        usual = defaults.get(each.name)
        options: dict[str, Any] = {"dest": each.name, "default": None}
        options["help"] = each.help if usual is None else f"{each.help} (default: {usual})"
        if each.kind is SWITCH:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"], options["metavar"] = each.kind.parse, each.metavar
            options |= {"choices": each.choices, "metavar": None} if each.choices else {}
            options |= {"action": "append"} if each.many else {}
        parser.add_argument(*each.flags, **options)


def names_of(*groups: Iterable[Setting]) -> tuple[str, ...]:
    """The names of settings."""
    return tuple(setting.name for group in groups for setting in group)


#: What run and chat take from environment and file.
RUNNING = names_of(LOADING, SAMPLING, TEXT_SETTINGS, DRAFTING, SHOWN, CONVERSATION)
CHATTING = (*RUNNING, *names_of(SYSTEM))
