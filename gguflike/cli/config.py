"""What the user has settled for all commands: the environment, and a file.

The file is ``gguflike/config.toml`` in $XDG_CONFIG_HOME (else ~/.config), or what $GGUFLIKE_CONFIG names. An option
of the command line goes before a variable of the environment, that before the file, and the file before what is usual.
spec/cli.md lists all.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import Any

from gguflike.cli.usage import UsageError

ALIASES = "aliases"


def path() -> str:
    """Where the file is, or would be."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118
    return os.environ.get("GGUFLIKE_CONFIG") or os.path.join(home, "gguflike", "config.toml")  # noqa: PTH118


def state_folder() -> str:
    """Where what was typed is kept."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")  # noqa: PTH111, PTH118
    return os.path.join(home, "gguflike")  # noqa: PTH118


class Config:
    """What the file says, checked: ``values`` by the names of settings, the ``keys`` that these have in it, and
    ``aliases`` of models."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.keys: dict[str, str] = {}
        self.aliases: dict[str, str] = {}


def read() -> Config:
    """The file of settings; nothing where there is none. UsageError for what it cannot mean."""
    config = Config(path())
    place = config.path
    try:
        with open(place, "rb") as file:  # noqa: PTH123 - every command comes by
            text = file.read()
    except FileNotFoundError:
        if os.environ.get("GGUFLIKE_CONFIG"):
            raise
        return config
    from gguflike.cli.settings import ALL

    try:
        document = _loads(text.decode())
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(f"{place}: {error}") from None
    for table, key, value in _entries(document, place):
        if table == ALIASES:
            if not isinstance(value, str):
                raise UsageError(f"{place}: {ALIASES}.{key}: expected the name of a model; got {value!r}")
            config.aliases[key] = value
            continue
        setting = ALL.get(key)
        if setting is None or setting.table != table:
            raise UsageError(f"{place}: {_unknown(table, key)}")
        try:
            config.values[key], config.keys[key] = setting.typed(value), setting.key
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{place}: {setting.key}: {error}") from None
    return config


def _entries(document: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, Any]]:
    """(table, key, value) of all that the file says."""
    from gguflike.cli.settings import ALL

    tables = {ALIASES, *(setting.table for setting in ALL.values())}
    for key, value in document.items():
        if key not in tables:
            yield "", key, value
        elif isinstance(value, dict):
            yield from ((key, inner, each) for inner, each in value.items())
        else:
            raise UsageError(f"{place}: {key}: expected a table, [{key}]; got {value!r}")


def _unknown(table: str, key: str) -> str:
    """What to say of a key that means nothing."""
    from gguflike.cli.settings import ALL
    from gguflike.errors import did_you_mean

    tables = dict.fromkeys(setting.table for setting in ALL.values() if setting.table)
    where = f"{table}.{key}" if table else key
    near = did_you_mean(
        where, [*(setting.key for setting in ALL.values()), *(f"[{name}]" for name in (*tables, ALIASES))]
    )
    if key in ALL:
        near = f"did you mean {ALL[key].key}?"
    return f"no setting {where!r}" + (f"; {near}" if near else "; spec/cli.md lists all")


def _loads(text: str) -> Mapping[str, Any]:
    try:
        import tomllib  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[import-not-found, no-redef, unused-ignore]
        except ModuleNotFoundError:
            raise ValueError("read by Python 3.11 and newer, or with the package tomli: pip install tomli") from None
    found: Mapping[str, Any] = tomllib.loads(text)
    return found


#: What all commands that have such an option take from environment and file. Others are named by a command's parser:
#: ``set_defaults(settled=...)``.
EVERYWHERE = ("threads",)


def settle(args: argparse.Namespace) -> None:
    """Give options that were not given the value of the environment or the file. ``args.sources`` says where from, and
    ``args.config`` is the file. UsageError for values that cannot be."""
    args.config = config = read()
    args.sources = sources = {}
    for name in (*getattr(args, "settled", ()), *EVERYWHERE):
        if getattr(args, name, 0) is not None:  # given, or not an option of this command
            continue
        text = os.environ.get(variable(name))
        if text:
            if name != "threads":  # which the library reads itself
                setattr(args, name, _of_environment(name, text))
                sources[name] = variable(name)
        elif name in config.values:
            setattr(args, name, config.values[name])
            sources[name] = f"{config.path}: {config.keys[name]}"


def _of_environment(name: str, text: str) -> Any:
    from gguflike.cli.settings import ALL

    try:
        return ALL[name].parse(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{variable(name)}: {error}") from None


def variable(name: str) -> str:
    """The name of a setting in the environment."""
    return f"GGUFLIKE_{name.upper()}"


def model_named(name: str, config: Config) -> str:
    """What is meant by the name of a model: an alias of the file of settings, a file in the folder of models, or, as
    for all commands, a path, a name on the Hub or a URL."""
    if os.path.lexists(name):
        return name
    if name in config.aliases:
        return os.path.expanduser(config.aliases[name])  # noqa: PTH111
    folder = os.environ.get(variable("models_dir")) or config.values.get("models_dir")
    if folder:
        for each in (name, f"{name}.gguf"):
            place = os.path.join(os.path.expanduser(folder), each)  # noqa: PTH111, PTH118
            if os.path.isfile(place):  # noqa: PTH113
                return place
    return name


def usual_model(config: Config) -> str | None:
    """The model that is meant where none is named."""
    return os.environ.get(variable("model")) or config.values.get("model") or None
