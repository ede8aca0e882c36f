// What is seen of the run: a span of time, filters, a choice. `changed` draws everything anew, once a frame.

const GUTTER = 140;
const SPAN_MIN = 200;

const view = {
  from: 0, to: T.end,
  hiddenClients: new Set(), hiddenKinds: new Set(), key: "", onlyInvolved: false,
  search: "", matches: [], match: -1, found: new Set(),
  chosen: null, // what details show: {type, item, lane}
  hover: null, cursor: null,
};

let drawings = [];
let asked = false;
function changed() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; drawings.forEach((draw) => draw()); });
}

function show(from, to) {
  const span = Math.min(Math.max(to - from, SPAN_MIN), T.end * 1.04);
  let start = (from + to - span) / 2;
  start = Math.max(-T.end * 0.02, Math.min(start, T.end * 1.02 - span));
  view.from = start;
  view.to = start + span;
  changed();
}

function zoom(factor, around) {
  const centre = around === undefined ? (view.from + view.to) / 2 : around;
  show(centre - (centre - view.from) * factor, centre + (view.to - centre) * factor);
}

function pan(share) {
  const by = (view.to - view.from) * share;
  show(view.from + by, view.to + by);
}

function showAll() { show(-T.end * 0.01, T.end * 1.01); }

// The span in which the first violation can be understood.
function showViolation() {
  if (!first) return showAll();
  // Without an operation the cause is what happened to the nodes just before.
  if (!first.operations.length && !first.watches.length) {
    const before = T.faults.filter((f) => f.to >= first.at - 1.5e6 && f.from <= first.at).map((f) => f.from);
    const from = Math.max(Math.min(first.at - 0.8e6, ...before), first.at - 8e6);
    return show(from - (first.at - from) * 0.15, first.at + (first.at - from) * 0.2);
  }
  const telling = first.operations.filter((p) => !p.part.startsWith("made revision"));
  const involved = telling.map((p) => operationById.get(p.operation)).filter(Boolean);
  const near = involved.filter((o) => Math.abs(o.from - first.at) < 12e6);
  // What shows only at the quiet end began with an operation: that is the place to look at.
  const shown = near.length || !involved.length ? near : involved.slice(0, 1);
  const times = shown.flatMap((o) => [o.from, Math.min(endOf(o), o.from + 8e6)]);
  if (near.length || !involved.length) times.push(first.at);
  const from = Math.min(...times), to = Math.max(...times);
  const span = Math.min(Math.max((to - from) * 1.9, 0.6e6), 20e6);
  show((from + to) / 2 - span / 2, (from + to) / 2 + span / 2);
}

function showItem(from, to) {
  const span = view.to - view.from;
  if (from >= view.from + span * 0.05 && to <= view.to - span * 0.05) return changed();
  const wanted = Math.max(span, (to - from) * 1.5);
  show((from + to) / 2 - wanted / 2, (from + to) / 2 + wanted / 2);
}

function isHiddenOperation(o) {
  if (view.hiddenKinds.has(o.kind)) return true;
  if (view.key && !namesKey(o, view.key)) return true;
  return view.onlyInvolved && !parts.has(o.id);
}

// Canvas with the screen's own pixels.
function prepare(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (height) canvas.style.height = height + "px";
  const tall = height || canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(tall * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
  }
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, width, tall);
  c.textBaseline = "middle";
  return { c, width, height: tall };
}

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = new Proxy({}, { get: (known, name) => known[name] || (known[name] = style.getPropertyValue("--" + name).trim()) });
  hatches.clear();
}

const HUES = [212, 32, 275, 150, 338, 190, 80, 10];
function termColour(term, leads) {
  const dark = document.documentElement.classList.contains("dark");
  const hue = HUES[term % HUES.length];
  if (dark) return leads ? `hsl(${hue} 42% 46%)` : `hsl(${hue} 22% 27%)`;
  return leads ? `hsl(${hue} 52% 62%)` : `hsl(${hue} 50% 88%)`;
}

// Stripes in a colour: unknown results, pauses, death.
const hatches = new Map();
function hatch(c, colour) {
  if (!hatches.has(colour)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const t = tile.getContext("2d");
    t.strokeStyle = colour;
    t.lineWidth = 2.2;
    t.beginPath();
    for (const x of [-4, 0, 4, 8]) { t.moveTo(x, 8); t.lineTo(x + 8, 0); }
    t.stroke();
    hatches.set(colour, c.createPattern(tile, "repeat"));
  }
  return hatches.get(colour);
}

const FONT = '11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
const BOLD = "600 " + FONT;

// Text within a width, cut with an ellipsis; returns the width that it took.
function clipped(c, text, x, y, width) {
  if (width < 12) return 0;
  let shown = text, wide = c.measureText(text).width;
  if (wide > width) {
    let length = Math.floor((text.length * width) / wide);
    while (length > 0 && c.measureText(text.slice(0, length) + "…").width > width) length--;
    if (length < 2) return 0;
    shown = text.slice(0, length) + "…";
    wide = c.measureText(shown).width;
  }
  c.fillText(shown, x, y);
  return wide;
}
