"""How much memory a model that is served takes at most, known before anything of it is loaded: what `runner.needs`
counts for all the texts that are computed at a time, and what an engine keeps of others.

Models get room for all that they may come to take, so that those which are loaded together never outgrow the server's
memory. What grows with texts is bounded for that, by what the memory has beside the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gguflike.engine.engine import CACHE_SHARE, TEXTS_SHARE
from gguflike.families.parts import Head
from gguflike.locate import open_header
from gguflike.machine import machine_bytes
from gguflike.runner import needs
from gguflike.runner.ability import understand
from gguflike.runner.graph import bytes_per_position, limits
from gguflike.runner.network import crest_of
from gguflike.runner.state import default_context

if TYPE_CHECKING:
    from gguflike.container import GGUFFile
    from gguflike.runner.ability import Understood
    from gguflike.runner.needs import Needs
    from gguflike.serve.settings import Settings

FOLDER_SHARE = 4  # the texts of one model of a folder may take one part in so many of the memory for all


class Reserve(NamedTuple):
    """Bytes for one model. ``fixed``: what no text changes: weights, buffers of passes, the tokenizer, a draft model.
    ``texts``: what the texts that are computed keep from token to token, at most. ``kept``: what is kept of others, at
    most. ``loading``: what is taken beside all of this while the model is loaded.

    ``text_bytes`` is the limit that an `Engine` needs to stay within ``texts``; that for ``kept`` is ``kept``.
    """

    fixed: int
    texts: int
    kept: int
    loading: int
    text_bytes: int

    @property
    def total(self) -> int:
        """All that stays."""
        return self.fixed + self.texts + self.kept


def reserve(path: str, settings: Settings, memory: int) -> Reserve:
    """What the model in a file takes by the settings of a server whose models share so many bytes. Of the file only the
    header is read. Errors are those with which `gguflike.load` refuses it."""
    with open_header(path) as file:
        model = understand(file)
        is_text = isinstance(model.graph.head, Head)
        context, position = _context(model, settings)
        count = settings.parallel if is_text else 1
        found = _needs(file, model, context, count, settings)
        fixed, loading = found.total - found.cache - found.process, found.peak - found.total
        if path == settings.model and settings.draft is not None:
            guessing = _heads(file, model, context, settings) if settings.draft == "mtp" else [_draft(settings)]
            fixed += sum(each.total - each.process for each in guessing)
            loading = max(loading, *(each.peak - each.total for each in guessing), 0)
    if not is_text:
        return Reserve(fixed, found.cache, 0, loading, 0)
    kept = (settings.memory or machine_bytes()) // CACHE_SHARE if settings.cache_bytes is None else settings.cache_bytes
    left = memory // FOLDER_SHARE if settings.models_dir is not None else memory - found.process - fixed - kept
    text_bytes = max(0, min(left, machine_bytes() // TEXTS_SHARE))
    growing, one = count * context * position, context * position
    texts = found.cache - growing + min(growing, max(text_bytes, one))  # one text finds room in any case
    return Reserve(fixed, texts, kept, loading, text_bytes)


def _context(model: Understood, settings: Settings) -> tuple[int, int]:
    """Positions of one text, as far as the model can be computed with them, and bytes that each takes."""
    position = bytes_per_position(model.graph, settings.cache_type)
    context = settings.context or default_context(model.longest, position)
    return min((context, *limits(model.graph))), position


def _needs(file: GGUFFile, model: Understood, context: int, count: int, settings: Settings) -> Needs:
    """What a model takes for so many texts."""
    crest = crest_of(settings.activations)
    return needs.of_file(
        *(file, model, context, settings.cache_type), texts=count, threads=settings.threads, crest=crest
    )


def _draft(settings: Settings) -> Needs:
    """What the draft model takes, which is computed for as many texts."""
    assert settings.draft is not None
    with open_header(settings.draft) as file:
        model = understand(file)
        return _needs(file, model, _context(model, settings)[0], settings.parallel, settings)


def _heads(file: GGUFFile, model: Understood, context: int, settings: Settings) -> list[Needs]:
    """What each of the model's own multi-token-prediction heads takes beside the model."""
    own = needs.sizes(model.graph, file.infos, model.left_out, file.path)
    return [
        needs.needs(
            *(head, file.infos, context, settings.cache_type),
            texts=settings.parallel,
            threads=settings.threads,
            weights=needs.sizes(head, file.infos, None, file.path, own),
        )
        for head in model.graph.mtp
    ]
