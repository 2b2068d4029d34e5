"""gguflike sign FILE --key PRIVATE"""

from __future__ import annotations

import argparse

from gguflike.cli.output import clean, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="GGUF file; of a split model, any of its files")
    parser.add_argument(
        "--key",
        metavar="PRIVATE",
        required=True,
        help="private key in PEM: openssl genpkey -algorithm ed25519 makes one",
    )


def run(args: argparse.Namespace) -> int:
    from gguflike.verify import sign

    tell(f"signed {clean(args.file)} with the key that fits {sign(args.file, args.key)}")
    return 0
