"""The child process of template.py: reads one request from standard input, writes one JSON answer, and ends.

Given the number of a socket (ready.py), it forks instead whenever two descriptors come by it, one to read a request
from and one to write the answer to, and answers by the number of the process that does so.

Run as a script by path, isolated (``python -I``); it imports nothing of gguflike.
"""

from __future__ import annotations

import base64
import json
import marshal
import math
import sys
import traceback
from collections.abc import Iterator
from datetime import datetime
from typing import Any


def main() -> None:
    """Answer the request on standard input, or, given the descriptor of a socket, each that comes there."""
    if len(sys.argv) > 1:
        _fork_for_each(int(sys.argv[1]))
        return
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["sys_path"]
    environment = _environment()
    _warm_up(environment)
    _limit(request["cpu_seconds"], request["memory_bytes"])
    sys.stdout.write(json.dumps(_answers(environment, request)))


def _fork_for_each(control: int) -> None:
    """Fork for each request, until nobody can ask any more."""
    import gc
    import os
    import signal
    import socket

    sys.path[:] = json.loads(sys.stdin.buffer.read())
    environment = _environment()
    _warm_up(environment)
    gc.freeze()  # what is loaded is not looked through again, and so stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whose children nobody waits for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all; who asks ends this
    with socket.socket(fileno=control) as asking:
        while True:
            said, descriptors, _, _ = socket.recv_fds(asking, 1, 2)
            if not said:
                return
            child = os.fork()
            if child == 0:
                asking.close()
                try:
                    with os.fdopen(descriptors[0], "rb") as source:
                        request = json.loads(source.read())
                    with os.fdopen(descriptors[1], "w") as target:
                        _limit(request["cpu_seconds"], request["memory_bytes"])
                        target.write(json.dumps(_answers(environment, request)))
                finally:
                    os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)
            asking.sendall(child.to_bytes(8, "little"))


def _answers(environment: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The text of each conversation, or why there is none; and the code of the template, where it was compiled now."""
    conversations, told = request["conversations"], None
    try:
        if request["code"] is not None:
            code = marshal.loads(base64.b64decode(request["code"]))
        else:
            code = environment.compile(request["source"])
            told = base64.b64encode(marshal.dumps(code)).decode()
        template = environment.template_class.from_code(environment, code, environment.make_globals(None))
    except BaseException as error:  # whatever a hostile template provokes is an answer, not a traceback
        return {"replies": [_error(error)] * len(conversations), "code": None}
    answers = []
    for variables in conversations:
        try:
            text = "".join(_bounded(template.generate(**variables), request["output_bytes"]))
            answers.append({"text": text})
        except BaseException as error:
            answers.append(_error(error))
    return {"replies": answers, "code": told if told and len(told) <= request["code_characters"] else None}


def _error(error: BaseException) -> dict[str, str]:
    if isinstance(error, MemoryError):
        return {"error": "needs too much memory"}
    return {"error": f"{type(error).__name__}: {error}"[:500] + _line(error)}


def _limit(cpu_seconds: int, memory_bytes: int) -> None:
    """From here on: no new files, no more memory than this, no more time than this."""
    try:
        import resource
    except ImportError:  # Windows: template.py watches
        return
    used = math.ceil(
        sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    )  # whole seconds: the limit counts from the start
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, used + cpu_seconds - 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # a stricter limit is already in force
            continue


def _warm_up(environment: Any) -> None:
    """Have loaded what is loaded on first use while files can still be opened: codecs, time zone, error reporting."""
    import jinja2.debug  # noqa: F401

    datetime.now().astimezone().strftime("%c")
    try:
        environment.from_string(r"{{ '\n\x20' | tojson | trim }}{{ raise_exception('') }}").render()
    except Exception as error:
        traceback.format_exception(error)


def _environment() -> Any:
    """Jinja's immutable sandbox with what Hugging Face templates may use, less what only burns time."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}...{% endgeneration %}`` marks the assistant's words for training; here it is just text."""

        tags = {"generation"}  # noqa: RUF012  Jinja's own declaration is an instance attribute

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals.pop("lipsum", None)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment


def _raise_exception(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bounded(pieces: Iterator[str], limit: int) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece.encode("utf-8", "replace"))
        if size > limit:
            raise ValueError(f"writes more than {limit} bytes")
        yield piece


def _line(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return f" (line {line})" if line else ""


if __name__ == "__main__":
    main()
