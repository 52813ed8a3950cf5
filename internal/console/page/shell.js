// The frame around the views: sections, filter, pause and keyboard shortcuts.

const sections = [
  ["What happens", [["overview", "Overview"], ["invocations", "Invocations"], ["traces", "Traces"], ["logs", "Logs"], ["metrics", "Metrics"]]],
  ["Registrations", [["functions", "Functions"], ["triggers", "Triggers"], ["observers", "Observers"], ["workers", "Workers"]]],
  ["Stores", [["state", "State"], ["streams", "Streams"], ["queues", "Queues"], ["dead", "Dead letters"]]],
];
const order = sections.flatMap(([, items]) => items.map(([id]) => id));

const views = {}; // by section: title, filter, parts, open(root, tools) → { draw(parts) }
const ui = { filters: {}, paused: false, own: false, choice: {} };
let current = null; // { section, path, draw }

const own = worker => !worker.internal;
const userFunctions = () => store.registry.functions.filter(f => !f.internal);
const userWorkers = () => store.registry.workers.filter(own);

// matches reports whether text contains all words of the section's filter, except those with a
// leading "-", which it must not contain.
function matches(text) {
  const words = (ui.filters[current.section] || "").toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  text = text.toLowerCase();
  return words.every(w => w.startsWith("-") && w.length > 1 ? !text.includes(w.slice(1)) : text.includes(w));
}

function mark() {
  return svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("rect", { width: 16, height: 16, rx: 4, fill: "#4f46e5" }),
    [3, 7, 11].map(x => [svg("rect", { x, y: 6, width: 2, height: 7, rx: 1, fill: "#fff" }), svg("circle", { cx: x + 1, cy: 3.6, r: 1.1, fill: "#fff" })]));
}

const navCounts = {
  invocations: () => { const n = failedLately(); return n ? [n + " failed", "bad"] : [store.activity.running || ""]; },
  functions: () => [userFunctions().length],
  triggers: () => { const n = store.registry.triggers.filter(t => t.parked).length; return n ? [n + " waiting", "warn"] : [store.registry.triggers.length]; },
  observers: () => { const n = store.registry.observers.filter(o => o.state === "error").length; return n ? [n + " refused", "bad"] : [store.registry.observers.length]; },
  workers: () => [userWorkers().length],
};

function failedLately() { return store.activity.seconds.reduce((n, s) => n + s.failed, 0); }

const liveTexts = { on: "live", off: "reconnecting…", gone: "engine unavailable" };

function drawNav() {
  const nav = document.getElementById("nav");
  if (!nav.firstChild) {
    nav.append(h("div", { class: "brand" }, mark(), "iii", h("span", null, "console")),
      ...sections.map(([title, items]) => h("div", { class: "nav-group" }, h("div", null, title),
        items.map(([id, label]) => h("a", { class: "nav-item", href: "#/" + id, "data-id": id }, label, h("span", { class: "count" }))))),
      h("dl", { class: "nav-foot" }));
  }
  for (const a of nav.querySelectorAll(".nav-item")) {
    if (current && a.dataset.id === current.section) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
    const [text, mood] = (navCounts[a.dataset.id] || (() => [""]))();
    const badge = a.querySelector(".count");
    if (badge.textContent !== String(text)) badge.textContent = text;
    badge.className = "count " + (mood || "");
  }
  const e = store.engine, foot = nav.querySelector(".nav-foot"), state = JSON.stringify([e, store.live]);
  if (foot.dataset.state === state) return;
  foot.dataset.state = state;
  show(foot, h("div", { class: "live " + store.live, role: "status" }, liveTexts[store.live]),
    e ? [["workers connect to", e.worker_url], ["HTTP triggers", e.http_url], ["streams", e.stream_url]].map(([k, v]) => [h("dt", null, k), h("dd", null, v)]) : null,
    e ? [h("dt", null, "engine protocol"), h("dd", null, e.version)] : null);
}

function drawBar(view) {
  const tools = h("div", { style: { display: "contents" } });
  const input = h("input", { type: "search", placeholder: view.filter, "aria-label": view.filter, value: ui.filters[current.section] || "", spellcheck: "false",
    oninput: e => { ui.filters[current.section] = e.target.value; changed("filter"); } });
  const pause = h("button", { class: "button", type: "button", title: "Pause the page, not the engine (p)", "aria-pressed": String(ui.paused), onclick: togglePause }, ui.paused ? "Paused" : "Pause");
  pause.id = "pause";
  show(document.getElementById("bar"), h("h1", null, view.title),
    view.filter ? h("div", { class: "search" }, input, h("kbd", null, "/")) : null, tools, h("span", { class: "grow" }),
    pause, h("button", { class: "button", type: "button", title: "Keys (?)", onclick: help }, "?"));
  return tools;
}

function togglePause() {
  ui.paused = !ui.paused;
  const button = document.getElementById("pause");
  button.setAttribute("aria-pressed", String(ui.paused));
  button.textContent = ui.paused ? "Paused" : "Pause";
  if (!ui.paused) changed("all");
}

