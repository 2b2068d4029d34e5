"""What commands that run a model share: which model, how it is loaded, and how tokens are chosen."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gguflike.cli import interrupts
from gguflike.cli.arguments import MODEL
from gguflike.cli.bounds import bounds_of, bounds_of_answer
from gguflike.cli.config import model_named, usual_model
from gguflike.cli.output import clean
from gguflike.cli.progress import progress_bar
from gguflike.cli.settings import DRAFTING, LOADING, MTP, SAMPLING, TEXT_SETTINGS, add_settings, names_of
from gguflike.cli.streams import say
from gguflike.cli.usage import UsageError
from gguflike.errors import did_you_mean
from gguflike.frozen import frozen

if TYPE_CHECKING:
    from gguflike.chat.harmony import ChannelReader
    from gguflike.chat.reading import Part, Reader
    from gguflike.progress import Progress
    from gguflike.runner import Model
    from gguflike.runner.generate import Stream


def add_model_arguments(parser: argparse.ArgumentParser, *, by_flag: bool = False) -> None:
    """``by_flag``: the model may also be given as to llama.cpp's programs, by -m or -hf."""
    parser.add_argument("file", metavar="MODEL" if by_flag else "FILE", nargs="?" if by_flag else None, help=MODEL)
    if by_flag:
        parser.add_argument("-m", "--model", "-hf", "--hf-repo", metavar="MODEL", help="the same, as llama.cpp has it")
    add_settings(parser.add_argument_group("how the model is loaded"), LOADING)
    parser.set_defaults(settled=names_of(LOADING))


def add_sampling_arguments(parser: argparse.ArgumentParser, tokens: int | None = None, **usual: Any) -> None:
    """How tokens are chosen, ``usual`` where nothing else is said; and where a command makes texts of at most so many
    ``tokens``, where they end."""
    if tokens is not None:
        add_settings(parser.add_argument_group("where a text ends"), TEXT_SETTINGS, tokens=tokens)
        add_settings(parser.add_argument_group("who guesses, which makes it faster"), DRAFTING)
    add_settings(parser.add_argument_group("how tokens are chosen"), SAMPLING, **usual)
    parser.set_defaults(usual={**usual, "tokens": tokens})


def model_given(args: argparse.Namespace) -> str | None:
    """The model that a command line names, None where it names none. UsageError where it names two."""
    given = [each for each in (args.file, getattr(args, "model", None)) if each is not None]
    if len(given) > 1:
        raise UsageError(f"two models: {' and '.join(given)}")
    return given[0] if given else None


def name_of_model(args: argparse.Namespace) -> str:
    """The model that a command is asked to run, as it is named. UsageError where none is, or two are."""
    name = model_given(args)
    if name is None:
        name = usual_model(args.config)
    if name is None:
        raise UsageError("MODEL is required: a GGUF file, org/repo[:TYPE] of the Hub, or a URL")
    return name


def load(args: argparse.Namespace) -> Model:
    """Load the model that a command is asked to run. Errors as of `name_of_model`, and for values of options."""
    return _loaded(name_of_model(args), args, names_of(LOADING))


def _loaded(name: str, args: argparse.Namespace, settings: Iterable[str]) -> Model:
    """Load a model as the ``settings`` of these names say."""
    from gguflike import runner

    options = {each: value for each in settings if (value := getattr(args, each)) is not None}
    place = model_named(name, args.config)
    with progress_bar() as progress:
        try:
            model = runner.load(place, progress=progress, **options)
        except FileNotFoundError as error:
            near = did_you_mean(name, args.config.aliases) if error.filename == name else None
            if near is None:
                raise
            raise UsageError(f"{name}: {error.strerror}; {near}") from None
    interrupts.check()
    doubt = model.tokenizer.vocabulary.doubt
    if doubt is not None:
        say(f"warning: {clean(name)}: {doubt}")
    return model


