"""What can be said to the program rather than to the model: /help and the like."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gguflike.cli.generation import sampling_of
from gguflike.cli.output import clean, table
from gguflike.cli.settings import ALL, DRAFTING, SAMPLING, TEXT_SETTINGS, names_of
from gguflike.cli.talk import files
from gguflike.cli.usage import UsageError
from gguflike.errors import GGUFLikeError, counted, did_you_mean

if TYPE_CHECKING:
    from gguflike.cli.talk.session import Session


class Mistake(Exception):
    """A command cannot be done; the text says why, and what can."""


class Command(NamedTuple):
    """One command: what it takes, what it does in a line, and the function that does it with what stands behind it."""

    takes: str
    help: str
    do: Callable[[Session, str], None]


def is_command(words: str) -> bool:
    """Whether a message is one to the program: a line that begins with one /, not two. Several lines, such as a file
    that was pasted, never are."""
    return words.startswith("/") and not words.startswith("//") and "\n" not in words


def message(words: str) -> str:
    """What is said to the model: // at the beginning stands for /."""
    return words[1:] if words.startswith("//") else words


def do(session: Session, words: str) -> None:
    """Do what a command says. `Mistake` where there is none of that name, or it cannot be done."""
    name, _, rest = words[1:].strip().partition(" ")
    name = OTHER_NAMES.get(name, name)
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS) if name else None
        near = near.replace("mean ", "mean /") if near else "/help lists them"
        raise Mistake(f"no command /{clean(name, 40)}; {near} (a message that begins with / is written with two)")
    COMMANDS[name].do(session, rest.strip())


def _help(session: Session, _: str) -> None:
    rows = [[f"  /{name} {each.takes}".rstrip(), each.help] for name, each in COMMANDS.items()]
    session.tell(table(rows))
    keys = [
        ["Alt-Enter, Esc Enter", "another line; what is pasted is one message"],
        ['"""', "begins and ends a message of several lines"],
        ["Ctrl-C", "stops the answer"],
        ["Ctrl-D", "leaves"],
        ["Up, Down", "what was said before"],
    ]
    session.tell(table([[f"  {key}", what] for key, what in (keys if session.is_typed else keys[1:2])]))


_SETTABLE = names_of(TEXT_SETTINGS, DRAFTING, SAMPLING, (ALL["on_full"], ALL["think"], ALL["wrap"], ALL["quiet"]))

_OPTIONS = {flag.lstrip("-"): name for name in _SETTABLE for flag in ALL[name].flags if flag.startswith("--")}


def _set(session: Session, rest: str) -> None:
    word, _, value = rest.partition(" ")
    args, name = session.args, _OPTIONS.get(word, word.replace("-", "_"))
    if not word:
        session.tell(table([[f"  {ALL[each].word}", _shown(args, each), ALL[each].help] for each in _SETTABLE]))
        return
    if name not in _SETTABLE:
        near = did_you_mean(word, [ALL[each].word for each in _SETTABLE])
        raise Mistake(f"no setting {clean(word, 40)!r}; {near or '/set lists them'}")
    if not value:
        session.tell(f"{word}: {_shown(args, name)}")
        return
    before = getattr(args, name)
    try:
        setattr(args, name, None if value in ("default", "usual") else ALL[name].parse(value.strip()))
        sampling_of(args)  # ArgumentError where they cannot be
        session.conversation.drafter.options(session.model)  # and this where there is no such draft model
    except (argparse.ArgumentTypeError, UsageError, GGUFLikeError, OSError) as error:
        setattr(args, name, before)
        wrong = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        raise Mistake(f"{word}: {wrong.removeprefix(f'{name}: ')}") from None


def _shown(args: argparse.Namespace, name: str) -> str:
    value = getattr(args, name)
    if value is None:
        value = args.usual.get(name)
    if value is None:
        return "default"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else clean(str(value), 40)


def _system(session: Session, rest: str) -> None:
    conversation = session.conversation
    if conversation.is_plain:
        raise Mistake("a text has no system message; `gguflike chat` has")
    if rest:
        conversation.system = None if rest in ('""', "none") else rest
    said = conversation.system
    session.tell(f"system: {clean(said)}" if said else "no system message; /system TEXT sets one")


def _clear(session: Session, _: str) -> None:
    session.conversation.clear()
    session.tell("forgotten" if session.conversation.system is None else "forgotten, but for the system message")


def _last_words(session: Session) -> str:
    words = session.conversation.last_words
    if words is None:
        raise Mistake("nothing was said yet")
    return words


def _undo(session: Session, _: str) -> None:
    words = _last_words(session)
    session.conversation.undo()
    session.tell(f"taken back: {_short(words)}")


def _retry(session: Session, _: str) -> None:
    words = _last_words(session)
    session.conversation.undo()
    session.answer(words)


def _edit(session: Session, rest: str) -> None:
    words = _last_words(session)
    if not rest and not session.is_typed:
        raise Mistake("say it anew: /edit TEXT")
    session.conversation.undo()
    if rest:
        session.answer(rest)
    else:
        session.begun = words


def _read(session: Session, rest: str) -> None:
    name, _, words = rest.partition(" ")
    if not name:
        raise Mistake("which file? /read FILE [TEXT]")
    data = files.read(name)
    if not data:
        raise Mistake(f"{clean(name)} is empty")
    if b"\0" in data:
        raise Mistake(f"{clean(name)} is no text: it has bytes that are 0")
    text = data.decode("utf-8", "replace")
    session.answer(f"{text.rstrip()}\n\n{words}" if words else text)


def _save(session: Session, rest: str) -> None:
    overwrite = rest.startswith("--overwrite ")
    path = rest.removeprefix("--overwrite ").strip()
    if not path:
        raise Mistake("which file? /save FILE")
    session.conversation.save(path, overwrite=overwrite)
    session.tell(f"saved {counted(len(session.conversation.messages), 'message')} in {clean(path)}")


def _load(session: Session, rest: str) -> None:
    if not rest:
        raise Mistake("which file? /load FILE")
    session.conversation.load(rest)
    session.tell(f"{counted(len(session.conversation.messages), 'message')} of {clean(rest)}")


def _stats(session: Session, _: str) -> None:
    session.tell_stats()


def _bye(session: Session, _: str) -> None:
    session.is_over = True


def _short(text: str) -> str:
    return clean(" ".join(text.split()), 60)


COMMANDS = {
    "help": Command("", "this", _help),
    "set": Command("[NAME [VALUE]]", "show settings, or change one; VALUE default takes it back", _set),
    "system": Command("[TEXT]", 'show the system message, or set it; "" for none', _system),
    "clear": Command("", "begin anew, with nothing said", _clear),
    "undo": Command("", "take the last message and its answer back", _undo),
    "retry": Command("", "answer the last message anew", _retry),
    "edit": Command("[TEXT]", "change the last message, and have it answered anew", _edit),
    "read": Command("FILE [TEXT]", "say what is in a file, and TEXT behind it", _read),
    "save": Command("FILE", "write the conversation to a file, as JSON", _save),
    "load": Command("FILE", "go on with the conversation in a file", _load),
    "stats": Command("", "figures of the last answer and of the context", _stats),
    "bye": Command("", "leave", _bye),
}
OTHER_NAMES = {"?": "help", "h": "help", "exit": "bye", "quit": "bye", "q": "bye", "regen": "retry", "reset": "clear"}
