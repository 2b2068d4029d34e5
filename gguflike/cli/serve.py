"""gguflike serve MODEL"""

from __future__ import annotations

import argparse
import gc
import re
from typing import TYPE_CHECKING

from gguflike.amounts import bytes_of
from gguflike.cli.arguments import SHOWN, count, number, positive
from gguflike.cli.config import model_named, usual_model
from gguflike.cli.generation import add_model_arguments, add_sampling_arguments, model_given, sampling_of
from gguflike.cli.progress import progress_bar
from gguflike.cli.settings import DRAFTING, LOADING, MTP, SAMPLING, WORDS, add_settings, names_of
from gguflike.cli.streams import read_file, say
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.serve import Settings

#: Python's own thresholds of its garbage collector, for what lasts longer than what `cli.script` sets others for:
#: asyncio's connections alone leave some garbage, each of them.
GARBAGE = (700, 10, 10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, by_flag=True)
    where = parser.add_argument_group("where, and for whom")
    where.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (%(default)s)")
    where.add_argument("--port", type=count, default=8080, metavar="N", help="port; 0 takes a free one (%(default)s)")
    where.add_argument("--api-key", action="append", metavar="KEY", help="ask for this key; several may be given")
    where.add_argument("--api-key-file", metavar="FILE", help="ask for one of the keys in a file, a line for each")
    where.add_argument("--no-auth", action="store_true", help="let others than this machine in without a key")
    where.add_argument(
        "--allowed-hosts", type=WORDS.parse, metavar="NAMES", help="further names of this machine, by commas"
    )
    where.add_argument(
        "--cors-origins",
        type=WORDS.parse,
        metavar="ORIGINS",
        help="sites that may use it, by commas; * is any (localhost)",
    )
    where.add_argument("--no-ui", action="store_true", help="no page at /")
    where.add_argument("--max-body", type=size, default=32 << 20, metavar="BYTES", help="of a request at most (32Mi)")
    models = parser.add_argument_group("models")
    models.add_argument("--alias", metavar="NAME", help="what the model is called (default: by its file)")
    models.add_argument("--models-dir", metavar="FOLDER", help="GGUF files that are loaded when they are asked for")
    models.add_argument(
        "--memory", type=size, default=0, metavar="BYTES", help="for all models; 8G, say (3/4 of the machine's)"
    )
    add_settings(models, DRAFTING)
    work = parser.add_argument_group("work")
    work.add_argument("-np", "--parallel", type=positive, default=8, metavar="N", help="texts at a time (%(default)s)")
    work.add_argument("--queue", type=positive, default=64, metavar="N", help="texts that may wait (%(default)s)")
    work.add_argument(
        "--cache-memory", type=size, metavar="BYTES", help="for begins of texts (1/10 of --memory, or of the machine's)"
    )
    work.add_argument(
        "--prefix-dir", metavar="FOLDER", help="keep begins of texts on the disk, too, for the next start"
    )
    work.add_argument("--prefix-disk", type=size, default=8 << 30, metavar="BYTES", help="for these at most (8Gi)")
    work.add_argument("--slot-save-path", metavar="FOLDER", help="let requests save what slots hold, into this folder")
    work.add_argument(
        "--grace", type=number, default=20.0, metavar="S", help="seconds for answers when it ends (%(default)s)"
    )
    add_sampling_arguments(parser, temperature=0.8, min_p=0.05)
    parser.set_defaults(settled=names_of(LOADING, SAMPLING, DRAFTING))
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of each request")


#: What the library calls that options set by another name -> the option.
_OPTIONS = {"api_keys": "--api-key", "prefix_bytes": "--prefix-disk", "store": "--slot-save-path"}


def run(args: argparse.Namespace) -> int:
    args.sources = _OPTIONS | args.sources  # by which errors name them
    settings = _settings(args)
    import logging

    from gguflike.machine import share_heap
    from gguflike.serve import Server

    share_heap()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # which warns of each client that leaves in mid-sentence
    server = Server(settings)
    with progress_bar() as progress:
        server.load(progress)
    gc.freeze()  # what the start made stays, and is not looked through again
    gc.set_threshold(*GARBAGE)
    server.run()
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from gguflike.serve import Settings

    name = model_given(args)
    if name is None and args.models_dir is None:
        name = usual_model(args.config)
        if name is None:
            raise UsageError("FILE is required: the model; or --models-dir FOLDER")
    if args.alias is not None and name is None:
        raise UsageError("--alias names the model that FILE is, and there is none")
    keys = list(args.api_key or ())
    if args.api_key_file is not None:
        found = [line.strip() for line in read_file(args.api_key_file).splitlines() if line.strip()]
        if not found:
            raise UsageError(f"{args.api_key_file}: holds no key")
        keys += found
    if not args.no_auth and not keys and not _local(args.host):
        raise UsageError(
            f"--host {args.host} lets others in, and no key is asked of them: add --api-key KEY, or say --no-auth"
        )
    return Settings(
        model=None if name is None else model_named(name, args.config),
        models_dir=args.models_dir,
        alias=args.alias,
        host=args.host,
        port=args.port,
        api_keys=tuple(keys),
        no_auth=args.no_auth,
        allowed_hosts=args.allowed_hosts or (),
        cors_origins=args.cors_origins or (),
        parallel=args.parallel,
        queue=args.queue,
        context=args.context,
        threads=args.threads,
        cache_type=args.cache_type or "f16",
        activations=args.activations or "dynamic",
        cache_bytes=args.cache_memory,
        memory=args.memory,
        slots_dir=args.slot_save_path,
        prefix_dir=args.prefix_dir,
        prefix_bytes=args.prefix_disk,
        draft=args.draft if args.draft in (None, MTP) else model_named(args.draft, args.config),
        draft_tokens=args.draft_tokens or 8,
        ui=not args.no_ui,
        max_body=args.max_body,
        grace=args.grace,
        sampling=sampling_of(args),
        log=_quiet if args.quiet else say,
    )


def _local(host: str) -> bool:
    from gguflike.serve.settings import is_loopback

    return is_loopback(host)


def _quiet(line: str) -> None:
    """Only what an operator must know: the address, models, defects."""
    if not re.match(r"(GET|POST|OPTIONS|HEAD|PUT|DELETE|PATCH) '", line):
        say(line)


def size(text: str) -> int:
    """Bytes: 8G are 8,000,000,000, 8Gi are 8 times 1024 three times."""
    count = bytes_of(text)
    if count is None:
        raise argparse.ArgumentTypeError(f"not a size: {text[:SHOWN]!r}; such as 8G or 512Mi")
    return count
