// A conversation with the server that this page came from, by its public interface.

import { rendered } from "./markdown.js";

const $ = (id) => document.getElementById(id);
let messages = []; // {role, content}, of the conversation that is on the page
let stopping = null; // while an answer comes: its AbortController

// Settings: kept in this browser, the key only as long as its tab.
const KEPT = { system: localStorage, temperature: localStorage, tokens: localStorage, key: sessionStorage };
for (const [name, store] of Object.entries(KEPT)) {
  $(name).value = store.getItem(`gguflike.${name}`) ?? "";
  $(name).addEventListener("input", () => store.setItem(`gguflike.${name}`, $(name).value));
}
$("key").addEventListener("change", models);

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
}
theme(localStorage.getItem("gguflike.theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
$("theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem("gguflike.theme", document.documentElement.dataset.theme);
});
$("options").addEventListener("click", () => {
  $("settings").hidden = !$("settings").hidden;
  $("options").setAttribute("aria-expanded", String(!$("settings").hidden));
});
$("settings").addEventListener("submit", (event) => event.preventDefault());

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

async function models() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await failure(response));
    const names = (await response.json()).data.map((each) => each.id);
    $("model").replaceChildren(...names.map((name) => new Option(name, name)));
    const last = localStorage.getItem("gguflike.model");
    if (names.includes(last)) $("model").value = last;
    say("");
  } catch (error) {
    say(error.message, true);
    if (/key/.test(error.message)) {
      $("settings").hidden = false;
      $("key").focus();
    }
  }
}
$("model").addEventListener("change", () => localStorage.setItem("gguflike.model", $("model").value));

const counted = (number) => `${number} ${number === 1 ? "token" : "tokens"}`;

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").classList.toggle("wrong", wrong);
}

/** Add a message to the page: its element, and where its text goes. */
function shown(role, text = "") {
  $("empty")?.remove();
  const body = document.createElement("div");
  body.className = "body";
  const whole = document.createElement("article");
  whole.className = role;
  whole.setAttribute("aria-label", role === "user" ? "You" : "Answer");
  whole.append(body);
  if (role === "user") body.textContent = text;
  $("talk").append(whole);
  follow(true);
  return { whole, body };
}

/** Keep the end in sight, unless who reads has scrolled away from it. */
function follow(always = false) {
  const talk = $("talk");
  if (always || talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120) talk.scrollTop = talk.scrollHeight;
}

function busy(controller) {
  stopping = controller;
  $("send").textContent = controller ? "Stop" : "Send";
  $("send").classList.toggle("stop", Boolean(controller));
}

/** Events of a stream, as objects; comments are told to `heard`. */
async function* events(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) heard(line.slice(1).trim());
      else if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function waiting(comment) {
  const [what, where] = comment.split(" ");
  if (what === "queued") say(`Waiting: ${where} before you`);
  if (what === "prompt") say(`Reading: ${where} tokens`);
}

/** An answer on the page: text is drawn at most once a frame, reasoning stands folded above it. */
function drawing({ whole, body }) {
  let text = "";
  let asked = false;
  let thoughts = null;
  function draw() {
    asked = false;
    body.replaceChildren(rendered(text));
    follow();
  }
  return {
    get text() {
      return text;
    },
    add(piece) {
      text += piece;
      if (!asked) {
        asked = true;
        requestAnimationFrame(draw);
      }
    },
    think(piece) {
      if (thoughts === null) {
        const fold = document.createElement("details");
        const name = document.createElement("summary");
        name.textContent = "Reasoning";
        thoughts = document.createElement("div");
        thoughts.className = "thoughts";
        fold.append(name, thoughts);
        whole.prepend(fold);
      }
      thoughts.textContent += piece;
      follow();
    },
    draw,
  };
}

async function answer() {
  const controller = new AbortController();
  const conversation = messages; // another may begin before this answer has ended
  busy(controller);
  const drawn = drawing(shown("assistant"));
  const begin = performance.now();
  let first = 0;
  let count = 0;
  let ended = "";
  let timings = null;
  say("…");
  try {
    const system = $("system").value.trim();
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: controller.signal,
      body: JSON.stringify({
        model: $("model").value || undefined,
        messages: [...(system ? [{ role: "system", content: system }] : []), ...conversation],
        stream: true,
        temperature: $("temperature").value === "" ? undefined : Number($("temperature").value),
        max_tokens: $("tokens").value === "" ? undefined : Number($("tokens").value),
      }),
    });
    if (!response.ok) throw new Error(await failure(response));
    for await (const event of events(response, waiting)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      if (event.timings) timings = event.timings;
      if (!choice) continue;
      if (choice.finish_reason) ended = choice.finish_reason;
      const { content, reasoning_content: thought } = choice.delta;
      if (thought) drawn.think(thought);
      if (content) drawn.add(content);
      if (content || thought) {
        count += 1;
        first ||= performance.now();
        const seconds = (performance.now() - first) / 1000;
        if (count > 2) say(`${counted(count)}, ${(((count - 1) / seconds) || 0).toFixed(1)} tokens/s`);
      }
    }
    const speed = timings ? timings.predicted_per_second : 0;
    const length = ended === "length" ? ", cut: no more tokens allowed or the context is full" : "";
    const wait = ((first || performance.now()) - begin) / 1000;
    say(`${counted(timings?.predicted_n ?? count)}, ${speed.toFixed(1)} tokens/s, first after ${wait.toFixed(2)} s${length}`);
  } catch (error) {
    if (conversation !== messages) say("");
    else if (controller.signal.aborted) say(`Stopped after ${counted(count)}`);
    else say(error.message, true);
  }
  drawn.draw();
  if (drawn.text) conversation.push({ role: "assistant", content: drawn.text });
  busy(null);
  $("words").focus();
}

function grow() {
  const words = $("words");
  words.style.height = "auto";
  words.style.height = `${Math.min(words.scrollHeight, innerHeight * 0.4)}px`;
}
$("words").addEventListener("input", grow);
$("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches) {
    event.preventDefault();
    if (!stopping) $("ask").requestSubmit();
  }
  if (event.key === "Escape" && stopping) stopping.abort();
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (stopping) {
    stopping.abort();
    return;
  }
  const text = $("words").value;
  if (!text.trim()) return;
  $("words").value = "";
  grow();
  if (messages.at(-1)?.role === "user") messages.pop(); // it was never answered
  messages.push({ role: "user", content: text });
  shown("user", text);
  answer();
});
$("new").addEventListener("click", () => {
  stopping?.abort();
  messages = [];
  $("talk").replaceChildren();
  say("");
  $("words").focus();
});
models();
