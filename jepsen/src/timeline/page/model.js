// The data, and what can be looked up in them. Times are microseconds.

const T = JSON.parse(document.getElementById("timeline").textContent);
T.end = Math.max(T.end, 1);
const first = T.violations[0] || null;

const operationById = new Map(T.operations.map((o) => [o.id, o]));
const operationsOf = new Map();
for (const o of T.operations) {
  if (!operationsOf.has(o.client)) operationsOf.set(o.client, []);
  operationsOf.get(o.client).push(o);
}
for (const list of operationsOf.values()) list.sort((a, b) => a.from - b.from);
const watchesOf = new Map();
for (const w of T.watches) {
  if (!watchesOf.has(w.client)) watchesOf.set(w.client, []);
  watchesOf.get(w.client).push(w);
}
const clientByNumber = new Map(T.clients.map((c) => [c.number, c]));

// Operation id to its part in the first violation.
const parts = new Map(first ? first.operations.map((p) => [p.operation, p.part]) : []);
const watchesInvolved = new Set(first ? first.watches : []);
const nodesInvolved = new Set(first ? first.nodes : []);

// The operation that cannot be as it says: the last that the check itself names.
const mainOperation = (() => {
  if (!first) return null;
  const named = first.operations.filter((p) => p.part === "named by the check").map((p) => operationById.get(p.operation));
  return named.filter(Boolean).sort((a, b) => a.from - b.from).pop() || null;
})();

function endOf(o) { return o.to === undefined ? T.end : o.to; }

function clientName(number) {
  const c = clientByNumber.get(number);
  return c && c.role !== "client" ? c.role + " " + number : "client " + number;
}

function nodeName(index) {
  const n = T.nodes[index];
  return n ? n.name : "node " + index;
}

const COLOUR_OF_KIND = { get: "read", "get-serializable": "read", "get-at-revision": "read", put: "write", delete: "write", txn: "txn", lease: "lease" };
function colourOf(kind) { return COLOUR_OF_KIND[kind] || "other"; }

// The last item whose `at` is not above the time, by halving; -1: none.
function lastBefore(list, time, at) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(list[middle]) <= time) low = middle + 1; else high = middle;
  }
  return low - 1;
}

function lifeAt(node, time) {
  const i = lastBefore(node.lives, time, (l) => l.from);
  const life = node.lives[i];
  if (!life) return { state: "not started" };
  if (life.ended && life.ended.at <= time) return { state: "down", how: life.ended.how };
  const paused = (life.pauses || []).some(([from, to]) => from <= time && time < to);
  return { state: paused ? "paused" : "up", life };
}

// What a node says of itself; nothing while its process is not the one that said it.
function stateAt(node, time) {
  const i = lastBefore(node.states, time, (s) => s[0]);
  const row = node.states[i];
  if (!row) return null;
  const now = lifeAt(node, time);
  if (now.state === "down" || (now.life && row[0] < now.life.from)) return null;
  return { at: row[0], term: row[1], leader: row[2], committed: row[3], applied: row[4], snapshot: row[5], fresh: now.state !== "paused" };
}

// Periods in which a host was cut off, and from whom: [{from, to, others: [[name, "both" | "out" | "in"]]}].
const cutsOf = new Map();
function cutPeriods(host) {
  if (cutsOf.has(host)) return cutsOf.get(host);
  const own = T.cuts.filter((c) => c.from_host === host || c.to_host === host);
  const times = [...new Set(own.flatMap((c) => [c.from, c.to]))].sort((a, b) => a - b);
  const periods = [];
  for (let i = 0; i + 1 < times.length; i++) {
    const here = own.filter((c) => c.from <= times[i] && c.to >= times[i + 1]);
    if (!here.length) continue;
    const ways = new Map();
    for (const c of here) {
      const other = c.from_host === host ? c.to_host : c.from_host;
      const way = c.from_host === host ? "out" : "in";
      ways.set(other, ways.has(other) && ways.get(other) !== way ? "both" : way);
    }
    const others = [...ways].sort((a, b) => (a[0] < b[0] ? -1 : 1));
    const last = periods[periods.length - 1];
    if (last && last.to === times[i] && JSON.stringify(last.others) === JSON.stringify(others)) last.to = times[i + 1];
    else periods.push({ from: times[i], to: times[i + 1], others });
  }
  cutsOf.set(host, periods);
  return periods;
}

function cutText(period) {
  const by = (way) => period.others.filter((o) => o[1] === way).map((o) => o[0]);
  const texts = [];
  if (by("both").length) texts.push("cut from " + by("both").join(" "));
  if (by("out").length) texts.push("cannot reach " + by("out").join(" "));
  if (by("in").length) texts.push("hears nothing of " + by("in").join(" "));
  return texts.join(", ");
}

function cutAt(host, time) { return cutPeriods(host).find((p) => p.from <= time && time < p.to); }

function seconds(time, digits) {
  return (time / 1e6).toFixed(digits === undefined ? 6 : digits) + " s";
}

function duration(time) {
  if (time < 1000) return time + " µs";
  if (time < 1e6) return (time / 1e3).toFixed(time < 1e4 ? 2 : 1) + " ms";
  return (time / 1e6).toFixed(2) + " s";
}

// Whether an operation names a key: as text, or in one of its ranges.
function namesKey(o, key) {
  return o.keys.some((k) => {
    if (k.includes(key)) return true;
    const dots = k.indexOf("..");
    if (dots < 0) return false;
    const from = k.slice(0, dots), to = k.slice(dots + 2);
    return from <= key && (to === "" || key < to);
  });
}
