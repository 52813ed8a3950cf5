// Live invocations.

const maxRows = 300;

views.invocations = {
  title: "Invocations", filter: "Filter by function, worker, error, payload", parts: ["activity"],
  open(root, tools) {
    const t = table([
      { title: "time", width: "116px", cell: i => h("span", { class: "num dim" }, clock(i.began)) },
      { title: "function", cell: i => h("span", { class: "mono" }, i.function), tip: i => i.function },
      { title: "from", width: "11%", class: "wide", cell: from },
      { title: "to", width: "11%", class: "wide", cell: i => i.worker || h("span", { class: "dim" }, "engine") },
      { title: "payload", width: "32%", class: "wide", cell: i => i.status === "error" ? [h("span", { class: "tag err" }, i.code), " ", i.message] : h("span", { class: "mono dim" }, i.preview || (i.size > 4096 ? bytes(i.size) : "")) },
      { title: "status", width: "88px", cell: i => i.http_status ? httpStatus(i) : status(i.status) },
      { title: "took", width: "84px", class: "right num", cell: i => i.status === "running" ? "…" : ms(i.took) },
    ], { key: i => i.seq, href: i => path("invocations", String(i.seq)), rowClass: i => (i.internal ? "muted " : "") + (i.status === "error" ? "error" : "") });
    const none = h("div"), choice = ui.choice.invocations ??= "all";
    tools.append(
      segments("Status", [["all", "All"], ["running", "Running"], ["error", "Failed"]], choice, id => { ui.choice.invocations = id; changed("filter"); }),
      segments("Functions", [[false, "Workers only"], [true, "With the engine"]], ui.own, on => { ui.own = on; changed("filter"); }));
    const split = splitView(root, h("div", null, t.element, none), { close: "#/invocations" });
    const details = new Map();
    return () => {
      const list = [];
      const all = [...store.invocations.values()].sort((a, b) => b.seq - a.seq);
      for (const i of all) {
        if (list.length === maxRows) break;
        if (i.internal && !ui.own) continue;
        if (ui.choice.invocations !== "all" && i.status !== ui.choice.invocations) continue;
        if (matches([i.function, i.namespace, i.worker, i.caller, i.cause, i.code, i.message, i.preview, i.trace_id].join(" "))) list.push(i);
      }
      t.set(list, current.path[0]);
      t.element.classList.toggle("hidden", !list.length);
      placeholder(none, "invocations", list.length, all.some(i => !i.internal), "No invocation matches.", () =>
        empty("No invocation yet", "Invocations appear here when a function is called or an HTTP trigger receives a request.",
          ["A call from any worker:", command('iii.Call[string](ctx, client, "greetings::hello", Person{Name: "Ada"})')]));
      const seq = current.path[0], i = seq && store.invocations.get(Number(seq));
      if (!seq) return split.set(undefined);
      const had = details.get(seq);
      const key = seq + "\n" + (i ? i.status : "") + "\n" + (had ? had.status || "gone" : "");
      split.set(key, close => {
        const state = details.get(seq);
        if (!state || state.status === "running" && i && i.status !== "running") {
          get("/api/invocations/" + seq).then(d => { details.clear(); details.set(seq, d); changed("detail"); },
            () => { details.clear(); details.set(seq, { gone: true }); changed("detail"); });
        }
        return invocationDetail(i, state, close);
      });
    };
  },
};

function from(i) {
  if (i.caller) return i.caller;
  return i.cause ? h("span", { class: "tag accent" }, i.cause) : h("span", { class: "dim" }, "engine");
}

// httpStatus shows the HTTP status of the response.
function httpStatus(i) {
  return h("span", { class: "tag " + (i.http_status >= 500 ? "err" : i.http_status >= 400 ? "accent" : ""), title: "HTTP status of the response" }, "HTTP " + i.http_status);
}

function invocationDetail(i, d, close) {
  if (d && d.gone && !i) return [h("header", null, h("h2", { class: "grow" }, "No longer kept"), close)];
  i = i && (!d || d.gone || d.status === "running") ? i : d || i;
  if (!i) return [h("header", null, h("h2", { class: "grow" }, "…"), close)];
  const full = d && !d.gone ? d : null;
  return [
    h("header", null, h("div", { class: "grow" }, h("h2", null, i.function), h("div", { style: { marginTop: "3px" } }, status(i.status), i.http_status ? [" ", httpStatus(i)] : null, h("span", { class: "dim num" }, i.status === "running" ? "" : " · " + ms(i.took)))), close),
    i.status === "error" ? h("section", null, h("div", { class: "failure" }, h("b", null, i.code), "\n" + i.message)) : null,
    h("section", null, h("dl", { class: "facts" },
      h("dt", null, "began"), h("dd", { class: "num" }, moment(i.began)),
      h("dt", null, "from"), h("dd", null, from(i), i.trigger ? [" ", store.registry.triggers.some(t => t.id === i.trigger) ? h("a", { class: "mono", href: path("triggers", i.trigger) }, i.trigger) : h("span", { class: "dim mono" }, i.trigger)] : null),
      h("dt", null, "to"), h("dd", null, i.worker || "the engine"),
      h("dt", null, "function"), h("dd", null, h("a", { href: path("functions", i.namespace, i.function) }, i.function), h("span", { class: "dim" }, " in " + i.namespace)),
      h("dt", null, "trace"), h("dd", { class: "mono" }, i.trace_id ? h("a", { href: path("traces", i.trace_id) }, i.trace_id) : h("span", { class: "dim" }, "none: the caller has no trace")))),
    full ? payloadSection("Payload", full.data, full.data_kept, full.size) : null,
    full && full.metadata !== null ? payloadSection("Metadata", full.metadata) : null,
    full && full.status === "ok" ? payloadSection("Result", full.result, full.result_kept, full.result_size) : null,
  ];
}
