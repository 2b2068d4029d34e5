"""Several users at once: `gguflike serve` beside llama-server and llama-cpp-python's server, on one file, in turns.

    python scripts/bench_server.py FILE.gguf ... [--llama-server PROGRAM] [--clients 1,2,4,8,16] [--rounds 3]
        [--prompt 128] [--new 64] [--context 4096] [--threads 2] [--shared 2000] [--json OUT.json]

All servers hold the file at the same time and take turns; the idle ones compute nothing. In each round so many clients
ask at the same moment, each for the continuation of a text of its own of about --prompt tokens (never the same twice,
so that no server knows it already), streamed, greedy, --new tokens whatever comes. Measured are

    tokens/s    of all clients together, from the first request to the last token
    first       seconds from a client's request to its first text: the median, and the 95th percentile of all rounds
    prefix      what a new client waits for its first token behind a system prompt of --shared tokens that another one
                has used, as a part of what the first client waited (--shared 0: not measured)
    own         microseconds of CPU that serving adds to a token, by serving_cost.py, for 1, 8 and 16 clients (--no-own:
                not measured)

Figures are medians over the rounds, ratios medians of the ratios of each round. llama-server is left out without
--llama-server (built from llama.cpp's source), llama-cpp-python's where its package or its server's are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import serving_cost

OURS = "gguflike"
OWN_CLIENTS = [1, 8, 16]
SECONDS_TO_START = 120.0
TEXT_OF_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea body information
"""
WORDS = TEXT_OF_WORDS.split()


@dataclass
class Server:
    """One server and what was measured of it: (clients, what) -> figures of the rounds."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    figures: dict[tuple[int, str], list[float]] = field(default_factory=dict)

    def note(self, clients: int, what: str, *values: float) -> None:
        self.figures.setdefault((clients, what), []).extend(values)


@dataclass
class Answer:
    """One streamed answer: seconds from the request to the first text and to the end, and how many tokens it has."""

    first: float
    last: float
    tokens: int


def commands(path: str, options: argparse.Namespace, slots: int) -> dict[str, list[str]]:
    """Name of a server -> its command line, without the port."""
    threads, context = str(options.threads), options.context
    found = {
        OURS: [
            *(sys.executable, "-m", "gguflike", "serve", path, "--threads", threads),
            *("--context", str(context), "--parallel", str(slots)),
        ]
    }
    if options.llama_server:
        found["llama-server"] = [
            *(options.llama_server, "-m", path, "-t", threads, "-tb", threads),
            *("-c", str(context * slots), "-np", str(slots), "--no-webui"),
        ]
    if importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("fastapi"):
        found["llama-cpp-python"] = [
            *(sys.executable, "-m", "llama_cpp.server", "--model", path, "--n_threads", threads),
            *("--n_ctx", str(context), "--interrupt_requests", "false"),
        ]
    return found


@contextmanager
def servers(path: str, options: argparse.Namespace, slots: int) -> Iterator[list[Server]]:
    """All servers of a file, once they answer."""
    started: list[Server] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, command in commands(path, options, slots).items():
                port = free_port()
                with Path(folder, f"{name}.log").open("wb") as log:
                    process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
                started.append(Server(name, port, process))
                wait_for(started[-1], Path(folder, f"{name}.log"))
            yield started
        finally:
            for server in started:
                server.process.terminate()
            for server in started:
                server.process.wait(30)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_for(server: Server, log: Path) -> None:
    """Return when the server has answered a request. OSError, with what it said, where it never does."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < SECONDS_TO_START and server.process.poll() is None:
        try:
            asyncio.run(ask(server.port, "Once upon a time", 8))
            return
        except (OSError, ValueError):
            time.sleep(0.2)
    raise OSError(f"{server.name} does not answer: {log.read_text(errors='replace')[-2000:]}")


