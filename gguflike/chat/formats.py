"""How models write reasoning and calls of tools: a table of formats, from which a template's own text chooses.

What a row of ``CALLS`` says: a call, or several, begins with ``begin`` and ends with ``end`` ("" where the text ends,
or the next call begins); ``syntax`` is how what is between is read (`calls.SYNTAXES`), by ``words``. ``marks`` are the
texts by which a template, or the control tokens of a vocabulary, show that they have it; the first row that fits is
taken. spec/chat.md has examples of all.
"""

from __future__ import annotations

from collections.abc import Collection

from gguflike.frozen import frozen


@frozen
class Calls:
    """A format of calls."""

    name: str
    marks: tuple[str, ...]  # all of which are there
    syntax: str
    begin: str
    end: str = ""
    words: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()  # texts around calls that say nothing
    listed: bool = False  # calls are in one array
    keys: tuple[str, ...] = ("name", "arguments")  # of a call in JSON; none: {name: arguments}
    bare: bool = False  # a call may begin an answer without ``begin``
    #: How a call in the syntax "named" may be written: {0} and {1} are ``words``, {id} and {number} are made up.
    ways: tuple[str, ...] = ("{name}{0}{value}",)
    edge: str = ""  # around a value that is written without quotes
    tells_texts: bool = False  # tags of arguments say whether these are text

    @property
    def tags(self) -> list[str]:
        """The names of the tags that ``words`` begin, in the syntax "elements"."""
        return [word.split("=")[0].split(" ")[0] for word in self.words]

    @property
    def begins_tag(self) -> bool:
        """Whether calls begin with the first of these tags itself."""
        return self.begin.startswith(f"<{self.words[0]}")


