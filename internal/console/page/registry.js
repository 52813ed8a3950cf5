// Registrations: functions, triggers, workers.

const figuresOf = f => store.activity.functions.find(a => a.id === f.function_id && a.namespace === f.namespace);
const triggersOf = f => store.registry.triggers.filter(t => t.function_id === f.function_id && t.namespace === f.namespace);

views.functions = {
  title: "Functions", filter: "Filter by id, worker, description", parts: ["activity"],
  open(root, tools) {
    const t = table([
      { title: "function", cell: r => [h("span", { class: "mono" }, r.f.function_id, r.f.namespace === "default" ? null : h("span", { class: "dim" }, " in " + r.f.namespace)), r.f.description ? h("span", { class: "dim" }, "  " + r.f.description) : null], tip: r => r.f.description },
      { title: "worker", width: "18%", class: "wide", cell: r => r.f.worker_name },
      { title: "triggered by", width: "20%", class: "wide", cell: r => r.triggers.map(x => [triggerTag(x), " "]) },
      { title: "calls", width: "72px", class: "right num", cell: r => r.a ? count(r.a.calls) : h("span", { class: "dim" }, "0") },
      { title: "failed", width: "72px", class: "right num", cell: r => r.a && r.a.failed ? h("span", { class: "tag err" }, count(r.a.failed)) : h("span", { class: "dim" }, "0") },
      { title: "p50", width: "80px", class: "right num wide", cell: r => r.a ? ms(r.a.p50) : "" },
      { title: "p95", width: "80px", class: "right num", cell: r => r.a ? ms(r.a.p95) : "" },
    ], { key: r => r.key, href: r => path("functions", r.f.namespace, r.f.function_id), rowClass: r => r.f.internal ? "muted" : "" });
    const none = h("div");
    tools.append(segments("Functions", [[false, "Workers only"], [true, "With the engine"]], ui.own, on => { ui.own = on; changed("filter"); }));
    const split = splitView(root, h("div", null, t.element, none), { close: "#/functions" });
    const known = new Map(); // rows by key, reused while nothing in them changes
    let details = null;
    return () => {
      const all = store.registry.functions.filter(f => ui.own || !f.internal);
      const list = all.filter(f => matches([f.function_id, f.namespace, f.worker_name, f.description].join(" "))).map(f => {
        const r = { key: f.namespace + "\n" + f.function_id, f, a: figuresOf(f), triggers: triggersOf(f) };
        const old = known.get(r.key), state = JSON.stringify([r.a, r.triggers, f]);
        if (old && old.state === state) return old;
        r.state = state;
        known.set(r.key, r);
        return r;
      });
      const [ns, id] = current.path, key = ns + "\n" + id;
      t.set(list, key);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "registry", list.length, all.length, "No function matches.", welcome);
      if (!id) return split.set(undefined);
      const f = store.registry.functions.find(x => x.namespace === ns && x.function_id === id);
      const version = key + "\n" + (f ? f.seq : "gone");
      if (!details || details.version !== version) {
        details = { version };
        const mine = details;
        get("/api/function?namespace=" + encodeURIComponent(ns) + "&id=" + encodeURIComponent(id)).then(d => { mine.d = d; changed("detail"); }, () => { mine.gone = true; changed("detail"); });
      }
      const recent = [...store.invocations.values()].filter(i => i.function === id && i.namespace === ns).slice(-8).reverse();
      split.set(key + "\n" + JSON.stringify([version, Boolean(details.d), details.gone, f && triggersOf(f), recent.map(i => [i.seq, i.status])]),
        close => functionDetail(ns, id, f, details, recent, close));
    };
  },
};

