// Formats numbers, times and JSON as text.

function digits(n) { return n >= 99.95 ? n.toFixed(0) : n >= 9.995 ? n.toFixed(1) : n.toFixed(2); }

// ms formats a duration in milliseconds.
function ms(t) {
  if (!(t > 0)) return "0 ms";
  if (t < 0.9995) return digits(t * 1000) + " µs";
  if (t < 999.5) return digits(t) + " ms";
  if (t < 60000) return digits(t / 1000) + " s";
  const s = Math.round(t / 1000);
  return s < 3600 ? Math.floor(s / 60) + " min " + s % 60 + " s" : Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
}

function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1023.5 || unit === "GiB") return (unit === "B" ? Math.round(n) : digits(n)) + " " + unit;
    n /= 1024;
  }
}

function count(n) {
  if (Math.abs(n) < 10000) return Number.isInteger(n) ? String(n) : digits(n);
  for (const [by, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (Math.abs(n) >= by) return digits(n / by) + unit;
}

function plural(n, one, many) { return count(n) + " " + (n === 1 ? one : many || one + "s"); }

const twoDigits = n => String(n).padStart(2, "0");

// clock formats milliseconds since 1970 as a time of day.
function clock(t, fine) {
  const d = new Date(t);
  const text = twoDigits(d.getHours()) + ":" + twoDigits(d.getMinutes()) + ":" + twoDigits(d.getSeconds());
  return fine === false ? text : text + "." + String(d.getMilliseconds()).padStart(3, "0");
}

function moment(t) { return new Date(t).toLocaleDateString() + " " + clock(t); }

// withUnit formats the value of a metric in its unit.
function withUnit(value, unit) {
  switch (unit) {
    case "By": return bytes(value);
    case "ms": return ms(value);
    case "s": return ms(value * 1000);
    case "us": return ms(value / 1000);
    case "%": return digits(value) + " %";
    case "1": case "": return count(value);
  }
  return count(value) + " " + unit.replace(/[{}]/g, "");
}

// parsed decodes text that is a JSON object or array, and returns any other text unchanged.
function parsed(text) {
  if (typeof text === "string" && /^\s*[[{]/.test(text)) {
    try { return JSON.parse(text); } catch { /* it is not JSON */ }
  }
  return text;
}

const maxLines = 400;

// json shows a value as colored text with a copy button.
function json(value) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  const pre = h("pre", { class: "json", tabindex: 0 });
  const lines = text.split("\n");
  const put = upTo => {
    show(pre, coloured(lines.slice(0, upTo).join("\n")));
    if (lines.length > upTo) {
      pre.append("\n", h("button", { class: "button small", type: "button", onclick: () => put(lines.length) },
        "show " + (lines.length - upTo) + " more lines"));
    }
  };
  put(maxLines);
  return pre;
}

const jsonPart = /("(?:\\.|[^"\\])*")(\s*:)?|(-?\d[\d.eE+-]*)|\b(true|false|null)\b/g;

function coloured(text) {
  const out = [];
  let at = 0;
  for (const m of text.matchAll(jsonPart)) {
    out.push(text.slice(at, m.index));
    if (m[2] !== undefined) out.push(h("span", { class: "j-key" }, m[1]), m[2]);
    else if (m[1] !== undefined) out.push(h("span", { class: m[1] === '"[REDACTED]"' ? "j-gone" : "j-str" }, m[1]));
    else out.push(h("span", { class: m[3] !== undefined ? "j-num" : "j-lit" }, m[0]));
    at = m.index + m[0].length;
  }
  out.push(text.slice(at));
  return out;
}

// payloadSection shows a payload, or a note that it was too large to keep.
function payloadSection(title, value, kept, size) {
  const none = value === null || value === undefined;
  return h("section", null,
    h("h3", null, title, size > 0 ? h("span", { class: "dim num" }, bytes(size)) : null, h("span", { class: "grow" }),
      none ? null : copyable(() => JSON.stringify(value, null, 2))),
    kept === false ? h("p", { class: "dim" }, "Too large to keep.") : none ? h("p", { class: "dim" }, "none") : json(value));
}

// colour returns the color of a service. It is the same in all views.
const colours = new Map();
function colour(service) {
  if (!colours.has(service)) colours.set(service, "var(--s" + colours.size % 8 + ")");
  return colours.get(service);
}

function level(record) {
  const n = record.severity_number;
  return n >= 21 ? "fatal" : n >= 17 ? "error" : n >= 13 ? "warn" : n >= 9 ? "info" : n >= 5 ? "debug" : n >= 1 ? "trace" : (record.severity_text || "log").toLowerCase();
}

// logData returns the attributes of a log record and the members of its log.data.
function logData(record) {
  const { "log.data": data, ...rest } = record.attributes || {};
  for (const name of Object.keys(rest)) if (/^(service\.name|target|module_path)$/.test(name)) delete rest[name];
  return data !== null && typeof data === "object" && !Array.isArray(data) ? { ...rest, ...data } : data === undefined ? rest : { ...rest, data };
}

function keyValues(data) {
  return Object.entries(data).map(([k, v]) => [" ", h("b", null, k + "="), typeof v === "string" ? v : JSON.stringify(v)]);
}
