"""The models of a server: one that is always there, and those of a folder, loaded when they are asked for.

What is loaded stays until its memory is needed for another, and then the least recently used goes first; one that
somebody uses never does. A model counts for all that it may come to take (reserve.py), from before it is loaded. Names
in requests are looked up among the names of files that were found, and are never paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gguflike import __version__
from gguflike.errors import ArgumentError, TemplateError
from gguflike.serve.answering import Post
from gguflike.serve.errors import ApiError, overloaded
from gguflike.serve.line import Line
from gguflike.serve.settings import Settings

if TYPE_CHECKING:
    from gguflike.engine import Engine
    from gguflike.progress import Progress
    from gguflike.runner import Model
    from gguflike.serve.reserve import Reserve

_SHARD = re.compile(r"-(\d{5,})-of-\d{5,}$")
_LOAD_SECONDS = 10  # after which a client may ask again for a model that had no room


class Loaded:
    """A model in memory, of which it takes at most what ``reserve`` says. ``engine`` is None for one that makes no
    text; ``post`` brings what it says to the loop. ``users`` are the answers in progress. ``close`` blocks until the
    engine has ended its jobs."""

    def __init__(
        self,
        name: str,
        model: Model,
        engine: Engine | None,
        post: Post,
        about: dict[str, Any],
        reserve: Reserve,
        close: Callable[[], None],
    ) -> None:
        self.name, self.model, self.engine, self.about, self.close = name, model, engine, about, close
        self.post, self.reserve = post, reserve
        self.created = int(time.time())
        self.users, self.used = 0, time.monotonic()
        self.vectors = Line("gguflike-vectors")

    @property
    def fingerprint(self) -> str:
        """What answers depend on beside the request: this version and the file."""
        return f"gguflike-{__version__}-{self.about['n_params']:x}"

    def release(self) -> None:
        self.users -= 1
        self.used = time.monotonic()


class Models:
    """All that can be asked for. Methods that are not async may be called on the loop's thread only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Loaded] = {}
        self._tasks: dict[str, asyncio.Task[Loaded]] = {}
        self._order = asyncio.Lock()  # one is loaded at a time, after room was made for it
        self._files: dict[str, str] = {}
        self.default: str | None = None
        if settings.model is not None:
            self.default = settings.alias or name_of(settings.model)
            self._files[self.default] = settings.model
        if settings.models_dir is not None and not os.path.isdir(settings.models_dir):  # noqa: PTH112
            raise ArgumentError("no such folder", field="models_dir", got=settings.models_dir)
        self._memory = settings.memory or _machine_share()
        self.find()
        if not self._files:
            raise ArgumentError(
                "no GGUF files in the folder", field="models_dir", got=settings.models_dir, expected="*.gguf"
            )

    def find(self) -> dict[str, str]:
        """Names and files. Those of the folder are looked for again."""
        folder = self._settings.models_dir
        if folder is not None:
            kept = {} if self.default is None else {self.default: self._files[self.default]}
            self._files = {**found_in(folder), **kept}
        return self._files

    @property
    def loaded(self) -> list[Loaded]:
        return list(self._loaded.values())

    def resolve(self, name: str | None) -> str:
        """The model that a request means: unknown names mean the only one. 404 where there are several."""
        if name is not None and (name in self._loaded or name in self.find()):
            return name
        if self._settings.models_dir is None and self.default is not None:
            return self.default
        if name is None:
            chosen = self.default or (self.loaded[0].name if self._loaded else min(self._files, default=None))
            if chosen is not None:
                return chosen
        names = ", ".join(sorted(self._files)[:20])
        raise ApiError(404, f"no model {str(name)[:100]!r}; there are: {names}", code="model_not_found", param="model")

    async def acquire(self, name: str | None) -> Loaded:
        """The model, loaded if need be, counted as used until ``release``. 404 or 503 where it cannot be had."""
        name = self.resolve(name)
        while (loaded := self._loaded.get(name)) is None:  # it may be unloaded again before we are told
            task = self._tasks.get(name)
            if task is None:
                task = self._tasks[name] = asyncio.create_task(self._load(name))
                task.add_done_callback(lambda _: self._tasks.pop(name, None))
            await asyncio.shield(task)  # whoever asked for it may leave, others wait for it
        loaded.users += 1
        loaded.used = time.monotonic()
        return loaded

    @contextlib.asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[Loaded]:
        """The model, as of `acquire`, until the block ends."""
        loaded = await self.acquire(name)
        try:
            yield loaded
        finally:
            loaded.release()

    async def _load(self, name: str) -> Loaded:
        path = self._files[name]
        async with self._order:
            if name not in self._loaded:
                reserve = await asyncio.to_thread(self._reserve, path)
                await self._make_room(reserve.total + reserve.loading)
                self._loaded[name] = await asyncio.to_thread(load, name, path, self._settings, reserve, None)
                self._settings.log(f"loaded {name}")
        return self._loaded[name]

    def start(self, progress: Progress | None = None) -> None:
        """Load the model that is always there, if there is one, before anything else is asked for."""
        if self.default is not None and not self._loaded:
            path = self._files[self.default]
            self._loaded[self.default] = load(self.default, path, self._settings, self._reserve(path), progress)
            self._settings.log(f"loaded {self.default}")

    def _reserve(self, path: str) -> Reserve:
        """What a model takes at most."""
        from gguflike.serve.reserve import reserve

        return reserve(path, self._settings, self._memory)

    async def _make_room(self, needed: int) -> None:
        """Unload until so many bytes fit beside the process itself; one model alone always does. 503 where what is left
        is in use."""
        from gguflike.runner.needs import PROCESS

        room = self._memory - PROCESS - needed
        while sum(each.reserve.total for each in self._loaded.values()) > room and self._loaded:
            idle = [each for each in self._loaded.values() if not each.users]
            if not idle:
                raise overloaded("the models in use leave no memory for this one", _LOAD_SECONDS)
            oldest = min(idle, key=lambda each: each.used)
            del self._loaded[oldest.name]
            await _closed(oldest)
            self._settings.log(f"unloaded {oldest.name}")

    def sick(self) -> str | None:
        """What is wrong with an engine, None where all are well."""
        for each in self._loaded.values():
            if each.engine is None:
                continue
            silent = each.engine.health()
            if silent > self._settings.stuck_after:
                return f"{each.name}: the engine made no step for {silent:.0f} s while work waits"
        return None

    async def close(self) -> None:
        """Unload everything, jobs in progress are cancelled."""
        for task in list(self._tasks.values()):
            task.cancel()
        async with self._order:
            while self._loaded:
                _, loaded = self._loaded.popitem()
                await _closed(loaded)


