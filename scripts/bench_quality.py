#!/usr/bin/env python3
"""How much less quantization costs with us than with llama.cpp at the same bytes: KL divergence on held-out text.

    python scripts/bench_quality.py MODEL --llama-cpp DIR --text F... [--calibration F...] [options]

MODEL is a checkpoint. Both sides start from it, see the same calibration text, and write files of the same types:

    pure    (--types)  one type throughout. llama-quantize --pure --imatrix beside convert --pure --effort N; embedding
            and output have the type --head on both sides. The types of all tensors must be the same: so are the bytes.
    mixes   (--mixes)  llama-quantize's own mix beside convert --size BYTES --effort N, with the bytes of the peer's
            file, at any effort: ours must not be larger.

The runner rounds activations to 8 bits, as llama.cpp does: what that costs is in both sides' figures, and is much of
what is left of 4 bits and more. --weights-alone decodes the files to F32 before they are judged, as papers do.

With --hessians, files of effort 1 whose Hessians are kept by one run of calibrate stand beside them.

The divergence from the checkpoint in its own floats is measured by `gguflike eval` on every text, none of which may be
calibrated on, for all files of a type together, paired by chunks of text. --through-llama measures it with
llama-perplexity --kl-divergence as well, which knows nothing of us.

DIR is llama.cpp's source, or a folder with llama-imatrix, llama-quantize and llama-perplexity. What is missing is built
with cmake in --build. Files are kept in --work and made anew only where they are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguflike
from gguflike.evaluate import estimates
from gguflike.evaluate.evaluation import ALL, Evaluation, HeldOut, evaluate_all
from gguflike.evaluate.models import float_file
from gguflike.evaluate.scores import Pairs
from gguflike.runner.tokenizer import Tokenizer

PROGRAMS = ("llama-imatrix", "llama-quantize", "llama-perplexity")
#: Block types whose mix of the same name has another type for most tensors: the mix that has this one.
MIX_OF = {"IQ2_S": "IQ2_M", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
PEER, KEPT = "llama.cpp", "kept Hessians"
ATTEMPTS = 12  # where the machine is busy, llama-perplexity may end before the last lines of its log are out
_KL = re.compile(r"Mean\s+KLD:\s+([-\d.]+) ±\s+([\d.]+)")


@dataclass
class Tools:
    """llama.cpp's programs."""

    folder: Path
    threads: int

    def run(self, program: str, *arguments: object) -> str:
        """Run one of them, and return all that it said. The last lines are the error where it fails."""
        command = [str(self.folder / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{said}")
        return done.stdout + done.stderr


def tools(source: Path, build: Path, threads: int) -> Tools:
    """The programs of a folder, built from llama.cpp's source where they are missing."""
    for folder in (source, source / "bin", source / "build" / "bin", build / "bin"):
        if all((folder / program).exists() for program in PROGRAMS):
            return Tools(folder, threads)
    if not (source / "CMakeLists.txt").exists():
        sys.exit(f"{source}: neither {', '.join(PROGRAMS)} nor llama.cpp's source")
    off = [f"-DLLAMA_BUILD_{part}=OFF" for part in ("SERVER", "TESTS", "EXAMPLES", "MTMD")]
    configure = ["cmake", "-S", str(source), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", *off]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", str(build), "-j", str(threads), "--target", *PROGRAMS], check=True)
    return Tools(build / "bin", threads)


@dataclass
class Job:
    """Files to compare: how each is made, by name, the peer's first."""

    type: str
    kind: str  # pure or mix
    files: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # of CPU


def calibration_text(files: Sequence[Path], tokens: int | None, floats: Path) -> str:
    """The text that both sides calibrate on, as a whole: so many tokens, as many of each file."""
    parts = [path.read_text(encoding="utf-8") for path in files]
    if tokens is not None:
        with gguflike.open(floats) as file:
            tokenizer = Tokenizer(file.metadata)
        cut = [tokenizer.encode(part, add_special=False)[: tokens // len(files)] for part in parts]
        parts = [tokenizer.decode(ids).removesuffix("\ufffd") for ids in cut]
    return "\n".join(parts)


def make(args: argparse.Namespace, programs: Tools, floats: Path, imatrix: Path, calibration: Path) -> Iterator[Job]:
    """The files of each type, the peer's and ours of each effort."""
    for kind, names in (("pure", args.types), ("mix", args.mixes)):
        for name in names:
            job = Job(name, kind)
            mix = MIX_OF.get(name, name) if kind == "pure" else name
            head = ["--token-embedding-type", args.head, "--output-tensor-type", args.head] if args.head else []
            chosen = ["--pure", *head] if kind == "pure" else []
            path = args.work / f"{name}-{kind}-{args.head or 'same'}-peer.gguf"
            job.files[PEER] = path
            if not path.exists():
                begin = spent()
                quantize = ["--imatrix", imatrix, *chosen, floats, path.with_suffix(".part"), mix, args.threads]
                programs.run("llama-quantize", *quantize)
                path.with_suffix(".part").replace(path)
                job.seconds[PEER] = spent() - begin
            ways = {f"effort {effort}": seen(effort, calibration) for effort in args.efforts}
            if args.hessians:
                ways[KEPT] = ["--hessians", str(hessians(args, calibration))]
            for by, given in ways.items():
                ours = args.work / f"{name}-{kind}-{args.head or 'same'}-{by.replace(' ', '')}.gguf"
                job.files[by] = ours
                if not ours.exists():
                    what = ["--size", str(path.stat().st_size)] if kind == "mix" else ["-t", mix, *chosen]
                    command = ["convert", str(args.model), "-o", str(ours), *what, *given, *args.convert]
                    job.seconds[by] = ourselves(args, *command)
            check(job)
            yield job


def seen(effort: int, calibration: Path) -> list[str]:
    """The options of convert at an effort: 0 sees no text."""
    tokens = str(len(calibration.read_bytes()))  # more than it has: all of it
    given = ["--effort", str(effort), "--calibration", str(calibration), "--calibration-tokens", tokens]
    return given if effort else []


def hessians(args: argparse.Namespace, calibration: Path) -> Path:
    """The folder with those of the model, on the same text."""
    folder: Path = args.work / "hessians"
    if not (folder / "index.json").exists():
        command = ["calibrate", str(args.model), "--hessians", str(folder), "--calibration", str(calibration)]
        print(f"{KEPT}: {ourselves(args, *command):.1f} s of CPU to make them", flush=True)
    return folder


def ourselves(args: argparse.Namespace, *arguments: str) -> float:
    """Run one of our commands. Seconds of CPU that it took."""
    command = [sys.executable, "-m", "gguflike", *arguments, "--threads", str(args.threads)]
    begin = spent()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return spent() - begin


def spent() -> float:
    """Seconds of CPU that all commands have taken so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check(job: Job) -> None:
    """That the comparison is fair: the same types of all tensors in pure files, and no larger file of a mix."""
    with gguflike.open(job.files[PEER]) as peer:
        wanted = {name: info.format.name for name, info in peer.infos.items()}
        size = peer.file_bytes
    for path in job.files.values():
        with gguflike.open(path) as file:
            got = {each: info.format.name for each, info in file.infos.items()}
            differing = sorted(each for each in wanted.keys() | got.keys() if wanted.get(each) != got.get(each))
            if job.kind == "pure" and differing:
                first = differing[0]
                sys.exit(f"{path}: {first} is {got.get(first)}, {wanted.get(first)} in {job.files[PEER]}")
            if job.kind == "mix" and file.file_bytes > size:
                sys.exit(f"{path}: {file.file_bytes:,} bytes, more than {size:,} of {job.files[PEER]}")


def tensor_bytes(path: Path) -> int:
    with gguflike.open(path) as file:
        return sum(info.nbytes for info in file.infos.values())


def measured(job: Job, found: Sequence[Evaluation], llama: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """A record for each of our files and each text, beside the peer's."""
    records = []
    peer = found[0]
    for name, evaluation in zip(job.files, found, strict=True):
        for quality in evaluation.qualities:
            kinds = [quality.kind] if quality.kind != ALL else list(evaluation.scores)
            ours, theirs = ([_kl(each, kind) for kind in kinds] for each in (evaluation, peer))
            records.append(
                {
                    "type": job.type,
                    "kind": job.kind,
                    "by": name,
                    "text": quality.kind,
                    "tokens": quality.tokens,
                    "file_bytes": job.files[name].stat().st_size,
                    "tensor_bytes": tensor_bytes(job.files[name]),
                    "kl": _figure(quality.kl),
                    "kl_median": _figure(quality.kl_median),
                    "kl_99": _figure(quality.kl_99),
                    "same_top": _figure(quality.same_top),
                    "perplexity": _figure(quality.perplexity),
                    "ratio": estimates.ratio(ours, theirs)._asdict(),
                    "llama_kl": llama.get(name, {}).get(quality.kind),
                    "seconds": job.seconds.get(name),
                }
            )
    return records


def judged(job: Job, alone: bool, stack: contextlib.ExitStack) -> list[Path]:
    """The files to run: those of a job, or what their weights are as F32, for as long as the stack is open."""
    if not alone:
        return list(job.files.values())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=next(iter(job.files.values())).parent)))
    decoded = [folder / path.name for path in job.files.values()]
    for path, out in zip(job.files.values(), decoded, strict=True):
        gguflike.quantize_file(path, out, "F32")
    return decoded


