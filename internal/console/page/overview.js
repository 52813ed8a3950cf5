// The most important figures at a glance.

views.overview = {
  title: "Overview", parts: ["activity"],
  open(root) {
    const page = h("div", { class: "pad" });
    root.append(page);
    let made = null;
    return parts => {
      if (!store.loaded.has("registry") || !store.engine) return once(page, "loading", loadingNote);
      if (!userWorkers().length && !store.activity.functions.length && !store.invocations.size) {
        made = "empty";
        return once(page, store.engine.worker_url, welcome);
      }
      if (made !== "full") {
        page.shownFor = null;
        show(page, ["tiles", "activity panel", "columns"].map(c => h("div", { class: c })));
        made = "full";
      }
      const [tiles, activity, columns] = page.children;
      show(tiles, overviewTiles());
      if (!parts.has("route") || !activity.firstChild) {
        const a = store.activity;
        show(activity, h("header", null, h("h2", null, "Invocations per second"), h("span", { class: "grow" }),
          h("div", { class: "legend" }, h("span", null, h("i", { style: { background: "var(--bar-ok)" } }), "ok"), h("span", null, h("i", { style: { background: "var(--bar-err)" } }), "failed"))),
          h("div", { class: "body" }, activityChart(a.seconds, a.now || Date.now() / 1000, Math.max(280, (page.clientWidth || 900) - 66))));
      }
      show(columns, h("div", null, failures(), runningNow()), h("div", null, busiest(), workersPanel()));
    };
  },
};

function welcome() {
  const e = store.engine;
  return empty("Waiting for the first worker", "The engine is running. Registrations and activity of workers appear here immediately.",
    ["Connect a worker to the engine.", command('client, err := iii.New("' + e.worker_url + '")')],
    ["Or run an example in a clone of the repository.", command("III_URL=" + e.worker_url + " go run ./examples/worker")],
    ["Start telemetry to see traces, logs and metrics as well.",
      command("telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{})\nclient, err := iii.New(\"\", iii.WithTelemetry(telemetry))")]);
}

function tile(label, value, unit, sub, to, mood) {
  return h("a", { class: "panel tile " + (mood || ""), href: to }, h("div", { class: "label" }, label),
    h("div", { class: "value" }, value, unit ? h("small", null, unit) : null), h("div", { class: "sub" }, sub));
}

function overviewTiles() {
  const a = store.activity, recent = a.seconds.filter(s => s.at >= a.now - 10);
  const sum = (list, f) => list.reduce((n, s) => n + f(s), 0);
  const done = sum(a.seconds, s => s.ok + s.failed), failed = failedLately();
  const latest = recent.filter(s => s.ok + s.failed), p95 = Math.max(0, ...latest.map(s => s.p95)), p50 = latest.length ? sum(latest, s => s.p50) / latest.length : 0;
  const workers = userWorkers(), parked = store.registry.triggers.filter(t => t.parked).length;
  return [
    tile("Workers", workers.length, null, plural(userFunctions().length, "function"), "#/workers"),
    tile("Rate", count(sum(recent, s => s.ok + s.failed) / 10), "/s", "over ten seconds", "#/invocations"),
    tile("Running", a.running, null, a.running === 1 ? "invocation" : "invocations", "#/invocations"),
    tile("Failed", failed, null, done ? digits(100 * failed / done) + " % in five minutes" : "in five minutes", "#/invocations", failed && "bad"),
    tile("Duration", latest.length ? ms(p50).split(" ")[0] : "–", latest.length ? ms(p50).split(" ")[1] : null, latest.length ? "p95 " + ms(p95) : "median of ten seconds", "#/functions"),
    tile("Triggers", store.registry.triggers.length, null, parked ? plural(parked, "waits", "wait") + " for a provider" : "all bound", "#/triggers", parked && "warn"),
  ];
}

function panel(title, note, body) {
  return h("section", { class: "panel" }, h("header", null, h("h2", null, title), h("span", { class: "grow" }), note ? h("span", { class: "dim" }, note) : null), body);
}

function failures() {
  const list = [...store.invocations.values()].filter(i => i.status === "error" && !i.internal).slice(-6).reverse();
  if (!list.length) return panel("Latest failures", null, h("div", { class: "body dim" }, "Nothing has failed."));
  const t = table([
    { title: "time", width: "92px", cell: i => h("span", { class: "num dim" }, clock(i.began, false)) },
    { title: "function", cell: i => h("span", { class: "mono" }, i.function) },
    { title: "error", width: "46%", tip: i => i.message, cell: i => [h("span", { class: "tag err" }, i.code), " ", i.message] },
  ], { key: i => i.seq, href: i => path("invocations", String(i.seq)) });
  t.set(list);
  return panel("Latest failures", null, t.element);
}

function busiest() {
  const list = [...store.activity.functions].sort((a, b) => b.calls - a.calls).slice(0, 8);
  if (!list.length) return panel("Busiest functions", null, h("div", { class: "body dim" }, "No function has been called yet."));
  const top = list[0].calls;
  const t = table([
    { title: "function", cell: f => h("span", { class: "mono" }, f.id) },
    { title: "", width: "18%", class: "wide", cell: f => meter(f.calls / top) },
    { title: "calls", width: "68px", class: "right num", cell: f => count(f.calls) },
    { title: "failed", width: "66px", class: "right num", cell: f => f.failed ? h("span", { class: "tag err" }, count(f.failed)) : h("span", { class: "dim" }, "0") },
    { title: "p95", width: "78px", class: "right num", cell: f => ms(f.p95) },
  ], { key: f => f.namespace + "\n" + f.id, href: f => path("functions", f.namespace, f.id) });
  t.set(list);
  return panel("Busiest functions", "since the start", t.element);
}

function runningNow() {
  const list = [...store.invocations.values()].filter(i => i.status === "running" && !i.internal).slice(-6);
  if (!list.length) return panel("Running now", null, h("div", { class: "body dim" }, "Nothing is running."));
  const t = table([
    { title: "function", cell: i => h("span", { class: "mono" }, i.function) },
    { title: "worker", width: "30%", cell: i => i.worker },
    { title: "for", width: "90px", class: "right num", cell: i => ms(Math.max(0, Date.now() - i.began)) },
  ], { key: i => i.seq, href: i => path("invocations", String(i.seq)) });
  t.set(list);
  return panel("Running now", null, t.element);
}

function workersPanel() {
  const list = userWorkers().slice(0, 8);
  if (!list.length) return panel("Workers", null, h("div", { class: "body dim" }, "No worker is connected."));
  const t = table([
    { title: "worker", cell: w => h("span", { class: "status ok" }, w.name || w.id) },
    { title: "language", width: "22%", cell: w => w.runtime },
    { title: "functions", width: "84px", class: "right num", cell: w => w.function_count },
    { title: "since", width: "84px", class: "right num", cell: w => clock(w.connected_at_ms, false) },
  ], { key: w => w.id, href: w => path("workers", w.id) });
  t.set(list);
  return panel("Workers", null, t.element);
}