TOOL_KEYS = ("tool_name", "parameters")
CALLS = (
    Calls("gemma4", ("<|tool_call>", "<tool_call|>"), "gemma", "<|tool_call>", "<tool_call|>", ('<|"|>',)),
    Calls(
        "functiongemma",
        ("<start_function_call>",),
        "gemma",
        "<start_function_call>",
        "<end_function_call>",
        ("<escape>",),
    ),
    Calls(
        "kimi",
        ("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
        "named",
        "<|tool_call_begin|>",
        "<|tool_call_end|>",
        ("<|tool_call_argument_begin|>",),
        ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        ways=("functions.{name}{number}{0}{value}",),
    ),
    Calls(
        "deepseek",
        ("<\uff5ctool\u2581call\u2581begin\uff5c>",),
        "named",
        "<\uff5ctool\u2581call\u2581begin\uff5c>",
        "<\uff5ctool\u2581call\u2581end\uff5c>",
        ("<\uff5ctool\u2581sep\uff5c>",),
        ("<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"),
        ways=("{name}{0}{value}", "function{0}{name}\n```json\n{value}\n```"),
    ),
    Calls(
        "dsml",
        ("\uff5cDSML\uff5c", "function_calls"),
        "elements",
        "<\uff5cDSML\uff5cfunction_calls>",
        "</\uff5cDSML\uff5cfunction_calls>",
        ("\uff5cDSML\uff5cinvoke name=", "\uff5cDSML\uff5cparameter name="),
        tells_texts=True,
    ),
    Calls(
        "dsml calls",
        ("\uff5cDSML\uff5c",),
        "elements",
        "<\uff5cDSML\uff5ctool_calls>",
        "</\uff5cDSML\uff5ctool_calls>",
        ("\uff5cDSML\uff5cinvoke name=", "\uff5cDSML\uff5cparameter name="),
        tells_texts=True,
    ),
    Calls(
        "minimax",
        ("<minimax:tool_call>",),
        "elements",
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        ("invoke name=", "parameter name="),
    ),
    Calls(
        "seed",
        ("<seed:tool_call>",),
        "elements",
        "<seed:tool_call>",
        "</seed:tool_call>",
        ("function=", "parameter="),
        edge="\n",
    ),
    Calls(
        "qwen3-coder",
        ("<tool_call>", "<function=", "<parameter="),
        "elements",
        "<tool_call>",
        "</tool_call>",
        ("function=", "parameter="),
        edge="\n",
    ),
    Calls(
        "minicpm",
        ('<function name="', '<param name="'),
        "elements",
        '<function name="',
        "</function>",
        ("function name=", "param name="),
    ),
    Calls(
        "hunyuan",
        ("<arg_key:opensource>", "<tool_call:opensource>"),
        "pairs",
        "<tool_call:opensource>",
        "</tool_call:opensource>",
        ("arg_key:opensource", "arg_value:opensource", "<tool_sep:opensource>"),
        ("<tool_calls:opensource>", "</tool_calls:opensource>"),
    ),
    Calls("glm", ("<tool_call>", "<arg_key>"), "pairs", "<tool_call>", "</tool_call>", ("arg_key", "arg_value", "")),
    Calls(
        "solar",
        ("<|tool_call:begin|>", "<|tool_call:args|>"),
        "named",
        "<|tool_call:begin|>",
        "<|tool_call:end|>",
        ("<|tool_call:args|>", "<|tool_call:name|>"),
        ("<|tool_calls|>",),
        ways=("{id}{1}{name}{0}{value}",),
    ),
    Calls("mistral", ("[TOOL_CALLS]", "[ARGS]"), "named", "[TOOL_CALLS]", "", ("[ARGS]", "[CALL_ID]")),
    Calls("mistral list", ("[TOOL_CALLS]",), "json", "[TOOL_CALLS]", listed=True),
    Calls("command", ("<|START_ACTION|>",), "json", "<|START_ACTION|>", "<|END_ACTION|>", listed=True, keys=TOOL_KEYS),
    Calls(
        "command-r",
        ("Action:", "```json", "tool_name"),
        "json",
        "Action:",
        "```",
        ("```json",),
        listed=True,
        keys=TOOL_KEYS,
    ),
    Calls("apertus", ("<|tools_prefix|>",), "json", "<|tools_prefix|>", "<|tools_suffix|>", listed=True, keys=()),
    Calls("nemotron", ("<TOOLCALL>",), "json", "<TOOLCALL>", "</TOOLCALL>", listed=True),
    Calls("lfm2", ("<|tool_call_start|>",), "python", "<|tool_call_start|>", "<|tool_call_end|>", listed=True),
    Calls("lfm2", ("<|tool_list_start|>",), "python", "<|tool_call_start|>", "<|tool_call_end|>", listed=True),
    Calls("phi4", ("<|tool_call|>", "<|/tool_call|>"), "json", "<|tool_call|>", "<|/tool_call|>", listed=True),
    Calls("granite", ("<|tool_call|>",), "json", "<|tool_call|>", listed=True),
    Calls("gigachat", ("<|function_call|>",), "json", "<|function_call|>"),
    Calls("functools", ("functools[",), "json", "functools", listed=True),
    Calls("functionary", ("<function=", "</function>"), "named", "<function=", "</function>", (">",)),
    Calls("tool_calls", ("<tool_calls>",), "json", "<tool_calls>", "</tool_calls>", listed=True),
    Calls("hermes", ("<tool_call>",), "json", "<tool_call>", "</tool_call>"),
    Calls("llama3", ('"parameters"', "python"), "json", "<|python_tag|>", keys=("name", "parameters"), bare=True),
)
#: What `shape` tells a model whose template knows no tools.
TOLD = Calls("hermes", (), "json", "<tool_call>", "</tool_call>")


@frozen
class Reasoning:
    """A format of reasoning, which comes before the answer. A template has it that has its end, and ``also``."""

    name: str
    begin: str
    end: str
    quiet: tuple[str, ...] = ()
    also: str = ""


REASONING = (
    Reasoning("gemma4", "<|channel>thought\n", "<channel|>"),
    Reasoning("seed", "<seed:think>", "</seed:think>"),
    Reasoning("minimax", "<mm:think>", "</mm:think>"),
    Reasoning("hunyuan", "<think:opensource>", "</think:opensource>"),
    Reasoning("mistral", "[THINK]", "[/THINK]"),
    Reasoning(
        "command",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Reasoning("apertus", "<|inner_prefix|>", "<|inner_suffix|>"),
    Reasoning(
        "apriel", "Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", ("[END FINAL RESPONSE]", "<|end|>")
    ),
    Reasoning("granite", "<think>", "</think>", ("<response>", "</response>"), "<response>"),
    Reasoning("think", "<think>", "</think>"),
)
#: Of templates that write messages in channels (harmony.py).
CHANNELS = ("<|channel|>", "<|message|>", "<|start|>")


@frozen
class Format:
    """How a model writes what it says. None: it does not, or nobody asked it to."""

    channels: bool
    reasoning: Reasoning | None
    calls: Calls | None

    @property
    def markup(self) -> tuple[str, ...]:
        """The texts that structure what the model says."""
        texts: list[str] = [*CHANNELS, "<|end|>", "<|call|>", "<|constrain|>"] if self.channels else []
        if self.reasoning is not None:
            texts += [self.reasoning.begin, self.reasoning.end, *self.reasoning.quiet]
        if self.calls is not None:
            texts += [self.calls.begin, self.calls.end, *self.calls.words, *self.calls.quiet]
        return tuple(filter(None, texts))


def format_of(source: str, tokens: Collection[str], tools: bool, told: bool) -> Format:
    """The format of a template ``source``, or as far as it says nothing, of the control ``tokens`` of its vocabulary.

    ``tools``: calls are looked for. ``told``: tools stand in the prompt in words, since the template knows none.
    """
    channels = all(text in source for text in CHANNELS)
    reasoning = next(
        (row for row in REASONING if row.end in source and row.also in source),
        next((row for row in REASONING if {row.begin.strip(), row.end} <= set(tokens) and not row.also), None),
    )
    calls = None
    if tools:
        calls = TOLD if told else _calls(source) or _calls("\n".join(tokens)) or TOLD
    return Format(channels, reasoning, calls)


def _calls(text: str) -> Calls | None:
    return next((row for row in CALLS if all(mark in text for mark in row.marks)), None)
