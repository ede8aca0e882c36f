// The lanes: faults, nodes, clients, watchers. Each lane draws itself and leaves boxes that can be hit.

const canvas = document.getElementById("lanes");
const scroller = document.getElementById("scroll");
const NODE_HEIGHT = 80, CLIENT_HEIGHT = 23, WATCH_HEIGHT = 17, FAULT_HEIGHT = 17, TITLE_HEIGHT = 19;
let boxes = [];
let laid = [];
let callouts = [];

const x = { of: (time) => time, width: 0 };
function timeAt(pixel) { return view.from + ((pixel - GUTTER) / x.width) * (view.to - view.from); }

// Faults side by side where they overlap.
const faultRows = (() => {
  const ends = [];
  const gap = T.end / 90;
  return T.faults.map((f) => {
    let row = ends.findIndex((end) => end <= f.from);
    if (row < 0) row = ends.length;
    ends[row] = Math.max(f.to, f.from + gap);
    return row;
  });
})();

function isInvolvedClient(number) {
  return (operationsOf.get(number) || []).some((o) => parts.has(o.id)) || (watchesOf.get(number) || []).some((w) => watchesInvolved.has(w.id));
}

// From top to bottom: [{type, height, top, …}]. Clients that the violation is about come first.
function layOut() {
  const lanes = [];
  const add = (lane) => lanes.push(lane);
  if (T.faults.length) {
    add({ type: "title", text: "faults", height: TITLE_HEIGHT });
    add({ type: "faults", name: "faults", height: FAULT_HEIGHT * (Math.max(...faultRows) + 1) + 4 });
  }
  add({ type: "title", text: "nodes", height: TITLE_HEIGHT });
  T.nodes.forEach((node, index) => add({ type: "node", node, index, name: node.name, height: NODE_HEIGHT }));
  const visible = T.clients.filter((c) => !view.hiddenClients.has(c.number) && (!view.onlyInvolved || isInvolvedClient(c.number)));
  visible.sort((a, b) => isInvolvedClient(b.number) - isInvolvedClient(a.number) || a.number - b.number);
  const callers = visible.filter((c) => operationsOf.has(c.number));
  const watchers = visible.filter((c) => watchesOf.has(c.number));
  const clientLanes = () => {
    if (callers.length) add({ type: "title", text: "clients", height: TITLE_HEIGHT });
    for (const client of callers) add({ type: "client", client, name: clientName(client.number), height: CLIENT_HEIGHT });
  };
  const watcherLanes = () => {
    if (watchers.length) add({ type: "title", text: "watchers", height: TITLE_HEIGHT });
    for (const client of watchers) {
      const watches = watchesOf.get(client.number).filter((w) => !view.onlyInvolved || watchesInvolved.has(w.id) || !watchesInvolved.size);
      watches.forEach((watch, i) => add({ type: "watch", client, watch, first: i === 0, name: clientName(client.number), height: WATCH_HEIGHT }));
    }
  };
  if (watchesInvolved.size) { watcherLanes(); clientLanes(); } else { clientLanes(); watcherLanes(); }
  let top = 0;
  for (const lane of lanes) { lane.top = top; top += lane.height; }
  return { lanes, height: top + 8 };
}

function box(lane, type, item, left, top, width, height) {
  boxes.push({ lane, type, item, left: width < 5 ? left - (5 - width) / 2 : left, top, width: Math.max(width, 5), height });
}

function drawLanes() {
  const { lanes, height } = layOut();
  laid = lanes;
  boxes = [];
  callouts = [];
  const { c, width } = prepare(canvas, height);
  x.width = Math.max(width - GUTTER - 8, 50);
  x.of = (time) => GUTTER + ((time - view.from) / (view.to - view.from)) * x.width;
  const scale = indexScale();
  c.font = FONT;
  lanes.forEach((lane, i) => {
    if (lane.type === "title") return drawTitle(c, lane, width);
    c.save();
    c.beginPath();
    c.rect(GUTTER, lane.top, width - GUTTER, lane.height);
    c.clip();
    drawOutside(c, lane.top, lane.height);
    if (lane.type === "faults") drawFaults(c, lane);
    if (lane.type === "node") drawNode(c, lane, scale);
    if (lane.type === "client") drawClient(c, lane);
    if (lane.type === "watch") drawWatch(c, lane);
    c.restore();
    drawLabel(c, lane);
    c.strokeStyle = colours.line;
    c.lineWidth = 1;
    const next = lanes[i + 1];
    if (!(lane.type === "watch" && next && next.type === "watch" && !next.first)) line(c, 0, lane.top + lane.height - 0.5, width);
  });
  drawArrows(c);
  drawCallouts(c);
  drawLines(c, height);
}