function functionDetail(ns, id, f, { d, gone }, recent, close) {
  if (!f && gone) return [h("header", null, h("div", { class: "grow" }, h("h2", null, id)), close), h("section", null, h("p", { class: "dim" }, "This function is not registered."))];
  const a = figuresOf({ function_id: id, namespace: ns }), triggers = f ? triggersOf(f) : [];
  const t = table([
    { title: "time", width: "92px", cell: i => h("span", { class: "num dim" }, clock(i.began, false)) },
    { title: "payload", cell: i => h("span", { class: "mono dim" }, i.preview) },
    { title: "status", width: "80px", cell: i => status(i.status) },
    { title: "took", width: "78px", class: "right num", cell: i => i.status === "running" ? "…" : ms(i.took) },
  ], { key: i => i.seq, href: i => path("invocations", String(i.seq)) });
  t.set(recent);
  return [
    h("header", null, h("div", { class: "grow" }, h("h2", null, id), f && f.description ? h("p", { class: "dim" }, f.description) : null), close),
    h("section", null, h("dl", { class: "facts" }, h("dt", null, "namespace"), h("dd", null, ns),
      h("dt", null, "worker"), h("dd", null, f && f.worker_id ? h("a", { href: path("workers", f.worker_id) }, f.worker_name) : f ? f.worker_name : ""),
      a ? [h("dt", null, "calls"), h("dd", { class: "num" }, count(a.calls), a.failed ? h("span", { class: "tag err", style: { marginLeft: "6px" } }, count(a.failed) + " failed") : null, h("span", { class: "dim" }, "  p50 " + ms(a.p50) + ", p95 " + ms(a.p95)))] : null)),
    triggers.length ? h("section", null, h("h3", null, "Triggers"), triggers.map(x => h("div", null, h("a", { href: path("triggers", x.id) }, triggerTag(x), " ", h("span", { class: "mono" }, triggerText(x)))))) : null,
    d ? [schemaSection("Request", d.request_schema), schemaSection("Response", d.response_schema), d.metadata ? payloadSection("Metadata", d.metadata) : null] : null,
    recent.length ? h("section", null, h("h3", null, "Latest invocations"), t.element) : null,
  ];
}

// schemaSection shows a JSON Schema as a list of properties. A click shows the schema itself.
function schemaSection(title, schema) {
  if (schema === undefined || schema === null) return h("section", null, h("h3", null, title), h("p", { class: "dim" }, "no schema"));
  const raw = h("div", { class: "hidden" }, json(schema));
  return h("section", null, h("h3", null, title, h("span", { class: "grow" }), h("button", { class: "button small", type: "button", "aria-expanded": "false", onclick: e => e.currentTarget.setAttribute("aria-expanded", String(!raw.classList.toggle("hidden"))) }, "JSON Schema")),
    properties(schema, schema, 0) || h("p", { class: "mono" }, typeText(schema, schema)), raw);
}

