"""What methods of the literature do to what a model says: files of one type throughout, written, read back and run.

Rows are kept in a file of JSON lines, one for each, so that a run that was cut off goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguflike
from gguflike.convert import convert
from gguflike.evaluate.evaluation import HeldOut, evaluate_all

SEQUENCES = 8  # of a step of training in torch: as many as `gguflike tune` takes


@dataclass(frozen=True)
class Row:
    """A method: what it is called, the type, options of `convert`, and how activations are rounded when it runs.

    ``moves``: what `gguflike tune` trains, starting with that file; ``torch``: the same is trained in torch."""

    label: str
    type: str
    options: dict[str, Any] = field(default_factory=dict)
    activations: str = "dynamic"
    moves: str | None = None
    torch: bool = False
    size_of: str | None = None

    @property
    def key(self) -> str:
        return f"{self.type}: {self.label}"

    @property
    def trains(self) -> bool:
        """Whether it takes gradients, and with them the longest."""
        return self.moves is not None or self.torch or self.options.get("effort", 0) > 2


def of_type(name: str, *, data_free: str) -> list[Row]:
    """A type without data, behind AWQ, and with efforts."""
    return [
        Row(data_free, name),
        Row("AWQ", name, {"fold": "awq"}),
        Row("PTQ, effort 1", name, {"effort": 1}),
        Row("AWQ, then effort 1", name, {"effort": 1, "fold": "awq"}),
        Row("PTQ, effort 2", name, {"effort": 2}),
    ]


ROWS = [
    Row("AbsMax", "Q4_0", {"method": "absmax"}),
    *of_type("Q4_0", data_free="least squares (PTQ without data)"),
    Row("SmoothQuant", "Q4_0", {"fold": "smooth"}),
    Row("Zero-point, AbsMax", "Q4_1", {"method": "absmax"}),
    Row("Zero-point, least squares", "Q4_1"),
    Row("Logarithmic", "MXFP4"),
    Row("Non-uniform levels", "IQ4_NL"),
    *of_type("Q4_K", data_free="Grouped twice"),
    Row("Mixed precision by recipe", "Q4_K_M", {"pure": False}),
    Row("Mixed precision by measurement (effort 2, --size)", "Q4_K_M", {"effort": 2}, size_of="Q4_K_M"),
    Row("Product", "IQ3_S"),
    Row("Product, effort 1", "IQ3_S", {"effort": 1}),
    *of_type("Q3_K", data_free="Grouped twice, 3 bits"),
    *of_type("Q2_K", data_free="Grouped twice, 2 bits"),
    Row("LSQ: scales by gradients (tune)", "Q2_K", moves="scales"),
    Row("QAT: scales and codes by gradients (tune)", "Q2_K", moves="codes"),
    Row("PTQ and QAT, effort 3", "Q2_K", {"effort": 3}),
    Row("QAT in torch (gguflike.torch)", "Q2_K", torch=True),
    Row("Vector", "IQ2_XXS"),
    Row("Vector, effort 1", "IQ2_XXS", {"effort": 1}),
    Row("Ternary", "TQ2_0"),
    Row("Binary", "Q1_0"),
    Row("8 bits", "Q8_0"),
    Row("8 bits, SmoothQuant", "Q8_0", {"fold": "smooth"}),
]


def bench(args: argparse.Namespace) -> None:
    """Measure the rows that are not kept yet, and print all that are."""
    held_out = HeldOut.of(args.text)
    rows = [row for row in ROWS if not args.types or row.type in args.types]
    rows = [row for row in rows if not row.trains or args.training]
    rows = [row for row in rows if not args.without_data or not row.options.keys() & {"effort", "fold"}]
    kept = read(args.keep)
    if not args.print_kept:
        measure([row for row in rows if row.key not in kept], kept, held_out, args)
    print("\n".join(table(rows, kept, list(held_out.texts))))


def measure(rows: list[Row], kept: dict[str, dict[str, Any]], held_out: HeldOut, args: argparse.Namespace) -> None:
    """Add what is found of each row to ``kept``, and to its file."""
    with tempfile.TemporaryDirectory() as place:
        truth = Path(place) / "f32.gguf"
        convert(args.model, truth, "F32")
        for row in rows:
            out, start = Path(place) / "out.gguf", time.process_time()
            make(row, args, out, Path(place))
            seconds = time.process_time() - start
            (found,) = evaluate_all(
                [out], held_out, truth, tokens=args.tokens, threads=args.threads, activations=row.activations
            )
            figures = {each.kind: each.kl for each in found.qualities if each.kl is not None}
            kept[row.key] = {
                "bytes": out.stat().st_size,
                "seconds": seconds,
                "scored": {each.kind: each.tokens for each in found.qualities},
                "kl": {kind: (figure.value, figure.error) for kind, figure in figures.items()},
            }
            if args.keep is not None:
                with Path(args.keep).open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": row.key, **kept[row.key]}) + "\n")


def read(path: str | None) -> dict[str, dict[str, Any]]:
    """The rows in a file of JSON lines, by their keys."""
    if path is None or not Path(path).exists():
        return {}
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return {line["key"]: line for line in lines}


def table(rows: list[Row], kept: dict[str, dict[str, Any]], kinds: list[str]) -> Iterator[str]:
    """The rows as Markdown."""
    yield f"| method | type | bytes | seconds | {' | '.join(f'KL, {kind}' for kind in kinds)} |"
    yield "|---|---|---|---|" + "---|" * len(kinds)
    for row in rows:
        if row.key in kept:
            found = kept[row.key]
            figures = [found["kl"][kind] for kind in kinds]
            shown = " | ".join(f"{value:.4g} ± {error:.1g}" for value, error in figures)
            yield f"| {row.label} | {row.type} | {found['bytes']:,} | {found['seconds']:.1f} | {shown} |"


def make(row: Row, args: argparse.Namespace, out: Path, place: Path) -> None:
    """Write the file of a method to ``out``."""
    asked: dict[str, Any] = {"pure": True, "overwrite": True, "resume": False, "threads": args.threads}
    asked |= row.options
    if "effort" in row.options or "fold" in row.options:
        asked |= {"calibration": args.calibration, "calibration_tokens": args.calibration_tokens}
    if row.torch:
        train_in_torch(args, row.type, out, place)
        return
    if row.size_of is not None:
        convert(args.model, place / "of.gguf", row.size_of, overwrite=True, threads=args.threads)
        asked |= {"size": (place / "of.gguf").stat().st_size, "pure": False}
    begin = out if row.moves is None else place / "begin.gguf"
    convert(args.model, begin, row.type, **asked)
    if row.moves is not None:  # the last text of the calibration says when to stop
        *texts, held = args.calibration
        gguflike.tune(
            args.model,
            out,
            start=begin,
            text=texts,
            held_out=[held],
            moves=row.moves,
            steps=args.steps,
            overwrite=True,
            threads=args.threads,
        )


def train_in_torch(args: argparse.Namespace, name: str, out: Path, place: Path) -> None:
    """Straight-through training of a transformers model whose linear layers compute with blocks of a type, towards what
    its floats say: the teacher is the same model before."""
    import torch
    import transformers

    import gguflike.torch as fake

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)  # more wait for each other by spinning, where others have the cores
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    teacher = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    fake.quantize(model, name, "codes", lambda _: True)
    texts = [Path(each).read_text(encoding="utf-8", errors="replace")[:800_000] for each in args.calibration[:-1]]
    ids = torch.tensor([token for text in texts for token in tokenizer(text)["input_ids"]][:200_000])
    sequences = ids[: len(ids) // 256 * 256].reshape(-1, 256)
    optimizer = torch.optim.Adam(
        [
            {"params": [p for n, p in model.named_parameters() if n.endswith("original")], "lr": 1e-4},
            {"params": [p for n, p in model.named_parameters() if not n.endswith("original")], "lr": 1e-3},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    order = torch.randperm(len(sequences))
    for step in range(args.steps):
        batch = sequences[order[torch.arange(step * SEQUENCES, (step + 1) * SEQUENCES) % len(order)]]
        with torch.no_grad():
            wanted = torch.log_softmax(teacher(batch).logits, dim=-1)
        found = torch.log_softmax(model(batch).logits, dim=-1)
        loss = torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="sum") / batch.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    folder = place / "trained"
    model.save_pretrained(folder, state_dict=fake.state_dict(model))
    tokenizer.save_pretrained(folder)
    fake.export(model, folder, out, overwrite=True)
