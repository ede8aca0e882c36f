// Mouse, keys, search; and the first drawing.

const tip = by("tip");

function choose(type, item, lane) {
  view.chosen = { type, item, lane };
  membersOf = null;
  changed();
}

function laneOf(type, item) {
  return layOut().lanes.find((l) =>
    type === "operation" ? l.type === "client" && l.client.number === item.client
      : type === "entry" ? l.type === "watch" && l.watch.entries.includes(item)
        : type === "mark" ? l.type === "node" && l.node.marks.includes(item)
          : l.type === "faults");
}

function chooseOperation(o) {
  view.hiddenClients.delete(o.client);
  goTo("operation", o, o.from, endOf(o));
}

function goTo(type, item, from, to) {
  const lane = laneOf(type, item);
  choose(type, item, lane);
  view.cursor = from;
  showItem(from, to);
  if (lane) {
    const top = lane.top, bottom = lane.top + lane.height;
    if (top < scroller.scrollTop || bottom > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top - scroller.clientHeight / 3;
  }
}

// Everything that can be gone to on a lane, in order of time.
function itemsOn(lane) {
  const items = [];
  const add = (type, item, from, to) => items.push({ type, item, from, to });
  if (!lane || lane.type === "faults") T.faults.forEach((f) => add("fault", f, f.from, f.to));
  if (lane && lane.type === "client") for (const o of operationsOf.get(lane.client.number) || []) if (!isHiddenOperation(o)) add("operation", o, o.from, endOf(o));
  if (lane && lane.type === "watch") lane.watch.entries.forEach((e) => add("entry", e, e.at, e.at));
  if (lane && lane.type === "node") lane.node.marks.forEach((m) => add("mark", m, m.at, m.at));
  return items.sort((a, b) => a.from - b.from);
}

function step(by) {
  const lane = view.chosen && view.chosen.lane;
  const items = itemsOn(lane);
  if (!items.length) return;
  const now = view.chosen ? items.findIndex((i) => i.item === view.chosen.item) : -1;
  const next = now < 0 ? Math.max(0, items.findIndex((i) => i.from >= view.from)) : (now + by + items.length) % items.length;
  const found = items[next];
  if (found) goTo(found.type, found.item, found.from, found.to);
}

// To another lane: what is next to the middle of the view.
function stepLane(by) {
  const lanes = layOut().lanes.filter((l) => l.type !== "title" && itemsOn(l).length);
  if (!lanes.length) return;
  const same = (a, b) => a && a.type === b.type && a.name === b.name && a.watch === b.watch;
  const now = lanes.findIndex((l) => view.chosen && same(view.chosen.lane, l));
  const lane = lanes[(now + by + lanes.length) % lanes.length];
  const middle = view.cursor === null ? (view.from + view.to) / 2 : view.cursor;
  const items = itemsOn(lane);
  const found = items[Math.max(0, lastBefore(items, middle, (i) => i.from))];
  goTo(found.type, found.item, found.from, found.to);
}

function search(text) {
  view.search = text.trim();
  view.matches = [];
  view.match = -1;
  const wanted = view.search.toLowerCase();
  if (wanted) {
    const id = /^#\d+$/.test(wanted) ? Number(wanted.slice(1)) : null;
    const revision = /^r\d+$/.test(wanted) ? Number(wanted.slice(1)) : null;
    const has = (...texts) => texts.some((t) => t && t.toLowerCase().includes(wanted));
    const add = (type, item, from, to) => view.matches.push({ type, item, from, to });
    for (const o of T.operations) {
      const fits = id !== null ? o.id === id : revision !== null ? o.revision === revision : has(o.label, o.request, o.answer, o.kind, o.outcome);
      if (fits) add("operation", o, o.from, endOf(o));
    }
    if (id === null) for (const w of T.watches) for (const e of w.entries) {
      const within = revision !== null && e.revisions && e.revisions[0] <= revision && revision <= e.revisions[1];
      if (revision !== null ? e.kind === "events" && within : has(e.text, e.kind)) add("entry", e, e.at, e.at);
    }
    if (id === null && revision === null) {
      for (const f of T.faults) if (has(f.name, f.text)) add("fault", f, f.from, f.to);
      for (const n of T.nodes) for (const m of n.marks) if (has(m.text, m.tone)) add("mark", m, m.at, m.at);
    }
    view.matches.sort((a, b) => a.from - b.from);
  }
  view.found = new Set(view.matches.map((m) => m.item));
  by("found").textContent = wanted ? view.matches.length + " found" + (view.matches.length ? "; Enter goes on" : "") : "";
  changed();
}

function nextMatch(by_) {
  if (!view.matches.length) return;
  view.match = view.match < 0 ? Math.max(0, view.matches.findIndex((m) => m.from >= view.from)) : (view.match + by_ + view.matches.length) % view.matches.length;
  const m = view.matches[view.match];
  by("found").textContent = view.match + 1 + " of " + view.matches.length;
  goTo(m.type, m.item, m.from, m.to);
}

const KEYS = [
  ["←  →", "move"], ["+  −", "zoom"], ["0", "whole run"], ["v", "the violation"], ["n  p", "next, previous on the lane"],
  ["j  k", "lane below, above"], ["/", "search; Enter: next"], ["Esc", "let go"], ["t", "light or dark"], ["?", "these keys"],
  ["drag", "move"], ["Ctrl + wheel", "zoom"], ["double click", "zoom in"],
];

function toggleKeys() {
  by("keys").hidden = !by("keys").hidden;
  by("help").setAttribute("aria-expanded", String(!by("keys").hidden));
  changed();
}

function toggleTheme() {
  document.documentElement.classList.toggle("dark");
  readColours();
  fillLegend();
  changed();
}

function pressed(e) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== "checkbox";
  if (e.key === "Escape") {
    view.chosen = null;
    if (typing) e.target.blur();
    document.querySelectorAll("details.menu[open]").forEach((d) => { d.open = false; });
    return changed();
  }
  if (typing) {
    if (e.target.id === "search" && e.key === "Enter") nextMatch(e.shiftKey ? -1 : 1);
    return;
  }
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const action = {
    ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
    0: showAll, Home: showAll, v: showViolation, n: () => step(1), p: () => step(-1), j: () => stepLane(1), k: () => stepLane(-1),
    "/": () => by("search").focus(), "?": toggleKeys, t: toggleTheme,
  }[e.key];
  if (!action) return;
  e.preventDefault();
  action();
}

