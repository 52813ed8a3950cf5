// A trace as a waterfall: its spans are bars over time, with their log records. Beside it are
// the details of the selected span.

function openTrace(root, tools) {
  const id = current.path[0], folded = new Set();
  const head = h("div", { class: "trace-head" }), rows = h("div", { class: "rows", role: "tree", "aria-label": "spans" });
  const split = splitView(root, h("div", { class: "waterfall" }, head, rows), { close: path("traces", id) });
  let trace = null, text = "", drawn = "";
  ui.choice.traceLogs ??= true;
  tools.append(h("a", { class: "button", href: "#/traces" }, "← All traces"),
    segments("Logs", [[true, "With logs"], [false, "Spans only"]], ui.choice.traceLogs, on => { ui.choice.traceLogs = on; changed("filter"); }));
  const fetchTrace = async () => {
    try {
      const data = await get("/api/traces/" + encodeURIComponent(id));
      const now = JSON.stringify(data);
      if (now !== text) { text = now; trace = new TraceTree(data); changed("detail"); }
    } catch (err) {
      if (!trace) show(rows, h("p", { class: "note" }, err.message === "no such trace" ? "The engine has no span of this trace. The trace appears when a span arrives." : err.message));
    }
  };
  fetchTrace();
  current.fold = close => {
    const span = trace && trace.byID.get(current.path[1]);
    if (!span || !span.children.length) return;
    if (close) folded.add(span.span_id); else folded.delete(span.span_id);
    changed("detail");
  };
  return parts => {
    if (parts.has("traces") || parts.has("logs")) fetchTrace();
    if (!trace) return rows.firstChild || show(rows, loadingNote());
    const selected = current.path[1];
    const state = [text.length, text.slice(-200), selected, [...folded].join(), ui.choice.traceLogs, ui.filters.traces].join("\n");
    if (state !== drawn || trace.pending) {
      drawn = state;
      drawHead(head, trace, id);
      drawRows(rows, trace, id, selected, folded);
    }
    const span = trace.byID.get(selected);
    split.set(span && selected + "\n" + text.length, close => spanDetail(span, trace, close));
  };
}

// TraceTree holds the spans of a trace as a tree.
class TraceTree {
  constructor({ spans, left, logs }) {
    this.left = left; // number of spans beyond the limit
    this.byID = new Map();
    this.logs = logs.slice().reverse(); // oldest first
    for (const s of spans) this.byID.set(s.span_id, { ...s, start: s.after, end: s.after + s.took, children: [], logs: [] });
    this.spans = [...this.byID.values()].sort((a, b) => a.start - b.start);
    this.began = this.spans[0].start_time_unix_nano / 1e6; // the origin of all times in the trace
    this.to = Math.max(...this.spans.map(s => Math.max(s.start, s.end)));
    this.pending = this.spans.some(s => s.pending);
    this.roots = [];
    for (const s of this.spans) {
      const parent = this.byID.get(s.parent_span_id);
      if (parent && !this.above(s, parent)) { s.parent = parent; parent.children.push(s); } else this.roots.push(s);
    }
    this.loose = [];
    for (const l of this.logs) {
      l.at = (l.timestamp_unix_nano || l.observed_timestamp_unix_nano) / 1e6 - this.began;
      const span = this.byID.get(l.span_id);
      (span ? span.logs : this.loose).push(l);
    }
    this.services = [...new Set(this.spans.map(s => s.service_name))];
  }

  // above reports whether s is an ancestor of other. It then cannot be a child of other.
  above(s, other) {
    for (let p = other; p; p = p.parent) if (p === s) return true;
    return false;
  }

  endOf(s) { return s.pending ? Math.max(this.to, s.start, Date.now() - this.began) : Math.max(s.start, s.end); }

