"""Whether what a file says makes sense to those who run it: its tokenizer, its chat template, its model's settings.

`gguflike.container.validate` judges what any GGUF file may hold; here it is asked what a model of this architecture
holds. Nothing here is an error: other programs may know what this one does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.checkpoint.tokenizer_json import chat_templates
from gguflike.checkpoint.vocabulary import MERGES, MODEL, PRE, TOKENS, TYPES, TokenType, Vocabulary
from gguflike.container.findings import Finding, Severity
from gguflike.container.values import INTEGERS
from gguflike.errors import GGUFError, GGUFLikeError, TemplateError, counted
from gguflike.families import config as configs
from gguflike.families import demands, registry
from gguflike.verify import types

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

#: Markup of templates that is a token in every vocabulary that has it; what else stands in brackets may be text.
_MARKUP = re.compile(r"<\|[A-Za-z0-9_]+\|>|<(?:start|end)_of_turn>")
#: How errors of templates begin that are none of a conversation's.
_FAULTS = (
    *("TemplateSyntaxError", "TemplateAssertionError", "SecurityError", "RecursionError", "needs too much memory"),
    *("took more", "ValueError: writes more", "chat template is too long", "MemoryError", "OverflowError"),
)
_INTERNAL = re.compile(r"__[a-z]+__")
_SHOWN = 4  # names in a message


def findings(file: GGUFFile) -> Iterator[Finding]:
    """All that is odd about what an open file says, of a split model as a whole."""
    if TOKENS in file.metadata and MODEL in file.metadata:
        yield from _tokenizer(file)
    yield from _templates(file)
    is_model = file.kind == "model" and len(file.infos)
    if is_model and f"{file.architecture}.block_count" in file.metadata:
        yield from _model(file)


def _found(file: GGUFFile, severity: Severity, rule: str, message: str, key: str | None = None) -> Finding:
    entry = file.metadata.entry(key) if key is not None and key in file.metadata else None
    return Finding(severity, rule, message, file.path, None if entry is None else entry.start, field=key)


def _tokenizer(file: GGUFFile) -> Iterator[Finding]:
    """M-012: types are those that there are, merges make tokens of tokens, what a tokenizer needs is there. M-013: a
    byte-level vocabulary says how text is cut before its merges apply."""
    metadata = file.metadata
    if TYPES in metadata and metadata.item_type_of(TYPES) in INTEGERS:
        odd = np.setdiff1d(metadata[TYPES], [int(kind) for kind in TokenType])
        if len(odd):
            yield _found(file, "warning", "M-012", f"tokens of type {odd[0]}, which there is none of", TYPES)
    try:
        vocabulary = Vocabulary.from_metadata(metadata)
    except GGUFLikeError as error:
        severity: Severity = "warning" if isinstance(error, GGUFError) else "note"
        key = (error.field or "").partition("[")[0]
        yield _found(file, severity, "M-012", error.within(file.path), key if key in metadata else None)
        return
    if vocabulary.model != "gpt2":
        return
    if vocabulary.doubt is not None:
        yield _found(file, "warning", "M-013", vocabulary.doubt, PRE)
    if MERGES not in metadata:
        message = "a byte-level vocabulary without merges, which llama.cpp refuses"
        yield _found(file, "warning", "M-012", message, MERGES)
    tokens = set(vocabulary.texts.tolist())
    useless = [pair for pair in vocabulary.merges() if not tokens.issuperset((*pair, "".join(pair)))]
    if useless:
        shown = " ".join(useless[0])
        message = f"{counted(len(useless), 'merge')} of or to what is no token, the first {shown!r}"
        yield _found(file, "note", "M-012", message, MERGES)


def _templates(file: GGUFFile) -> Iterator[Finding]:
    """M-014: a chat template compiles, and writes a short conversation with what it may take and reach for. M-015: the
    markup that it writes is among the tokens."""
    from gguflike.chat.template import MOST_TRIED

    try:
        sources = chat_templates(file.metadata)
    except GGUFLikeError as error:
        yield _found(file, "warning", "M-014", error.within(file.path), error.field)
        return
    texts = file.metadata.texts(TOKENS) if TOKENS in file.metadata else None
    for number, (name, source) in enumerate(sources.items()):
        key = "tokenizer.chat_template" + ("" if name == "default" else f".{name}")
        if number == MOST_TRIED:
            message = f"{len(sources)} chat templates, of which only the first {MOST_TRIED} were looked at"
            yield _found(file, "note", "M-014", message, key)
            return
        problem = _tried(source)
        if problem is not None:
            yield _found(file, "warning", "M-014", f"chat template {name!r}: {problem}", key)
        marks = sorted(set(_MARKUP.findall(source)))
        if texts is None or not len(texts) or not marks:
            continue
        known = {texts[index] for index in texts.find(marks)}
        missing = [mark for mark in marks if mark not in known]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            listed = ", ".join(missing[:_SHOWN])
            message = f"chat template {name!r} writes {listed}{more}, which the vocabulary has no token for"
            yield _found(file, "note" if known else "warning", "M-015", message, key)


def _tried(source: str) -> str | None:
    """What is wrong with a template, if it is more than that it refuses a conversation that is too simple for it."""
    from gguflike.chat import template

    said: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "tools": None, "documents": None}
    said |= {"bos_token": "", "eos_token": "", "add_generation_prompt": True}
    try:
        (answer,) = template.render_each(source, [said])
    except TemplateError as error:
        answer = error
    if isinstance(answer, TemplateError):
        problem = answer.what.removeprefix("chat template failed: ")
        if problem.startswith(_FAULTS):
            return problem
    internal = _INTERNAL.search(source)
    return None if internal is None else f"reaches for Python's {internal[0]}, as attacks do"


def _model(file: GGUFFile) -> Iterator[Finding]:
    """M-030: settings are such as models of the architecture have. M-031: llama.cpp computes the same. M-032: the model
    can be run."""
    from gguflike.runner import ability

    odd = list(_settings(file))
    yield from odd
    try:
        model = ability.understand(file)
    except GGUFLikeError as error:
        refused: GGUFLikeError | None = error
    else:
        refused = ability.refusal(file, model)
        own = str(file.architecture)
        for field, said in demands.broken(own, model.graph):
            yield _found(file, "warning", "M-031", said, field)
        for said in demands.differences(own, model.graph):
            yield _found(file, "note", "M-031", said)
    if refused is not None and refused.field not in {finding.field for finding in odd}:
        severity: Severity = "warning" if isinstance(refused, GGUFError) else "note"
        yield _found(file, severity, "M-032", f"does not run here: {refused.within(file.path)}", None)
    for key, why in types.refused(file) if file.architecture in registry.ARCHITECTURES else ():
        if refused is None or key != refused.field:
            yield _found(file, "warning", "M-031", why, key)


def _settings(file: GGUFFile) -> Iterator[Finding]:
    metadata = file.metadata
    own = file.architecture
    for key in metadata:
        other = key.partition(".")[0]
        if other != own and other in registry.ARCHITECTURES:
            message = f"a setting of {other}, which readers of {own} ignore"
            yield _found(file, "note", "M-030", message, key)
    try:
        family = registry.for_gguf(str(own)).of_file(metadata, file.infos)
        config = configs.from_gguf(family.config, family.name, metadata, file.infos)
    except GGUFLikeError:
        return  # of which M-032 says what
    for key, _, allowed in configs.unread(config, family.name, metadata, family.file_keys):
        usual = f", unless it is {' or '.join(map(repr, allowed))}" if allowed else ""
        message = f"models of {own} have no such setting{usual}: readers ignore it, or refuse the file"
        yield _found(file, "warning", "M-030", message, key)
    yield from _sizes(file)
    for notice in family.notices(config):
        yield _found(file, "note", "M-031", notice)


def _sizes(file: GGUFFile) -> Iterator[Finding]:
    """Heads share the width of the model, where no other width of theirs is said."""
    key, own = f"{file.architecture}.attention.head_count", file.architecture
    heads, width = file.metadata.get(key), file.metadata.get(f"{own}.embedding_length")
    alone = f"{own}.attention.key_length" not in file.metadata
    if alone and isinstance(heads, int) and isinstance(width, int) and heads > 0 and width % heads:
        message = f"{heads} heads, which do not share the width {width} of the model evenly, and no width of their own"
        yield _found(file, "warning", "M-032", message, key)
