"""Whether a file can be run here, by its header alone: what `load` checks before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike.errors import GGUFError, GGUFLikeError
from gguflike.families import registry
from gguflike.families.config import layers_left_out
from gguflike.families.family import check_layers
from gguflike.runner import graph

if TYPE_CHECKING:
    from gguflike.container import GGUFFile
    from gguflike.families.parts import Graph


RULE = "M-032"  # of spec/metadata.md: a model that does not run


class Understood(NamedTuple):
    """The model in a file: its typed hyper-parameters, the graph of parts that they make, and how many layers behind
    those of the graph are not computed."""

    config: Any
    graph: Graph
    left_out: int

    @property
    def longest(self) -> int:
        """Positions that the model was made for, as far as it can be computed with them."""
        return min((int(self.config.n_ctx), *graph.limits(self.graph)))


def understand(file: GGUFFile) -> Understood:
    """The model in a file. GGUFError or UnsupportedError where it holds none, or none that can be computed here."""
    with placed(file):
        family = registry.for_gguf(_architecture(file)).of_file(file.metadata, file.infos)
        config = family.from_file(file.metadata, file.infos)
        check_layers(config, file.path, len(file.infos))
        made = family.graph(config)
        graph.check(made)
    return Understood(config, made, layers_left_out(family.name, file.metadata))


@contextmanager
def placed(file: GGUFFile) -> Iterator[None]:
    """Errors about a value of the file's metadata, in this block, say where it stands and which rule it breaks."""
    try:
        yield
    except GGUFLikeError as error:
        key = (error.field or "").partition("[")[0]
        error.path = error.path or file.path
        if key in file.metadata:
            error.offset, error.rule = file.metadata.entry(key).start, error.rule or RULE
        raise


def refusal(file: GGUFFile, model: Understood | None = None) -> GGUFLikeError | None:
    """The error with which `load` would refuse a file, whatever the memory of the machine; None where it would not.
    ``model`` is what `understand` gave, where it was asked before.

    Looks at metadata and at names, shapes and types of tensors, as `load` does, but at no data.
    """
    from gguflike.runner.tensors import checked
    from gguflike.runner.tokenizer import Tokenizer

    try:
        model = model or understand(file)
        with placed(file):
            Tokenizer(file.metadata)
        checked(file, model.graph, model.left_out)
    except GGUFLikeError as error:
        return error
    return None


def _architecture(file: GGUFFile) -> str:
    """The architecture of the model in a file. GGUFError where it holds something else."""
    kind = file.kind
    if kind != "model":
        remedy = "run the model that it belongs to" if kind == "adapter" else None
        raise GGUFError(
            "the file is no model", path=file.path, field="general.type", expected="model", got=kind, remedy=remedy
        )
    if file.architecture is None:
        raise GGUFError("the file does not say what model it is", path=file.path, field="general.architecture")
    if not file.infos:
        raise GGUFError("the file holds a vocabulary at most, no weights", path=file.path, got="no tensors")
    return file.architecture
