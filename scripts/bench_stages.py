#!/usr/bin/env python3
"""What a plan says of how long its stages take, and how long they take: seconds of CPU, of one thread.

    python scripts/bench_stages.py SRC -t Q4_K --effort 2 --calibration-tokens 4096 --prune-layers 1-29

Layers may be left out, since all take as long. Prints a Markdown table. The plan's seconds are those of one CPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from gguflike.convert import convert
from gguflike.convert.stages import FOLDS, OUTPUTS, ROUNDING, TUNING, TYPES
from gguflike.convert.workload import cpus
from gguflike.progress import CALIBRATING

STARTS = {"awq": FOLDS, "smooth": FOLDS, "types": TYPES, "block": OUTPUTS, "logits": OUTPUTS, "tuning": TUNING}


def stage_of(what: str) -> str | None:
    """The stage that says ``what`` of its progress; None where tensors are only encoded."""
    if not what.startswith(CALIBRATING):
        return None
    said = what.removeprefix(CALIBRATING)
    return next((name for start, name in STARTS.items() if said.startswith(start)), ROUNDING)


def measured(src: str, type: str, options: dict[str, Any]) -> dict[str | None, float]:
    """Seconds of CPU by stage."""
    found: dict[str | None, float] = defaultdict(float)
    at, current = time.process_time(), None

    def progress(_: int, __: int, what: str) -> None:
        nonlocal at, current
        now = time.process_time()
        found[current] += now - at
        at, current = now, stage_of(what)

    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.gguf"
        convert(src, out, type, threads=1, resume=False, progress=progress, **options)
        progress(0, 0, "")
    return found


def layers(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("src", metavar="SRC")
    add("-t", "--type", default="Q4_K")
    add("--effort", type=int, default=0)
    add("--fold", choices=("awq", "smooth"))
    add("--bpw", type=float)
    add("--calibration", nargs="+", default=[])
    add("--calibration-tokens", type=int, default=4096)
    add("--prune-layers", type=layers, default=[], metavar="FIRST-LAST")
    args = parser.parse_args()
    options: dict[str, Any] = {"effort": args.effort, "fold": args.fold, "calibration": args.calibration}
    options |= {"bpw": args.bpw} if args.bpw else {"pure": True}
    options |= {"prune_layers": args.prune_layers} if args.prune_layers else {}
    few = {"calibration_tokens": 256}
    if args.effort or args.fold:
        options["calibration_tokens"] = args.calibration_tokens
        measured(args.src, args.type, {**options, **few})  # which compiles kernels
    plan = convert(args.src, None, args.type, dry_run=True, **options)
    found = measured(args.src, args.type, options)
    print("| stage | plan, seconds of one CPU | measured |\n|---|---|---|")
    for stage in plan.stages:
        planned = "-" if stage.seconds is None else f"{stage.seconds * cpus():.1f}"
        print(f"| {stage.name} | {planned} | {found.get(stage.name, 0.0):.1f} |")
    print(f"| reading, encoding, writing | - | {found[None]:.1f} |")


if __name__ == "__main__":
    main()