function help() {
  const dialog = document.getElementById("help");
  const keys = [["1 … 9", "go to a section"], ["/", "filter by words; -word excludes matches"], ["↑ ↓  or  k j", "previous, next"], ["Enter", "open a trace, a span"], ["← →", "fold and unfold a span"],
    ["Esc", "close the details"], ["p", "pause"], ["?", "this help"]];
  show(dialog, h("h2", { style: { marginBottom: "10px" } }, "Keyboard"),
    h("table", null, keys.map(([k, what]) => h("tr", null, h("td", null, h("kbd", null, k)), h("td", null, what)))),
    h("form", { method: "dialog", style: { textAlign: "right", marginTop: "12px" } }, h("button", { class: "button" }, "Close")));
  dialog.showModal();
}

// decoded decodes a part of the address. Invalid parts are returned unchanged.
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

function route() {
  const [section, ...path] = location.hash.replace(/^#\//, "").split("/").map(decoded);
  const view = views[section] || views.overview, id = views[section] ? section : "overview";
  if (!current || current.section !== id || view.whole && Boolean(current.path[0]) !== Boolean(path[0])) {
    current = { section: id, path };
    const root = document.getElementById("view");
    root.scrollTop = 0;
    document.title = view.title + " · iii console";
    want(...(view.parts || []));
    const tools = drawBar(view);
    show(root);
    current.draw = view.open(root, tools);
  }
  current.path = path;
  drawNav();
  drawView(new Set(["route"]));
}

function redraw(parts) {
  drawNav();
  const asked = ["route", "filter", "all", "detail"].some(p => parts.has(p));
  if (current && (!ui.paused || asked)) drawView(parts);
}

// drawView redraws the view. It keeps the focus even if elements are recreated.
function drawView(parts) {
  const target = e => e.dataset.href || e.getAttribute("href");
  const at = document.activeElement, to = at && at.closest("#view") && target(at);
  const alike = () => [...document.querySelectorAll("#view a, #view [data-href]")].filter(e => target(e) === to);
  const place = to ? alike().indexOf(at) : -1;
  current.draw(parts);
  if (to && !at.isConnected) (alike()[place] || alike()[0])?.focus({ preventScroll: true });
}

function path(...parts) { return "#/" + parts.map(encodeURIComponent).join("/"); }

// splitView creates a view with a list and, beside it, the selected item.
function splitView(root, list, { close }) {
  const detail = h("aside", { class: "detail", "aria-label": "details" });
  const split = h("div", { class: "split" }, h("div", { class: "list" }, list), detail);
  let shown;
  root.append(split);
  return {
    // set shows the result of draw, unless it already shows key.
    set(key, draw) {
      split.classList.toggle("open", key !== undefined);
      if (key === shown) return;
      const top = String(key).split("\n")[0] === String(shown).split("\n")[0] ? detail.scrollTop : 0;
      shown = key;
      show(detail, key === undefined ? [] : draw(h("button", { class: "button small", type: "button", title: "Close (Esc)", "aria-label": "Close", onclick: () => { location.hash = close; } }, "✕")));
      detail.scrollTop = top;
    },
  };
}

function step(by) {
  const rows = [...document.querySelectorAll("#view [data-href]")].filter(r => r.offsetParent !== null || r.closest(".split.open"));
  if (!rows.length) return;
  const opens = views[current.section].whole && !current.path[0]; // Enter opens another page
  const at = rows.findIndex(r => opens ? r === document.activeElement : r.getAttribute("aria-selected") === "true");
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  next.scrollIntoView({ block: "nearest" });
  if (opens) return next.focus();
  location.hash = next.dataset.href;
  route(); // do not wait for the event: another key may come first
}

function keys(e) {
  if (e.ctrlKey || e.metaKey || e.altKey || document.getElementById("help").open) return;
  const typing = e.target.closest && e.target.closest("input, textarea, select");
  if (e.key === "Escape") {
    if (typing) return typing.value ? void 0 : typing.blur();
    if (current.path.length) location.hash = path(current.section);
    return;
  }
  if (typing) {
    if (e.key === "ArrowDown" || e.key === "Enter") { typing.blur(); step(1); e.preventDefault(); }
    return;
  }
  if (e.key >= "1" && e.key <= "9") location.hash = "#/" + order[e.key - 1];
  else if (e.key === "/") { document.querySelector(".search input")?.focus(); e.preventDefault(); }
  else if (e.key === "?") help();
  else if (e.key === "p") togglePause();
  else if (e.key === "ArrowDown" || e.key === "j") { step(1); e.preventDefault(); }
  else if (e.key === "ArrowUp" || e.key === "k") { step(-1); e.preventDefault(); }
  else if ((e.key === "ArrowLeft" || e.key === "ArrowRight") && current.fold) { current.fold(e.key === "ArrowLeft"); e.preventDefault(); }
}
