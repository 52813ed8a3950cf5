// The data of the page, kept up to date by the event stream. Views are notified of the parts
// that have changed.

const store = {
  engine: null, registry: { workers: [], functions: [], triggers: [], types: [], observers: [], local: [] },
  invocations: new Map(), activity: { now: 0, running: 0, seconds: [], functions: [] },
  traces: [], logs: [], metrics: { from: 0, to: 1, plots: [] },
  live: "off", loaded: new Set(),
};

const maxKept = 1000; // the engine's limit

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
  return response.json();
}

// loads fetches each part as a whole. wanted holds the parts that a view shows. Other parts
// are fetched once a view shows them.
const loads = {
  registry: async () => { store.registry = await get("/api/registry"); },
  activity: async () => { store.activity = await get("/api/activity"); },
  traces: async () => { store.traces = await get("/api/traces"); },
  logs: async () => { store.logs = (await get("/api/logs")).map(named); },
  metrics: async () => { store.metrics = await get("/api/metrics"); },
};
const sourceOf = { spans: "traces", logs: "logs", metrics: "metrics", registry: "registry" };
const loading = new Set(), stale = new Set(Object.keys(loads));
let wanted = new Set();

// named gives a log record a unique key.
let logNumber = 0;
function named(record) {
  const text = JSON.stringify(record);
  const old = named.known.get(text);
  if (old) return old;
  record.key = ++logNumber;
  if (named.known.size > 5000) named.known.clear();
  named.known.set(text, record);
  return record;
}
named.known = new Map();

async function load(part) {
  stale.add(part);
  if (loading.has(part) || !wanted.has(part)) return;
  loading.add(part);
  try {
    while (stale.has(part) && wanted.has(part)) {
      stale.delete(part);
      await loads[part]();
      store.loaded.add(part);
      changed(part);
      await new Promise(done => setTimeout(done, part === "registry" ? 0 : 700)); // limits the rate
    }
  } catch {
    stale.add(part); // the event stream reports when the engine is back
  } finally {
    loading.delete(part);
  }
}

function want(...parts) {
  wanted = new Set(["registry", "queues", ...parts]); // the number of dead letters is always shown
  for (const part of wanted) if (stale.has(part)) load(part);
}

function keepInvocations(list) {
  for (const i of list) {
    const old = store.invocations.get(i.seq);
    if (old && old.status !== "running") continue;
    store.invocations.set(i.seq, i);
  }
  if (store.invocations.size > maxKept) {
    const seqs = [...store.invocations.keys()].sort((a, b) => a - b);
    for (const seq of seqs.slice(0, seqs.length - maxKept)) store.invocations.delete(seq);
  }
}

async function begin(engine) {
  const again = store.engine && store.engine.started !== engine.started;
  store.engine = engine;
  store.live = "on";
  if (again) { // another engine: discard the data of the old one
    store.invocations.clear();
    colours.clear();
  }
  changed("engine");
  for (const part of Object.keys(loads)) load(part);
  try {
    if (!wanted.has("activity")) await loads.activity(); // the pulses continue from there
    keepInvocations(await get("/api/invocations"));
  } catch {
    return; // the event stream fails as well
  }
  store.loaded.add("invocations");
  changed("invocations");
}

function connect() {
  const events = new EventSource("/api/events");
  const on = (name, f) => events.addEventListener(name, e => f(JSON.parse(e.data)));
  on("engine", begin);
  on("invocations", list => { keepInvocations(list); changed("invocations"); });
  on("changed", parts => { for (const part of parts) load(sourceOf[part]); });
  on("pulse", p => {
    const a = store.activity;
    a.now = p.at + 1;
    a.running = p.running;
    if (p.begun || p.ok || p.failed) {
      if (a.seconds.at(-1)?.at === p.at) a.seconds.pop();
      a.seconds.push(p);
      load("activity");
    }
    while (a.seconds.length && a.seconds[0].at < a.now - 300) a.seconds.shift();
    changed("pulse");
  });
  events.onerror = () => {
    store.live = events.readyState === EventSource.CLOSED ? "gone" : "off";
    changed("engine");
    if (store.live === "gone") { events.close(); setTimeout(connect, 2000); }
  };
}

// changed requests a redraw. All requests before the next frame share one redraw.
const changes = new Set();
function changed(part) {
  if (!changes.size) requestAnimationFrame(() => {
    const parts = new Set(changes);
    changes.clear();
    redraw(parts);
  });
  changes.add(part);
}
