"""A model file as one page to look at: ``gguflike inspect --html``, and the two of ``gguflike diff --html``.

``facts`` gathers what is shown, ``pictures`` draws it, ``page`` puts it together. The page loads nothing from anywhere,
and what a file says is text in it, never markup.
"""

from gguflike.report.facts import Facts, gather
from gguflike.report.page import page

__all__ = ["Facts", "gather", "page"]
