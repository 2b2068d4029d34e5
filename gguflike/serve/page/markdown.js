// Markdown as elements. Text of a model is only ever put into text nodes: nothing it writes is read as HTML.

const BLOCK = /^(#{1,6}\s|```|~~~|\s*([-*+]|\d{1,9}[.)])\s|>|(-{3,}|\*{3,}|_{3,})\s*$)/;

/** A fragment of the elements that `text` stands for. */
export function rendered(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const out = document.createDocumentFragment();
  blocks(lines, out);
  return out;
}

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function blocks(lines, out, depth = 0) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) {
      at += 1;
    } else if ((found = line.match(/^\s{0,3}(```+|~~~+)\s*([^\s`]*)/))) {
      at = fence(lines, at, found[1], found[2], out);
    } else if ((found = line.match(/^(#{1,6})\s+(.*?)\s*#*$/))) {
      out.append(inline(element(`h${Math.min(found[1].length + 2, 6)}`), found[2]));
      at += 1;
    } else if (/^\s{0,3}(-{3,}|\*{3,}|_{3,})\s*$/.test(line)) {
      out.append(element("hr"));
      at += 1;
    } else if (/^\s{0,3}>/.test(line) && depth < 8) {
      const quoted = [];
      while (at < lines.length && /^\s{0,3}>/.test(lines[at])) quoted.push(lines[at++].replace(/^\s{0,3}>\s?/, ""));
      const quote = element("blockquote");
      blocks(quoted, quote, depth + 1);
      out.append(quote);
    } else if (/^\s*([-*+]|\d{1,9}[.)])\s+/.test(line) && depth < 8) {
      at = list(lines, at, out, depth);
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("-")) {
      at = table(lines, at, out);
    } else {
      const words = [line];
      at += 1;
      while (at < lines.length && lines[at].trim() && !BLOCK.test(lines[at])) words.push(lines[at++]);
      out.append(inline(element("p"), words.join("\n")));
    }
  }
}

function fence(lines, at, mark, language, out) {
  const code = [];
  at += 1;
  while (at < lines.length && !(lines[at].trim().startsWith(mark) && !lines[at].trim().slice(mark.length).replaceAll(mark[0], ""))) {
    code.push(lines[at++]);
  }
  const shown = element("code");
  shown.textContent = code.join("\n");
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(shown.textContent);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed";
    }
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const bar = element("div", element("span", language || "text"), copy);
  bar.className = "bar";
  const whole = element("div", bar, element("pre", shown));
  whole.className = "code";
  out.append(whole);
  return at + 1;
}

function list(lines, at, out, depth) {
  const first = lines[at].match(/^(\s*)([-*+]|\d{1,9}[.)])\s+/);
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  const made = element(ordered ? "ol" : "ul");
  if (ordered && parseInt(first[2], 10) !== 1) made.start = parseInt(first[2], 10);
  while (at < lines.length) {
    const found = lines[at].match(/^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/);
    if (!found || found[1].length < indent || found[1].length > indent + 1 || /\d/.test(found[2]) !== ordered) break;
    const inner = [found[3]];
    const width = found[0].length - found[3].length;
    at += 1;
    while (at < lines.length) {
      const next = lines[at];
      const blank = !next.trim();
      const deep = next.match(/^\s*/)[0].length;
      if (blank && !((lines[at + 1] ?? "").match(/^\s*/)[0].length > indent && (lines[at + 1] ?? "").trim())) break;
      if (!blank && deep <= indent && (BLOCK.test(next) || !lines[at - 1].trim())) break;
      inner.push(next.slice(Math.min(deep, width)));
      at += 1;
    }
    const item = element("li");
    if (inner.length === 1) inline(item, inner[0]);
    else blocks(inner, item, depth + 1);
    made.append(item);
    while (at < lines.length && !lines[at].trim() && /^\s*([-*+]|\d{1,9}[.)])\s/.test(lines[at + 1] ?? "")) at += 1;
  }
  out.append(made);
  return at;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function table(lines, at, out) {
  const row = (name, line) => element("tr", ...cells(line).map((cell) => inline(element(name), cell)));
  const body = element("tbody");
  const head = element("thead", row("th", lines[at]));
  at += 2;
  while (at < lines.length && lines[at].includes("|") && lines[at].trim()) body.append(row("td", lines[at++]));
  const scroll = element("div", element("table", head, body));
  scroll.className = "scroll";
  out.append(scroll);
  return at;
}

// What stands within a line: each row is a pattern, and what is made of it. The first that matches earliest counts.
const SPANS = [
  [/(`+)([^`](?:[\s\S]*?[^`])?)\1(?!`)/, (m) => element("code", m[2].replace(/^ (.*) $/, "$1"))],
  [/\*\*(?=\S)([\s\S]*?\S)\*\*/, (m) => inline(element("strong"), m[1])],
  [/__(?=\S)([\s\S]*?\S)__(?!\w)/, (m) => inline(element("strong"), m[1])],
  [/~~(?=\S)([\s\S]*?\S)~~/, (m) => inline(element("del"), m[1])],
  [/\*(?=[^\s*])([\s\S]*?[^\s*])\*(?!\*)/, (m) => inline(element("em"), m[1])],
  [/(?<!\w)_(?=[^\s_])([\s\S]*?[^\s_])_(?!\w)/, (m) => inline(element("em"), m[1])],
  [/(?<!!)\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/, (m) => link(m[1], m[2])],
  [/https?:\/\/[^\s<>"'`)\]]+[^\s<>"'`)\].,;:!?]/, (m) => link(m[0], m[0])],
  [/ {2,}\n/, () => element("br")],
];

/** A link that says nothing of this page, and is opened beside it. Only http and https come here. */
function link(words, target) {
  const made = element("a", words);
  made.href = target;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  made.title = target;
  return made;
}

function inline(into, text) {
  let rest = text;
  while (rest) {
    let best = null;
    for (const [pattern, make] of SPANS) {
      const found = rest.match(pattern);
      if (found && (best === null || found.index < best.found.index)) best = { found, make };
    }
    if (best === null) break;
    into.append(rest.slice(0, best.found.index), best.make(best.found));
    rest = rest.slice(best.found.index + best.found[0].length);
  }
  into.append(rest);
  return into;
}