async def _closed(loaded: Loaded) -> None:
    """Close a model, and let those whose jobs that ends hear of it."""
    await asyncio.to_thread(loaded.close)
    loaded.post.close()


def load(name: str, path: str, settings: Settings, reserve: Reserve, progress: Progress | None) -> Loaded:
    """Open a file, and start the engine of one that makes text, within what is reserved for it."""
    from gguflike.families.parts import Head

    with contextlib.ExitStack() as opened:
        model = opened.enter_context(_opened(path, settings, progress))
        draft: Model | Literal["mtp"] | None = None
        if settings.draft == "mtp" and path == settings.model:
            draft = "mtp"
        elif settings.draft is not None and path == settings.model:
            draft = opened.enter_context(_opened(settings.draft, settings, progress))
        doubt = model.tokenizer.vocabulary.doubt
        if doubt is not None:
            settings.log(f"warning: {name}: {doubt}")
        engine, post = None, Post()
        if isinstance(model.graph.head, Head):
            from gguflike.engine import Engine

            engine = Engine(
                model,
                parallel=settings.parallel,
                queue=settings.queue,
                cache_bytes=reserve.kept,
                text_bytes=reserve.text_bytes,
                draft=draft,
                draft_tokens=settings.draft_tokens,
                store=settings.slots_dir,
                prefixes=settings.prefix_dir,
                prefix_bytes=settings.prefix_bytes,
                notice=settings.log,
                told=post.deliver,
            )
            opened.callback(engine.close)
            if model.conversations.has_template:
                try:
                    model.conversations.shape()  # what its template takes is found out once, not by the first who asks
                except TemplateError as error:  # its texts can be continued all the same
                    settings.log(f"{name} answers no conversations: {error}")
        return Loaded(name, model, engine, post, about(model), reserve, opened.pop_all().close)


def _opened(path: str, settings: Settings, progress: Progress | None) -> Model:
    from gguflike import runner

    return runner.load(
        path,
        threads=settings.threads,
        context=settings.context,
        cache_type=settings.cache_type,
        activations=settings.activations,
        progress=progress,
    )


def about(model: Model) -> dict[str, Any]:
    """What is told of a model beside its name, by llama-server's words."""
    from gguflike import container

    with container.open(model.path) as file:
        sizes = [(info.nbytes, math.prod(info.shape)) for info in file.infos.values()]
        kind = str(file.metadata.get("tokenizer.ggml.model", ""))
    return {
        "vocab_type": kind,
        "n_vocab": model.vocab_size,
        "n_ctx_train": model.config.n_ctx,
        "n_ctx": model.context,
        "n_embd": model.graph.embedding.n_embd,
        "n_params": sum(count for _, count in sizes),
        "size": sum(size for size, _ in sizes),
    }


def name_of(path: str) -> str:
    """The name of a model by its file: without folder, .gguf and the number of a shard."""
    stem = os.path.basename(path.rstrip("/"))  # noqa: PTH119 - it may be a name of the Hub
    return _SHARD.sub("", stem.removesuffix(".gguf")) or path


def found_in(folder: str) -> dict[str, str]:
    """Models in a folder and below it: name with its folders -> file. The first shard stands for all."""
    root = Path(folder)
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.gguf")):
        stem = path.relative_to(root).as_posix().removesuffix(".gguf")
        shard = _SHARD.search(stem)
        if path.name.startswith("mmproj") or (shard is not None and int(shard[1]) != 1):
            continue
        found[_SHARD.sub("", stem)] = str(path)
    return found


def _machine_share() -> int:
    from gguflike.machine import machine_bytes

    return machine_bytes() * 3 // 4
