// Elements, and lists of elements that are updated only where necessary.

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter(c => c !== undefined && c !== null && c !== false));
  return node;
}

function h(tag, props, ...children) { return fill(document.createElement(tag), props, children); }

function svg(tag, props, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function show(node, ...children) { node.replaceChildren(...children.flat(3).filter(c => c !== undefined && c !== null && c !== false)); }

// once shows the result of make, unless node already shows the result for key.
function once(node, key, make) {
  if (node.shownFor === key) return;
  node.shownFor = key;
  show(node, make());
}

function loadingNote() { return h("p", { class: "note" }, "Loading…"); }

// placeholder states why a list is empty: it is loading, nothing matches the filter, or there
// is nothing to list.
function placeholder(node, part, shown, there, noMatch, nothing) {
  const why = shown ? "shown" : !store.loaded.has(part) || !store.engine ? "loading" : there ? "no match" : "nothing";
  once(node, why, () => why === "shown" ? [] : why === "loading" ? loadingNote() : why === "nothing" ? nothing() : h("p", { class: "note" }, noMatch));
}

// keyed updates the children of parent to match items, in order. An element stays untouched if
// its item is the identical object.
function keyed(parent, items, keyOf, make) {
  const old = new Map();
  for (const node of parent.children) old.set(node.itemKey, node);
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = old.get(key);
    old.delete(key);
    if (!node || node.item !== item) {
      const fresh = make(item, node);
      fresh.item = item;
      fresh.itemKey = key;
      if (node && node !== fresh) {
        if (place === node) place = node.nextSibling;
        node.remove();
      }
      node = fresh;
    }
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

// table creates a table whose rows are links. A column has a title, a function cell(item) that
// returns text or nodes, and optionally a width and a class.
function table(columns, { key, href, rowClass }) {
  const body = h("tbody");
  const element = h("table", { class: "data" },
    h("colgroup", null, columns.map(c => h("col", { class: c.class && c.class.includes("wide") ? "wide" : null, style: c.width ? { width: c.width } : {} }))),
    h("thead", null, h("tr", null, columns.map(c => h("th", { class: c.class, scope: "col" }, c.title)))), body);
  const row = item => {
    const to = href && href(item);
    const tr = h("tr", { class: rowClass && rowClass(item), "data-href": to, tabindex: to ? 0 : null },
      columns.map(c => h("td", { class: c.class, title: c.tip && c.tip(item) }, c.cell(item))));
    if (to) {
      tr.addEventListener("click", e => { if (!e.target.closest("a") && !String(getSelection())) location.hash = to; });
      tr.addEventListener("keydown", e => { if (e.key === "Enter" && e.target === tr) location.hash = to; });
    }
    return tr;
  };
  // Rows do not move while the pointer is over them.
  let pointed = -Infinity, shown = null, later;
  for (const event of ["pointermove", "pointerdown"]) body.addEventListener(event, () => { pointed = performance.now(); });
  return {
    element,
    set(items, selected) {
      const rest = pointed + 800 - performance.now();
      clearTimeout(later);
      if (rest > 0 && shown && shown.length && items.length >= shown.length) {
        items = shown;
        later = setTimeout(() => changed("pointer"), rest + 20);
      }
      shown = items;
      const focused = document.activeElement && body.contains(document.activeElement) && document.activeElement.itemKey;
      keyed(body, items, key, row);
      for (const tr of body.children) {
        const is = selected !== undefined && String(tr.itemKey) === String(selected);
        if (is !== (tr.getAttribute("aria-selected") === "true")) tr.setAttribute("aria-selected", is);
        if (focused === tr.itemKey && document.activeElement !== tr && focused !== false) tr.focus({ preventScroll: true });
      }
    },
  };
}

// copyable creates a button that copies text.
function copyable(text, label) {
  const button = h("button", { class: "button small", type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
      button.textContent = "copied";
    } catch {
      button.textContent = "cannot copy";
    }
    setTimeout(() => { button.textContent = label || "copy"; }, 1200);
  } }, label || "copy");
  return button;
}

function command(text) { return h("div", { class: "command" }, h("pre", null, text), copyable(text)); }

function empty(title, text, ...steps) {
  return h("div", { class: "empty" }, h("h2", null, title), h("p", null, text),
    steps.length ? h("ol", null, steps.map(s => h("li", null, s))) : null);
}

// segments creates a control for choosing one of several options.
function segments(label, options, value, choose) {
  return h("div", { class: "seg", role: "group", "aria-label": label }, options.map(([id, text]) =>
    h("button", { type: "button", "aria-pressed": String(id === value), onclick: e => {
      for (const b of e.currentTarget.parentNode.children) b.setAttribute("aria-pressed", String(b === e.currentTarget));
      choose(id);
    } }, text)));
}

function status(s) { return h("span", { class: "status " + s }, s); }
