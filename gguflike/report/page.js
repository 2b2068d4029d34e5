"use strict";

const themed = document.getElementById("theme");
const root = document.documentElement;
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const show = () => themed.setAttribute("aria-pressed", String(dark()));
themed.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; show(); });
show();

// Tables are sorted by the heading that is pressed: numbers as numbers, the other way round the second time.
const number = (text) => text === "" ? -Infinity : Number(text.replaceAll(",", ""));
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const of = (row) => row.cells[column].textContent;
    const compare = head.classList.contains("number")
      ? (a, b) => number(of(a)) - number(of(b))
      : (a, b) => of(a).localeCompare(of(b), "en", { numeric: true });
    rows.sort((a, b) => down ? compare(b, a) : compare(a, b));
    table.tBodies[0].append(...rows);
  }));
}

// Rows that do not contain what is looked for are hidden.
for (const field of document.querySelectorAll("input[data-of]")) {
  const rows = [...document.querySelectorAll(`#${field.dataset.of} tbody tr`)];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.getElementById(`count-${field.dataset.of}`);
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !texts[at].includes(wanted);
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = wanted ? `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
  });
}

// Tokens are looked for in the vocabulary, which is not in the page as text.
const token = document.getElementById("token");
if (token) {
  const most = 200;
  let tokens = null;
  token.addEventListener("input", () => {
    tokens ??= JSON.parse(document.getElementById("vocabulary").textContent);
    const wanted = token.value;
    const hits = [];
    let count = 0;
    if (wanted) tokens.forEach((each, id) => { if (each.includes(wanted) && count++ < most) hits.push([id, each]); });
    const table = document.createElement("table");
    for (const [id, each] of hits) {
      const row = table.insertRow();
      row.insertCell().textContent = id;
      const code = document.createElement("code");
      code.textContent = each;
      row.insertCell().append(code);
    }
    document.getElementById("hits").replaceChildren(table);
    const first = count > most ? `, of which the first ${most} are here` : "";
    document.getElementById("found").textContent = wanted ? `${count.toLocaleString("en")} tokens${first}` : "";
  });
}
