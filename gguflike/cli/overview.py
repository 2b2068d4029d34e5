"""What somebody sees who types ``gguflike`` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from gguflike import __version__
from gguflike.cli import config
from gguflike.cli.output import table

FIRST_STEPS = (
    ("gguflike demo", "the whole path, on a bundled model"),
    ("gguflike chat org/repo", "talk to a model of the Hub"),
    ('gguflike run model.gguf "Once upon"', "continue a text"),
    ("... | gguflike run MODEL --chat Why?", "ask about what is piped in"),
    ("gguflike convert org/repo -t Q4_K_M", "a checkpoint to a GGUF file"),
    ("gguflike inspect model.gguf", "what is in one"),
)

ENVIRONMENT = (
    ("GGUFLIKE_THREADS", "usual --threads; other options have such variables, too"),
    ("GGUFLIKE_CACHE_DIR", "where compiled kernels and downloads are kept"),
    ("GGUFLIKE_CONFIG", "file of settings in place of the usual one"),
    ("NO_COLOR", "no colours"),
)


def overview(commands: Mapping[str, str]) -> str:
    """First steps, all commands, and where settings are kept."""
    return "\n".join(
        [
            f"gguflike {__version__}: a checkpoint in, a small, trustworthy, fast GGUF out.",
            "",
            table([[f"  {line}", what] for line, what in FIRST_STEPS]),
            "",
            "commands; `gguflike help COMMAND` says more of one",
            table([[f"  {name}", line] for name, line in commands.items()]),
            "",
            environment(),
        ]
    )


def environment() -> str:
    """Variables and the file of settings."""
    rows = [[f"  {name}", what] for name, what in ENVIRONMENT]
    return f"environment\n{table(rows)}\nsettings, if there is such a file: {config.path()}"
