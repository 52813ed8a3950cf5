// The list of traces. waterfall.js shows a single trace.

views.traces = {
  title: "Traces", filter: "Filter by name, service, trace id", parts: ["traces", "logs"], whole: true,
  open(root, tools) { return current.path[0] ? openTrace(root, tools) : openTraces(root, tools); },
};

function openTraces(root, tools) {
  let longest = 1;
  const t = table([
    { title: "time", width: "116px", cell: x => h("span", { class: "num dim" }, clock(x.start / 1e6)) },
    { title: "name", cell: x => x.name, tip: x => x.name },
    { title: "services", width: "26%", class: "wide", cell: x => x.services.map(s => [h("i", { class: "dot", style: { background: colour(s.name) } }), " ", s.name, " ", h("span", { class: "dim num" }, s.spans), "  "]) },
    { title: "spans", width: "60px", class: "right num", cell: x => x.spans },
    { title: "status", width: "100px", cell: x => x.pending ? status("running") : x.errors ? h("span", { class: "status error" }, plural(x.errors, "error")) : h("span", { class: "status ok" }, "ok") },
    { title: "", width: "13%", class: "wide", cell: x => meter(Math.sqrt(x.duration / longest), x.errors > 0) },
    { title: "duration", width: "86px", class: "right num", cell: x => ms(x.duration) },
  ], { key: x => x.trace_id, href: x => path("traces", x.trace_id), rowClass: x => (x.internal ? "muted " : "") + (x.errors ? "error" : "") });
  const none = h("div");
  const choice = ui.choice.traces ??= "all";
  tools.append(
    segments("Status", [["all", "All"], ["error", "With errors"], ["slow", "Slowest first"]], choice, id => { ui.choice.traces = id; changed("filter"); }),
    segments("Traces", [[false, "Workers only"], [true, "With the engine"]], ui.own, on => { ui.own = on; changed("filter"); }));
  root.append(t.element, none);
  return () => {
    let list = store.traces.filter(x => (ui.own || !x.internal) && (ui.choice.traces !== "error" || x.errors) &&
      matches([x.name, x.trace_id, ...x.services.map(s => s.name)].join(" ")));
    longest = Math.max(1e-9, ...list.map(x => x.duration));
    if (ui.choice.traces === "slow") list = [...list].sort((a, b) => b.duration - a.duration);
    t.set(list);
    t.element.classList.toggle("hidden", !list.length);
    placeholder(none, "traces", list.length, store.traces.some(x => ui.own || !x.internal), "No trace matches.", () =>
      noTelemetry("No trace yet", "Traces of workers with telemetry appear here and show where time is spent, across workers."));
  };
}

function noTelemetry(title, text) {
  const url = store.engine ? store.engine.worker_url : "";
  return empty(title, text, ["Start telemetry in the worker, and pass it to the client.",
    command('telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{})\nclient, err := iii.New("", iii.WithTelemetry(telemetry))')],
  ["Or run the observability example.", command("III_URL=" + url + " go run ./examples/observability")]);
}