async def ask(port: int, prompt: str, new: int) -> Answer:
    """Stream one completion. ValueError where the answer is no stream of completions."""
    body = json.dumps(
        {
            "model": "any",
            "prompt": prompt,
            "max_tokens": new,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "cache_prompt": True,
        }
    ).encode()
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()
    first = last = 0.0
    texts = tokens = 0
    status = await reader.readline()
    if b" 200 " not in status:
        raise ValueError(f"status {status!r}: {(await reader.read(2000))!r}")
    async for line in reader:
        if not line.startswith(b"data: {"):  # headers, sizes of chunks, pings, [DONE]
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise ValueError(f"an error in the stream: {event['error']}")
        if event.get("choices") and event["choices"][0].get("text"):
            last = time.perf_counter() - begin
            first = first or last
            texts += 1
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    writer.close()
    if not texts:
        raise ValueError("a stream without text")
    return Answer(first, last, tokens or texts)


async def ask_together(port: int, prompts: list[str], new: int) -> list[Answer]:
    return list(await asyncio.gather(*(ask(port, prompt, new) for prompt in prompts)))


def text(order: random.Random, tokens: int) -> str:
    """A text of words in an order that no other text has, of about so many tokens."""
    return " ".join(order.choice(WORDS) for _ in range(tokens))


def measure(path: str, options: argparse.Namespace) -> dict[str, Any]:
    counts = [int(count) for count in options.clients.split(",")]
    order = random.Random(0)
    with servers(path, options, max(counts)) as all_servers:
        for _ in range(options.rounds):
            for clients in counts:
                prompts = [text(order, options.prompt) for _ in range(clients)]
                for server in order.sample(all_servers, len(all_servers)):
                    answers = asyncio.run(ask_together(server.port, prompts, options.new))
                    server.note(clients, "rate", sum(a.tokens for a in answers) / max(a.last for a in answers))
                    server.note(clients, "first", *(a.first for a in answers))
            if options.shared:
                system = text(order, options.shared)
                for server in order.sample(all_servers, len(all_servers)):
                    cold, warm = (asyncio.run(ask(server.port, f"{system}. Question {n}", 2)).first for n in (1, 2))
                    server.note(1, "prefix", warm / cold)
        figures = {server.name: server.figures for server in all_servers}
    own = {} if options.no_own else serving_cost.measure(path, OWN_CLIENTS)
    return {"file": path, "counts": counts, "servers": figures, "own": own}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Lines for people to read."""
    yield f"{Path(found['file']).name}"
    yield f"{'clients':>7}  {'server':<17}{'tokens/s':>9}{'ours/its':>9}{'first':>8}{'p95':>8}"
    ours = found["servers"][OURS]
    for clients in found["counts"]:
        for name, figures in found["servers"].items():
            rates, first = figures[clients, "rate"], sorted(figures[clients, "first"])
            ratio = statistics.median(a / b for a, b in zip(ours[clients, "rate"], rates, strict=True))
            p95 = first[min(len(first) - 1, round(0.95 * len(first)))]
            yield (
                f"{clients:>7}  {name:<17}{statistics.median(rates):>9.1f}{ratio:>9.2f}"
                f"{statistics.median(first):>8.3f}{p95:>8.3f}"
            )
    for name, figures in found["servers"].items():
        if (1, "prefix") in figures:
            share = 100 * statistics.median(figures[1, "prefix"])
            yield f"{name}: a used prefix costs {share:.1f} % of its first time"
    if found["own"]:
        yield from serving_cost.table(found["file"], found["own"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.gguf")
    parser.add_argument("--llama-server", metavar="PROGRAM")
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, metavar="TOKENS")
    parser.add_argument("--new", type=int, default=64, metavar="TOKENS")
    parser.add_argument("--shared", type=int, default=2000, metavar="TOKENS")
    parser.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="of each client")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-own", action="store_true")
    parser.add_argument("--json", metavar="OUT.json")
    options = parser.parse_args()
    results = []
    for path in options.files:
        results.append(measure(path, options))
        print(*table(results[-1]), sep="\n", flush=True)
    if options.json:
        for result in results:
            for name, figures in result["servers"].items():
                result["servers"][name] = {f"{clients} {what}": values for (clients, what), values in figures.items()}
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
