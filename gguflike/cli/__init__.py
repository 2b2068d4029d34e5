"""The command line: parse, call the library, print. Each command has its own module, imported when asked for.

What commands share:

    arguments   types of values, with their limits
    paths       where from and where to, and what may be replaced: of convert, quantize and export
    recipes     options of a recipe, and how a plan is shown and carried out: of convert and quantize
    bounds      --schema and --grammar
    settings    the table of settings that are options, variables, keys of a file and what /set changes
    config      what the user has settled for all commands: that file, and the environment
    generation  which model runs, how it is loaded, and how tokens are chosen
    several     several files, each of which is looked at whatever is wrong with another

    output      JSON, tables, sizes, and names from files made safe to print
    answer      a model's text while it is made, and how that went
    screen      the same on a terminal, which nothing in it steers
    progress    how far work is
    overview    what somebody sees who types nothing but ``gguflike``
    facts       a whole file, folder or checkpoint as text and as Markdown
    looked_for  what is looked for in a file by its name
    pages       a file as a page, and what differs between two
    browser     a file to look around in

    talk/       a conversation
    streams     the standard streams, however the process was started
    interrupts  Ctrl-C that is never lost
    usage       the error of a command line that makes no sense
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from gguflike import __version__
from gguflike.cli import config, interrupts, streams
from gguflike.cli.output import broken, clean, columns, flags_of
from gguflike.cli.usage import UsageError
from gguflike.errors import ArgumentError, ArgumentTypeError, GGUFLikeError, did_you_mean

#: Command -> one line of help. Each module ``gguflike.cli.<command>`` has ``add_arguments(parser)`` and ``run(args)``.
COMMANDS = {
    "convert": "Hugging Face checkpoint to GGUF",
    "quantize": "GGUF to GGUF of another type",
    "calibrate": "what a model's matrices multiply, for --imatrix",
    "tune": "train a quantized file to say what the floats say",
    "export": "GGUF to a Hugging Face folder",
    "upload": "GGUF files into a repository of the Hub, with a model card",
    "split": "a GGUF file into several",
    "merge": "several GGUF files into one",
    "inspect": "show what a file holds",
    "browse": "look around in a file, in the terminal",
    "verify": "check a file's structure and contents",
    "sign": "sign a file, so that verify --key can tell who wrote it",
    "diff": "compare two files",
    "edit": "change metadata of a file, such as its chat template",
    "estimate": "memory that a model takes, and how fast it can be",
    "run": "continue a prompt",
    "chat": "talk to a model",
    "embed": "vectors of texts",
    "rerank": "sort documents by how well they answer a query",
    "eval": "measure how well a model does, and what quantization cost it",
    "serve": "answer over HTTP, as OpenAI's and Anthropic's interfaces do",
    "bench": "measure speed",
    "demo": "the whole path on a bundled checkpoint",
    "completion": "a script that lets a shell complete commands and options",
}

DONE, BAD, USAGE, INTERRUPTED = 0, 1, 2, 130


def script() -> int:
    """The command line of a process of its own: `main`, with less of the garbage collector.

    What a start allocates stays, and to look through it again and again takes a fiftieth of the time to a first token.
    At the end, Python would look through everything once more, which takes another fifteenth; but what is left then
    ends with the process.
    """
    gc.set_threshold(100_000, 20, 100)
    interrupts.install()
    try:
        return main()
    finally:
        gc.freeze()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 done, 1 the file or data is bad, 2 usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's, which we never call, spin on a core as they start
    streams.prepare()
    if not arguments:
        from gguflike.cli.overview import overview

        print(overview(COMMANDS))
        return DONE
    if arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    try:
        args = _parsed(arguments)
    except SystemExit as stop:  # argparse has said why, or printed the help
        return stop.code if isinstance(stop.code, int) else USAGE
    command = f"gguflike {args.command}"
    try:
        config.settle(args)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        streams.drop_output()  # whoever read our output has enough
        return DONE
    except KeyboardInterrupt as stop:
        interrupts.clear()
        streams.say(": ".join(["interrupted", *map(str, stop.args)]))
        return INTERRUPTED
    except (UsageError, ArgumentError, ArgumentTypeError) as error:
        if args.debug and not isinstance(error, UsageError):
            raise
        streams.say(f"{command}: {_one_line(error, args)}")
        return USAGE
    except (GGUFLikeError, OSError, MemoryError) as error:
        if args.debug:
            raise
        streams.say(f"{command}: {_one_line(error, args)}")
        streams.check_output()
        return BAD
    except Exception as error:  # a defect of ours; say so in one line all the same
        if args.debug:
            raise
        streams.say(
            f"{command}: internal error: {type(error).__name__}: {_one_line(error)}; "
            "--debug shows where; please report it"
        )
        return BAD


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments, where a list at the end may have options in front of it, which argparse takes for its end.

    ``args.listed`` names the list of a command that has one.
    """
    parser = _parser(arguments)
    args, left = parser.parse_known_args(arguments)
    if left:
        listed: str | None = getattr(args, "listed", None)
        flags = [argument for argument in left if argument.startswith("-")]
        if listed is None or flags:
            command: argparse.ArgumentParser = args.parser
            command.error(f"unrecognized arguments: {' '.join(left)}{_meant(flags, command)}")
        getattr(args, listed).extend(left)
    return args


