"""A file in the terminal, to look around in: the extra ``browse`` installs textual, of which the screen is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane
from textual.worker import get_current_worker

from gguflike import inspect
from gguflike.checkpoint.tokenizer_json import chat_templates
from gguflike.checkpoint.vocabulary import TOKENS
from gguflike.cli import facts
from gguflike.cli.output import MOST_TEXT, clean
from gguflike.container import GGUFFile
from gguflike.errors import GGUFLikeError
from gguflike.inspect.description import value
from gguflike.inspect.statistics import Statistics, statistics

MOST_ROWS = 1000  # of a table that are shown at a time: what is looked for makes them fewer
BARS = " ▁▂▃▄▅▆▇█"


class Rows(DataTable[Text]):
    """A table of rows of which those are shown that contain what is looked for."""

    def __init__(self, titles: Sequence[str], rows: Iterable[tuple[Any, ...]], **options: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, **options)
        self.titles, self.rows_of = titles, list(rows)
        self.sorted_by, self.descending, self.wanted = -1, False, ""

    def on_mount(self) -> None:
        for number, title in enumerate(self.titles):
            self.add_column(title, key=str(number))
        self.fill("")

    def fill(self, wanted: str) -> None:
        """Show the rows that contain ``wanted``, at most MOST_ROWS."""
        self.wanted = wanted
        self.clear()
        low = wanted.casefold()
        found = [row for row in self.rows_of if low in " ".join(map(str, row)).casefold()]
        if self.sorted_by >= 0:
            found.sort(key=lambda row: row[self.sorted_by], reverse=self.descending)
        for row in found[:MOST_ROWS]:
            self.add_row(*map(_cell, row), key=str(row[0]))
        more = f", of which {MOST_ROWS:,} are shown" if len(found) > MOST_ROWS else ""
        self.border_subtitle = f"{len(found):,} of {len(self.rows_of):,}{more}"

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by a column; the other way round the second time."""
        self.sort_by(event.column_index)

    def sort_by(self, column: int) -> None:
        self.descending = not self.descending if column == self.sorted_by else False
        self.sorted_by = column
        self.fill(self.wanted)


def _cell(cell: Any) -> Text:
    """A cell as it is, not as markup; numbers stand to the right."""
    if isinstance(cell, int | float):
        return Text(f"{cell:,}" if isinstance(cell, int) else f"{cell:.3f}", justify="right")
    return Text(clean(str(cell), 200))


