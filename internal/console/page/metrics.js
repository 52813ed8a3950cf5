// Metrics as small plots. Those of the worker processes come before those that workers send.

views.metrics = {
  title: "Metrics", filter: "Filter by name, service, attribute", parts: ["metrics"],
  open(root) {
    const page = h("div", { class: "pad" });
    root.append(page);
    return () => {
      if (!store.loaded.has("metrics") || !store.engine) return show(page, loadingNote());
      const { plots } = store.metrics;
      if (!plots.length) return show(page, noTelemetry("No metric yet", "Counters, histograms and gauges of the workers appear here, with the memory and processor usage of their processes. Workers export metrics once a minute, and when telemetry is flushed."));
      const shown = plots.map(found).filter(p => p);
      const groups = new Map(); // process gauges and other metrics, by service
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

// found returns a metric with the series that match the filter. left counts the others.
function found(p) {
  const about = [p.name, p.service, p.description].join(" ");
  const series = p.series.filter(s => matches(about + " " + s.attributes.map(a => a.join("=")).join(" ")));
  if (!series.length && (p.series.length || !matches(about))) return null;
  return { ...p, series, left: p.left + p.series.length - series.length };
}

const seriesColours = ["var(--s0)", "var(--s2)", "var(--s1)", "var(--s3)", "var(--s6)", "var(--s4)", "var(--s5)", "var(--s7)"];

function plotPanel(p) {
  const { from, to } = store.metrics, process = p.name.startsWith("iii.worker.");
  const unit = p.unit.startsWith("{") && p.name.includes(p.unit.slice(1, -1)) ? "" : p.unit;
  const rate = p.type === "counter" || p.type === "histogram";
  const label = s => s.attributes.filter(([k]) => !(process && k === "worker.id")).map(([k, v]) => (process && k === "worker.name" ? "" : k + "=") + v).join(" ");
  const shown = p.series.slice(0, p.type === "histogram" ? 3 : seriesColours.length), hidden = p.series.length - shown.length + p.left, lone = p.series.length + p.left === 1;
  const times = shown.flatMap(s => s.points.map(x => x[0])), first = times.length ? Math.max(from, Math.min(...times)) : from, last = Math.max(first + 1000, ...times);
  const series = shown.map((s, i) => ({ points: s.points, color: seriesColours[i], area: lone })).filter(s => s.points.length);
  const value = p.type === "histogram" ? [count(p.total), h("small", { class: "dim" }, " values")] : p.type === "counter" || lone ? withUnit(p.total, unit) : "";
  const format = rate ? v => count(v) + "/s" : v => withUnit(v, unit);
  const plotted = shown.some(s => s.points.length > 1);
  const body = p.type === "histogram" ? shown.map(s => [lone ? null : h("div", { class: "dim" }, label(s) || "(none)"),
    distribution(s.bounds || [], s.buckets || [], p.unit), s.latest ? h("div", { class: "what num" }, "mean " + withUnit(s.sum / s.latest, unit)) : null])
    : plotted ? linePlot(series, { from: first, to: last, format, unit: rate ? "" : unit }) : lone ? null : bars(shown, unit, label);
  return h("section", { class: "panel plot" },
    h("header", null, h("div", { style: { minWidth: 0 } }, h("h2", null, process ? p.name.slice("iii.worker.".length) : p.name), h("div", { class: "what" }, p.description)), h("span", { class: "grow" }), h("div", { class: "value" }, value)),
    h("div", { class: "body" }, body || h("p", { class: "dim" }, "One export so far."),
      !lone && p.type !== "histogram" && plotted ? h("div", { class: "legend" }, shown.map((s, i) => h("span", { class: "num" }, h("i", { style: { background: seriesColours[i] } }), label(s) || "(none)", " ", h("b", null, withUnit(s.latest, unit))))) : null,
      hidden ? h("div", { class: "dim" }, "and " + hidden + " more series") : null));
}

// bars compares series that have only one value.
function bars(series, unit, label) {
  const top = Math.max(...series.map(s => s.latest), 1e-9);
  return h("div", { style: { display: "grid", gap: "7px" } }, series.map(s => h("div", null,
    h("div", { class: "num", style: { display: "flex", gap: "8px" } }, h("span", { class: "dim" }, label(s) || "(none)"), h("span", { style: { marginLeft: "auto" } }, withUnit(s.latest, unit))), meter(s.latest / top))));
}
