"""What convert and quantize share: the options of a recipe, and how a plan is shown and carried out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gguflike.cli.arguments import SHOWN, count, positive, whole
from gguflike.cli.output import clean, print_json, show
from gguflike.cli.paths import default_out, near_type, take_rest
from gguflike.cli.progress import progress_bar
from gguflike.cli.usage import UsageError

if TYPE_CHECKING:
    from gguflike.convert import ConversionPlan
    from gguflike.families.parts import Graph

CARD = "measure the file beside its source in floats, and say in its header how far it is from that"


def add_recipe_arguments(parser: argparse.ArgumentParser, types: str) -> None:
    parser.add_argument("-t", "--type", "--outtype", metavar="TYPE", help=types)
    parser.add_argument("--imatrix", metavar="F", help="importance matrix: columns that matter more")
    parser.add_argument("--threads", type=positive, help="threads for encoding (default: all CPUs)")
    add_split_arguments(parser)
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="begin anew where an earlier run was cut off, and leave nothing if this is",
    )
    calibrated = parser.add_argument_group("rounding for the inputs that matrices have when the model reads text")
    add = calibrated.add_argument
    add(
        "--effort",
        type=whole,
        default=0,
        metavar="0|1|2|3",
        help="0: each tensor by itself; 1: run the model on text, in minutes to hours; 2: and back; "
        "3: and train what was rounded, which takes the memory of the whole model several times (default: 0)",
    )
    add(
        "--calibration",
        nargs="+",
        action="extend",
        default=[],
        metavar="F",
        help="text, or lines of JSON with texts or conversations (default: what the package has)",
    )
    add(
        "--hessians",
        metavar="FOLDER",
        help="effort 1 without text: round with what calibrate --hessians has kept of this model there",
    )
    folds = calibrated.add_mutually_exclusive_group()
    folds.add_argument(
        "--awq",
        dest="fold",
        action="store_const",
        const="awq",
        help="first move scales between tensors so that what multiplies large inputs is rounded finer",
    )
    folds.add_argument(
        "--smooth",
        dest="fold",
        action="store_const",
        const="smooth",
        help="first move scales between tensors so that activations are even (SmoothQuant)",
    )
    add("--calibration-tokens", type=positive, metavar="N", help="tokens of the text that are used (default: 131072)")
    add("--seed", type=count, default=0, metavar="N", help="of what effort 2 draws by chance (default: 0)")
    limits = parser.add_argument_group("the best types for a size, instead of --type")
    add = limits.add_argument
    add("--size", metavar="N", help="the best file of at most N bytes, such as 4.5GiB; of types that cost least")
    add("--bpw", type=float, metavar="N", help="the same for so many bits per weight")
    add("--fit-ram", metavar="N", help="the same for what runs in N bytes of memory, such as 8GiB, with --context")
    tensors = parser.add_argument_group("types of single tensors, as of llama-quantize")
    add = tensors.add_argument
    add(
        "--tensor-type",
        dest="tensor_types",
        action="append",
        metavar="REGEX=TYPE",
        help="type for the tensors in whose name REGEX is found; may be given several times, the first decides",
    )
    add("--tensor-type-file", metavar="F", help="a file of more REGEX=TYPE, separated by spaces or lines")
    add("--output-tensor-type", metavar="TYPE", help="of output.weight")
    add("--token-embedding-type", metavar="TYPE", help="of token_embd.weight")
    add("--leave-output-tensor", action="store_true", default=None, help="output.weight keeps the type it has")
    add("--pure", action="store_true", default=None, help="one type for all weight matrices, no exceptions")
    add("--include-weights", action="append", metavar="WORD", help="use only importance of tensors named so")
    add("--exclude-weights", action="append", metavar="WORD", help="use no importance of tensors named so")
    changes = parser.add_argument_group("changes to the model, as of llama-quantize")
    add = changes.add_argument
    add("--prune-layers", type=_layers, metavar="L0,L1,...", help="leave layers out; those behind move up")
    add("--override-kv", action="append", metavar="KEY=TYPE:VALUE", help="set a metadata key: int, float, bool or str")
    parser.add_argument(
        "--allow-requantize", action="store_true", default=None, help="no notice about tensors quantized before"
    )
    add_text_arguments(
        parser.add_argument_group("figures on held-out text, as of eval"),
        context="tokens of a chunk (default: 512, or the trained context); with --fit-ram, those that memory is kept "
        "for (default: 4096)",
    )
    parser.add_argument("--strict", action="store_true", default=None, help="notices are errors")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, read and write no tensor")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON document")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split-max-size", metavar="N", help="begin another file at so many bytes, such as 4G or 500M")
    parser.add_argument("--split-max-tensors", type=positive, metavar="N", help="begin another file at so many tensors")
    parser.add_argument("--no-tensor-first-split", action="store_true", help="only metadata in the first of the files")


def take(args: argparse.Namespace, default_type: str | None) -> dict[str, Any]:
    """The arguments in order, and the options of the selection among them. UsageError, or ArgumentError, for what is
    not valid, before anything is opened."""
    from gguflike.convert.selection import SelectionOptions, select

    take_rest(args, typed=True)
    limited = any(each is not None for each in (args.size, args.bpw, args.fit_ram))
    if args.type is not None and limited:
        raise UsageError("-t TYPE says what --size, --bpw and --fit-ram leave open: give one of them")
    args.type = args.type or default_type
    if args.type is None and limited:
        args.type = "Q4_K_S"  # of what is not measured
    if args.type is None:
        raise UsageError(f"the type is required, such as -t Q4_K_M{near_type(args.out or '')}")
    default_out(args)
    asked = {name: getattr(args, name) for name in SelectionOptions.__annotations__}
    given = {name: value for name, value in asked.items() if value is not None}
    options: SelectionOptions = given  # type: ignore[assignment]
    select(options)
    return given


def plan_and_run(args: argparse.Namespace, plan: Callable[..., ConversionPlan], **options: Any) -> int:
    """Show what ``plan(source, out, type, ...)`` gives, carry it out unless it is a dry run, and report."""
    from gguflike.container.splitting import split_of
    from gguflike.convert.budget import limit_of
    from gguflike.convert.effort import effort_of
    from gguflike.convert.execute import check_targets, execute
    from gguflike.convert.proof import proven
    from gguflike.convert.resume import with_notice

    resume = not args.no_resume
    effort = effort_of(
        args.effort, args.calibration, args.calibration_tokens, args.seed, fold=args.fold, hessians=args.hessians
    )
    limit = limit_of(args.size, args.bpw, args.fit_ram, args.context if args.fit_ram else None, _beside)
    if effort.is_calibrated or effort.fold is not None:
        from gguflike.calibration import render

        effort = replace(effort, chat=render)
    split = split_of(args.split_max_size, args.split_max_tensors, args.no_tensor_first_split)
    planned = plan(
        args.source, args.out, args.type, imatrix=args.imatrix, split=split, effort=effort, limit=limit, **options
    )
    planned = _with_card(args, planned)
    if not args.dry_run:
        check_targets(planned, args.overwrite)
    planned = with_notice(planned, "search", resume)
    if not args.dry_run:
        planned = proven(planned)
    if not args.json:
        show(args, str(planned))
    if not args.dry_run:
        with progress_bar() as progress:
            written = execute(planned, progress=progress, threads=args.threads, overwrite=args.overwrite, resume=resume)
        if not args.json:
            for notice in written.notices[len(planned.notices) :]:
                show(args, f"notice: {notice}")
        planned = written
    if args.json:
        print_json(plan_document(planned, args.dry_run))
    elif not args.dry_run:
        first, *others = planned.paths
        print(f"wrote {clean(first)}" + (f" and {len(others)} more" if others else ""))
    return 0


def _beside(graph: Graph, context: int) -> int:
    """What a model takes beside its weights where gguflike runs it."""
    from gguflike.runner.needs import beside_weights

    return beside_weights(graph, context)


def _with_card(args: argparse.Namespace, plan: ConversionPlan) -> ConversionPlan:
    """The plan with places for figures on held-out text in its header, where they are asked for."""
    if not args.card:
        given = {"--text": args.text, "--tokens": args.tokens, "--score": args.score != "half"}
        given["--context"] = args.context and args.fit_ram is None
        for flag, value in given.items():
            if value:
                others = ", and for --fit-ram" if flag == "--context" else ""
                raise UsageError(f"{flag} is for --card, which measures the file on held-out text{others}")
        return plan
    from gguflike.convert.carded import with_card
    from gguflike.evaluate.card import Card

    return with_card(
        plan, Card(args.text, context=None if args.fit_ram else args.context, tokens=args.tokens, score=args.score)
    )


def add_text_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    card: str = CARD,
    context: str = "tokens of a chunk (default: 512, or the trained context)",
) -> None:
    """The held-out text, how it is scored, and whether the file is to say what was found."""
    add = parser.add_argument
    add("--card", action="store_true", help=card)
    add("--text", action="extend", nargs="+", default=[], metavar="F", help="held-out text, each file a kind of text")
    add("--context", type=positive, metavar="N", help=context)
    add("--tokens", type=positive, metavar="N", help="tokens of each text to use (default: all)")
    add(
        "--score",
        choices=("half", "all"),
        default="half",
        help="tokens of a chunk that count: the second half, as of llama-perplexity, or all (default: half)",
    )


def _layers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"not numbers of layers, such as 3,4: {text[:SHOWN]!r}") from None


def plan_document(plan: ConversionPlan, dry_run: bool) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "source": plan.source,
        "target": None if plan.target is None else str(plan.target),
        "type": plan.recipe.name,
        "written": not dry_run,
        "files": list(plan.paths),
        "parameters": plan.parameters,
        "file_bytes": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "substitutions": [
            {"name": tensor.name, "wanted": tensor.wanted.name, "type": tensor.format.name}
            for tensor in plan.substitutions
        ],
        "notices": list(plan.notices),
        "calibration": calibration_document(plan),
        "tensors": [
            {
                "name": info.name,
                "shape": list(info.shape),
                "type": info.format.name,
                "bytes": info.nbytes,
                "offset": info.offset,
                "shard": shard,
            }
            for shard, file in enumerate(plan.files)
            for info in file.tensors
        ],
    }


def calibration_document(plan: ConversionPlan) -> dict[str, Any] | None:
    """What is done beside encoding, on what text, and what it takes, as JSON. None where tensors are only encoded."""
    found, calibration = plan.stages, plan.calibration
    if not found:
        return None
    from gguflike.convert import stages

    about: dict[str, Any] = {"effort": 0, "texts": [], "tokens": 0, "hessians": None}
    if calibration is not None:
        about = calibration.document()
    return {
        **about,
        "fold": None if plan.folding is None else plan.folding.method,
        "limit": None if plan.budget is None else plan.budget.limit.label,
        **stages.document(found, 0 if calibration is None else calibration.disk),
    }