def _kl(evaluation: Evaluation, kind: str) -> Any:
    scores = evaluation.scores[kind]
    assert isinstance(scores, Pairs)
    return scores.kl


def _figure(figure: Any) -> dict[str, Any] | None:
    return None if figure is None else figure._asdict()


def through_llama(args: argparse.Namespace, programs: Tools, bases: dict[str, Path], job: Job) -> dict[str, Any]:
    """Mean KL and its error of each file and text, as llama-perplexity has them."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, path in job.files.items():
        for text, base in bases.items():
            options = ["-m", path, "-c", args.context, "-b", args.context, "-t", args.threads]
            for _ in range(ATTEMPTS):
                said = programs.run("llama-perplexity", *options, "--kl-divergence-base", base, "--kl-divergence")
                match = _KL.search(said)
                if match is not None:
                    break
            else:
                last = "\n".join(said.splitlines()[-12:])
                sys.exit(f"llama-perplexity says no KL divergence of {path} (100 tokens are needed at least):\n{last}")
            found.setdefault(name, {})[text] = [float(match[1]), float(match[2])]
    return found


def base_logits(args: argparse.Namespace, programs: Tools, floats: Path) -> dict[str, Path]:
    """llama.cpp's logits of the floats for each text, as files of its own (2 bytes for each token and word)."""
    made = {}
    for text in args.text:
        path = args.work / f"{text.stem}-{args.context}-{args.tokens}.logits"
        made[text.stem] = path
        if not path.exists():
            options = ["-m", floats, "-f", text, "-c", args.context, "-b", args.context, "-t", args.threads]
            options += ["--chunks", args.tokens // args.context, "--save-all-logits", path.with_suffix(".part")]
            programs.run("llama-perplexity", *options)
            path.with_suffix(".part").replace(path)
    return made


def page(records: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """The table: a row for each type and text."""
    names = list(dict.fromkeys(record["by"] for record in records))
    texts = list(dict.fromkeys(record["text"] for record in records))
    columns = ["type", "text", "bytes of files", *(f"{name}: KL" for name in names)]
    columns += [f"{name}: ratio" for name in names if name != PEER]
    through = any(record["llama_kl"] for record in records)
    columns += [f"{name}, through llama.cpp" for name in names if through]
    timed = [name for name in names if name != PEER and any(r["by"] == name and r["seconds"] for r in records)]
    columns += [f"{name}: seconds of CPU" for name in timed]
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for kind, name in dict.fromkeys((record["kind"], record["type"]) for record in records):
        for text in texts:
            by = {r["by"]: r for r in records if (r["kind"], r["type"], r["text"]) == (kind, name, text)}
            sizes = dict.fromkeys(by[each]["file_bytes"] for each in names)
            cells = [f"{name} ({kind})", text, " / ".join(f"{size:,}" for size in sizes)]
            cells += [f"{by[each]['kl']['value']:.5f} ± {by[each]['kl']['error'] or 0:.5f}" for each in names]
            cells += [
                f"**{by[each]['ratio']['value']:.3f}** ± {by[each]['ratio']['error'] or 0:.3f}"
                for each in names
                if each != PEER
            ]
            cells += [_through(by[each]["llama_kl"]) for each in names if through]
            cells += [f"{by[each]['seconds']:.1f}" if by[each]["seconds"] else "" for each in timed]
            rows.append("| " + " | ".join(cells) + " |")
    head = (
        f"Embedding and output in {args.head} on both sides of pure files."
        if args.head
        else "One type in all matrices."
    )
    activations = "floats (weights decoded to F32)" if args.weights_alone else "rounded to 8 bits"
    protocol = f"KL divergence in nats from the floats, ± standard error by chunks of text; activations {activations}."
    return "\n".join([head, protocol, "", *rows])


def _through(found: list[float] | None) -> str:
    return "" if found is None else f"{found[0]:.5f} ± {found[1]:.5f}"


def parse() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, help="folder of a checkpoint")
    add(
        "--llama-cpp", type=Path, required=True, metavar="DIR", help="llama.cpp's source, or a folder with its programs"
    )
    add("--build", type=Path, metavar="DIR", help="where it is built (default: WORK/llama.cpp)")
    add("--text", type=Path, nargs="+", required=True, metavar="F", help="held-out texts, each a kind of text")
    add("--calibration", type=Path, nargs="+", required=True, metavar="F", help="text that both sides calibrate on")
    add("--calibration-tokens", type=int, metavar="N", help="tokens that both sides calibrate on (default: all)")
    add("--types", nargs="*", default=[], metavar="TYPE", help="block types, one throughout a file")
    add("--mixes", nargs="*", default=[], metavar="TYPE", help="mixes of llama-quantize")
    add("--efforts", type=int, nargs="+", default=[0, 1], metavar="N", help="of convert (default: 0 1)")
    add("--hessians", action="store_true", help="also effort 1 with Hessians that are kept for all types")
    add("--weights-alone", action="store_true", help="judge files decoded to F32: no activations in 8 bits")
    add("--head", default="F16", metavar="TYPE", help="of embedding and output in pure files (default: %(default)s)")
    add("--same-head", dest="head", action="store_const", const=None, help="embedding and output have the type, too")
    add("--context", type=int, default=512, metavar="N", help="tokens of a chunk (default: %(default)s)")
    add("--tokens", type=int, default=24_576, metavar="N", help="of each text, at most (default: %(default)s)")
    add("--score", choices=("half", "all"), default="half", help="as of gguflike eval (default: half)")
    add("--through-llama", action="store_true", help="measure with llama-perplexity, too")
    add("--convert", type=shlex.split, default=[], metavar="OPTIONS", help="further options of convert, as one text")
    add("--work", type=Path, required=True, metavar="DIR", help="folder for all files, which are kept")
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="(default: all CPUs)")
    args = parser.parse_args()
    args.build = args.build or args.work / "llama.cpp"
    return args


