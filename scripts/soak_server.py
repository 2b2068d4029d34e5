"""Prove `gguflike serve` under load: every answer is the one computed alone, nonsense is refused, memory stays flat.

    python scripts/soak_server.py FILE.gguf [--conversations 200] [--connections 16] [--bodies 1000] [--seconds 600]
        [--parallel 8] [--context 1024] [--cache-memory 16Mi] [--tokens 24] [--threads 1] [--seed 0] [--json OUT.json]

The server is a process of its own. Three parts, each of which may be 0 and so left out:

    conversations   random ones of one to four turns, greedy and sampled with seeds, streamed and not, asked for over so
                    many connections at once. In between clients leave while they wait, while they read and before
                    anything is said, and others send what is wrong. Each answer must be, letter by letter, what
                    `Model.chat` gives for the same conversation in a process without a server
    bodies          of nonsense: each must be answered by a status from 400 to 499, and the server go on
    seconds         of the same traffic without end, of known conversations and new ones. Resident memory of the server
                    is read once a second: before anything was asked, when it is warm, and at the end. It may have grown
                    by 2 % from the second to the third. Warm is a server of which a quarter of the time is over (by
                    then threads are there) and whose cache of texts is full: it holds what it holds at most, and
                    that is what it may. One whose cache is not full in the first half has proven nothing, and fails

The exit status is 1 where one of these is not so. The file needs a chat template.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CHAT = "/v1/chat/completions"
WARM, LATEST = 0.25, 0.5  # of the time: a server is warm at the earliest, and at the latest
FULL = 0.98  # of the limit, and of the most that it held, has a cache that is full
GROWTH = 0.02  # by how much it may grow from then on
TEXT_OF_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
why how when tell me about the a of in two short long history story river stone light
"""
WORDS = TEXT_OF_WORDS.split()


@dataclass
class Conversation:
    """What a client says, turn by turn, how answers are chosen, and what the model answers alone."""

    turns: list[str]
    settings: dict[str, Any]
    answers: list[str] = field(default_factory=list)

    def body(self, turn: int, **more: Any) -> dict[str, Any]:
        """The request for the answer to a turn, after what was said before."""
        messages: list[dict[str, str]] = []
        for said, answer in zip(self.turns[:turn], self.answers[:turn], strict=True):
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        return {"messages": [*messages, {"role": "user", "content": self.turns[turn]}], **self.settings, **more}


def conversation(rng: random.Random, tokens: int) -> Conversation:
    """A random one. Many begin alike."""
    begin = rng.choice(["", "", "Answer in one sentence. ", "You know all of geography. " * 8])
    turns = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 24))) for _ in range(rng.choice([1, 1, 2, 2, 3, 4]))]
    turns[0] = begin + turns[0]
    settings: dict[str, Any] = rng.choice(
        [
            {"temperature": 0},
            {"temperature": 0.7, "seed": rng.randrange(1 << 32)},
            {"temperature": 1.4, "seed": rng.randrange(1 << 32), "top_p": 0.9},
        ]
    )
    settings |= rng.choice([{}, {"repetition_penalty": 1.2}, {"top_k": 30}, {"stop": [" the"]}])
    return Conversation(turns, {"min_p": 0, "max_tokens": rng.randrange(1, tokens + 1), **settings})


def compute_alone(path: str, options: argparse.Namespace, all_of: list[Conversation]) -> None:
    """Fill in the answers, one after the other, by a model that nobody else uses."""
    import gguflike
    from gguflike.chat.template import keep_ready

    with keep_ready(), gguflike.load(path, threads=options.threads, context=options.context) as model:
        for each in all_of:
            for turn in range(len(each.turns)):
                body = each.body(turn)
                prompt = model.conversations.prompt(body.pop("messages"))
                text = model.generate(prompt.ids, body.pop("max_tokens"), shown=prompt.shown, **body).result().text
                reader = prompt.reader()
                said = [*reader.push(text), *reader.end(cut=True)]
                each.answers.append("".join(part.text for part in said if not part.reasoning))  # type: ignore[union-attr]


