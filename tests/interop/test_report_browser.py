"""The page of a file in a real browser: nothing is wider than the window, sorting and searching work, themes differ."""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from gguflike.cli import main
from tests import tiny_gguf

pytestmark = pytest.mark.interop
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
#: What the page's own script and style are let do, and this, too; the result is left in the document.
PROBE = """<script>
addEventListener("load", () => {
  const found = {wide: document.documentElement.scrollWidth - innerWidth};
  const table = document.querySelector("table.sortable");
  const names = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[4].textContent);
  table.tHead.rows[0].cells[4].querySelector("button").click();
  const bytes = names().map((text) => Number(text.replaceAll(",", "")));
  found.sorted = bytes.every((each, at) => at === 0 || bytes[at - 1] <= each);
  const field = document.querySelector("input[data-of=tensors]");
  field.value = "BLK.1.attn_q";
  field.dispatchEvent(new Event("input"));
  found.rows = names().length;
  const token = document.getElementById("token");
  token.value = "a";
  token.dispatchEvent(new Event("input"));
  found.hits = document.querySelectorAll("#hits tr").length;
  document.getElementById("theme").click();
  found.theme = document.documentElement.dataset.theme;
  document.body.dataset.found = JSON.stringify(found);
});
</script>"""
#: Where the browser has put the boxes and labels of the treemap that is shown, and the cells of the map of types.
GEOMETRY = """<script>
addEventListener("load", () => {
  const box = (each) => {
    const {left, top, right, bottom} = each.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const shown = (each) => each.getClientRects().length > 0 && getComputedStyle(each).display !== "none";
  const colour = (each, what) => getComputedStyle(each)[what].match(/[0-9]+/g).slice(0, 3).map(Number);
  const maps = [...document.querySelectorAll("svg.treemap")].filter(shown);
  const leaves = maps.flatMap((map) => [...map.querySelectorAll("g")]).map((leaf) => {
    const rect = leaf.querySelector("rect"), label = leaf.querySelector("text");
    const seen = label !== null && shown(label);
    return {title: leaf.querySelector("title").textContent, box: box(rect), fill: colour(rect, "fill"),
      label: seen ? {text: label.textContent, box: box(label), fill: colour(label, "fill")} : null};
  });
  const map = document.querySelector("table.map");
  const cells = [...map.querySelectorAll("th, td")].map((cell) =>
    ({box: box(cell), sticky: getComputedStyle(cell).position === "sticky", cut: cell.scrollWidth - cell.clientWidth}));
  const found = {width: innerWidth, maps: maps.map(box), leaves, cells, frame: box(map.closest(".scroll"))};
  document.body.dataset.found = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
});
</script>"""
#: Takes what the page in a frame has found into the document around it.
RELAY = """<script>
addEventListener("load", () => {
  document.body.dataset.found = frames[0].document.body.dataset.found;
});
</script>"""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    folder = tmp_path_factory.mktemp("page")
    tiny_gguf.write(folder / "model.gguf", n_layer=40)  # wider than any window, in a box of its own
    assert main(["inspect", str(folder / "model.gguf"), "--html", str(folder / "page.html")]) == 0
    return (folder / "page.html").read_text(encoding="utf-8")


