// Metrics as small plots: the processes of the workers first, then what they measure.

views.metrics = {
  title: "Metrics", filter: "Filter by name, service, attribute", parts: ["metrics"],
  open(root) {
    const page = h("div", { class: "pad" });
    root.append(page);
    return () => {
      if (!store.loaded.has("metrics") || !store.engine) return;
      const { plots } = store.metrics;
      if (!plots.length) return show(page, noTelemetry("No metric yet", "Counters, histograms and gauges of the workers are here, with memory and processor use of their processes. They are exported once a minute, and when telemetry is flushed."));
      const shown = plots.filter(p => matches([p.name, p.service, p.description, ...p.series.map(s => s.attributes.join(" "))].join(" ")));
      const groups = new Map(); // process gauges by service, the others too
      for (const p of shown) {
        const process = p.name.startsWith("iii.worker."), key = (process ? "0" : "1") + p.service;
        if (!groups.has(key)) groups.set(key, { process, service: p.service, plots: [] });
        groups.get(key).plots.push(p);
      }
      if (!groups.size) return show(page, h("p", { class: "note" }, "No metric matches."));
      show(page, [...groups.entries()].sort(([a], [b]) => b[0].localeCompare(a[0]) || a.localeCompare(b)).map(([, g]) => [
        h("div", { class: "section" }, h("h1", null, g.service), h("span", { class: "dim" }, g.process ? "process" : plural(g.plots.length, "metric"))),
        h("div", { class: "plots" }, g.plots.map(plotPanel))]));
    };
  },
};

const seriesColours = ["var(--s0)", "var(--s2)", "var(--s1)", "var(--s3)", "var(--s6)", "var(--s4)", "var(--s5)", "var(--s7)"];

function plotPanel(p) {
  const { from, to } = store.metrics, process = p.name.startsWith("iii.worker.");
  const unit = p.unit.startsWith("{") && p.name.includes(p.unit.slice(1, -1)) ? "" : p.unit;
  const rate = p.type === "counter" || p.type === "histogram";
  const label = s => s.attributes.filter(([k]) => !(process && k === "worker.id")).map(([k, v]) => (process && k === "worker.name" ? "" : k + "=") + v).join(" ");
  const total = p.series.reduce((n, s) => n + s.latest, 0);
  const times = p.series.flatMap(s => s.points.map(x => x[0])), first = times.length ? Math.max(from, Math.min(...times)) : from, last = Math.max(first + 1000, ...times);
  const series = p.series.filter(s => s.points.length).map((s, i) => ({ points: s.points, color: seriesColours[i % seriesColours.length], area: p.series.length === 1 }));
  const value = p.type === "histogram" ? [count(total), h("small", { class: "dim" }, " values")] : p.type === "counter" ? withUnit(total, unit) : p.series.length === 1 ? withUnit(p.series[0].latest, unit) : "";
  const format = rate ? v => count(v) + "/s" : v => withUnit(v, unit);
  const body = p.type === "histogram" ? p.series.slice(0, 3).map(s => [p.series.length > 1 ? h("div", { class: "dim" }, label(s)) : null,
    distribution(s.bounds || [], s.buckets || [], p.unit), s.latest ? h("div", { class: "what num" }, "mean " + withUnit(s.sum / s.latest, unit)) : null])
    : p.series.some(s => s.points.length > 1) ? linePlot(series, { from: first, to: last, format, unit: rate ? "" : unit })
      : p.series.length > 1 ? bars(p, label) : null;
  return h("section", { class: "panel plot" },
    h("header", null, h("div", { style: { minWidth: 0 } }, h("h2", null, process ? p.name.slice("iii.worker.".length) : p.name), h("div", { class: "what" }, p.description)), h("span", { class: "grow" }), h("div", { class: "value" }, value)),
    h("div", { class: "body" }, body || h("p", { class: "dim" }, "One export so far."),
      p.series.length > 1 && p.type !== "histogram" && p.series.some(s => s.points.length > 1) ? h("div", { class: "legend" }, p.series.slice(0, 8).map((s, i) => h("span", { class: "num" }, h("i", { style: { background: seriesColours[i % seriesColours.length] } }), label(s) || "(none)", " ", h("b", null, withUnit(s.latest, unit))))) : null,
      p.series.length > 8 || p.left ? h("div", { class: "dim" }, "and " + (p.series.length - Math.min(8, p.series.length) + p.left) + " more series") : null));
}

// bars compares series of which there is but one value.
function bars(p, label) {
  const top = Math.max(...p.series.map(s => s.latest), 1e-9);
  return h("div", { style: { display: "grid", gap: "7px" } }, p.series.slice(0, 8).map(s => h("div", null,
    h("div", { class: "num", style: { display: "flex", gap: "8px" } }, h("span", { class: "dim" }, label(s) || "(none)"), h("span", { style: { marginLeft: "auto" } }, withUnit(s.latest, p.unit))), meter(s.latest / top))));
}
