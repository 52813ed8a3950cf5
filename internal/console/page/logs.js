// The engine's log, newest record first.

views.logs = {
  title: "Logs", filter: "Filter by text, service, data", parts: ["logs"],
  open(root, tools) {
    const t = table([
      { title: "time", width: "116px", cell: l => h("span", { class: "num dim" }, clock((l.timestamp_unix_nano || l.observed_timestamp_unix_nano) / 1e6)) },
      { title: "level", width: "62px", cell: l => h("span", { class: "lvl " + level(l) }, level(l).toUpperCase()) },
      { title: "service", width: "14%", class: "wide", cell: l => [h("i", { class: "dot", style: { background: colour(l.service_name) } }), " ", l.service_name] },
      { title: "message", cell: l => h("span", { class: "logline", title: l.body }, l.body, " ", h("span", { class: "kv mono" }, keyValues(logData(l)))) },
      { title: "trace", width: "92px", class: "wide", cell: l => l.trace_id ? h("a", { class: "mono", href: path("traces", l.trace_id, l.span_id || "") }, l.trace_id.slice(0, 8)) : "" },
    ], { key: l => l.key, href: l => path("logs", String(l.key)), rowClass: l => level(l) === "error" || level(l) === "fatal" ? "error" : "" });
    const none = h("div"), choice = ui.choice.logs ??= 0;
    tools.append(segments("Minimum level", [[0, "All"], [9, "Info"], [13, "Warn"], [17, "Error"]], choice, n => { ui.choice.logs = n; changed("filter"); }));
    const split = splitView(root, h("div", null, t.element, none), { close: "#/logs" });
    let selected; // remains selected when the record is no longer listed
    return () => {
      const list = store.logs.filter(l => (l.severity_number || 0) >= ui.choice.logs && matches([l.body, l.service_name, l.trace_id, JSON.stringify(l.attributes)].join(" ")));
      t.set(list.slice(0, maxRows), current.path[0]);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "logs", list.length, store.logs.length, "No record matches.", () =>
        noTelemetry("No log record yet", "Log records that workers send with their telemetry appear here, linked to their traces."));
      selected = store.logs.find(l => String(l.key) === current.path[0]) || (current.path[0] ? selected : undefined);
      split.set(selected && String(selected.key), close => logDetail(selected, close));
    };
  },
};

function logDetail(l, close) {
  const data = logData(l);
  return [
    h("header", null, h("div", { class: "grow" }, h("h2", null, l.body), h("span", { class: "lvl " + level(l) }, level(l).toUpperCase()), h("span", { class: "dim" }, " · " + l.service_name)), close),
    h("section", null, h("dl", { class: "facts" },
      h("dt", null, "time"), h("dd", { class: "num" }, moment((l.timestamp_unix_nano || l.observed_timestamp_unix_nano) / 1e6)),
      h("dt", null, "trace"), h("dd", { class: "mono" }, l.trace_id ? h("a", { href: path("traces", l.trace_id, l.span_id || "") }, l.trace_id) : h("span", { class: "dim" }, "none")),
      l.instrumentation_scope_name ? [h("dt", null, "recorded by"), h("dd", null, l.instrumentation_scope_name)] : null)),
    Object.keys(data).length ? payloadSection("Data", data) : null,
    payloadSection("Resource", l.resource),
  ];
}
