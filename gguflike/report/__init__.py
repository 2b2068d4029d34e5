"""A model file as one page to look at: ``gguflike inspect --html``, and the two of ``gguflike diff --html``.

    facts     what is shown
    pictures  drawings of it, as SVG
    page      HTML, put together of both

The page loads nothing from anywhere, and what a file says is text in it, never markup.
"""

from gguflike.report.facts import Facts, gather
from gguflike.report.page import page

__all__ = ["Facts", "gather", "page"]
