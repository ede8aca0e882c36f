// The texts around the lanes: the violation, details of what is chosen, members, legend, filters.

function make(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") e.className = value;
    else if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) e.append(child);
  return e;
}
const by = (id) => document.getElementById(id);
function fill(id, ...children) { by(id).replaceChildren(...children.flat().filter((c) => c !== null)); }

function operationButton(id) {
  return make("button", { type: "button", class: "op", onclick: () => chooseOperation(operationById.get(id)) }, "#" + id);
}

// Text in which each "#12" leads to the operation.
function linked(text) {
  return text.split(/(#\d+)/).map((piece) => {
    const id = /^#\d+$/.test(piece) ? Number(piece.slice(1)) : null;
    return id !== null && operationById.has(id) ? operationButton(id) : piece;
  });
}

function fillHead() {
  by("title").textContent = T.title;
  by("badge").textContent = T.verdict;
  by("badge").className = T.verdict;
  fill("facts", T.facts.flatMap((f, i) => [i ? " · " : "", f.name + " ", make("b", {}, f.value)]));
  by("command").textContent = T.command;
  by("copy").hidden = by("command").hidden = !T.command;
  by("copy").addEventListener("click", () => navigator.clipboard && navigator.clipboard.writeText(T.command));
}

function fillVerdict() {
  if (!first) {
    by("verdict").className = "good";
    fill("verdict", T.verdict === "passed" ? "No property was violated. " : "No violation was found. ", T.operations.length + " operations, " + T.watches.length + " watches.");
    by("to-violation").hidden = true;
    by("only-involved").parentElement.hidden = true;
    return;
  }
  const rest = T.violations.slice(1);
  const rows = [...first.operations].map((p) => [p, operationById.get(p.operation)]).filter(([, o]) => o).sort((a, b) => a[1].from - b[1].from);
  const table = make("table", {}, rows.map(([p, o]) =>
    make("tr", { class: "pick" + (o === mainOperation ? " main" : ""), onclick: () => chooseOperation(o) },
      make("td", { class: "mono" }, make("button", { type: "button", class: "op" }, "#" + o.id)),
      make("td", { class: "mono" }, seconds(o.from, 3)),
      make("td", {}, clientName(o.client) + " → " + nodeName(o.node)),
      make("td", { class: "mono" }, o.label + (o.writes ? " → r" + o.revision : o.revision ? " (at r" + o.revision + ")" : "") + (o.outcome === "ok" ? "" : " [" + o.outcome + "]")),
      make("td", { class: "part" }, p.part))));
  const watches = first.watches.map((id) => T.watches.find((w) => w.id === id)).filter(Boolean);
  fill("verdict",
    make("div", {},
      make("h2", {}, first.property + " is violated at " + seconds(first.at, 3)),
      make("p", {}, first.promise),
      first.source ? make("p", { class: "source" }, "Source: " + first.source + ".") : null,
      make("pre", {}, linked(first.text)),
      rest.length ? make("details", {}, make("summary", {}, rest.length + " more violation" + (rest.length > 1 ? "s" : "") + " follow"),
        rest.slice(0, 20).map((v) => make("div", {}, make("b", {}, v.property + " at " + seconds(v.at, 3)), make("pre", {}, linked(v.text))))) : null),
    make("div", {},
      rows.length ? [make("h2", {}, "What it is about, in order of time"), table] : null,
      watches.length ? make("p", {}, "Watch: " + watches.map((w) => w.id + " of " + clientName(w.client) + " on " + w.label).join("; ")) : null,
      make("p", { class: "source" }, situation(first.at)),
      make("p", { class: "source" }, faultsNear(first.at))));
}

// The members at the moment of the violation, in a sentence each.
function situation(time) {
  const texts = T.nodes.map((node, index) => {
    const life = lifeAt(node, time), s = stateAt(node, time), cut = cutAt(node.name, time);
    const says = [];
    if (life.state !== "up") says.push(life.state + (life.how ? " (" + life.how + ")" : ""));
    if (s) says.push((s.leader === index ? "leads" : s.leader === null ? "knows no leader in" : "follows " + nodeName(s.leader) + " in") + " term " + s.term + ", applied " + s.applied);
    if (cut) says.push(cutText(cut));
    return node.name + " " + (says.join(", ") || "is up");
  });
  return "Members then: " + texts.join("; ") + ".";
}