function pointed(e) {
  const area = canvas.getBoundingClientRect();
  const px = e.clientX - area.left, py = e.clientY - area.top;
  view.cursor = px >= GUTTER ? Math.max(0, Math.min(T.end, timeAt(px))) : null;
  const b = px >= GUTTER ? boxAt(px, py) : null;
  view.hover = b;
  if (b) {
    const [title, pairs, texts] = describe(b.type, b.item, b.lane);
    const lines = pairs.filter(([, v]) => v !== "" && v !== undefined).map(([n, v]) => n + ": " + v);
    const more = texts.map(([n, t]) => (n ? n + ": " : "") + (t.length > 420 ? t.slice(0, 420) + "…" : t));
    tip.replaceChildren(make("b", {}, title), "\n" + [...lines, ...more].join("\n"));
    tip.hidden = false;
    const wide = tip.offsetWidth, tall = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(e.clientX + 14, window.innerWidth - wide - 8)) + "px";
    tip.style.top = (e.clientY + 18 + tall > window.innerHeight ? Math.max(4, e.clientY - tall - 12) : e.clientY + 18) + "px";
  } else tip.hidden = true;
  changed();
}

function dragging(element, begin, move) {
  element.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    const state = begin(e);
    element.setPointerCapture(e.pointerId);
    let moved = false;
    const on = (m) => { if (Math.abs(m.clientX - e.clientX) > 3) moved = true; if (moved) move(m, e, state); };
    const off = () => {
      element.removeEventListener("pointermove", on);
      element.dataset.dragged = moved ? "yes" : "";
    };
    element.addEventListener("pointermove", on);
    element.addEventListener("pointerup", off, { once: true });
    element.addEventListener("pointercancel", off, { once: true });
  });
}

function listen() {
  document.addEventListener("keydown", pressed);
  canvas.addEventListener("pointermove", pointed);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; view.cursor = null; membersOf = null; changed(); });
  dragging(canvas, () => ({ from: view.from, to: view.to }), (m, e, s) => {
    const by_ = ((e.clientX - m.clientX) / x.width) * (s.to - s.from);
    tip.hidden = true;
    show(s.from + by_, s.to + by_);
  });
  canvas.addEventListener("click", (e) => {
    if (canvas.dataset.dragged) return;
    const area = canvas.getBoundingClientRect();
    const b = boxAt(e.clientX - area.left, e.clientY - area.top);
    if (b) choose(b.type, b.item, b.lane);
    else { view.chosen = null; changed(); }
  });
  canvas.addEventListener("dblclick", (e) => zoom(0.4, timeAt(e.clientX - canvas.getBoundingClientRect().left)));
  by("stage").addEventListener("wheel", (e) => {
    const time = timeAt(e.clientX - canvas.getBoundingClientRect().left);
    if (e.ctrlKey || e.metaKey) { e.preventDefault(); zoom(Math.exp(e.deltaY * 0.004), time); }
    else if (Math.abs(e.deltaX) > Math.abs(e.deltaY) || e.shiftKey) { e.preventDefault(); pan((e.deltaX || e.deltaY) / 900); }
  }, { passive: false });
  const centre = (e) => {
    const area = overview.getBoundingClientRect();
    const time = ((e.clientX - area.left - GUTTER) / (area.width - GUTTER - 8)) * T.end;
    const half = (view.to - view.from) / 2;
    show(time - half, time + half);
  };
  dragging(overview, centre, centre);
  by("to-violation").addEventListener("click", showViolation);
  by("to-all").addEventListener("click", showAll);
  by("zoom-in").addEventListener("click", () => zoom(0.5));
  by("zoom-out").addEventListener("click", () => zoom(2));
  by("help").addEventListener("click", toggleKeys);
  by("theme").addEventListener("click", toggleTheme);
  by("search").addEventListener("input", (e) => search(e.target.value));
  window.addEventListener("resize", changed);
}

if (window.matchMedia && matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.classList.add("dark");
readColours();
fill("keys", KEYS.map(([key, text]) => make("div", {}, make("kbd", {}, key), text)));
fillHead();
fillVerdict();
fillFilters();
fillLegend();
fillOmitted();
listen();
drawings = [drawOverview, drawAxis, drawLanes, drawDetails, drawMembers];
if (mainOperation) choose("operation", mainOperation, laneOf("operation", mainOperation));
showViolation();
