// The contents of the stores: state, streams, queues and dead letters.

// itemDetails fetches the details of an item, and again whenever the data of its part changes.
function itemDetails(part) {
  let of, at, data, busy = false;
  return (key, url) => {
    if (key !== of) [of, at, data] = [key, null, undefined];
    if (key !== undefined && at !== store[part] && !busy) {
      at = store[part];
      busy = true;
      get(url).then(d => d, () => null).then(d => { busy = false; if (key === of) data = d; changed("detail"); });
    }
    return data; // undefined while loading, null if it does not exist
  };
}

// groupName returns the name of a scope or a group.
const groupName = g => (g.stream ? g.stream + " / " : "") + g.group;

function leftNote(n, what) { return n ? h("p", { class: "note" }, count(n) + " more " + what + " are not listed.") : null; }

// storeView shows the items of a store and its groups below. Clicking a group shows only its
// items.
function storeView(part, { title, filter, group, groupsTitle, groupTable, noItem, wide }) {
  const query = (stream, of) => "stream=" + encodeURIComponent(stream || "") + "&group=" + encodeURIComponent(of);
  loads[part] = async () => {
    const chosen = ui.choice[part];
    store[part] = await get("/api/" + part + (chosen ? "?" + query(chosen.stream, chosen.group) : ""));
  };
  stale.add(part);
  sourceOf[part] = part;
  views[part] = {
    title, filter, parts: [part],
    open(root, tools) {
      const keyOf = i => JSON.stringify([i.stream || "", i.group, i.key]);
      const hrefOf = i => path(part, ...(wide ? [i.stream] : []), i.group, i.key);
      const t = table([
        { title: group, width: "30%", cell: i => h("span", { class: "mono" }, groupName(i)), tip: groupName },
        { title: wide ? "item" : "key", width: "22%", cell: i => h("span", { class: "mono" }, i.key), tip: i => i.key },
        { title: "value", class: "wide", cell: i => h("span", { class: "mono dim" }, i.preview || { 2: "{}", 4: "null" }[i.size] || "") },
        { title: "size", width: "84px", class: "right num", cell: i => bytes(i.size) },
      ], { key: keyOf, href: hrefOf });
      const choose = g => { ui.choice[part] = g; draw(); load(part); };
      const chosen = h("span");
      tools.append(chosen);
      const none = h("div"), left = h("div"), groups = h("div", { class: "pad" });
      const split = splitView(root, h("div", null, t.element, none, left, groups), { close: "#/" + part });
      const details = itemDetails(part);
      const draw = () => {
        const data = store[part], all = data.items, list = all.filter(i => matches([i.stream, i.group, i.key, i.preview].join(" ")));
        const at = wide ? current.path : ["", ...current.path], selected = at.length === 3 ? JSON.stringify(at) : undefined;
        t.set(list, selected);
        t.element.classList.toggle("hidden", !list.length);
        placeholder(none, part, list.length, all.length || data.groups.length, all.length ? "No item matches." : "No item.", noItem);
        show(left, leftNote(data.items_left, "items"));
        const only = ui.choice[part];
        once(chosen, only ? JSON.stringify(only) : "", () => only ? [h("button", { class: "button", type: "button", title: "Show all", onclick: () => choose(null) }, groupName(only) + "  ✕")] : []);
        once(groups, JSON.stringify([data.groups, only]), () => data.groups.length ? [h("section", { class: "panel" }, h("header", null, h("h2", null, groupsTitle)), groupTable(data.groups, choose)), leftNote(data.groups_left, "groups")] : []);
        const value = details(selected, "/api/" + part + "/item?" + query(at[0], at[1] ?? "") + "&key=" + encodeURIComponent(at[2] ?? ""));
        split.set(selected && selected + "\n" + JSON.stringify(value ?? (value === null ? "gone" : "")), close => [
          h("header", null, h("div", { class: "grow" }, h("h2", null, at[2]), h("span", { class: "dim" }, groupName({ stream: at[0], group: at[1] }))), close),
          value === null ? h("section", null, h("p", { class: "dim" }, "This item no longer exists.")) : value ? payloadSection("Value", value.value, value.kept, value.size) : loadingNote(),
        ]);
      };
      return draw;
    },
  };
}