def browse(path: Path, size: tuple[int, int], *options: str) -> str:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    command += [f"--window-size={size[0]},{size[1]}", f"--user-data-dir={path.parent / 'profile'}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_answers(html: str, tmp_path: Path, size: str) -> None:
    path = tmp_path / "page.html"
    without = re.sub(r"<meta http-equiv=[^>]*>", "", html)
    path.write_text(without.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    made = browse(path, SIZES[size], "--dump-dom")
    found = re.search(r'data-found="([^"]*)"', made)
    assert found is not None
    said = found[1].replace("&quot;", '"')
    assert '"wide":0' in said.replace("-", ""), said
    assert '"sorted":true' in said
    assert '"rows":1' in said
    assert '"hits":0' not in said
    assert '"theme":"dark"' in said


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_both_themes(html: str, tmp_path: Path, size: str) -> None:
    """Most of a light page is white, of a dark one nearly black, and both have text and colours on it."""
    for theme, back in (("light", (255, 255, 255)), ("dark", (0x15, 0x17, 0x1B))):
        path = tmp_path / f"{theme}.html"
        path.write_text(html.replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">'), encoding="utf-8")
        picture = tmp_path / f"{theme}.png"
        browse(path, SIZES[size], f"--screenshot={picture}")
        pixels = decoded(picture.read_bytes())
        assert pixels.shape[:2] == SIZES[size][::-1]
        share = (pixels == np.array(back, np.uint8)).all(2).mean()
        assert 0.4 < share < 0.99
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def luminance(colour: list[int]) -> float:
    """Of WCAG 2."""
    parts = [each / 255 for each in colour]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_boxes_and_labels_have_their_places(html: str, tmp_path: Path, width: int, theme: str) -> None:
    """By the browser's own geometry: nothing overlaps, sticks out or is cut."""
    path = tmp_path / "page.html"
    page = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", f"{GEOMETRY}</body>")
    path.write_text(page.replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">'), encoding="utf-8")
    framed = tmp_path / "framed.html"  # a window has a least width, a frame has none
    framed.write_text(f'<iframe src="page.html" style="border:0" width="{width}" height="900"></iframe>{RELAY}')
    made = browse(framed, (1400, 1000), "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom")
    told = re.search(r'data-found="([^"]*)"', made)
    assert told is not None
    found = json.loads(base64.b64decode(told[1]))
    assert found["width"] == width
    (whole,) = found["maps"]  # one of the layouts
    assert whole[0] >= 0
    assert whole[2] <= width
    leaves = found["leaves"]
    boxes = np.array([leaf["box"] for leaf in leaves])
    assert len(leaves) >= 12  # roles
    assert (boxes[:, :2] >= np.array(whole[:2]) - 0.6).all()
    assert (boxes[:, 2:] <= np.array(whole[2:]) + 0.6).all()
    sizes = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    common = np.clip(sizes, 0, None).min(2) * (1 - np.eye(len(boxes)))
    assert common.max() < 0.6, [leaves[at]["title"] for at in np.unravel_index(common.argmax(), common.shape)]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).sum()
    assert area == pytest.approx((whole[2] - whole[0]) * (whole[3] - whole[1]), rel=0.02)
    labels = [leaf for leaf in leaves if leaf["label"] is not None]
    assert len(labels) >= 3
    for leaf in labels:
        (left, top, right, bottom), inside = leaf["label"]["box"], leaf["box"]
        assert inside[0] < left < right < inside[2], leaf
        assert inside[1] < top < bottom < inside[3], leaf
        dark, light = sorted(luminance(each) for each in (leaf["fill"], leaf["label"]["fill"]))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, leaf
    assert found["frame"][2] <= width
    cells = np.array([cell["box"] for cell in found["cells"] if not cell["sticky"]])
    assert (cells[:, 2:] - cells[:, :2] >= 20).all()
    assert max(cell["cut"] for cell in found["cells"]) <= 1
    overlap = np.minimum(cells[:, None, 2:], cells[None, :, 2:]) - np.maximum(cells[:, None, :2], cells[None, :, :2])
    assert (np.clip(overlap, 0, None).min(2) * (1 - np.eye(len(cells)))).max() <= 1  # their common border
    sticky = [cell["box"] for cell in found["cells"] if cell["sticky"]]
    assert max(box[2] for box in sticky) < width  # leaves room for cells


def decoded(data: bytes) -> np.ndarray:
    """The pixels of a PNG file of 8 bits a channel, uint8 (height, width, 3)."""
    at, chunks, width, height, depth = 8, b"", 0, 0, 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", body[:10])
            depth = {2: 3, 6: 4}[colour]
        chunks += body if kind == b"IDAT" else b""
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(chunks), np.uint8).reshape(height, 1 + width * depth)
    rows = np.zeros((height + 1, width, depth), np.int64)
    for number, line in enumerate(lines):
        row, above, kind = line[1:].reshape(width, depth).astype(np.int64), rows[number], line[0]
        if kind == 1:
            row = np.cumsum(row, 0)
        elif kind == 2:
            row = row + above
        elif kind in (3, 4):
            left = upper_left = np.zeros(depth, np.int64)
            for at_pixel in range(width):
                up = above[at_pixel]
                if kind == 3:
                    guess = (left + up) // 2
                else:
                    estimate = left + up - upper_left
                    far = [abs(estimate - each) for each in (left, up, upper_left)]
                    guess = np.where(
                        (far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, upper_left)
                    )
                left = row[at_pixel] = (row[at_pixel] + guess) % 256
                upper_left = up
        rows[number + 1] = row % 256
    return rows[1:, :, :3].astype(np.uint8)
