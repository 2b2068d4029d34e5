"""What a file says of itself, by its header and by ranges of its data: what ``gguflike inspect`` shows. Importing this
imports nothing else.

    description  every value and every tensor, as one JSON document
    summary      the first screen: what it is, its sizes, whether it runs here; the same of folders and checkpoints
    statistics   figures, histogram and first values of one tensor

Whether what a file says is true is asked in gguflike/verify/.
"""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.inspect.description import describe
    from gguflike.inspect.summary import document

__all__ = ["describe", "document"]

__getattr__ = lazy.names(__name__, {"describe": "description", "document": "summary"})