function line(c, left, y, right) {
  c.beginPath(); c.moveTo(left, y); c.lineTo(right, y); c.stroke();
}

function drawTitle(c, lane, width) {
  c.fillStyle = colours.faint;
  c.fillRect(0, lane.top, width, lane.height);
  c.fillStyle = colours.muted;
  c.font = BOLD;
  c.fillText(lane.text, 8, lane.top + lane.height / 2 + 0.5);
  c.font = FONT;
}

// Before the beginning and after the end there is nothing.
function drawOutside(c, top, height) {
  c.fillStyle = colours.faint;
  const begin = x.of(0), end = x.of(T.end);
  if (begin > GUTTER) c.fillRect(GUTTER, top, begin - GUTTER, height);
  c.fillRect(end, top, 1e5, height);
}

function drawLabel(c, lane) {
  const middle = lane.top + (lane.type === "node" ? 12 : lane.height / 2);
  const involved = (lane.type === "client" && isInvolvedClient(lane.client.number)) || (lane.type === "node" && nodesInvolved.has(lane.index)) || (lane.type === "watch" && watchesInvolved.has(lane.watch.id));
  c.font = involved || lane.type === "node" ? BOLD : FONT;
  c.fillStyle = involved ? colours.bad : colours.ink;
  if (lane.type === "watch") {
    if (lane.first) clipped(c, lane.client.role === "watcher" ? "w " + lane.client.number : lane.name, 8, middle, 52);
    c.font = FONT;
    c.fillStyle = involved ? colours.bad : colours.muted;
    clipped(c, lane.watch.label, 56, middle, GUTTER - 60);
    return;
  }
  if (lane.type === "faults") return;
  const wide = clipped(c, lane.name, 8, middle, GUTTER - 40);
  c.font = FONT;
  c.fillStyle = colours.muted;
  if (lane.type === "client" && lane.client.host) clipped(c, "on " + lane.client.host, 14 + wide, middle, GUTTER - 20 - wide);
  if (lane.type === "node") {
    const at = view.cursor === null ? view.to : view.cursor;
    const s = stateAt(lane.node, at), life = lifeAt(lane.node, at);
    const says = [life.state === "up" ? "" : life.state, s ? "term " + s.term : "", s ? (s.leader === lane.index ? "leads" : s.leader === null ? "no leader" : "follows " + nodeName(s.leader)) : ""];
    clipped(c, says.filter(Boolean).join(", "), 8, lane.top + 30, GUTTER - 14);
    if (s) {
      c.fillStyle = colours.commit;
      clipped(c, "committed " + s.committed, 8, lane.top + 46, GUTTER - 14);
      c.fillStyle = colours.apply;
      clipped(c, "applied " + s.applied, 8, lane.top + 60, GUTTER - 14);
    }
  }
}

function drawFaults(c, lane) {
  T.faults.forEach((f, i) => {
    const left = x.of(f.from), right = Math.max(x.of(f.to), left + 3);
    if (right < GUTTER || left > GUTTER + x.width) return;
    const top = lane.top + 3 + faultRows[i] * FAULT_HEIGHT;
    c.fillStyle = colours.fault;
    c.fillRect(left, top, right - left, FAULT_HEIGHT - 3);
    mark(c, f, left, top, right - left, FAULT_HEIGHT - 3);
    c.fillStyle = colours["fault-ink"];
    const start = Math.max(left, GUTTER) + 4;
    const room = Math.max(right - start, roomAfter(i, start));
    clipped(c, f.name + (f.nodes.length ? " " + f.nodes.map(nodeName).join(" ") : ""), start, top + 7.5, room);
    box(lane, "fault", f, left, top, right - left, FAULT_HEIGHT - 3);
  });
}

function roomAfter(i, start) {
  const next = T.faults.findIndex((f, j) => j > i && faultRows[j] === faultRows[i]);
  return (next < 0 ? GUTTER + x.width : x.of(T.faults[next].from)) - start - 4;
}

