"""gguflike completion SHELL"""

from __future__ import annotations

import argparse
import importlib
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="shell to print a script for")
    parser.epilog = (
        'bash: eval "$(gguflike completion bash)" in ~/.bashrc. zsh: gguflike completion zsh > a file _gguflike in a '
        "folder of $fpath. fish: gguflike completion fish > ~/.config/fish/completions/gguflike.fish"
    )


def run(args: argparse.Namespace) -> int:
    print(SCRIPTS[args.shell](commands()))
    return 0


class Option(NamedTuple):
    """An option with all its names. ``choices`` are its values, if it has some; ``takes`` whether it has a value."""

    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes: bool


class Described(NamedTuple):
    """What a shell is told of a command. ``words`` are what its arguments may be, where they are no files."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def commands() -> list[Described]:
    """All commands, as their parsers have them."""
    from gguflike.cli import COMMANDS

    found = []
    for name, line in COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"gguflike.cli.{name}").add_arguments(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        options: list[Option] = []
        words: list[str] = []
        for action in parser._actions:  # argparse has no other way to ask
            choices = tuple(map(str, action.choices or ()))
            if action.option_strings:
                text = (action.help or "").replace("%(default)s", str(action.default))
                options.append(Option(tuple(action.option_strings), text, choices, action.nargs != 0))
            else:
                words += choices
        found.append(Described(name, line, tuple(options), tuple(words)))
    found.append(Described("help", "what a command does", (), tuple(COMMANDS)))
    return found


def bash(described: list[Described]) -> str:
    """A function that completes commands, options, choices and, for all else, files."""
    cases, values = [], []
    for each in described:
        flags = " ".join(name for option in each.options for name in option.names)
        cases.append(f'        {each.name}) options="{flags}"; words="{" ".join(each.words)}" ;;')
        for option in each.options:
            if option.choices:
                names = "|".join(f"{each.name}:{name}" for name in option.names)
                given = f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word")); return'
                values.append(f"        {names}) {given} ;;")
    names = " ".join(each.name for each in described)
    return "\n".join(
        [
            "# bash completion of gguflike",
            "_gguflike() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" options="" words=""',
            "    if [ $COMP_CWORD -eq 1 ]; then",
            f'        COMPREPLY=($(compgen -W "{names} --help --version" -- "$word")); return',
            "    fi",
            '    case "${COMP_WORDS[1]}:$before" in',
            *values,
            "    esac",
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            "    esac",
            '    if [[ $word == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$word"))',
            '    elif [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$word"))',
            '    else COMPREPLY=($(compgen -f -- "$word")); fi',
            "}",
            "complete -o filenames -F _gguflike gguflike",
        ]
    )


def zsh(described: list[Described]) -> str:
    """A function for zsh's completion system."""
    lines = ["#compdef gguflike", "_gguflike() {", "    local -a names", "    names=("]
    lines += [f"        {_quoted(f'{_plain(each.name)}:{_plain(each.help)}')}" for each in described]
    lines += ["    )", "    if (( CURRENT == 2 )); then _describe command names; return; fi", '    case "$words[2]" in']
    for each in described:
        lines += [f"        {each.name}) shift words; (( CURRENT-- )); _arguments -s \\"]
        for option in each.options:
            value = (
                f":value:({' '.join(option.choices)})" if option.choices else ":value:_files" if option.takes else ""
            )
            lines += [f"            {_quoted(f'{name}[{_plain(option.help)}]{value}')} \\" for name in option.names]
        rest = f"*:word:({' '.join(each.words)})" if each.words else "*:file:_files"
        lines += [f"            {_quoted(rest)} ;;"]
    return "\n".join([*lines, "    esac", "}", '_gguflike "$@"'])


def fish(described: list[Described]) -> str:
    """Lines of ``complete``."""
    lines = ["# fish completion of gguflike"]
    for each in described:
        first = "complete -c gguflike -n __fish_use_subcommand -f"
        lines.append(f"{first} -a {each.name} -d {_quoted(each.help)}")
        seen = f'complete -c gguflike -n "__fish_seen_subcommand_from {each.name}"'
        if each.words:
            lines.append(f"{seen} -f -a {_quoted(' '.join(each.words))}")
        for option in each.options:
            long = [f"-l {name[2:]}" for name in option.names if name.startswith("--")]
            short = [f"-{'s' if len(name) == 2 else 'o'} {name[1:]}" for name in option.names if name[:2] != "--"]
            value = ["-r"] if option.takes else []
            value = [*value, f"-f -a {_quoted(' '.join(option.choices))}"] if option.choices else value
            lines.append(" ".join([seen, *short, *long, *value, "-d", _quoted(option.help)]))
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Without what zsh takes for the end of a description."""
    return text.replace("[", "(").replace("]", ")").replace(":", ",").replace("\\", "")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