// groupButton creates a button that shows only the items of a group.
function groupButton(g, choose) { return h("button", { class: "button small mono", type: "button", title: "Show only these items", onclick: () => choose(g) }, groupName(g)); }

function groupTable(columns) {
  return (groups, choose) => {
    const t = table(columns(choose), { key: groupName });
    t.set(groups);
    return t.element;
  };
}

storeView("state", {
  title: "State", filter: "Filter by scope, key, value", group: "scope", groupsTitle: "Scopes",
  groupTable: groupTable(choose => [
    { title: "scope", cell: g => groupButton(g, choose) },
    { title: "keys", width: "84px", class: "right num", cell: g => count(g.items) },
  ]),
  noItem: () => empty("No state yet", "Values that workers store with state::set appear here, by scope and key.",
    ["For example, store a value:", command('iii.NewState[Order](client, "orders").Set(ctx, "ada", order)')]),
});

storeView("streams", {
  title: "Streams", filter: "Filter by stream, group, item, value", group: "stream / group", groupsTitle: "Groups", wide: true,
  groupTable: groupTable(choose => [
    { title: "stream / group", cell: g => g.provider ? [h("span", { class: "mono" }, g.stream), h("span", { class: "dim" }, "  items stored by " + g.provider)] : groupButton(g, choose) },
    { title: "items", width: "84px", class: "right num", cell: g => g.provider ? "" : count(g.items) },
    { title: "subscribers", width: "30%", cell: g => [h("span", { class: "num" }, count(g.subscribers)), " ", (g.clients || []).slice(0, 6).map(c => [h("span", { class: "tag mono", title: "subscription " + c.id }, c.client + (c.item === null ? "" : " → " + c.item)), " "])] },
  ]),
  noItem: () => empty("No stream yet", "Items of streams appear here, with their subscribers.",
    ["For example, store an item:", command('iii.NewStream[Message](client, "chat").Set(ctx, "lobby", "1", message)')]),
});

store.state = { groups: [], groups_left: 0, items: [], items_left: 0 };
store.streams = { groups: [], groups_left: 0, items: [], items_left: 0 };
store.queues = { queues: [], queues_left: 0, dead_letters: [], dead_letters_left: 0 };
loads.queues = async () => { store.queues = await get("/api/queues"); };
stale.add("queues");
sourceOf.queues = "queues";

const deadLetters = () => store.queues.dead_letters.length + store.queues.dead_letters_left;
navCounts.dead = () => deadLetters() ? [count(deadLetters()), "bad"] : [""];

views.queues = {
  title: "Queues", filter: "Filter by queue, function", parts: [],
  open(root) {
    const zero = (n, mood) => n ? h("span", { class: mood ? "tag " + mood : "" }, count(n)) : h("span", { class: "dim" }, "0");
    const t = table([
      { title: "queue", cell: q => h("span", { class: "mono" }, q.name), tip: q => q.name },
      { title: "", width: "72px", class: "wide", cell: q => h("span", { class: "tag" }, q.topic ? "topic" : "queue") },
      { title: "function", width: "26%", class: "wide", cell: q => q.function ? h("a", { class: "mono", href: path("functions", q.namespace, q.function) }, q.function) : h("span", { class: "dim" }, q.group || (q.topic ? "no subscriber yet" : "of each job")) },
      { title: "depth", width: "72px", class: "right num", cell: q => zero(q.depth) },
      { title: "in flight", width: "76px", class: "right num", cell: q => zero(q.in_flight) },
      { title: "delayed", width: "76px", class: "right num", cell: q => zero(q.delayed, "warn") },
      { title: "consumers", width: "88px", class: "right num", cell: q => q.consumers ? count(q.consumers) : h("span", { class: "tag " + (q.topic ? "warn" : "") }, "0") },
      { title: "dead", width: "72px", class: "right num", cell: q => q.dead_letters ? h("a", { class: "tag err", href: path("dead") }, count(q.dead_letters)) : zero(0) },
      { title: "unheard", width: "80px", class: "right num wide", cell: q => zero(q.unheard, "warn"), tip: q => q.unheard ? "published without a subscriber: never delivered" : null },
    ], { key: q => JSON.stringify([q.name, q.topic, q.namespace, q.function, q.group]) });
    const none = h("div"), left = h("div");
    root.append(h("div", null, t.element, none, left));
    return () => {
      const all = store.queues.queues, list = all.filter(q => matches([q.name, q.function, q.group, q.namespace].join(" ")));
      t.set(list);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "queues", list.length, all.length, "No queue matches.", () => empty("No queue", "Named queues and durable topics appear here."));
      show(left, leftNote(store.queues.queues_left, "queues"));
    };
  },
};