function resolve(schema, root) {
  for (let n = 0; n < 20 && schema && typeof schema.$ref === "string"; n++) {
    const target = schema.$ref.replace(/^#\//, "").split("/").reduce((at, part) => at && at[decodeURIComponent(part).replace(/~1/g, "/").replace(/~0/g, "~")], root);
    schema = schema.$ref === "#" ? root : target;
  }
  return schema && typeof schema === "object" ? schema : {};
}

function typeText(schema, root, depth = 0) {
  const s = resolve(schema, root);
  if (depth > 3) return "…";
  if (s.const !== undefined) return JSON.stringify(s.const);
  if (s.enum) return s.enum.map(v => JSON.stringify(v)).join(" | ");
  for (const any of [s.anyOf, s.oneOf]) if (any) return any.map(x => typeText(x, root, depth + 1)).join(" | ");
  if (s.type === "array") return "list of " + typeText(s.items || {}, root, depth + 1);
  if (s.type === "object" && s.additionalProperties && typeof s.additionalProperties === "object") return "map of " + typeText(s.additionalProperties, root, depth + 1);
  const type = Array.isArray(s.type) ? s.type.join(" | ") : s.type || (s.properties ? "object" : "anything");
  return s.format ? type + " (" + s.format + ")" : type;
}

function properties(schema, root, depth) {
  const s = resolve(schema, root);
  if (!s.properties || !Object.keys(s.properties).length || depth > 4) return null;
  return h("div", { class: "schema", style: depth ? { paddingLeft: "14px" } : {} }, Object.entries(s.properties).map(([name, p]) => {
    const of = resolve(p, root), inner = of.type === "array" && of.items ? of.items : p;
    return [h("div", { class: "prop" }, h("div", { class: "mono" }, name, (s.required || []).includes(name) ? h("span", { class: "req", title: "required" }, " *") : null),
      h("div", null, h("span", { class: "mono dim" }, typeText(p, root)), of.description ? h("div", { class: "dim" }, of.description) : null)), properties(inner, root, depth + 1)];
  }));
}

function triggerTag(t) { return h("span", { class: "tag " + (t.parked ? "warn" : "accent") }, t.trigger_type); }

// triggerText describes in one line when a trigger fires.
function triggerText(t) {
  const c = t.config || {};
  switch (t.trigger_type) {
    case "http": return (c.http_method || "GET") + " /" + String(c.api_path || "").replace(/^\//, "");
    case "cron": return c.expression || "";
    case "durable:subscriber": case "subscribe": return c.topic || c.queue || "";
    case "state": return [c.scope, c.key].filter(Boolean).join(" / ") || "every change";
    case "stream": return [c.stream_name, c.group_id, c.item_id].filter(Boolean).join(" / ");
    case "log": return c.level || "all";
  }
  const text = JSON.stringify(c);
  return text === "{}" || text === "null" ? "" : text;
}

views.triggers = {
  title: "Triggers", filter: "Filter by type, function, config", parts: [],
  open(root) {
    const t = table([
      { title: "type", width: "190px", cell: triggerTag },
      { title: "waits for", cell: x => h("span", { class: "mono" }, triggerText(x)), tip: x => JSON.stringify(x.config) },
      { title: "function", width: "34%", cell: x => h("span", { class: "mono" }, x.function_id), tip: x => x.function_id },
      { title: "worker", width: "16%", class: "wide", cell: x => x.worker_name },
      { title: "status", width: "110px", class: "wide", cell: x => x.parked ? h("span", { class: "tag warn", title: "no worker provides this trigger type" }, "no provider") : functionThere(x) ? h("span", { class: "status ok" }, "bound") : h("span", { class: "tag err" }, "no function") },
    ], { key: x => x.id, href: x => path("triggers", x.id) });
    const none = h("div"), types = h("div", { class: "pad" });
    const split = splitView(root, h("div", null, t.element, none, types), { close: "#/triggers" });
    return () => {
      const all = store.registry.triggers, list = all.filter(x => matches([x.trigger_type, x.function_id, x.worker_name, JSON.stringify(x.config)].join(" ")));
      t.set(list, current.path[0]);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "registry", list.length, all.length, "No trigger matches.", () =>
        empty("No trigger yet", "A trigger runs a function for HTTP requests, state changes, timers or messages.",
          ["For example, serve a route:", command('iii.HandleHTTP(client, http.MethodGet, "/hello/:name", hello)')]));
      show(types, h("section", { class: "panel" }, h("header", null, h("h2", null, "Trigger types"), h("span", { class: "dim" }, "provided by the engine and by workers")),
        h("div", { class: "body" }, h("dl", { class: "facts" }, store.registry.types.filter(x => !x.id.startsWith("engine::")).map(x => [h("dt", { class: "mono" }, x.id), h("dd", null, x.description, x.internal ? null : h("span", { class: "tag accent", style: { marginLeft: "6px" } }, x.worker_name))])))));
      const x = all.find(y => y.id === current.path[0]);
      split.set(x && JSON.stringify(x), close => triggerDetail(x, close));
    };
  },
};

const functionThere = t => store.registry.functions.some(f => f.function_id === t.function_id && f.namespace === t.namespace);

function triggerDetail(t, close) {
  const url = t.trigger_type === "http" && store.engine ? store.engine.http_url + "/" + String(t.config.api_path || "").replace(/^\//, "") : null;
  const method = (t.config && t.config.http_method) || "GET";
  return [
    h("header", null, h("div", { class: "grow" }, triggerTag(t), h("h2", { style: { marginTop: "4px" } }, triggerText(t))), close),
    t.parked ? h("section", null, h("div", { class: "failure" }, "No worker provides this trigger type. The trigger is activated when one does.")) : !functionThere(t) ? h("section", null, h("div", { class: "failure" }, "Its function is not registered: whoever fires it gets an error.")) : null,
    h("section", null, h("dl", { class: "facts" }, h("dt", null, "function"), h("dd", { class: "mono" }, h("a", { href: path("functions", t.namespace, t.function_id) }, t.function_id)),
      h("dt", null, "namespace"), h("dd", null, t.namespace), h("dt", null, "worker"), h("dd", null, t.worker_name), h("dt", null, "id"), h("dd", { class: "mono" }, t.id))),
    url ? h("section", null, h("h3", null, "Try it"), command("curl -X " + method + " " + url)) : null,
    payloadSection("Config", t.config), t.metadata ? payloadSection("Metadata", t.metadata) : null,
  ];
}

const observerMoods = { active: "ok", pending: "warn", suspended: "warn", error: "err" };

function observerTag(o) { return h("span", { class: "tag " + (o.state === "active" ? "accent" : observerMoods[o.state] || ""), title: o.reason ? o.reason.message : null }, o.state); }

// observerText describes in one line which calls activate an observer.
function observerText(o) {
  const parts = [];
  if (Object.keys(o.source.args).length) parts.push(JSON.stringify(o.source.args));
  if (Object.keys(o.filters).length) parts.push("where " + JSON.stringify(o.filters));
  if (o.source.on !== "success") parts.push("on " + o.source.on);
  return parts.join(" ");
}

views.observers = {
  title: "Observers", filter: "Filter by source, target, state", parts: [],
  open(root) {
    const t = table([
      { title: "observes", width: "26%", cell: o => h("span", { class: "mono" }, o.source.function_id), tip: o => o.source.function_id },
      { title: "which calls", class: "wide", cell: o => h("span", { class: "mono" }, observerText(o)), tip: observerText },
      { title: "calls", width: "26%", cell: o => h("span", { class: "mono" }, o.target.function_id), tip: o => o.target.function_id },
      { title: "worker", width: "14%", class: "wide", cell: o => o.worker_name || "away" },
      { title: "fires", width: "70px", class: "num", cell: o => o.fires },
      { title: "state", width: "110px", cell: observerTag },
    ], { key: o => o.id, href: o => path("observers", o.id) });
    const none = h("div"), local = h("div", { class: "pad" });
    const split = splitView(root, h("div", null, t.element, none, local), { close: "#/observers" });
    return () => {
      const all = store.registry.observers, list = all.filter(o => matches([o.source.function_id, o.target.function_id, o.state, o.worker_name, o.id].join(" ")));
      t.set(list, current.path[0]);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "registry", list.length, all.length, "No observer matches.", () =>
        empty("No observer yet", "An observer runs a function whenever another function has been called.", []));
      show(local, store.registry.local.length ? h("section", { class: "panel" }, h("header", null, h("h2", null, "Calls in process"), h("span", { class: "dim" }, "as reported by the workers")),
        h("div", { class: "body" }, h("dl", { class: "facts" }, store.registry.local.map(l => [h("dt", { class: "mono" }, l.function_id), h("dd", null, l.count + " calls, " + l.errors + " failed, " + l.duration_ms.toFixed(1) + " ms",
          Object.entries(l.dropped).map(([reason, n]) => h("span", { class: "tag warn", style: { marginLeft: "6px" } }, n + " reports dropped: " + reason)))])))) : null);
      const o = all.find(x => x.id === current.path[0]);
      split.set(o && JSON.stringify(o), close => observerDetail(o, close));
    };
  },
};

function observerDetail(o, close) {
  const link = k => h("a", { href: path("functions", k.namespace, k.function_id) }, k.function_id);
  return [
    h("header", null, h("div", { class: "grow" }, observerTag(o), h("h2", { style: { marginTop: "4px" } }, o.source.function_id + " → " + o.target.function_id)), close),
    o.reason ? h("section", null, h("div", { class: "failure" }, o.reason.code + ": " + o.reason.message)) : null,
    h("section", null, h("dl", { class: "facts" }, h("dt", null, "source"), h("dd", { class: "mono" }, link(o.source)), h("dt", null, "target"), h("dd", { class: "mono" }, link(o.target)),
      h("dt", null, "on"), h("dd", null, o.source.on), h("dt", null, "captures"), h("dd", null, o.source.capture.join(", ") || "nothing"), h("dt", null, "delivers"), h("dd", null, o.source.deliver),
      h("dt", null, "fires"), h("dd", { class: "num" }, o.fires), h("dt", null, "worker"), h("dd", null, o.worker_name || "away"), h("dt", null, "id"), h("dd", { class: "mono" }, o.id))),
    payloadSection("Args", o.source.args), payloadSection("Filters", o.filters),
  ];
}

views.workers = {
  title: "Workers", filter: "Filter by name, language", parts: ["metrics"],
  open(root, tools) {
    const page = h("div", { class: "pad" });
    root.append(page);
    tools.append(segments("Workers", [[false, "Connected"], [true, "With the engine"]], ui.own, on => { ui.own = on; changed("filter"); }));
    return () => {
      const all = store.registry.workers.filter(w => ui.own || own(w)), list = all.filter(w => matches([w.name, w.runtime, w.namespace, w.description, w.id].join(" ")));
      if (!store.loaded.has("registry") || !store.engine) return show(page, loadingNote());
      show(page, list.length ? h("div", { class: "cards" }, list.map(workerCard)) : all.length ? h("p", { class: "note" }, "No worker matches.") : welcome());
      const chosen = current.path[0] && page.querySelector("[aria-selected=true]");
      if (chosen && chosen !== page.shown) { chosen.scrollIntoView({ block: "nearest" }); page.shown = chosen; }
    };
  },
};

// workerSeries returns a gauge of a worker's process.
function workerSeries(w, name) {
  const plot = store.metrics.plots.filter(p => p.name === "iii.worker." + name);
  for (const p of plot) for (const s of p.series) if (s.attributes.some(([k, v]) => k === "worker.id" && v === w.id)) return { p, s };
}

function workerCard(w) {
  const functions = store.registry.functions.filter(f => f.worker_id === w.id);
  const gauges = [["memory.rss", "memory"], ["cpu.percent", "CPU"], ["go.goroutines", "goroutines"]].map(([name, label]) => [label, workerSeries(w, name)]).filter(([, g]) => g);
  return h("section", { class: "panel", "aria-selected": String(w.id === current.path[0]), style: w.id === current.path[0] ? { borderColor: "var(--accent)" } : {} },
    h("header", null, h("h2", null, h("span", { class: "status " + (w.internal ? "" : "ok") }, w.name || w.id)), h("span", { class: "grow" }), w.active_invocations ? h("span", { class: "tag accent" }, w.active_invocations + " running") : null, h("span", { class: "tag" }, w.runtime)),
    h("div", { class: "body" }, w.description ? h("p", { class: "dim", style: { marginBottom: "6px" } }, w.description) : null,
      h("dl", { class: "facts" }, h("dt", null, w.internal ? "since" : "connected"), h("dd", { class: "num" }, moment(w.connected_at_ms)),
        w.version ? [h("dt", null, "version"), h("dd", null, w.version)] : null, w.os ? [h("dt", null, "system"), h("dd", null, w.os)] : null,
        w.pid ? [h("dt", null, "process"), h("dd", { class: "num" }, w.pid)] : null, w.namespace !== "default" ? [h("dt", null, "namespace"), h("dd", null, w.namespace)] : null,
        h("dt", null, "id"), h("dd", { class: "mono" }, w.id)),
      gauges.length ? h("div", { class: "legend", style: { marginTop: "8px" } }, gauges.map(([label, { p, s }]) => h("span", null, label, " ", h("b", { class: "num" }, withUnit(s.latest, p.unit.startsWith("{") ? "" : p.unit))))) : null,
      gauges.length && gauges[0][1].s.points.length > 1 ? linePlot([{ points: gauges[0][1].s.points, color: "var(--s0)", area: true }], { from: gauges[0][1].s.points[0][0], to: gauges[0][1].s.points.at(-1)[0], height: 56, format: bytes, unit: "By" }) : null,
      functions.length ? h("div", { style: { marginTop: "8px", display: "flex", gap: "5px", flexWrap: "wrap" } }, functions.slice(0, 12).map(f => h("a", { class: "tag mono", href: path("functions", f.namespace, f.function_id) }, f.function_id)), functions.length > 12 ? h("span", { class: "dim" }, "and " + (functions.length - 12) + " more") : null) : null));
}