// One scale of indexes for all nodes, over what is in sight: who lags is lower.
function indexScale() {
  let low = Infinity, high = 0;
  for (const node of T.nodes) {
    const begin = Math.max(lastBefore(node.states, view.from, (s) => s[0]), 0);
    const end = lastBefore(node.states, view.to, (s) => s[0]);
    for (let i = begin; i <= end; i++) {
      low = Math.min(low, node.states[i][4], node.states[i][3] || Infinity);
      high = Math.max(high, node.states[i][3], node.states[i][4]);
    }
  }
  if (low === Infinity) { low = 0; high = 1; }
  return { low, high: Math.max(high, low + 4) };
}

function drawNode(c, lane, scale) {
  const { node, top } = lane;
  const bandTop = top + 3, bandHeight = 17, graphTop = top + 24, graphHeight = 34;
  const y = (index) => graphTop + graphHeight * (1 - (Math.max(index, scale.low) - scale.low) / (scale.high - scale.low));
  const lives = node.lives.length || !node.states.length ? node.lives : [{ from: 0 }];
  let lastEnd = 0, how = "not started";
  for (const life of lives) {
    drawDeath(c, lane, lastEnd, life.from, how);
    const end = life.ended ? life.ended.at : T.end;
    if (node.states.length) drawLife(c, lane, life.from, end, bandTop, bandHeight, y);
    else drawBareLife(c, lane, life, end, bandTop, bandHeight);
    for (const [from, to] of life.pauses || []) {
      c.fillStyle = hatch(c, colours.pause);
      rect(c, from, to, bandTop + bandHeight + 2, NODE_HEIGHT - 25);
      plate(c, "paused", from, to, top + 38);
      box(lane, "pause", { from, to, node: lane.index }, x.of(from), bandTop, x.of(to) - x.of(from), NODE_HEIGHT - 20);
    }
    lastEnd = end;
    how = life.ended ? life.ended.how : "";
  }
  drawDeath(c, lane, lastEnd, T.end, how);
  drawAims(c, lane);
  drawCuts(c, lane, node.name, top + NODE_HEIGHT - 16, 14, true);
  drawMarks(c, lane, top + 60);
}

function rect(c, from, to, top, height) {
  const left = Math.max(x.of(from), GUTTER - 2), right = Math.min(x.of(to), GUTTER + x.width + 12);
  if (right > left) c.fillRect(left, top, right - left, height);
}

function textIn(c, text, from, to, y) {
  const left = Math.max(x.of(from), GUTTER) + 5;
  return clipped(c, text, left, y, Math.min(x.of(to), GUTTER + x.width) - left - 3);
}

// Text on a ground of its own, so that stripes do not make it unreadable.
function plate(c, text, from, to, y) {
  const left = Math.max(x.of(from), GUTTER) + 5;
  const room = Math.min(x.of(to), GUTTER + x.width) - left - 5;
  c.font = BOLD;
  const wide = Math.min(c.measureText(text).width, room);
  c.fillStyle = colours.bg;
  if (wide > 14) c.fillRect(left - 3, y - 8, wide + 7, 16);
  c.fillStyle = colours.ink;
  clipped(c, text, left, y, room);
  c.font = FONT;
}

function drawDeath(c, lane, from, to, how) {
  if (to <= from || x.of(to) < GUTTER || x.of(from) > GUTTER + x.width) return;
  c.save();
  c.globalAlpha = 0.45;
  c.fillStyle = hatch(c, colours.dead);
  rect(c, from, to, lane.top + 3, NODE_HEIGHT - 6);
  c.restore();
  plate(c, how === "not started" ? how : "down: " + how, from, to, lane.top + 38);
  box(lane, "death", { from, to, how, node: lane.index }, x.of(from), lane.top + 3, x.of(to) - x.of(from), NODE_HEIGHT - 20);
}

// Without a look inside: up is all that is known.
function drawBareLife(c, lane, life, end, top, height) {
  c.fillStyle = termColour(0, false);
  rect(c, life.from, end, top, height);
  c.fillStyle = colours.ink;
  textIn(c, "up", life.from, end, top + height / 2 + 0.5);
}