views.dead = {
  title: "Dead letters", filter: "Filter by queue, function, error, payload", parts: [],
  open(root) {
    const t = table([
      { title: "failed", width: "116px", cell: d => h("span", { class: "num dim" }, clock(d.failed_at)) },
      { title: "queue", width: "16%", cell: d => h("span", { class: "mono" }, d.queue), tip: d => d.queue },
      { title: "function", width: "22%", cell: d => h("span", { class: "mono" }, d.function || d.group), tip: d => d.function || d.group },
      { title: "payload", class: "wide", cell: d => h("span", { class: "mono dim" }, d.preview || (d.size > 4096 ? bytes(d.size) : "")) },
      { title: "attempts", width: "80px", class: "right num", cell: d => d.attempts },
      { title: "last error", width: "26%", class: "wide", cell: d => h("span", { class: "mono" }, d.error), tip: d => d.error },
    ], { key: d => d.id, href: d => path("dead", d.id), rowClass: () => "error" });
    const none = h("div"), left = h("div");
    const split = splitView(root, h("div", null, t.element, none, left), { close: "#/dead" });
    const details = itemDetails("queues");
    return () => {
      const all = store.queues.dead_letters, list = all.filter(d => matches([d.queue, d.function, d.group, d.namespace, d.error, d.preview].join(" "))).slice(0, maxRows);
      t.set(list, current.path[0]);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "queues", list.length, all.length, "No dead letter matches.", () => empty("No dead letter", "Jobs whose attempts have all failed appear here until they are redriven or discarded."));
      show(left, leftNote(store.queues.dead_letters_left, "dead letters"));
      const id = current.path[0], d = details(id, "/api/dead-letters/" + encodeURIComponent(id ?? ""));
      split.set(id && id + "\n" + JSON.stringify(d ?? (d === null ? "gone" : "")), close => d ? [
        h("header", null, h("div", { class: "grow" }, h("h2", null, d.function || d.group), h("span", { class: "dim" }, "of " + d.queue)), close),
        h("section", null, h("div", { class: "failure" }, d.error)),
        h("section", null, h("dl", { class: "facts" }, h("dt", null, "attempts"), h("dd", { class: "num" }, d.attempts), h("dt", null, "failed"), h("dd", { class: "num" }, moment(d.failed_at)),
          d.function ? [h("dt", null, "function"), h("dd", { class: "mono" }, h("a", { href: path("functions", d.namespace, d.function) }, d.function)), h("dt", null, "namespace"), h("dd", null, d.namespace)] : null, h("dt", null, "id"), h("dd", { class: "mono" }, d.id))),
        payloadSection("Payload", d.payload, d.kept, d.size),
      ] : [h("header", null, h("div", { class: "grow" }), close), d === null ? h("section", null, h("p", { class: "dim" }, "This dead letter has been redriven or discarded.")) : loadingNote()]);
    };
  },
};