  // flat lists the spans, with their logs, in the order of the rows.
  flat(folded, withLogs) {
    const out = [];
    const add = (s, depth) => {
      out.push({ span: s, depth });
      if (folded.has(s.span_id)) return;
      let logs = withLogs ? s.logs : [];
      for (const child of s.children) {
        const before = logs.filter(l => l.at <= child.start);
        logs = logs.slice(before.length);
        out.push(...before.map(log => ({ log, depth: depth + 1 })));
        add(child, depth + 1);
      }
      out.push(...logs.map(log => ({ log, depth: depth + 1 })));
    };
    this.roots.forEach(s => add(s, 0));
    if (withLogs) out.push(...this.loose.map(log => ({ log, depth: 0 })));
    return out;
  }
}

function drawHead(head, trace, id) {
  const root = trace.roots[0], errors = trace.spans.filter(s => s.status === "error").length;
  show(head, h("h2", null, root.name), h("div", { class: "facts" },
    h("span", { class: "num" }, ms(Math.max(...trace.spans.map(s => trace.endOf(s))))),
    h("span", null, moment(trace.began)), h("span", null, plural(trace.spans.length, "span"), trace.left ? " of " + count(trace.spans.length + trace.left) : null, ", ", plural(trace.logs.length, "log record")),
    root.parent_span_id && !trace.byID.has(root.parent_span_id) ? h("span", { title: "The engine does not have the parent of the first span" }, "begins elsewhere") : null,
    errors ? h("span", { class: "status error" }, plural(errors, "error")) : trace.pending ? status("running") : h("span", { class: "status ok" }, "ok"),
    h("span", { class: "mono" }, id, " ", copyable(id)),
    h("span", { class: "legend" }, trace.services.map(s => h("span", null, h("i", { style: { background: colour(s) } }), s)))));
}

function drawRows(rows, trace, id, selected, folded) {
  const to = Math.max(...trace.spans.map(s => trace.endOf(s)), ...trace.logs.map(l => Math.min(l.at, trace.to))), length = Math.max(to, 1e-6);
  const percent = t => Math.max(0, Math.min(100, t / length * 100)) + "%";
  const ticks = h("div", { class: "row ticks" }, h("div", { class: "name" }, "span"), h("div", { class: "track" },
    [0, .25, .5, .75, 1].map(f => h("span", { class: "tick" + (f === 1 ? " last" : f === .5 ? " half" : f % .5 ? " odd" : ""), style: f === 1 ? {} : { left: f * 100 + "%" } }, f ? ms(length * f) : "0"))));
  const indent = depth => ({ paddingLeft: "min(" + (10 + depth * 14) + "px, 16cqw)" }); // leaves room for the names of deeply nested spans
  const flat = trace.flat(folded, ui.choice.traceLogs).filter(r => r.span ? matches(r.span.name + " " + r.span.service_name) : matches(r.log.body + " " + r.log.service_name));
  show(rows, ticks, flat.map(({ span: s, log: l, depth }) => {
    if (l) {
      const lvl = level(l);
      return h("div", { class: "row log", title: l.body }, h("div", { class: "name", style: indent(depth) }, h("span", { class: "fold" }), h("span", { class: "lvl " + lvl }, lvl.toUpperCase()), h("span", { class: "text" }, l.body)),
        h("div", { class: "track" }, h("i", { class: "mark " + lvl, style: { left: percent(l.at) } }), logText(l, l.at / length)));
    }
    const to = path("traces", id, s.span_id), end = trace.endOf(s);
    const row = h("div", { class: "row span" + (s.status === "error" ? " failed" : "") + (s.pending ? " pending" : ""), role: "treeitem", "aria-level": depth + 1, "aria-selected": String(s.span_id === selected),
      "aria-expanded": s.children.length ? String(!folded.has(s.span_id)) : null, "data-href": to, tabindex: 0, title: s.name },
    h("div", { class: "name", style: indent(depth) },
      s.children.length || s.logs.length ? h("button", { class: "fold", type: "button", tabindex: -1, "aria-label": folded.has(s.span_id) ? "Unfold" : "Fold", onclick: e => {
        e.stopPropagation();
        if (!folded.delete(s.span_id)) folded.add(s.span_id);
        changed("detail");
      } }, folded.has(s.span_id) ? "▶" : "▼") : h("span", { class: "fold" }),
      h("i", { class: "dot", style: { background: colour(s.service_name) } }), h("span", { class: "text" }, s.name), h("span", { class: "svc" }, s.service_name)),
    h("div", { class: "track" },
      h("div", { class: "span-bar", style: { left: percent(s.start), width: "max(2px, " + (end - s.start) / length * 100 + "%)", backgroundColor: colour(s.service_name) } }),
      h("span", { class: "span-time", style: { left: percent(end) } }, s.pending ? "running" : ms(end - s.start))));
    row.onclick = () => { location.hash = to; };
    row.onkeydown = e => { if (e.key === "Enter" && e.target === row) location.hash = to; };
    return row;
  }));
}

