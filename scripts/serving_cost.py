"""What serving adds to a token: CPU time of `gguflike serve` that is not the model's, for 1, 8, 16 clients.

    python scripts/serving_cost.py FILE.gguf ... [--clients 1,8,16] [--rounds 5] [--new 64] [--prompt 32]
        [--path /v1/chat/completions] [--profile]

One process holds a server whose model computes with one thread, the engine's. In turns the same prompts (of chat, with
all that the template makes of them) are handed to its engine by itself (listeners that do nothing) and asked for over
HTTP, streamed, by clients in another process. Of each token are told, in microseconds of CPU:

    loop     what all threads but the engine's take: sockets, requests, prompts, JSON, events
    engine   what the engine's thread takes more than by itself: listeners, waking the loop, waiting for the interpreter
    own      both
    model    what the engine takes by itself, for comparison

`engine` is a small difference of large numbers: take a tiny model for it (of `scripts/make_synthetic.py`), and any
other for `loop`. Figures are medians over the rounds. --profile prints where the loop's time goes, and takes longer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEXT_OF_WORDS = "time year people way day man thing woman life child world school state family student group country"

#: The process that is measured. A line of JSON asks, a line answers.
_SERVED = """
import asyncio, cProfile, json, pstats, sys, threading, time

from gguflike.engine import Finished, Request
from gguflike.serve import Server, Settings, server as served

path, context, parallel, profiled, talks = sys.argv[1], *map(int, sys.argv[2:6])
profile = cProfile.Profile() if profiled else None
if profile is not None:
    run = served.asyncio.run
    served.asyncio.run = lambda main: profile.runcall(run, main)
settings = Settings(model=path, port=0, threads=1, context=context, parallel=parallel, queue=64)
with Server(settings) as server:
    engine = server.models.loaded[0].engine
    thread = next(each for each in threading.enumerate() if each.name == "gguflike-engine")
    clock = time.pthread_getcpuclockid(thread.ident)
    model = engine.model

    def ids(text):
        return model.conversations.prompt([{"role": "user", "content": text}]).ids if talks else model.tokenize(text)

    print(server.port, flush=True)
    for line in sys.stdin:
        prompts, new = json.loads(line)
        left = threading.Semaphore(0)
        told = lambda event: left.release() if isinstance(event, Finished) else None
        requests = [Request(tuple(ids(each)), new, ignore_end=True, cache=False) for each in prompts]
        for request in requests:
            engine.submit(request, told)
        for _ in requests:
            left.acquire()
        print(json.dumps([time.process_time(), time.clock_gettime(clock)]), flush=True)
if profile is not None:
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)
"""


class Served:
    """The process, its port, and the clocks of it: CPU seconds of the process and of its engine's thread."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._asked, self._answers = process.stdin, process.stdout
        self.port = int(self._answers.readline())

    def compute(self, prompts: list[str], new: int) -> tuple[float, float]:
        """Let the engine compute these by itself; returns the clocks."""
        print(json.dumps([prompts, new]), file=self._asked, flush=True)
        process, engine = json.loads(self._answers.readline())
        return process, engine


@contextmanager
def serving(path: str, context: int, parallel: int, endpoint: str, profile: bool = False) -> Iterator[Served]:
    numbers = map(int, (context, parallel, profile, "chat" in endpoint))
    command = [sys.executable, "-c", _SERVED, path, *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Served(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


async def stream(port: int, path: str, prompt: str, new: int) -> None:
    """Ask, and read the stream to its end. ValueError where it ends otherwise."""
    body: dict[str, Any] = {"max_tokens": new, "temperature": 0, "stream": True, "ignore_eos": True}
    body |= {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    data = json.dumps({**body, "cache_prompt": False}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    last = b""
    while piece := await reader.read(65536):
        last = last[-100:] + piece
    writer.close()
    if b"[DONE]" not in last:
        raise ValueError(f"the stream ends with {last!r}")


async def streams(port: int, path: str, prompts: list[str], new: int) -> None:
    await asyncio.gather(*(stream(port, path, prompt, new) for prompt in prompts))


def measure(
    path: str,
    counts: list[int],
    *,
    rounds: int = 5,
    new: int = 64,
    prompt: int = 32,
    endpoint: str = "/v1/completions",
    profile: bool = False,
) -> dict[int, dict[str, float]]:
    """Clients -> microseconds of CPU a token: "loop", "engine", "own" and "model"."""
    rng, found = random.Random(0), {}
    with serving(path, 4 * (new + prompt) + 64, max(counts), endpoint, profile) as served:
        for clients in counts:
            rows: list[tuple[float, float, float]] = []
            for number in range(rounds + 1):
                prompts = [" ".join(rng.choices(TEXT_OF_WORDS.split(), k=prompt)) for _ in range(clients)]
                begin = served.compute([], new)
                alone = served.compute(prompts, new)
                asyncio.run(streams(served.port, endpoint, prompts, new))
                asked = served.compute([], new)
                model, engine = alone[1] - begin[1], asked[1] - alone[1]
                loop = asked[0] - alone[0] - engine
                if number:  # the first makes everything warm
                    rows.append((loop, engine - model, model))
            loop, engine, model = (
                1e6 * statistics.median(column) / (clients * new) for column in zip(*rows, strict=True)
            )
            own = 1e6 * statistics.median(row[0] + row[1] for row in rows) / (clients * new)
            found[clients] = {"loop": loop, "engine": engine, "own": own, "model": model}
    return found


def table(path: str, found: dict[int, dict[str, float]]) -> Iterator[str]:
    yield f"{Path(path).name}: microseconds of CPU a token"
    yield f"{'clients':>7}{'loop':>9}{'engine':>9}{'own':>9}{'model':>9}"
    for clients, each in found.items():
        yield f"{clients:>7}{each['loop']:>9.0f}{each['engine']:>9.0f}{each['own']:>9.0f}{each['model']:>9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.gguf")
    parser.add_argument("--clients", default="1,8,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=64, metavar="TOKENS")
    parser.add_argument("--prompt", type=int, default=32, metavar="WORDS")
    parser.add_argument("--path", default="/v1/completions")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]
    for path in options.files:
        chosen = {"rounds": options.rounds, "new": options.new, "prompt": options.prompt, "profile": options.profile}
        found = measure(path, counts, endpoint=options.path, **chosen)
        print(*table(path, found), sep="\n", flush=True)


if __name__ == "__main__":
    main()