function faultsNear(time) {
  const begin = Math.min(time, ...[...parts.keys()].map((id) => operationById.get(id)).filter(Boolean).map((o) => o.from));
  const near = T.faults.filter((f) => f.to >= begin - 5e6 && f.from <= time).slice(-6);
  if (!near.length) return T.faults.length ? "No fault in the five seconds before." : "";
  return "Faults since " + seconds(Math.max(begin - 5e6, 0), 1) + ": " + near.map((f) => f.name + " " + f.nodes.map(nodeName).join(" ") + " (" + seconds(f.from, 2) + " to " + seconds(f.to, 2) + ")").join("; ") + ".";
}

function rowsOf(pairs) {
  return make("table", {}, pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined).map(([name, value]) => make("tr", {}, make("th", {}, name), make("td", {}, value))));
}

// What details and tips say of an item: [title, pairs, texts].
function describe(type, item, lane) {
  switch (type) {
    case "operation":
      return ["#" + item.id + " " + item.kind, [
        ["client", clientName(item.client)], ["asked", nodeName(item.node)], ["sent", seconds(item.from)],
        ["returned", item.to === undefined ? "never" : seconds(item.to) + " (" + duration(item.to - item.from) + ")"],
        ["outcome", item.outcome === "unknown" ? "unknown: it may take effect, now, later or never" : item.outcome === "denied" ? "refused: it had no effect" : "answered"],
        ["revision", item.revision ? (item.writes ? "made " : "read at ") + item.revision : ""],
        ["its part", parts.get(item.id) || ""],
      ], item.request ? [["request", item.request], ["answer", item.answer]] : [["in short", item.label]]];
    case "fault":
      return [item.name, [["nodes", item.nodes.map(nodeName).join(" ")], ["from", seconds(item.from)], ["to", seconds(item.to) + " (" + duration(item.to - item.from) + ")"]], [["drawn as", item.text]]];
    case "band":
      return [nodeName(item.node) + ", term " + item.term, [["leader", item.leader === null ? "none known" : item.leader === item.node ? "itself" : nodeName(item.leader)], ["from", seconds(item.from)], ["to", seconds(item.to)]], []];
    case "death":
      return [nodeName(item.node) + " is down", [["how", item.how], ["from", seconds(item.from)], ["to", seconds(item.to) + " (" + duration(item.to - item.from) + ")"]], []];
    case "pause":
      return [nodeName(item.node) + " is paused", [["from", seconds(item.from)], ["to", seconds(item.to) + " (" + duration(item.to - item.from) + ")"]], []];
    case "cut":
      return ["links of " + item.host, [["from", seconds(item.from)], ["to", seconds(item.to) + " (" + duration(item.to - item.from) + ")"]], [["", cutText(item)]]];
    case "mark":
      return [lane.name + ": " + item.tone, [["at", seconds(item.at)]], [["", item.text]]];
    case "entry": {
      const [a, b] = item.revisions || [];
      const word = item.kind === "opened" ? "from revision" : item.kind === "events" ? "revisions" : "revision";
      return ["watch " + lane.watch.id + ": " + item.kind, [
        ["on", lane.watch.label], ["of", clientName(lane.client.number)], ["at", seconds(item.at)], ["node", item.node === undefined ? "" : nodeName(item.node)],
        [word, a === undefined ? "" : a === b ? a : a + " to " + b],
      ], item.text ? [["", item.text]] : []];
    }
  }
  return ["", [], []];
}

function drawDetails() {
  const chosen = view.chosen;
  if (!chosen) {
    fill("details", make("h2", {}, "details"), make("p", { class: "muted" }, "Point at anything; click to keep it here."));
    return;
  }
  const [title, pairs, texts] = describe(chosen.type, chosen.item, chosen.lane);
  const keys = chosen.type === "operation" ? chosen.item.keys : [];
  fill("details",
    make("h2", {}, "details (n and p: next and previous here)"),
    make("b", {}, title), rowsOf(pairs),
    texts.flatMap(([name, text]) => [name ? make("h2", {}, name) : null, make("pre", {}, text)]),
    keys.length ? make("p", {}, "only operations on: ", keys.slice(0, 6).flatMap((k) => [make("button", { type: "button", class: "op mono", onclick: () => setKey(k) }, k), " "])) : null);
}

function setKey(key) {
  const plain = key.split("..")[0];
  by("filter-key").value = view.key = view.key === plain ? "" : plain;
  changed();
}