class Browser(App[None]):
    """Five pages: what the file is, its tensors with their figures, its metadata, its templates and its tokens."""

    CSS = """
    Rows { width: 1fr; border: round $primary; }
    .detail { width: 40%; border: round $primary; padding: 0 1; }
    Input { dock: bottom; }
    Input:disabled { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("slash", "search", "Search"),
        ("s", "sort", "Sort"),
        ("escape", "done", "All rows"),
        ("q", "quit", "Quit"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, file: GGUFFile, name: str) -> None:
        super().__init__()
        self.file, self.name_of_file = file, name
        self.title = clean(name)

    def compose(self) -> ComposeResult:
        file = self.file
        document = inspect.document(file)
        lines = facts.screen(document, self.name_of_file)
        tensors = [
            (info.name, info.format.name, " x ".join(map(str, info.shape)), info.nbytes, info.bits)
            for info in file.infos.values()
        ]
        values = [(key, facts.shown_value(each)) for key, each in document["metadata"].items()]
        with TabbedContent():
            with TabPane("File", id="file"), VerticalScroll():
                yield Static(Content(lines))
            with TabPane("Tensors", id="tensors"), Horizontal():
                yield Rows(("name", "type", "shape", "bytes", "bits"), tensors, id="of-tensors")
                with VerticalScroll(classes="detail"):
                    yield Static("Enter shows the figures of a tensor.", id="tensor")
            with TabPane("Metadata", id="metadata"), Horizontal():
                yield Rows(("key", "value"), values, id="of-metadata")
                with VerticalScroll(classes="detail"):
                    yield Static("Enter shows all of a value.", id="value")
            with TabPane("Templates", id="templates"), VerticalScroll():
                yield Static(Content(self._templates()))
            with TabPane("Tokens", id="tokens"):
                yield Rows(("id", "token"), enumerate(self._tokens()), id="of-tokens")
        yield Input(placeholder="rows that contain", id="search", disabled=True)  # until it is asked for
        yield Footer()

    def _templates(self) -> str:
        try:
            found = chat_templates(self.file.metadata)
        except GGUFLikeError as error:
            return clean(str(error))
        texts = ("\n".join(clean(line) for line in source.split("\n")) for source in found.values())
        return "\n\n".join(f"{clean(name)}\n\n{text}" for name, text in zip(found, texts, strict=True)) or "none"

    def _tokens(self) -> list[str]:
        metadata = self.file.metadata
        texts = metadata.texts(TOKENS) if TOKENS in metadata else None
        return [] if texts is None else [str(token) for token in texts.tolist()]

    def _rows(self) -> Rows | None:
        """The table of the page that is shown."""
        active = self.query_one(TabbedContent).active
        return next(iter(self.query(Rows).filter(f"#of-{active}")), None)

    def action_search(self) -> None:
        """Ask for what rows are to contain."""
        if self._rows() is not None:
            field = self.query_one("#search", Input)
            field.value, field.disabled = "", False
            field.focus()

    def action_done(self) -> None:
        """Show all rows again."""
        self.query_one("#search", Input).disabled = True
        rows = self._rows()
        if rows is not None:
            rows.fill("")
            rows.focus()

    def action_sort(self) -> None:
        """Sort by the next column."""
        rows = self._rows()
        if rows is not None:
            rows.sort_by((rows.sorted_by + 1) % len(rows.titles))

    def on_input_changed(self, event: Input.Changed) -> None:
        rows = self._rows()
        if rows is not None:
            rows.fill(event.value)

    def on_input_submitted(self) -> None:
        """Back to the rows that were found."""
        self.query_one("#search", Input).disabled = True
        rows = self._rows()
        if rows is not None:
            rows.focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        name = str(event.row_key.value)
        if event.data_table.id == "of-metadata":
            whole = value(self.file, name, whole=True)
            text = whole if isinstance(whole, str) else json.dumps(whole, ensure_ascii=False)
            cut = "" if len(text) <= MOST_TEXT else f"\n… {len(text):,} characters"
            lines = "\n".join(clean(line) for line in text[:MOST_TEXT].split("\n"))
            self.query_one("#value", Static).update(Content(f"{clean(name)}\n\n{lines}{cut}"))
        elif event.data_table.id == "of-tensors":
            self.query_one("#tensor", Static).update(Content(f"{clean(name)}\n\nreading …"))
            self.run_worker(lambda: self._measure(name), thread=True, exclusive=True)

    def _measure(self, name: str) -> None:
        """Read a tensor in a thread of its own; what was chosen later is what is shown."""
        try:
            text = figures(statistics(self.file, name))
        except (GGUFLikeError, OSError) as error:
            text = clean(str(error))
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self.query_one("#tensor", Static).update, Content(f"{clean(name)}\n\n{text}"))


def figures(found: Statistics) -> str:
    """The figures of a tensor, a line each, and its histogram as bars."""
    lines = [f"weights    {found.weights:,}", f"zeros      {found.zeros:,}"]
    lines += [f"not finite {found.bad:,}"] if found.bad else []
    for label, number in (
        *(("minimum", found.minimum), ("maximum", found.maximum), ("mean", found.mean)),
        *(("deviation", found.deviation), ("saturated", found.saturated)),
    ):
        lines += [] if number is None else [f"{label:<10} {number:.4g}"]
    if found.scales is not None:
        least, median, largest = found.scales
        lines.append(f"scales     {least:.3g} to {largest:.3g}, median {median:.3g}")
    most = max(found.histogram, default=0) or 1
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] * 2 for count in found.histogram)
    return "\n".join([*lines, "", bars])
