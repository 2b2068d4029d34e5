"""Chat templates: what Hugging Face's do works, and hostile ones end in an error, soon, with nothing done."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gguflike.chat import template
from gguflike.chat.memory import process_seconds
from gguflike.chat.template import render
from gguflike.errors import TemplateError

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi <b> "},
    {"role": "assistant", "content": "Hello."},
]
VARIABLES: dict[str, Any] = {
    "messages": MESSAGES,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_generation_prompt": True,
}

CHATML = """\
{% for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\nYou are helpful<|im_end|>\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def test_chatml() -> None:
    assert render(CHATML, VARIABLES) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[1].content | tojson }}{{ eos_token }}", '<s>" Hi <b> "</s>'),
        ("{{ {'b': 'é', 'a': [1, none]} | tojson(indent=1) }}", '{\n "b": "é",\n "a": [\n  1,\n  null\n ]\n}'),
        (
            "{% for i in [0, 1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}"
            "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        ("{% generation %}{{ messages[2]['content'] }}{% endgeneration %}!", "Hello.!"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),  # blocks are trimmed
        ("{{ strftime_now('%Y') | int > 2000 }}", "True"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first | trim }}", "Hi <b>"),
        ("{%- macro f(x) -%}[{{ x }}]{%- endmacro -%}{{ f('a') }}{{ missing }}{{ missing is defined }}", "[a]False"),
        ("{{ messages[0].content.startswith('Be') }}{{ 'a-b'.split('-') | join }}", "Trueab"),
        ("", ""),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source, VARIABLES) == text


def test_errors_say_what_and_where() -> None:
    with pytest.raises(TemplateError, match="conversation roles must alternate"):
        render("{{ raise_exception('conversation roles must alternate') }}", VARIABLES)
    with pytest.raises(TemplateError, match=r"Expected an expression.*line 2"):
        render("\n{% if %}", VARIABLES)
    with pytest.raises(TemplateError, match="not made of JSON values"):
        render("", {"messages": [object()]})


def test_templates_of_absurd_length() -> None:
    with pytest.raises(TemplateError, match="too long"):
        render(" " * (template.SOURCE_CHARACTERS + 1), {})


def test_conversations_larger_than_a_pipe() -> None:
    text = "é" * 200_000
    assert render("{{ messages[0].content }}", {"messages": [{"content": text}]}) == text


# Every one of these tries to reach Python's insides. What matters is that nothing happens and nothing is shown.
INJECTIONS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch OWNED').read() }}",
    "{{ joiner.__init__.__globals__['os'].system('touch OWNED') }}",
    "{{ namespace.__init__.__globals__['__builtins__']['open']('OWNED', 'w') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.globals }}",
    "{{ raise_exception.__globals__['sys'].modules }}",
    "{{ strftime_now.__code__.co_code }}",
    "{{ strftime_now.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "{% set f = ''.format %}{{ f.__self__.__class__ }}",
    "{{ messages.append({'role': 'user', 'content': 'injected'}) }}",
    "{% do messages.clear() %}",
    "{{ [].__class__.__base__.__subclasses__() | selectattr('__name__', 'equalto', 'Popen') | list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch OWNED') }}",
    "{{ lipsum.__globals__['os'].popen('touch OWNED').read() }}",
    "{{ config.items() }}{{ request.application.__globals__ }}",
    "{{ range.__self__ }}{{ dict.__subclasses__() }}",
    "{{ (1).__class__.__bases__[0] }}",
)


@pytest.mark.parametrize("source", INJECTIONS)
def test_injections_do_nothing(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    try:
        text = render(source, VARIABLES)
    except TemplateError as error:
        text = str(error)
        assert "took more than" not in text  # refused, not crashed
    for leak in ("<class", "<module", "<function", "<built-in", "hunter2", "root:", "injected"):
        assert leak not in text
    assert not list(tmp_path.iterdir())
    assert not (Path(template.__file__).parent / "OWNED").exists()


def test_the_child_could_not_open_a_file_even_if_it_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limits themselves, tried without the sandbox in between."""
    source = Path(template.__file__).with_name("template_child.py").read_text(encoding="utf-8")
    hole = source.replace("def _raise_exception(message: str)", "def _raise_exception(message: str, open=open)")
    hole = hole.replace("raise TemplateError(message)", "raise TemplateError(open(message, 'w').name)")
    assert hole.count("open(message") == 1
    child = tmp_path / "child.py"
    child.write_text(hole, encoding="utf-8")
    monkeypatch.setattr(template, "_CHILD", child)
    with pytest.raises(TemplateError, match="Too many open files"):
        render("{{ raise_exception('" + str(tmp_path / "OWNED") + "') }}", VARIABLES)
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(10**9) | list }}",
        "{{ 'A' * 10**10 }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ lipsum(n=1000000) }}",
        "{{ 'x' | center(10**9) }}",
        "{% for i in range(99999) %}{{ 'A' * 1000 }}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ [[1] * 10**5] * 10**5 }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ ('a' * 30) | replace('', 'b' * 100000) | replace('', 'c' * 100000) }}",
        "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        "{{ 1" + " + 1" * 100_000 + " }}",
        "{% for a in range(9999) %}" * 19 + "{% endfor %}" * 19,
        "{{ (messages * 10**7) | tojson }}",
        "{{ ('a' * 100000) | wordwrap(1, wrapstring='b' * 100000) }}",
    ],
)
def test_bombs_end_in_time(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "CPU_SECONDS", 1)
    used = cpu_of_children()
    with pytest.raises(TemplateError, match="chat template failed"):
        render(source, VARIABLES)
    assert cpu_of_children() - used < template.CPU_SECONDS + 1.0  # CPU time, not wall time


@pytest.fixture
def without_resource(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system where a process cannot limit itself, as Windows: what watches the child is all there is."""
    source = Path(template.__file__).with_name("template_child.py").read_text(encoding="utf-8")
    assert source.count("        import resource\n") == 1
    child = tmp_path / "template_child.py"
    child.write_text(source.replace("        import resource\n", "        raise ImportError\n"), encoding="utf-8")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "resource" else found(name))
    monkeypatch.setattr(template, "_CHILD", child)
    monkeypatch.setattr(template, "CPU_SECONDS", 1)