class Client:
    """Asks one server, on a connection of its own for each request."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        try:
            connection.request("POST", path, body, {"content-type": kind})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def said(self, body: dict[str, Any]) -> str:
        """The text of the answer to a conversation. ValueError where there is none."""
        status, data = self.ask(CHAT, json.dumps(body).encode())
        if status != 200:
            raise ValueError(f"status {status}: {data[:300]!r}")
        if not body.get("stream"):
            return str(json.loads(data)["choices"][0]["message"]["content"])
        lines = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
        if lines[-1] != "[DONE]":
            raise ValueError(f"a stream that ends with {lines[-1][:300]}")
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
        return "".join(delta.get("content") or "" for delta in deltas)

    def leave(self, body: dict[str, Any], after: int) -> None:
        """Ask, and go after ``after`` pieces of what is sent."""
        data = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self._port), timeout=600) as connection:
            connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            for _ in range(after):
                if not connection.recv(256):
                    return

    def get(self, path: str) -> Any:
        return json.loads(self._got(path))

    def metrics(self) -> dict[str, float]:
        """What /metrics counts, but for what it counts by kinds."""
        lines = [line.split() for line in self._got("/metrics").decode().splitlines()]
        return {line[0]: float(line[1]) for line in lines if len(line) == 2}

    def _got(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()


class Traffic:
    """What clients do, and what became of it. Methods may be called by several threads."""

    def __init__(self, port: int, seed: int) -> None:
        self.client, self._seed = Client(port), seed
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def note(self, what: str, wrong: str = "") -> None:
        with self._lock:
            self.counts[what] += 1
            if wrong:
                self.wrong.append(wrong)

    def talk(self, number: int, each: Conversation, known: bool = True) -> None:
        """All turns of a conversation, with what disturbs between them. What was not computed alone goes on with what
        is answered."""
        rng = random.Random(f"{self._seed} {number}")
        for turn in range(len(each.turns)):
            self.disturb(rng, each.body(turn))
            try:
                text = self.client.said(each.body(turn, stream=rng.random() < 0.5))
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.note("answers", f"{each.turns[turn]!r}: {error}")
                return
            if not known:
                each.answers.append(text)
            same = text == each.answers[turn]
            self.note("answers", "" if same else f"{each.turns[turn]!r}: {text!r} for {each.answers[turn]!r}")
            if known:
                self.note("compared")

    def disturb(self, rng: random.Random, body: dict[str, Any]) -> None:
        """What others do at the same time: leave early or late, streamed or not; err."""
        if rng.random() < 0.4:
            endless = {**body, "max_tokens": 10_000, "ignore_eos": True, "stream": rng.random() < 0.7}
            self.client.leave(endless, rng.choice([0, 0, 1, 4, 12]) if endless["stream"] else 0)
            self.note("leavers")
        if rng.random() < 0.3:
            wrong = rng.choice(
                [
                    json.dumps({**body, "temperature": -1}),
                    json.dumps({**body, "messages": []}),
                    json.dumps({**body, "messages": [{"role": "user", "content": "word " * 20_000}]}),
                    json.dumps({**body, "response_format": {"type": "json_schema"}}),
                    json.dumps(body)[:-1],
                ]
            )
            status, data = self.client.ask(CHAT, wrong.encode())
            self.note("errors", "" if status == 400 else f"status {status} for {wrong[:200]}: {data[:200]!r}")


def run_conversations(traffic: Traffic, all_of: list[Conversation], connections: int) -> None:
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(traffic.talk, range(len(all_of)), all_of))


def send_nonsense(traffic: Traffic, count: int, seed: int) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.nonsense import nonsense

    rng = random.Random(seed)
    for _ in range(count):
        path, data, kind = nonsense(rng)
        status, answer = traffic.client.ask(path, data, kind)
        good = 400 <= status < 500
        traffic.note(
            f"nonsense {status}", "" if good else f"status {status} for {path} {data[:200]!r}: {answer[:200]!r}"
        )


class Reading(NamedTuple):
    """What was seen in one second: resident bytes, those of the cache and its limit, and answers until then."""

    resident: int
    cache: int
    limit: int
    answers: int


def soak(
    traffic: Traffic, all_of: list[Conversation], options: argparse.Namespace, resident: Callable[[], int]
) -> list[Reading]:
    """Traffic for so many seconds; returns what was seen in each."""
    end, read = time.monotonic() + options.seconds, []

    def client(number: int) -> None:
        rng = random.Random(f"{options.seed} client {number}")
        while time.monotonic() < end:
            known = bool(all_of) and rng.random() < 0.5
            each = rng.choice(all_of) if known else conversation(rng, options.tokens)
            traffic.talk(rng.randrange(1 << 40), each, known)

    with ThreadPoolExecutor(options.connections) as pool:
        clients = [pool.submit(client, number) for number in range(options.connections)]
        while time.monotonic() < end:
            time.sleep(1)
            metrics = traffic.client.metrics()
            cache, limit = (int(metrics[f"gguflike_cache_{name}"]) for name in ("bytes", "limit_bytes"))
            read.append(Reading(resident(), cache, limit, traffic.counts["answers"]))
        for each in clients:
            each.result()
    return read


def resident_bytes(pid: int) -> int:
    """Resident memory of a process without that of files, which the system takes back when it likes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


