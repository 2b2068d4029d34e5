"""The page to chat in a real browser, with answers that the test gives: what it sends, and what it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, ClassVar

import pytest

import gguflike.serve

pytestmark = pytest.mark.interop
PAGE = Path(gguflike.serve.__file__).parent / "page"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: A server whose answers begin and never end, unless they are stopped.
SERVER = """
const sent = [];
const plain = window.fetch;
const told = (what) => plain("found", {method: "POST", body: JSON.stringify(what)});
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
const within = async (held) => {  // five seconds: a busy machine draws late
  for (let time = 0; time < 5000 && !held(); time += 20) await new Promise((done) => setTimeout(done, 20));
};
const press = (id) => document.getElementById(id).click();
const seen = () => document.getElementById("talk").textContent;
const state = () => document.getElementById("state").textContent;
const ask = async (text) => {
  document.getElementById("words").value = text;
  press("send");
  await within(() => seen().endsWith(`part of ${sent.length}`));
};
const found = {};
await within(() => document.getElementById("model").value);
await ask("one");
found.first = seen();
press("new");
await within(() => document.getElementById("send").textContent === "Send");
found.anew = seen() + state();
await ask("two");
press("send");  // which stops the answer
await within(() => state().startsWith("Stopped"));
found.stopped = state();
await ask("\\u0645\\u0631\\u062d\\u0628\\u0627 " + "w".repeat(500));
found.wide = document.documentElement.scrollWidth - innerWidth;
const last = [...document.querySelectorAll("article.user .body")].at(-1);
found.turned = getComputedStyle(last).unicodeBidi;
await told({...found, sent});
"""


class Page(BaseHTTPRequestHandler):
    """Gives the page, and keeps what its steps tell."""

    page: ClassVar[bytes]
    told: ClassVar[Queue[dict[str, Any]]]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.page)

    def do_POST(self) -> None:
        self.told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
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
    Page.page, Page.told = page.encode(), Queue()
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,844"]
        command += [f"--user-data-dir={tmp_path_factory.mktemp('chat')}", f"http://127.0.0.1:{server.server_port}/"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                yield Page.told.get(timeout=120)
            finally:
                browser.terminate()
                server.shutdown()


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