@pytest.mark.usefixtures("without_resource")
@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'A' * 10**10 }}",
        "{{ '%0999999999d' % 1 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ (messages * 10**7) | tojson }}",
        "{% for i in range(99999) %}{{ 'A' * 1000 }}{% endfor %}",
    ],
)
def test_bombs_where_a_process_cannot_limit_itself(source: str) -> None:
    used = cpu_of_children()
    with pytest.raises(TemplateError, match="chat template failed"):
        render(source, VARIABLES)
    assert cpu_of_children() - used < template.CPU_SECONDS + 0.5


@pytest.mark.usefixtures("without_resource")
def test_a_process_that_cannot_limit_itself_renders() -> None:
    assert render(CHATML, VARIABLES).endswith("<|im_start|>assistant\n")


def test_the_time_of_a_child_is_known() -> None:
    code = "import time\nwhile time.process_time() < .3: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seconds = process_seconds(child)
        child.kill()
    assert seconds is not None
    assert 0.2 < seconds < 1.0


def cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def test_output_limit() -> None:
    assert len(render("{% for i in range(1024) %}{{ 'A' * 1024 }}{% endfor %}", {})) == template.OUTPUT_BYTES
    with pytest.raises(TemplateError, match="writes more than 1048576 bytes"):
        render("{% for i in range(1024) %}{{ 'A' * 1024 }}{% endfor %}B", {})


def test_renderings_that_begin_at_once_are_the_same() -> None:
    """Forked from a process that is ready, with the limits of one that is started anew; also several at a time."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    texts = ["x" * 300_000, "é\n", ""]
    with template.keep_ready(), template.keep_ready():
        if template.ready.current() is None:
            pytest.skip("the system cannot fork")
        with ThreadPoolExecutor(4) as pool:
            rendered = pool.map(lambda text: render(source, {"messages": [{"content": text}]}), texts * 4)
            assert list(rendered) == texts * 4
        with pytest.raises(TemplateError, match="needs too much memory"):
            render("{{ 'A' * 10**10 }}", {})
        with pytest.raises(TemplateError, match="SecurityError"):
            render("{{ ''.__class__.__mro__ }}", {})
        process = template.ready.current()._process  # type: ignore[union-attr]
        process.kill()
        process.wait()
        assert render(source, {"messages": [{"content": "a"}]}) == "a"  # by one that is started anew
    assert template.ready.current() is None


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a child compiled serves the next, however it is started, and what fails there fails as before."""
    source = "{% if a is number %}{{ a + 1 }}{% else %}{{ raise_exception('no number') }}{% endif %} once"
    assert render(source, {"a": 1}) == "2 once"
    code = Path(template.__file__).with_name("template_child.py").read_text(encoding="utf-8")
    compiling = 'environment.compile(request["source"])'
    assert compiling in code
    child = tmp_path / "template_child.py"
    child.write_text(code.replace(compiling, "1 / 0"), encoding="utf-8")
    monkeypatch.setattr(template, "_CHILD", child)
    for start in (contextlib.nullcontext(), template.keep_ready()):
        with start:
            assert render(source, {"a": 2}) == "3 once"
            with pytest.raises(TemplateError, match="no number"):
                render(source, {"a": "b"})
            with pytest.raises(TemplateError, match="ZeroDivisionError"):
                render("{{ a }} another", {"a": 1})


def test_compiled_templates_are_few_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_compiled", OrderedDict())
    monkeypatch.setattr(template, "MOST_COMPILED", 2)
    monkeypatch.setattr(template, "CODE_CHARACTERS", 4000)
    sources = ["{{ a }}0", "{{ a }}1", "{{ a }}2", "{{ a }}" + "3" * 5000]
    assert [render(source, {"a": ""}) for source in sources] == [source[7:] for source in sources]
    assert list(template._compiled) == sources[1:3]


def test_a_forked_rendering_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "CPU_SECONDS", 1)
    busy = "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"
    with template.keep_ready(), pytest.raises(TemplateError, match="took more than 1 s"):
        render(busy, {})