// logText shows the data of a log record on the side of its mark that has room.
function logText(l, at) {
  const data = keyValues(logData(l));
  if (!data.length) return null;
  const side = at > .55 ? { right: (1 - at) * 100 + "%", left: "0", textAlign: "right", paddingRight: "9px" } : { left: at * 100 + "%" };
  return h("span", { class: "said", style: side }, data);
}

function spanDetail(s, trace, close) {
  const below = s.children.reduce((n, c) => n + Math.max(0, trace.endOf(c) - c.start), 0), lasted = trace.endOf(s) - s.start;
  const attributes = s.attributes.map(([k, v]) => [k, parsed(v)]);
  const plain = attributes.filter(([, v]) => typeof v !== "object"), rich = attributes.filter(([, v]) => typeof v === "object");
  return [
    h("header", null, h("div", { class: "grow" }, h("h2", null, s.name), h("div", { style: { marginTop: "3px" } },
      s.pending ? status("running") : h("span", { class: "status " + s.status }, s.status), h("span", { class: "dim num" }, " · " + ms(lasted)), h("span", { class: "dim" }, " · " + s.service_name))), close),
    s.status === "error" && s.status_description ? h("section", null, h("div", { class: "failure" }, s.status_description)) : null,
    h("section", null, h("dl", { class: "facts" },
      h("dt", null, "begins after"), h("dd", { class: "num" }, ms(s.start)),
      h("dt", null, "self time"), h("dd", { class: "num" }, ms(Math.max(0, lasted - below))),
      h("dt", null, "span"), h("dd", { class: "mono" }, s.span_id),
      s.instrumentation_scope_name ? [h("dt", null, "recorded by"), h("dd", null, s.instrumentation_scope_name + " " + (s.instrumentation_scope_version || ""))] : null)),
    plain.length ? h("section", null, h("h3", null, "Attributes"), h("dl", { class: "facts" }, plain.map(([k, v]) => [h("dt", { class: "mono" }, k), h("dd", { class: "mono" }, String(v))]))) : null,
    rich.map(([k, v]) => payloadSection(k, v)),
    s.events.length ? h("section", null, h("h3", null, "Events"), s.events.map(e => h("div", { style: { marginBottom: "8px" } },
      h("b", null, e.name), h("span", { class: "dim num" }, "  after " + ms(e.timestamp_unix_nano / 1e6 - trace.began - s.start)), eventAttributes(e.attributes)))) : null,
    s.links.length ? h("section", null, h("h3", null, "Links"), s.links.map(l => h("div", { class: "mono" }, h("a", { href: path("traces", l.trace_id, l.span_id) }, l.trace_id)))) : null,
    s.logs.length ? h("section", null, h("h3", null, "Logs"), s.logs.map(l => [h("div", null, h("span", { class: "lvl " + level(l) }, level(l).toUpperCase()), " ", l.body, h("span", { class: "dim num" }, "  after " + ms(l.at - s.start))),
      Object.keys(logData(l)).length ? json(logData(l)) : null])) : null,
  ];
}

function eventAttributes(list) {
  return list.map(([k, v]) => {
    const value = parsed(v);
    if (typeof value === "object") return [h("div", { class: "dim mono" }, k), json(value)];
    return String(v).includes("\n") ? [h("div", { class: "dim mono" }, k), h("pre", { class: "json" }, v)] : h("div", { class: "mono" }, h("span", { class: "dim" }, k + " "), v);
  });
}