// Bands of one term and one leader, and the indexes as steps.
function drawLife(c, lane, from, to, top, height, y) {
  const states = lane.node.states;
  const begin = Math.max(lastBefore(states, Math.max(from, view.from), (s) => s[0]), 0);
  const last = lastBefore(states, Math.min(to, view.to), (s) => s[0]);
  let band = null;
  const close = (until) => {
    if (!band) return;
    const leads = band.leader === lane.index;
    c.fillStyle = termColour(band.term, leads);
    rect(c, band.from, until, top, height);
    c.fillStyle = leads ? "#111" : colours.ink;
    c.font = leads ? BOLD : FONT;
    textIn(c, "term " + band.term + (leads ? " · LEADS" : band.leader === null ? " · no leader" : " · follows " + nodeName(band.leader)), band.from, until, top + height / 2 + 0.5);
    c.font = FONT;
    box(lane, "band", { ...band, to: until, node: lane.index }, x.of(band.from), top, x.of(until) - x.of(band.from), height);
  };
  const commit = new Path2D(), apply = new Path2D();
  let drawn = false, snapshot = null;
  for (let i = begin; i <= last; i++) {
    const [at, term, leader, committed, applied, snap] = states[i];
    if (at < from) continue;
    if (!band || band.term !== term || band.leader !== leader) {
      close(at);
      band = { from: at, term, leader };
    }
    const left = Math.max(x.of(at), GUTTER - 5);
    const next = i + 1 < states.length && states[i + 1][0] < to ? states[i + 1][0] : to;
    const right = Math.min(x.of(next), GUTTER + x.width + 10);
    for (const [path, index] of [[commit, committed], [apply, applied]]) {
      if (drawn) path.lineTo(left, y(index)); else path.moveTo(left, y(index));
      path.lineTo(right, y(index));
    }
    drawn = true;
    if (snapshot !== null && snap > snapshot) drawGlyph(c, x.of(at), y(snap), "snapshot");
    snapshot = snap;
  }
  close(to);
  c.lineWidth = 3;
  c.strokeStyle = colours.apply;
  c.globalAlpha = 0.55;
  c.stroke(apply);
  c.globalAlpha = 1;
  c.lineWidth = 1.2;
  c.strokeStyle = colours.commit;
  c.stroke(commit);
  c.lineWidth = 1;
}

// Faults aimed at this node: a thin bar below the terms.
function drawAims(c, lane) {
  T.faults.forEach((f) => {
    if (!f.nodes.includes(lane.index)) return;
    const left = x.of(f.from), right = Math.max(x.of(f.to), left + 2);
    if (right < GUTTER || left > GUTTER + x.width) return;
    c.fillStyle = colours.warn;
    c.fillRect(left, lane.top + 21, right - left, 2.5);
    box(lane, "fault", f, left, lane.top + 20, right - left, 6);
  });
}

function drawCuts(c, lane, host, top, height, wordy) {
  for (const period of cutPeriods(host)) {
    const left = Math.max(x.of(period.from), GUTTER), right = Math.min(x.of(period.to), GUTTER + x.width + 8);
    if (right <= left) continue;
    c.fillStyle = colours.cut;
    c.globalAlpha = wordy ? 0.22 : 0.85;
    c.fillRect(left, top, right - left, height);
    c.globalAlpha = 1;
    if (wordy) {
      c.fillRect(left, top, right - left, 1.5);
      c.fillStyle = colours.ink;
      clipped(c, "✂ " + cutText(period), left + 4, top + height / 2 + 1.5, right - left - 6);
    }
    box(lane, "cut", { ...period, host }, left, top, right - left, height);
  }
}

const GLYPHS = { vote: ["▲", "accent"], snapshot: ["◆", "txn"], warning: ["!", "bad"], remark: ["•", "muted"] };
function drawGlyph(c, left, y, tone) {
  const [glyph, colour] = GLYPHS[tone] || GLYPHS.remark;
  c.fillStyle = colours[colour];
  c.font = BOLD;
  c.textAlign = "center";
  c.fillText(glyph, left, y);
  c.textAlign = "left";
  c.font = FONT;
}

function drawMarks(c, lane, y) {
  for (const m of lane.node.marks) {
    const left = x.of(m.at);
    if (left < GUTTER || left > GUTTER + x.width) continue;
    drawGlyph(c, left, y, m.tone);
    mark(c, m, left - 4, y - 6, 8, 12);
    box(lane, "mark", m, left - 4, y - 7, 8, 14);
  }
}

// The frame of what was searched, or chosen.
function mark(c, item, left, top, width, height) {
  const chosen = view.chosen && view.chosen.item === item;
  if (!chosen && !view.found.has(item)) return;
  c.strokeStyle = chosen ? colours.ink : colours.frame;
  c.lineWidth = 2;
  c.strokeRect(left - 1, top - 1, width + 2, height + 2);
  c.lineWidth = 1;
}

