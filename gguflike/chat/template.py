"""Chat templates: programs from the file's author, run where they can do no harm.

A template is Jinja2 code. It is compiled and rendered in a child process (template_child.py) under limits of CPU time,
memory and output, in Jinja's immutable sandbox, without file descriptors to spare. Even compiling is done there, since
Jinja folds constants: ``{{ 'A' * 10**10 }}`` allocates before anything is rendered. The child limits itself where the
system lets it; everywhere this process watches its time and memory, and kills it.

Compiling takes a hundred times as long as rendering, so what one child has compiled is given to the next of the same
template. To this process it is text that nothing is done with: it runs in children alone, under the same limits.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from gguflike.chat import ready
from gguflike.chat.memory import process_bytes, process_seconds
from gguflike.chat.ready import Forked
from gguflike.errors import TemplateError

FIELD = "tokenizer.chat_template"
CPU_SECONDS = 2
#: Only for a child that does not run at all; a busy machine must not fail a good template.
WALL_SECONDS = 30.0
#: For a child that cannot limit its own CPU time (Windows), where the system does not tell that either.
UNLIMITED_SECONDS = 10.0
#: Between two looks at a child: at one that limits itself, and at one that may take a gigabyte in a fifth of a second.
WATCH_SECONDS, CLOSELY = 0.05, 0.01
MEMORY_BYTES = 512 << 20
OUTPUT_BYTES = 1 << 20
SOURCE_CHARACTERS = 1 << 20
#: Of the templates in one file, by whoever tries them all: one that never ends takes seconds.
MOST_TRIED = 8
#: Of a template that was compiled, as text, at most: from there on it is compiled each time. And so many are kept.
CODE_CHARACTERS, MOST_COMPILED = 1 << 20, 16

_CHILD = Path(__file__).with_name("template_child.py")
#: Nothing else of the environment is a template's business.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
_compiled: OrderedDict[str, str] = OrderedDict()  # source -> code, made longest ago first
_keeping = threading.Lock()


def render(source: str, variables: Mapping[str, Any]) -> str:
    """The text that the template makes of ``variables`` (JSON values), as Hugging Face's apply_chat_template does.

    Raises TemplateError where the template is wrong, refuses the conversation (``raise_exception``), reaches for what
    the sandbox forbids, or exceeds a limit.
    """
    (answer,) = render_each(source, [variables])
    if isinstance(answer, TemplateError):
        try:
            raise answer
        finally:
            del answer  # whose frames, this one among them, would hold it and the whole conversation
    return answer


def render_each(source: str, conversations: Sequence[Mapping[str, Any]]) -> list[str | TemplateError]:
    """What ``render`` gives or raises for each, in one child process. TemplateError where a limit is exceeded, which
    counts for all together."""
    if len(source) > SOURCE_CHARACTERS:
        raise TemplateError(
            "chat template is too long",
            field=FIELD,
            expected=f"at most {SOURCE_CHARACTERS} characters",
            got=len(source),
        )
    request = {
        "sys_path": [entry for entry in sys.path if entry],
        "source": source,
        "code": _compiled.get(source),
        "conversations": [dict(variables) for variables in conversations],
        "cpu_seconds": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES,
        "output_bytes": OUTPUT_BYTES,
        "code_characters": CODE_CHARACTERS,
    }
    try:
        payload = json.dumps(request).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError("the conversation is not made of JSON values", got=str(error)) from error
    status, answer = _run(payload)
    try:
        told = json.loads(answer)
        replies, code = told["replies"], told["code"]
        if len(replies) == len(conversations):
            if isinstance(code, str):
                _keep(source, code)
            return [str(reply["text"]) if "text" in reply else _failed(str(reply["error"])) for reply in replies]
    except (ValueError, KeyError, TypeError):
        pass
    ended = "" if status is None else f" (status {status})"
    raise _failed(f"took more than {CPU_SECONDS} s or {MEMORY_BYTES >> 20} MiB and was stopped{ended}")


def _keep(source: str, code: str) -> None:
    with _keeping:
        _compiled[source] = code
        while len(_compiled) > MOST_COMPILED:
            _compiled.popitem(last=False)


def _failed(problem: str) -> TemplateError:
    return TemplateError(f"chat template failed: {problem}", field=FIELD)


def keep_ready() -> AbstractContextManager[None]:
    """A block in which renderings begin at once (ready.py)."""
    return ready.ready(_CHILD, _environment())


def _environment() -> dict[str, str]:
    return {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}


def _run(payload: bytes) -> tuple[int | None, bytes]:
    """Exit status and answer of one child, None for a status that nobody knows."""
    process = ready.current()
    if process is not None:
        try:
            child, source, target = process.begin()
        except OSError:  # it was killed, say
            return _run_anew(payload)
        with os.fdopen(source, "wb") as into, os.fdopen(target, "rb") as out:
            return None, _asked(child, into, out, payload)
    return _run_anew(payload)


def _run_anew(payload: bytes) -> tuple[int, bytes]:
    """The same by a process that is started for it."""
    with subprocess.Popen(
        [sys.executable, "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        cwd=_CHILD.parent,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            answer = _asked(child, child.stdin, child.stdout, payload)
        finally:
            child.stdout.close()
            if child.poll() is None:
                _stop(child)
    return child.returncode, answer


def _asked(child: subprocess.Popen[bytes] | Forked, into: IO[bytes], out: IO[bytes], payload: bytes) -> bytes:
    """The answer of a child, which is watched. At most a little over what it may write is read, whatever it writes."""
    done = threading.Event()
    watchdog = threading.Thread(target=_watch, args=(child, done), daemon=True)
    watchdog.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it died early; the status tells
            into.write(payload)
            into.close()
        return out.read(6 * OUTPUT_BYTES + CODE_CHARACTERS + 1024)  # JSON escapes take up to six bytes for one
    finally:
        done.set()
        watchdog.join()


def _watch(child: subprocess.Popen[bytes] | Forked, done: threading.Event) -> None:
    """Kill a child that takes too long or too much memory."""
    limits_itself = importlib.util.find_spec("resource") is not None
    end = time.monotonic() + (WALL_SECONDS if limits_itself else UNLIMITED_SECONDS)
    while not done.wait(WATCH_SECONDS if limits_itself else CLOSELY):
        slow = time.monotonic() > end or (not limits_itself and (process_seconds(child) or 0) > CPU_SECONDS)
        if slow or (process_bytes(child) or 0) > MEMORY_BYTES:
            child.kill()
            return


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let a child that has answered end by itself, and kill one that has not."""
    try:
        child.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        child.kill()