@contextlib.contextmanager
def serving(path: str, options: argparse.Namespace) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    """Port, process and log of a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "gguflike", "serve", path, "--port", str(port), "--quiet", "--grace", "2"]
    command += ["--threads", str(options.threads), "--parallel", str(options.parallel), "--queue", "512"]
    command += ["--context", str(options.context), "--cache-memory", options.cache_memory]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            begin = time.monotonic()
            while True:
                if process.poll() is not None or time.monotonic() - begin > 300:
                    raise OSError(f"the server does not answer: {log.read_text(errors='replace')[-2000:]}")
                with contextlib.suppress(OSError):
                    if Client(port).get("/health") == {"status": "ok"}:
                        break
                time.sleep(0.2)
            yield port, process, log
        finally:
            process.terminate()
            process.wait(60)


def idle(client: Client) -> bool:
    """Whether nothing is computed any more, a minute after the last client left at the latest."""
    for _ in range(600):
        if not any(slot["is_processing"] for slot in client.get("/slots")):
            return True
        time.sleep(0.1)
    return False


def warm(read: list[Reading]) -> int | None:
    """In which second the server was warm; None where it was not in time."""
    most, limit = max(each.cache for each in read), read[0].limit
    full = next(at for at, each in enumerate(read) if each.cache >= FULL * most)
    return None if full > LATEST * len(read) or most < FULL * limit else max(full, int(WARM * len(read)))


def flat(loaded: int, read: list[Reading], begin: int) -> dict[str, float]:
    """Resident MB when the model was ``loaded``, in a quarter of the time from the second ``begin`` on, in the last
    quarter, and the growth between the latter two.

    Of a quarter the lowest tenth of readings counts. Requests take memory for a moment, megabytes of 20,000 words, and
    it goes back to the system some seconds later: most readings say what was asked just now. What leaks is in all.
    """
    resident, quarter = [each.resident for each in read], max(2, len(read) // 4)
    then, last = (statistics.quantiles(part, n=10)[0] for part in (resident[begin:][:quarter], resident[-quarter:]))
    told = {"loaded": loaded / 1e6, "warm": then / 1e6, "end": last / 1e6, "most": max(resident) / 1e6}
    return {**{name: round(value, 1) for name, value in told.items()}, "growth": round(last / then - 1, 4)}


def judged(loaded: int, read: list[Reading]) -> tuple[dict[str, Any], list[str]]:
    """Figures of a soak, and what is wrong with them."""
    begin = warm(read)
    told: dict[str, Any] = {
        "by minute": [
            {"resident MB": each.resident // 10**6, "cache MB": each.cache // 10**6, "answers": each.answers}
            for each in read[::60]
        ]
    }
    if begin is None:
        return told, ["the cache of texts was not full in time: take a smaller --cache-memory, or more --seconds"]
    memory = flat(loaded, read, begin)
    told |= {"warm after s": begin, "answers until then": read[begin].answers, "resident MB": memory}
    return told, [f"memory grew: {memory}"] if memory["growth"] > GROWTH else []


def prove(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """All parts. Returns figures and what was wrong."""
    rng = random.Random(options.seed)
    all_of = [conversation(rng, options.tokens) for _ in range(options.conversations)]
    compute_alone(path, options, all_of)
    print("computed alone", flush=True)
    told: dict[str, Any] = {"file": Path(path).name}
    with serving(path, options) as (port, process, log):
        traffic, loaded = Traffic(port, options.seed), resident_bytes(process.pid)
        run_conversations(traffic, all_of, options.connections)
        told["conversations"] = {"conversations": len(all_of), **traffic.counts}
        print(told["conversations"], flush=True)
        traffic.counts.clear()
        send_nonsense(traffic, options.bodies, options.seed)
        told["nonsense"] = dict(traffic.counts)
        print(told["nonsense"], flush=True)
        traffic.counts.clear()
        if options.seconds:
            read = soak(traffic, all_of, options, lambda: resident_bytes(process.pid))
            memory, wrong = judged(loaded, read)
            told["resident MB by second"] = [round(each.resident / 1e6, 1) for each in read]
            told["soak"] = {"seconds": options.seconds, **traffic.counts, **memory}
            print(told["soak"], flush=True)
            traffic.wrong += wrong
        if not idle(traffic.client):
            traffic.wrong.append("work went on after the last client had left")
        if process.poll() is not None or "Traceback" in log.read_text(errors="replace"):
            traffic.wrong.append(f"the server's log: {log.read_text(errors='replace')[-2000:]}")
        told["wrong"] = traffic.wrong
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.gguf")
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--bodies", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--cache-memory", default="16Mi")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="OUT.json")
    options = parser.parse_args()
    told = prove(options.file, options)
    if options.json:
        Path(options.json).write_text(json.dumps(told, indent=1))
    print(*(f"wrong: {each}" for each in told["wrong"][:20]), f"{len(told['wrong'])} wrong", sep="\n")
    return int(bool(told["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