function drawClient(c, lane) {
  const list = operationsOf.get(lane.client.number) || [];
  const top = lane.top + 3, height = CLIENT_HEIGHT - 9;
  drawCuts(c, lane, lane.client.host, lane.top + CLIENT_HEIGHT - 4, 2.5, false);
  let begin = lastBefore(list, view.from, (o) => o.from);
  begin = Math.max(begin, 0);
  for (let i = begin; i < list.length && list[i].from <= view.to; i++) {
    const next = list[i + 1];
    drawOperation(c, lane, list[i], top, height, next ? x.of(next.from) : GUTTER + x.width);
  }
}

function drawOperation(c, lane, o, top, height, limit) {
  const left = x.of(o.from), right = Math.max(x.of(endOf(o)), left + 2.5);
  const colour = colours[colourOf(o.kind)];
  const involved = parts.has(o.id);
  c.globalAlpha = isHiddenOperation(o) ? 0.1 : 1;
  if (o.outcome === "unknown") {
    c.fillStyle = hatch(c, colour);
    c.fillRect(left, top, right - left, height);
    c.strokeStyle = colour;
    c.setLineDash([3, 2]);
    c.strokeRect(left + 0.5, top + 0.5, right - left - 1, height - 1);
    c.setLineDash([]);
  } else if (o.outcome === "denied") {
    c.strokeStyle = colour;
    c.strokeRect(left + 0.5, top + 0.5, Math.max(right - left - 1, 1), height - 1);
  } else {
    c.fillStyle = colour;
    c.fillRect(left, top, right - left, height);
  }
  if (involved) {
    c.strokeStyle = colours.bad;
    c.lineWidth = 2.5;
    c.strokeRect(left - 2, top - 2, right - left + 4, height + 4);
    c.lineWidth = 1;
  } else mark(c, o, left, top, right - left, height);
  const text = o.label + (o.writes ? " → r" + o.revision : "");
  if (involved && !isHiddenOperation(o)) callouts.push({ o, text: "#" + o.id + " " + text, left, right, y: top + height / 2 + 0.5 });
  else {
    const inside = right - left > 60 && o.outcome === "ok";
    const start = inside ? Math.max(left, GUTTER) + 4 : right + 4;
    c.fillStyle = inside ? (document.documentElement.classList.contains("dark") ? "#111" : "#fff") : colours.muted;
    const room = limit - start - 3;
    if (room > 26) clipped(c, text, start, top + height / 2 + 0.5, room);
  }
  c.globalAlpha = 1;
  if (!isHiddenOperation(o)) box(lane, "operation", o, left, top - 2, right - left, height + 4);
}

// What is involved says so on top of everything: to the right of its bar, or to the left if another one is there.
function drawCallouts(c) {
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, x.width + 8, 1e5); c.clip();
  c.font = BOLD;
  for (const call of callouts) {
    const room = Math.min(c.measureText(call.text).width, 260);
    const crowded = callouts.some((other) => other !== call && other.y === call.y && other.left >= call.right && other.left < call.right + room + 10);
    const leftward = crowded || (call.right + room > GUTTER + x.width && call.left - room > GUTTER);
    const start = leftward ? call.left - room - 7 : call.right + 6;
    c.fillStyle = colours.bg;
    c.globalAlpha = 0.88;
    c.fillRect(start - 2, call.y - 8, room + 4, 15);
    c.globalAlpha = 1;
    c.fillStyle = colours.bad;
    clipped(c, call.text, start, call.y, room + 1);
  }
  c.restore();
  c.font = FONT;
}

