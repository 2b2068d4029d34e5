"""The page to chat in a real browser, with answers that the test gives: what it sends, and what it shows."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import gguflike.serve

pytestmark = pytest.mark.interop
PAGE = Path(gguflike.serve.__file__).parent / "page"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: A server whose answers begin and never end, unless they are stopped.
SERVER = """
const sent = [];
window.fetch = async (place, options) => {
  if (!options?.body) return new Response(JSON.stringify({data: [{id: "m".repeat(90)}]}));
  sent.push(JSON.parse(options.body).messages.map((each) => `${each.role}: ${each.content}`));
  return new Response(new ReadableStream({
    start(stream) {
      const event = {choices: [{delta: {content: `part of ${sent.length}`}}]};
      stream.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(event)}\\n`));
      options.signal.addEventListener("abort", () => stream.error(new DOMException("stopped", "AbortError")));
    },
  }));
};
"""
STEPS = """
const soon = () => new Promise((done) => setTimeout(done, 100));
const press = (id) => document.getElementById(id).click();
const ask = async (text) => { document.getElementById("words").value = text; press("send"); await soon(); };
const seen = () => document.getElementById("talk").textContent;
const found = {};
await soon();
await ask("one");
found.first = seen();
press("new");
await soon();
found.anew = seen() + document.getElementById("state").textContent;
await ask("two");
press("send");  // which stops the answer
await soon();
found.stopped = document.getElementById("state").textContent;
await ask("\\u0645\\u0631\\u062d\\u0628\\u0627 " + "w".repeat(500));
found.wide = document.documentElement.scrollWidth - innerWidth;
const last = [...document.querySelectorAll("article.user .body")].at(-1);
found.turned = getComputedStyle(last).unicodeBidi;
document.body.dataset.found = JSON.stringify({...found, sent});
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The page with its style and scripts in it, after the steps above."""
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    parts = {name: (PAGE / name).read_text(encoding="utf-8") for name in ("markdown.js", "page.js", "page.css")}
    script = parts["markdown.js"].replace("export function", "function")
    script += re.sub(r"^import .*$", "", parts["page.js"], flags=re.MULTILINE)
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    page = page.replace('<link rel="stylesheet" href="page.css">', f"<style>{parts['page.css']}</style>")
    loaded = '<script type="module" src="page.js"></script>'
    assert loaded in page
    page = page.replace(loaded, f"<script>{SERVER}</script><script type=module>{script}{STEPS}</script>")
    folder = tmp_path_factory.mktemp("chat")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command += ["--window-size=390,844", f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    data = re.search(r'data-found="([^"]*)"', made)
    assert data is not None, made[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(data[1]))
    return result


def test_a_new_conversation_begins_with_nothing(found: dict[str, Any]) -> None:
    """Also where the last answer of the old one was still coming."""
    assert found["first"] == "onepart of 1"
    assert found["anew"] == ""
    assert found["sent"][:2] == [["user: one"], ["user: two"]]


def test_what_came_of_a_stopped_answer_stays_in_its_conversation(found: dict[str, Any]) -> None:
    assert found["stopped"] == "Stopped after 1 token"
    assert found["sent"][2][:2] == ["user: two", "assistant: part of 2"]


def test_nothing_is_wider_than_the_window(found: dict[str, Any]) -> None:
    """Neither long words nor a long name; and texts are written in their own direction."""
    assert found["wide"] <= 0
    assert found["turned"] == "plaintext"
