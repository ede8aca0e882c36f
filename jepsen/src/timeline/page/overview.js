// The whole run at a glance, and the axis of what the lanes show.

const overview = document.getElementById("overview");
const axis = document.getElementById("axis");

// Operations by share of the run: [known, unknown].
const DENSITY = 400;
const density = (() => {
  const bins = Array.from({ length: DENSITY }, () => [0, 0]);
  for (const o of T.operations) bins[Math.min(DENSITY - 1, Math.floor((o.from / T.end) * DENSITY))][o.outcome === "unknown" ? 1 : 0]++;
  return bins;
})();
const densest = Math.max(1, ...density.map(([a, b]) => a + b));

function overviewX(width) { return (time) => GUTTER + (time / T.end) * (width - GUTTER - 8); }

function drawOverview() {
  const { c, width, height } = prepare(overview);
  const at = overviewX(width);
  c.font = FONT;
  c.fillStyle = colours.muted;
  c.fillText("whole run", 8, 12);
  c.fillText(seconds(T.end, 1), 8, 28);
  drawPhases(c, at, 0, 12, false);
  const wide = (width - GUTTER - 8) / DENSITY;
  density.forEach(([known, unknown], i) => {
    const left = GUTTER + i * wide;
    const tall = (known / densest) * 20, more = (unknown / densest) * 20;
    c.fillStyle = colours.read;
    c.globalAlpha = 0.5;
    c.fillRect(left, height - 4 - tall, wide + 0.3, tall);
    c.fillStyle = colours.write;
    c.globalAlpha = 0.9;
    c.fillRect(left, height - 4 - tall - more, wide + 0.3, more);
    c.globalAlpha = 1;
  });
  c.fillStyle = colours.warn;
  for (const f of T.faults) c.fillRect(at(f.from), 13, Math.max(at(f.to) - at(f.from), 1.5), 3);
  c.fillStyle = colours.frame;
  for (const m of view.matches) c.fillRect(at(m.from) - 0.5, 17, 1.5, 5);
  if (first) {
    c.fillStyle = colours.bad;
    c.fillRect(at(first.at) - 1, 0, 2, height);
  }
  const left = at(Math.max(view.from, 0)), right = at(Math.min(view.to, T.end));
  c.fillStyle = colours.frame;
  c.globalAlpha = 0.13;
  c.fillRect(left, 0, right - left, height);
  c.globalAlpha = 1;
  c.strokeStyle = colours.frame;
  c.lineWidth = 1.5;
  c.strokeRect(left, 0.75, Math.max(right - left, 3), height - 1.5);
  c.lineWidth = 1;
}

function drawPhases(c, at, top, height, clip) {
  T.phases.forEach((p, i) => {
    const left = Math.max(at(p.from), GUTTER), right = Math.min(at(p.to), GUTTER + 1e5);
    if (right <= left) return;
    c.fillStyle = i % 2 ? colours.line : colours.faint;
    c.fillRect(left, top, right - left, height);
    c.fillStyle = colours.muted;
    const wide = c.measureText(p.name).width;
    if (wide < right - left - 6) c.fillText(p.name, left + 4, top + height / 2 + 0.5);
    else if (clip) clipped(c, p.name, left + 4, top + height / 2 + 0.5, right - left - 6);
  });
}

// Steps of 1, 2 or 5 that leave room for their labels.
function stepOf(span, count) {
  const raw = span / count, power = Math.pow(10, Math.floor(Math.log10(raw)));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= raw);
}

function drawAxis() {
  const { c, width, height } = prepare(axis);
  const wide = Math.max(width - GUTTER - 8, 50);
  const at = (time) => GUTTER + ((time - view.from) / (view.to - view.from)) * wide;
  c.font = FONT;
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, wide + 8, height); c.clip();
  drawPhases(c, at, 0, 13, true);
  const step = stepOf(view.to - view.from, wide / 95);
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step / 1e6) + 1e-9)));
  c.strokeStyle = colours.muted;
  for (let t = Math.ceil(Math.max(view.from, 0) / step) * step; t <= Math.min(view.to, T.end); t += step) {
    c.beginPath(); c.moveTo(at(t) + 0.5, 13); c.lineTo(at(t) + 0.5, 19); c.stroke();
    c.fillStyle = colours.muted;
    c.fillText(seconds(t, digits), at(t) + 4, 21);
  }
  if (first) flag(c, at(first.at), first.property, colours.bad, width);
  c.restore();
  c.fillStyle = colours.muted;
  const shown = duration(Math.round(view.to - view.from)) + " in sight";
  c.fillText(shown, 8, 12);
  if (view.cursor !== null) {
    c.fillStyle = colours.ink;
    c.fillText(seconds(view.cursor, 4), 8, 28);
  }
}

function flag(c, left, text, colour, width) {
  if (left < GUTTER - 1 || left > width) return;
  c.font = BOLD;
  const wide = c.measureText(text).width + 10;
  const start = left + wide > width ? left - wide : left;
  c.fillStyle = colour;
  c.fillRect(left - 0.75, 13, 1.5, 40);
  c.fillRect(start, 28, wide, 15);
  c.fillStyle = colours.panel;
  c.fillText(text, start + 5, 36);
  c.font = FONT;
}