function drawWatch(c, lane) {
  const { watch, top } = lane;
  const y = top + WATCH_HEIGHT / 2;
  const involved = watchesInvolved.has(watch.id);
  let open = null;
  const line = (from, to) => {
    c.strokeStyle = involved ? colours.bad : colours.muted;
    c.globalAlpha = 0.6;
    c.beginPath(); c.moveTo(Math.max(x.of(from), GUTTER - 4), y); c.lineTo(Math.min(x.of(to), GUTTER + x.width + 9), y); c.stroke();
    c.globalAlpha = 1;
  };
  const isTold = (e) => e.kind === "events" || e.kind === "progress";
  watch.entries.forEach((e, i) => {
    const left = x.of(e.at);
    if (e.kind === "opened") { if (open !== null) line(open, e.at); open = e.at; }
    if (e.kind === "closed" || e.kind === "canceled" || e.kind === "compacted") { if (open !== null) line(open, e.at); open = null; }
    if (left < GUTTER - 4 || left > GUTTER + x.width + 4) return;
    const here = first && involved && e.at === first.at;
    c.fillStyle = c.strokeStyle = here ? colours.bad : e.kind === "events" ? colours.write : e.kind === "compacted" || e.kind === "canceled" ? colours.bad : colours.muted;
    c.beginPath();
    if (e.kind === "events") { c.arc(left, y, here ? 5 : 3.2, 0, 7); c.fill(); }
    else if (e.kind === "opened") { c.moveTo(left, y - 6); c.lineTo(left + 6, y); c.lineTo(left, y + 6); c.fill(); }
    else if (e.kind === "closed" || e.kind === "canceled" || e.kind === "compacted") { c.moveTo(left - 3, y - 4); c.lineTo(left + 3, y + 4); c.moveTo(left + 3, y - 4); c.lineTo(left - 3, y + 4); c.stroke(); }
    else if (e.kind === "due") { c.strokeRect(left - 3, y - 3, 6, 6); }
    else { c.moveTo(left + 0.5, y - 4); c.lineTo(left + 0.5, y + 4); c.stroke(); }
    mark(c, e, left - 5, y - 6, 10, 12);
    if (isTold(e) && e.revisions) {
      const [a, b] = e.revisions;
      const text = e.kind === "progress" ? "p" + b : a === b ? "r" + a : "r" + a + "–" + b;
      const next = watch.entries[i + 1];
      c.font = here ? BOLD : FONT;
      if (here || !next || x.of(next.at) - left > c.measureText(text).width + 12) c.fillText(text, left + 6, y - 2.5);
      c.font = FONT;
    }
    box(lane, "entry", e, left - 5, top, 10, WATCH_HEIGHT);
  });
  if (open !== null) line(open, T.end);
}

// From what was over before the main operation began: that order is binding.
function drawArrows(c) {
  if (!mainOperation) return;
  const place = (o) => laid.find((l) => l.type === "client" && l.client.number === o.client);
  const to = place(mainOperation);
  if (!to || isHiddenOperation(mainOperation)) return;
  for (const id of parts.keys()) {
    const o = operationById.get(id);
    if (!o || o === mainOperation || endOf(o) > mainOperation.from) continue;
    const from = place(o);
    if (!from || isHiddenOperation(o)) continue;
    const x1 = x.of(endOf(o)), x2 = x.of(mainOperation.from);
    if (x2 < GUTTER || x1 > GUTTER + x.width) continue;
    const y1 = from.top + CLIENT_HEIGHT / 2 - 1, y2 = to.top + CLIENT_HEIGHT / 2 - 1;
    c.save();
    c.beginPath(); c.rect(GUTTER, 0, x.width + 8, 1e5); c.clip();
    c.strokeStyle = c.fillStyle = colours.bad;
    c.setLineDash([4, 3]);
    c.globalAlpha = 0.75;
    const bend = y1 === y2 ? -14 : 0;
    c.beginPath();
    c.moveTo(x1 + 2, y1);
    c.bezierCurveTo(x1 + (x2 - x1) * 0.4, y1 + bend, x1 + (x2 - x1) * 0.6, y2 + bend, x2 - 3, y2);
    c.stroke();
    c.setLineDash([]);
    c.beginPath(); c.moveTo(x2 - 2, y2); c.lineTo(x2 - 9, y2 - 4); c.lineTo(x2 - 9, y2 + 4); c.fill();
    c.restore();
  }
}

function drawLines(c, height) {
  if (first) {
    const left = x.of(first.at);
    if (left >= GUTTER && left <= GUTTER + x.width + 8) {
      c.strokeStyle = colours.bad;
      c.lineWidth = 1.5;
      c.beginPath(); c.moveTo(left, 0); c.lineTo(left, height); c.stroke();
      c.lineWidth = 1;
    }
  }
  if (view.cursor !== null) {
    const left = x.of(view.cursor);
    if (left >= GUTTER) {
      c.strokeStyle = colours.muted;
      c.setLineDash([2, 3]);
      c.beginPath(); c.moveTo(left, 0); c.lineTo(left, height); c.stroke();
      c.setLineDash([]);
    }
  }
}

function boxAt(px, py) {
  let best = null;
  for (const b of boxes) {
    if (px < b.left - 1 || px > b.left + b.width + 1 || py < b.top || py > b.top + b.height) continue;
    if (!best || b.width * b.height < best.width * best.height) best = b;
  }
  return best;
}