def _meant(flags: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """What to do instead of flags that the command does not have, as far as that is known."""
    from gguflike.cli.paths import FOREIGN

    remedies = []
    for flag in (flag.partition("=")[0] for flag in flags):
        remedies.append(FOREIGN.get(flag) or did_you_mean(flag, parser._option_string_actions))
    return "".join(f"; {remedy}" for remedy in remedies if remedy)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are broken at words."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, broken(f"{self.prog}: error: {message}") + "\n")


class _Help(argparse.HelpFormatter):
    """Help as wide as the terminal. argparse makes one of these for every argument that is added, and to find the width
    it would import shutil, which takes 3 ms. With an indent of 1 the longest name of a command leaves its line to what
    the command does."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, indent_increment=1, width=columns() - 2)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the command that is asked for and its arguments, or with all commands where none is."""
    parser = _Parser(
        prog="gguflike",
        description="A Hugging Face checkpoint in, a small, trustworthy, fast GGUF out.",
        epilog="exit status: 0 done, 1 the file or data is bad, or files differ, 2 usage, 130 interrupted. "
        "`gguflike` alone shows first steps, and where settings are kept.",
        formatter_class=_Help,
    )
    parser.add_argument("-V", "--version", action="version", version=f"gguflike {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True, prog=parser.prog)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    if wanted is not None and wanted not in COMMANDS:
        near = did_you_mean(wanted, COMMANDS)
        parser.error(f"no command {wanted!r}; {near or 'expected one of ' + ', '.join(COMMANDS)}")
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        line = COMMANDS[name]
        description = f"{line[0].upper()}{line[1:]}."
        sub = subparsers.add_parser(name, help=line, description=description, formatter_class=_Help)
        if name == wanted:
            module = importlib.import_module(f"gguflike.cli.{name}")
            module.add_arguments(sub)
            given = argparse.SUPPRESS  # or what stands in front of the command
            sub.add_argument("--debug", action="store_true", default=given, help="show the traceback of an error")
            sub.usage = sub.usage or _usage(sub)
            sub.set_defaults(run=module.run, parser=sub)
    return parser


def _usage(parser: argparse.ArgumentParser) -> str:
    """The arguments of a command without its options, of which some have many."""
    shapes = {None: "{0}", "?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
    words = []
    for action in parser._actions:  # argparse has no other way to ask
        name = "|".join(action.choices) if action.choices else str(action.metavar or action.dest)
        if not action.option_strings:
            words.append(shapes[action.nargs].format(name))  # type: ignore[index]
        elif action.required:
            words.append(f"{action.option_strings[0]} {name}")
    return " ".join([parser.prog, *words, "[options]"])


def _one_line(error: BaseException, args: argparse.Namespace | None = None) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        name = repr(error.filename) if error.filename == "" else error.filename
        return clean(f"{name}: {error.strerror}" if name is not None else error.strerror)
    text = error.for_command(flags_of(args)) if args is not None and isinstance(error, GGUFLikeError) else str(error)
    return clean(" ".join(text.split())) or type(error).__name__
