// Charts, drawn as SVG.

// niceTop returns a round number of at least n. Bytes are rounded in their display unit.
function niceTop(n, unit) {
  if (!(n > 0)) return 1;
  if (unit === "By" && n >= 1024) return niceTop(n / 1024, unit) * 1024;
  const power = 10 ** Math.floor(Math.log10(n));
  for (const f of [1, 2, 2.5, 5, 10]) if (f * power >= n * 0.9999) return f * power;
}

// linePlot plots series, each a list of [time, value] pairs, between two times.
function linePlot(series, { from, to, height = 80, format = count, unit }) {
  const width = 320;
  const values = series.flatMap(s => s.points.map(p => p[1]));
  if (!values.length) return h("p", { class: "dim" }, "A rate needs two exports.");
  const top = niceTop(Math.max(...values, 0), unit), bottom = Math.min(0, ...values);
  const x = t => (t - from) / (to - from) * width, y = v => height - 4 - (v - bottom) / (top - bottom || 1) * (height - 18);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": "plot, at most " + format(top) });
  for (const v of [bottom, top]) {
    chart.append(svg("line", { class: "grid", x1: 0, x2: width, y1: y(v), y2: y(v) }));
  }
  chart.append(svg("text", { class: "axis", x: 0, y: y(top) - 2 }, format(top)));
  chart.append(svg("text", { class: "axis", x: 0, y: height + 11 }, clock(from, false)),
    svg("text", { class: "axis", x: width, y: height + 11, "text-anchor": "end" }, clock(to, false)));
  series.forEach(s => {
    const at = s.points.map(p => x(p[0]).toFixed(1) + " " + y(p[1]).toFixed(1));
    if (s.area) chart.append(svg("path", { d: `M${x(s.points[0][0]).toFixed(1)} ${y(bottom)}L${at.join("L")}L${x(s.points.at(-1)[0]).toFixed(1)} ${y(bottom)}Z`, fill: s.color, opacity: .13 }));
    chart.append(svg("path", { d: "M" + at.join("L"), fill: "none", stroke: s.color, "stroke-width": 1.6, "stroke-linejoin": "round", "stroke-linecap": "round" }));
    const last = s.points.at(-1);
    chart.append(svg("circle", { cx: x(last[0]), cy: y(last[1]), r: 2.4, fill: s.color }));
  });
  return chart;
}

// distribution draws the buckets of a histogram.
function distribution(bounds, buckets, unit) {
  const width = 320, height = 74;
  let first = buckets.findIndex(n => n > 0), last = buckets.findLastIndex(n => n > 0);
  if (first < 0) return h("p", { class: "dim" }, "No values recorded.");
  first = Math.max(0, first - 1);
  last = Math.min(buckets.length - 1, Math.max(last + 1, first + 3));
  const shown = buckets.slice(first, last + 1), top = Math.max(...shown), step = width / shown.length;
  const wide = text => 6.2 * text.length; // approximately
  const edge = i => i === 0 ? "" : i > bounds.length ? "" : withUnit(bounds[i - 1], unit);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": "distribution" });
  shown.forEach((n, i) => {
    const tall = n / top * (height - 14);
    chart.append(svg("rect", { x: i * step + 1, width: Math.max(1, step - 2), y: height - tall - 1, height: Math.max(tall, n ? 1.5 : 0), rx: 2, fill: "var(--bar-ok)" },
      svg("title", null, n + " from " + (edge(first + i) || "below") + " to " + (edge(first + i + 1) || "above"))));
    if (n && wide(count(n)) < step) chart.append(svg("text", { class: "axis", x: (i + .5) * step, y: height - tall - 4, "text-anchor": "middle" }, count(n)));
  });
  let free = 0; // end of the last label
  for (let i = 0; i <= shown.length; i++) {
    const text = edge(first + i), half = wide(text) / 2, x = Math.min(Math.max(i * step, half), width - half);
    if (!text || x - half < free) continue;
    chart.append(svg("text", { class: "axis", x, y: height + 11, "text-anchor": "middle" }, text));
    free = x + half + 8;
  }
  return chart;
}

// activityChart draws the invocations of the last minutes as bars.
function activityChart(seconds, now, width) {
  const span = 300, wide = Math.max(2, Math.ceil(span / Math.max(60, width / 7))), height = 108, left = 34;
  const bins = Array.from({ length: Math.ceil(span / wide) }, () => ({ ok: 0, failed: 0 }));
  for (const s of seconds) {
    const bin = bins[bins.length - 1 - Math.floor((now - s.at) / wide)];
    if (bin) { bin.ok += s.ok / wide; bin.failed += s.failed / wide; }
  }
  const top = niceTop(Math.max(...bins.map(b => b.ok + b.failed))), step = (width - left) / bins.length;
  const y = v => 8 + (1 - v / top) * (height - 8);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height + 18}`, height: height + 18, role: "img", "aria-label": "invocations per second in the last five minutes, at most " + count(top) });
  for (const v of [0, top / 2, top]) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width, y1: y(v), y2: y(v) }),
      svg("text", { class: "axis", x: left - 6, y: y(v) + 3.5, "text-anchor": "end" }, count(v)));
  }
  bins.forEach((b, i) => {
    const x = left + i * step + .5, w = Math.max(1, step - 1.5);
    if (b.ok) chart.append(svg("rect", { x, width: w, y: Math.min(y(b.ok), y(0) - 1.5), height: Math.max(1.5, y(0) - y(b.ok)), rx: 1, fill: "var(--bar-ok)" }));
    if (b.failed) chart.append(svg("rect", { x, width: w, y: Math.min(y(b.ok + b.failed), y(b.ok) - 2), height: Math.max(2, y(b.ok) - y(b.ok + b.failed)), rx: 1, fill: "var(--bar-err)" }));
    if (b.ok || b.failed) chart.append(svg("rect", { x, width: w, y: 0, height, fill: "transparent" },
      svg("title", null, clock((now - (bins.length - i) * wide) * 1000, false) + "  " + count(b.ok + b.failed) + "/s" + (b.failed ? ", " + count(b.failed) + " failed" : ""))));
  });
  for (let m = 5; m >= 0; m -= width < 560 ? 5 : 1) {
    chart.append(svg("text", { class: "axis", x: left + (width - left) * (5 - m) / 5, y: height + 14, "text-anchor": m === 5 ? "start" : m === 0 ? "end" : "middle" }, m ? m + " min ago" : "now"));
  }
  return chart;
}

function meter(share, bad) {
  return h("div", { class: "meter" + (bad ? " err" : "") }, h("i", { style: { width: Math.max(0, Math.min(1, share)) * 100 + "%" } }));
}
