"""The page of a file: what it says, that nothing in a file becomes markup, and its drawings."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguflike
from gguflike.cli import main
from gguflike.inspect.statistics import sample
from gguflike.report import gather, page
from gguflike.report.facts import BINS, group_of
from gguflike.report.page import _highlighted
from gguflike.report.pictures import LAYOUTS, Box, Layout, Leaf, squarified, treemap

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\0\u202e"
TOKENS = ["<unk>", "<s>", "</s>", EVIL, "a", "</script><b>"]


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.texts).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    tensors = []
    for layer in range(2):
        for role, kind in (("attn_q", "Q4_K"), ("ffn_up", "Q8_0"), ("ffn_norm", "F32")):
            shape = (64, 256) if role != "ffn_norm" else (256,)
            values = chance.standard_normal(shape).astype(np.float32)
            tensors.append(gguflike.quantize(values, kind, name=f"blk.{layer}.{role}.weight"))
    tensors.append(gguflike.quantize(np.zeros((2, 32), np.float32), "F16", name=f"x{EVIL[:20]}"))
    metadata = {
        "general.architecture": "llama",
        "general.name": EVIL,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": np.zeros(len(TOKENS), np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 4, 1, 1], np.int32),
        "tokenizer.chat_template": "{# <b> #}{{ bos_token }}{% for m in messages %}{{ m.content }}<i>{% endfor %}",
        "text": EVIL,
    }
    path = tmp_path / "model.gguf"
    gguflike.write(path, metadata, tensors)
    return path


def html_of(path: Path) -> str:
    with gguflike.open(path) as opened:
        return page(gather(opened, EVIL), {"name": EVIL})


def test_what_a_file_says_is_text(file: Path) -> None:
    html = html_of(file)
    seen = Page(html)
    assert not seen.open
    assert {tag for tag, _ in seen.elements} == {
        *("html", "head", "meta", "title", "style", "body", "script", "a", "header", "h1", "h2", "h3", "h4", "button"),
        *("nav", "ul", "li", "main", "section", "dl", "dt", "dd", "div", "svg", "g", "rect", "text", "polygon", "i"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "span", "details", "summary", "figure", "figcaption"),
        *("pre", "p", "label", "input", "code", "mark"),
    }
    assert [attributes.get("type") for attributes in seen.of("script")] == ["application/json", None]
    assert not [name for _, attributes in seen.elements for name in attributes if name.startswith("on")]
    assert "\0" not in html
    assert "\u202e" not in html
    assert json.loads(seen.scripts[0]) == TOKENS
    assert "\\u0000" in "".join(seen.texts)  # what cannot be seen is written out


def test_it_loads_nothing(file: Path) -> None:
    html = html_of(file)
    seen = Page(html)
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in seen.elements)
    assert not [name for _, attributes in seen.elements for name in attributes if name in ("src", "style")]
    policy = next(each["content"] or "" for each in seen.of("meta") if each.get("http-equiv"))
    for tag, source in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        found = re.search(source, html, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "url(" not in found[1]


def test_the_parts(file: Path) -> None:
    with gguflike.open(file) as opened:
        facts = gather(opened, "x", errors={"blk.0.attn_q.weight": 0.07}, beside="the floats")
    assert facts.layers == [0, 1]
    parts = {part.name: part for part in facts.parts}
    part = parts["blk.0.attn_q.weight"]
    assert (part.role, part.layer, part.group, part.type, part.bits) == ("attn_q", 0, "attention", "Q4_K", 4.5)
    assert part.error == 0.07
    assert part.values is not None
    assert part.values.rms == pytest.approx(1, abs=0.05)
    assert len(part.values.counts) == BINS
    assert sum(part.values.counts) == pytest.approx(64 * 256, rel=0.001)  # but for what lies further out
    assert [part.values for part in facts.parts if part.type == "F16"] == [None]  # zeros have no shape
    (example,) = facts.examples
    assert example.text.startswith("<s>You are a helpful assistant.<i>What")
    html = page(facts, {})
    assert "<mark>&lt;s&gt;</mark>You are" in html
    assert "Relative error of each layer beside the floats: 0.07 to 0.07" in html


def test_names_by_the_thousand_and_far_layers(tmp_path: Path) -> None:
    """A name says any number; what is drawn is bounded by what is there."""
    names = ["blk.999999999.attn_q.weight", "blk.99999999999999999999.x", "blk.-1.x", "blk..x", "blk.\u0663.x"]
    names += [f"blk.{layer}.role{layer}" for layer in range(3, 2003)]
    names += [EVIL[:20] + "\u202e"]
    tensors = [gguflike.quantize(np.ones(2, np.float32), "F32", name=name) for name in names]
    gguflike.write(tmp_path / "n.gguf", {}, tensors)
    begun = time.process_time()
    html = html_of(tmp_path / "n.gguf")
    assert time.process_time() - begun < 5
    seen = Page(html)
    assert not seen.open
    said = "".join(seen.texts)
    assert "Of 2,001 layers, the first 512 are here." in said
    assert "other roles" in said
    assert len(html) < 5 << 20
    assert "\0" not in html


def test_templates_that_would_take_long_to_show(tmp_path: Path) -> None:
    tokens = [f"<a{number}>" for number in range(30_000)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
        "tokenizer.ggml.token_type": np.full(len(tokens), 3, np.int32),
        "tokenizer.chat_template": "{% for i in range(20000) %}<a{{ i }}>{% endfor %}",
        "tokenizer.chat_template.open": "{{ {%" * 100_000 + "%}",
    }
    gguflike.write(tmp_path / "t.gguf", metadata, [])
    begun = time.process_time()
    html = html_of(tmp_path / "t.gguf")
    assert time.process_time() - begun < 10
    assert 0 < html.count("<mark>") < 10_000
    assert not Page(html).open


def test_what_jinja_reads_is_set_apart() -> None:
    assert _highlighted("a {{ b }} {% c %} {# d #} {{ e") == (
        'a <span class="value">{{ b }}</span> <span class="statement">{% c %}</span> '
        '<span class="comment">{# d #}</span> {{ e'
    )
    assert _highlighted("{% {{ a }} <b>") == '{% <span class="value">{{ a }}</span> &lt;b&gt;'


def test_groups() -> None:
    names = ("token_embd", "attn_norm", "ffn_down", "ffn_up_exps", "ssm_in", "rope_freqs")
    assert [group_of(name) for name in names] == [
        *("embeddings and head", "attention", "feed-forward", "experts", "recurrent", "other"),
    ]


def test_a_sample_lies_all_over_a_tensor(tmp_path: Path) -> None:
    values = np.repeat(np.arange(64, dtype=np.float32), 1024).reshape(64, 1024)
    gguflike.write(tmp_path / "x.gguf", {}, [gguflike.quantize(values, "F32", name="x")])
    with gguflike.open(tmp_path / "x.gguf") as file:
        found = sample(file, "x", 1600)
        assert len(found) == 1600
        assert (found.min(), found.max()) == (0, 63)
        assert len(np.unique(found)) >= 16
        assert len(sample(file, "x", 1 << 20)) == values.size


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=40), st.floats(1, 1000), st.floats(1, 1000))
def test_boxes_fill_the_whole(sizes: list[float], width: float, height: float) -> None:
    sizes.sort(reverse=True)
    boxes = squarified(sizes, Box(0, 0, width, height))
    assert len(boxes) == len(sizes)
    scale = width * height / sum(sizes)
    for box, size in zip(boxes, sizes, strict=True):
        assert box.width * box.height == pytest.approx(size * scale, rel=1e-6)
        assert -1e-6 <= box.left <= width
        assert box.left + box.width <= width * (1 + 1e-6)
        assert box.top + box.height <= height * (1 + 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_labels_fit_their_boxes_on_every_screen(layout: Layout) -> None:
    """By widths of letters that are measured of no font here, but are more than those of most."""
    sizes = [900, 300, 300, 250, 90, 80, 40, 40, 20, 8, 3, 1]
    leaves = [Leaf(f"role_{'long' * (at % 3)}{at}", at % 3, size, "what") for at, size in enumerate(sizes)]
    (drawn,) = re.findall(rf'<svg class="treemap {layout.name}".*?</svg>', treemap(leaves, "all"))
    boxes = re.findall(
        r'<rect class="g\d" x="[\d.]+%" y="[\d.]+" width="([\d.]+)%" height="([\d.]+)"/>(.*?)</g>', drawn
    )
    assert len(boxes) == len(leaves)
    shown: set[str] = set()
    for width, height, label in boxes:
        found = re.match(r'<text class="([a-z ]*)" x=.*>(\w+)</text>', label)
        if found is None:
            continue
        kinds, words = found[1].split(), found[2]
        shown |= {*kinds, words}
        for pixels, letter in (
            (layout.width, 6 if "small" in kinds else 7.5),
            (layout.least, 0 if "roomy" in kinds else 6 if {"small", "tight"} & {*kinds} else 7.5),
        ):
            assert pixels * float(width) / 100 >= letter * len(words) + 6
        assert float(height) >= (18 if "small" in kinds else 24)
    assert {leaf.label for leaf in leaves[:4]} <= shown
    assert shown & {"small", "tight", "roomy"}


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["inspect", str(file), "--html", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().err
    written = out.read_text(encoding="utf-8")
    assert "<title>model.gguf</title>" in written
    assert "runs here" in written
    assert main(["inspect", str(file), "--html", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["inspect", str(file), "--html", str(out), "--overwrite"]) == 0
    before = file.read_bytes()
    assert main(["inspect", str(file), "--html", str(file), "--overwrite"]) == 1
    assert file.read_bytes() == before
    assert main(["inspect", str(file), "--html", str(out), "--json"]) == 2
    assert main(["inspect", str(file), "--overwrite"]) == 2


def test_beside_another(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.gguf"
    with gguflike.open(file) as opened:
        metadata = {key: opened.metadata.typed(key) for key in opened.metadata if not key.startswith("gguflike.")}
        metadata["text"] = "<b>"
        tensors = [
            gguflike.quantize(tensor.dequantize(), "Q2_K" if tensor.format.name == "Q4_K" else "F32", name=name)
            for name, tensor in opened.tensors.items()
            if "ffn_norm" not in name
        ]
    gguflike.write(other, metadata, tensors)
    out = tmp_path / "page.html"
    assert main(["diff", str(file), str(other), "--html", str(out)]) == 1
    assert f"wrote {out}" in capsys.readouterr().err
    html = out.read_text(encoding="utf-8")
    seen = Page(html)
    assert "Relative error of each layer beside model.gguf" in html
    rows = re.findall(r"<tr><td>(\w+)</td><td>([^<]*)</td><td>([^<]*)</td></tr>", html)
    found = {name: how for _, name, how in rows}
    assert re.fullmatch(r"retyped: Q4_K -&gt; Q2_K, relative error 0\.\d+", found["blk.0.attn_q.weight"])
    assert found["blk.0.ffn_norm.weight"] == "only in A"
    assert found["text"].startswith("changed: ")
    assert "&lt;b&gt;" in found["text"]
    assert not seen.of("b")
    assert main(["diff", str(file), str(other), "--html", str(out), "--json"]) == 2
    assert main(["diff", str(file), str(tmp_path), "--html", str(out)]) == 2
    assert main(["diff", str(file), str(other), "--html", str(other), "--overwrite"]) == 1
    assert main(["diff", str(file), str(file), "--html", str(out), "--overwrite"]) == 0
    assert "None beside model.gguf." in out.read_text(encoding="utf-8")