let membersOf = null;
function drawMembers() {
  const time = view.cursor === null ? (first ? first.at : view.to) : view.cursor;
  if (membersOf === time) return;
  membersOf = time;
  const rows = T.nodes.map((node, index) => {
    const life = lifeAt(node, Math.min(time, T.end - 1)), s = stateAt(node, time), cut = cutAt(node.name, time);
    return make("tr", {}, make("td", {}, make("b", {}, node.name)),
      make("td", { class: life.state === "up" ? "" : "bad" }, life.state),
      make("td", {}, s ? s.term : ""), make("td", {}, s ? (s.leader === index ? "leads" : s.leader === null ? "none" : nodeName(s.leader)) : ""),
      make("td", {}, s ? s.committed : ""), make("td", {}, s ? s.applied : ""),
      make("td", { class: "bad" }, cut ? "✂" : ""));
  });
  fill("members", make("h2", {}, "nodes at " + seconds(time, 4)),
    make("table", {}, make("tr", {}, ["", "", "term", "leader", "commit", "applied", ""].map((h) => make("th", {}, h))), rows));
}

function fillLegend() {
  const swatch = (css) => make("span", { class: "swatch", style: css });
  const hatched = (colour) => `background: repeating-linear-gradient(135deg, var(--${colour}) 0 2px, transparent 2px 5px)`;
  const row = (css, text) => make("div", {}, swatch(css), text);
  const glyph = (g, colour, text) => make("div", {}, make("span", { class: "swatch", style: `color: var(--${colour}); height: auto; text-align: center` }, g), text);
  fill("legend", make("h2", {}, "legend"),
    row(`background: ${termColour(1, true)}`, "a node leads in this term (one colour for each term)"),
    row(`background: ${termColour(1, false)}`, "it follows, or knows no leader"),
    row(hatched("dead"), "its process is down"), row(hatched("pause"), "it is paused"),
    row("border-top: 2px solid var(--commit); height: 2px; vertical-align: 4px", "committed index"),
    row("background: var(--apply); opacity: .55; height: 3px; vertical-align: 3px", "applied index (one scale for all nodes)"),
    row("background: color-mix(in srgb, var(--cut) 30%, transparent); border-top: 2px solid var(--cut)", "links cut; on a client's lane a thin line"),
    row("background: var(--fault)", "a fault; on a node's lane a thin line below the term"),
    row("background: var(--read)", "get"), row("background: var(--write)", "put, delete"), row("background: var(--txn)", "txn"),
    row("background: var(--lease)", "lease"), row("background: var(--other)", "compact and other"),
    row(hatched("write") + "; border: 1px dashed var(--write)", "unknown result: it may take effect, now, later, never"),
    row("border: 1px solid var(--write)", "refused: no effect"),
    row("border: 2px solid var(--bad)", "what the first violation is about"),
    make("div", {}, swatch("border-top: 2px dashed var(--bad); height: 2px; vertical-align: 4px"), "returned before the other was sent: that order binds"),
    glyph("▲", "accent", "a vote was given"), glyph("◆", "txn", "snapshot"), glyph("!", "bad", "the node's own warning"), glyph("•", "muted", "the node's own remark"),
    glyph("●", "write", "watch: events"), glyph("▸", "muted", "watch: stream opened"), glyph("×", "muted", "watch: stream closed"), glyph("|", "muted", "watch: created, progress"),
    make("p", { class: "muted" }, "→ r57: it made revision 57. @57: a pair last written at revision 57."));
}

function fillOmitted() {
  if (!T.omitted.length) return;
  fill("omitted", make("h2", {}, "left out, to keep this page small"), T.omitted.map((text) => make("div", { class: "bad" }, text + ".")));
}

function fillFilters() {
  const box = (checked, text, change) => {
    const input = make("input", { type: "checkbox" });
    input.checked = checked;
    input.addEventListener("change", () => { change(input.checked); changed(); });
    return make("label", {}, input, " " + text);
  };
  const all = (id, list, hidden, key, text) => {
    const boxes = list.map((item) => box(true, text(item), (on) => (on ? hidden.delete(key(item)) : hidden.add(key(item)))));
    const every = make("button", { type: "button", onclick: () => {
      const on = hidden.size > 0;
      boxes.forEach((b) => { b.firstChild.checked = on; });
      hidden.clear();
      if (!on) list.forEach((item) => hidden.add(key(item)));
      changed();
    } }, "all or none");
    fill(id, every, boxes);
  };
  all("filter-clients", T.clients, view.hiddenClients, (c) => c.number, (c) => clientName(c.number));
  const kinds = [...new Set(T.operations.map((o) => o.kind))].sort();
  all("filter-kinds", kinds, view.hiddenKinds, (k) => k, (k) => k);
  by("filter-key").addEventListener("input", (e) => { view.key = e.target.value.trim(); changed(); });
  by("only-involved").addEventListener("change", (e) => { view.onlyInvolved = e.target.checked; changed(); });
}