class Drafter:
    """The draft model that a command is told of: loaded when it is first needed, and again when it is told of another.
    A context manager."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._name: str | None = None
        self._model: Model | None = None

    def options(self, model: Model) -> dict[str, Any]:
        """Keyword arguments of ``model.generate`` that say what guesses. UsageError where there is no such model, and
        the errors of loading one; ArgumentError where it has another vocabulary, UnsupportedError where the file has no
        head."""
        args = self._args
        if args.draft is None:
            self.close()
            return {}
        tokens = {} if args.draft_tokens is None else {"draft_tokens": args.draft_tokens}
        if args.draft == MTP:
            self.close()
            if not model.graph.mtp:
                from gguflike.runner.mtp import no_head

                raise no_head(model)
            return {"draft": MTP, **tokens}
        if args.draft != self._name:
            from gguflike.runner.drafting import check_vocabulary

            self.close()
            self._model = _loaded(args.draft, args, ("threads", "context", "cache_type"))
            check_vocabulary(model, self._model)
            self._name = args.draft
        return {"draft": self._model, **tokens}

    def close(self) -> None:
        """Let go of the model."""
        if self._model is not None:
            self._model.close()
        self._model = self._name = None

    def __enter__(self) -> Drafter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def choices(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``Model.generate`` that say how tokens are chosen and where the text ends, a seed among them
    if chance comes in. ArgumentError, or ArgumentTypeError, for values that cannot be."""
    found = sampling_of(args)
    if "seed" not in found and (found["temperature"] or found.get("mirostat") or found.get("xtc_probability")):
        found["seed"] = int.from_bytes(os.urandom(4), "little")
        if args.seed == -1:
            say(f"seed {found['seed']}")
    found |= {name: value for name in ("stop", "lookup") if (value := getattr(args, name)) is not None}
    if "stop" in found:
        found["stop"] = flat(found["stop"])
    return found


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Sampling` that are said, and those that are usual for the command. Errors as of `Sampling`."""
    from gguflike.runner.sampling import Sampling

    said = {name: value for name in names_of(SAMPLING) if (value := getattr(args, name)) is not None}
    found = {name: value for name, value in args.usual.items() if name != "tokens"} | said
    if found.get("seed") == -1:
        del found["seed"]
    if "dry_sequence_breakers" in found:
        found["dry_sequence_breakers"] = flat(found["dry_sequence_breakers"])
    Sampling(**found)
    return found


def flat(values: Iterable[Any]) -> list[str]:
    """Texts, of which some may be given several together."""
    return [text for value in values for text in ([value] if isinstance(value, str) else value)]


def tokens_of(args: argparse.Namespace) -> int:
    """How long a text may become."""
    return args.usual["tokens"] if args.tokens is None else args.tokens  # type: ignore[no-any-return]


@frozen
class Begun:
    """A text that is being made. ``reader`` tells apart what is thought, where it is an answer."""

    stream: Stream
    reader: Reader | ChannelReader | None = None


def begin_text(
    model: Model, text: str, args: argparse.Namespace, chosen: Mapping[str, Any], progress: Progress | None
) -> Begun:
    """Begin to continue a text; markup in it is text unless --special."""
    ids = model.tokenizer.encode(text, parse_special=args.special)
    return Begun(model.generate(ids, tokens_of(args), progress=progress, **bounds_of(args), **chosen))


def begin_answer(
    model: Model,
    messages: list[dict[str, Any]],
    args: argparse.Namespace,
    chosen: Mapping[str, Any],
    progress: Progress | None,
) -> Begun:
    """Begin to answer a conversation; markup in its messages is text unless --special."""
    variables = {} if args.think is None else {"enable_thinking": args.think}
    prompt = model.conversations.prompt(messages, variables=variables, special=args.special)
    bounds = bounds_of_answer(model, prompt, bounds_of(args))
    stream = model.generate(prompt.ids, tokens_of(args), shown=prompt.shown, progress=progress, **bounds, **chosen)
    return Begun(stream, prompt.reader())


def parts(begun: Begun) -> Iterator[tuple[str, bool]]:
    """(text, whether it is only thought) as it comes."""
    stream, reader = begun.stream, begun.reader
    for piece in stream:
        if reader is None:
            yield piece.text, False
        else:
            yield from map(_part, reader.push(piece.text))
    if reader is not None:
        yield from map(_part, reader.end(cut=stream.generation.finish_reason != "stop"))


def _part(part: Part) -> tuple[str, bool]:
    from gguflike.chat.reading import Said

    if isinstance(part, Said):
        return part.text, part.reasoning
    return f"{part.name}({part.arguments})", False  # a tool that nobody offered is called