def main() -> None:
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    programs = tools(args.llama_cpp, args.build, args.threads)
    floats = args.work / "floats.gguf"
    if not floats.exists():
        with float_file(args.model, args.threads) as path:
            gguflike.quantize_file(path, floats, "COPY")
    calibration = args.work / "calibration.txt"
    calibration.write_text(calibration_text(args.calibration, args.calibration_tokens, floats), encoding="utf-8")
    imatrix = args.work / "imatrix.gguf"
    if not imatrix.exists():
        options = ["-m", floats, "-f", calibration, "-o", imatrix, "-c", 512, "-t", args.threads, "--no-ppl"]
        programs.run("llama-imatrix", *options)
    bases = base_logits(args, programs, floats) if args.through_llama else {}
    held_out = HeldOut.of(args.text)
    records: list[dict[str, Any]] = []
    for job in make(args, programs, floats, imatrix, calibration):
        llama = through_llama(args, programs, bases, job) if args.through_llama else {}
        with contextlib.ExitStack() as stack:
            files = judged(job, args.weights_alone, stack)
            found = evaluate_all(files, held_out, floats, args.context, args.tokens, args.score, args.threads)
        records += measured(job, found, llama)
        (args.work / "quality.json").write_text(json.dumps(records, indent=1))
        (args.work / "quality.md").write_text(page(records, args) + "\n", encoding="utf-8")
        print(page([record for record in records if record["type"] == job.type], args), "\n", flush=True)
    print(page(records, args))
    print(f"\nin {args.work / 'quality.json'} and quality.md")


if __name__ == "__main__":
    main()
