// Charts of the last minutes and the frontier, in SVG. A chart reads out through its legend, which shows the values of
// now or, while a pointer or the arrow keys have moved its cursor, those of that moment.

import { quantity } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600, HEIGHT = 150, LEFT = 46, BOTTOM = 18, TOP = 6, SPANS_S = [120, 300, 600];

export function svg(name, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

// The least round number that a scale up to `value` can end with.
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((round) => round >= value * 0.999);
}

export class Chart {
  // `format` words a value; `isStacked` lays series on one another.
  constructor(figure, { format, isStacked = false }) {
    this.format = format;
    this.isStacked = isStacked;
    this.title = figure.querySelector("figcaption").textContent;
    this.plot = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", tabindex: 0, role: "img" });
    this.legend = el("ul", { class: "legend" });
    this.spoken = el("p", { class: "skip", "aria-live": "polite" });
    figure.append(this.plot, this.legend, this.spoken);
    this.points = [];
    this.series = [];
    this.cursor = null; // the moment that it is on, which stays though points come and go
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.move(null));
    this.plot.addEventListener("blur", () => this.move(null));
    this.plot.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  // Points are objects with `unix_s`, apart when so many seconds are between them; a series has a name, a colour and what
  // it reads of a point.
  show(points, series, apartS) {
    this.points = points;
    this.apartS = apartS;
    this.series = series;
    if (this.index() < 0) this.cursor = null;
    this.draw();
  }

  index() {
    return this.points.findIndex((point) => point.unix_s === this.cursor);
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * this.width;
    let nearest = null;
    for (const point of this.points) {
      if (nearest === null || Math.abs(this.x(point) - at) < Math.abs(this.x(nearest) - at)) nearest = point;
    }
    this.move(nearest);
  }

  press(event) {
    const last = this.points.length - 1, at = this.cursor === null ? last : this.index();
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 15, PageDown: at + 15, Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.move(null);
    if (next === undefined || last < 0) return;
    event.preventDefault();
    const point = this.points[Math.max(0, Math.min(last, next))];
    this.move(point);
    this.spoken.textContent = this.words(point);
  }

  move(point) {
    this.cursor = point?.unix_s ?? null;
    this.draw();
  }

  x(point) {
    const newest = this.points[this.points.length - 1].unix_s;
    return LEFT + (this.width - LEFT - 4) * (1 - (newest - point.unix_s) / this.spanS);
  }

  words(point) {
    const age = Math.round(this.points[this.points.length - 1].unix_s - point.unix_s);
    const values = this.series.map((one) => `${one.name} ${this.format(one.read(point))}`);
    return `${age ? `${age} s ago` : "now"}: ${values.join(", ")}`;
  }

  draw() {
    const { points, series } = this;
    const pastS = points.length ? points[points.length - 1].unix_s - points[0].unix_s : 0;
    this.spanS = SPANS_S.find((spanS) => spanS >= pastS) ?? SPANS_S[SPANS_S.length - 1];
    this.width = this.plot.clientWidth || WIDTH;
    this.plot.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const tops = points.map((point) => {
      const values = series.map((one) => one.read(point) ?? 0);
      return this.isStacked ? values.reduce((sum, value) => sum + value, 0) : Math.max(0, ...values);
    });
    const most = ceiling(Math.max(0, ...tops));
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
    const parts = [];
    for (const part of [0, 0.5, 1]) {
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: this.width, y1: y(most * part), y2: y(most * part) }));
      parts.push(svg("text", { x: LEFT - 6, y: y(most * part) + 4, "text-anchor": "end" }, this.format(most * part)));
    }
    for (const [part, words, anchor] of [[0, `${this.spanS / 60} min ago`, "start"], [0.5, `${this.spanS / 120} min`, "middle"], [1, "now", "end"]]) {
      parts.push(svg("text", { x: LEFT + (this.width - LEFT - 4) * part, y: HEIGHT - 4, "text-anchor": anchor }, words));
    }
    const below = points.map(() => 0);
    for (const one of series) {
      const path = this.isStacked ? this.area(one, below, y) : this.line(one, y);
      parts.push(path);
    }
    const shown = points.at(this.index()); // -1 without a cursor: the last
    if (this.cursor !== null && shown) {
      parts.push(svg("line", { class: "cursor", x1: this.x(shown), x2: this.x(shown), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.plot.replaceChildren(...parts);
    this.plot.setAttribute("aria-label", shown ? `${this.title}. ${this.words(shown)}` : `${this.title}: nothing yet`);
    this.drawLegend(shown);
  }

  // The points in runs without a gap: while the gateway or the browser was away nothing is drawn.
  runs(read) {
    const found = [];
    this.points.forEach((point, index) => {
      const isApart = index === 0 || point.unix_s - this.points[index - 1].unix_s > this.apartS;
      if (read(point) === null) return;
      if (isApart || !found.length || found[found.length - 1].at(-1) !== index - 1) found.push([]);
      found[found.length - 1].push(index);
    });
    return found;
  }

  line(one, y) {
    const steps = this.runs(one.read).map((run) => run.map((index, step) =>
      `${step ? "L" : "M"}${this.x(this.points[index]).toFixed(1)} ${y(one.read(this.points[index])).toFixed(1)}`).join("") + (run.length === 1 ? "h.1" : ""));
    const path = svg("path", { d: steps.join("") });
    path.style.stroke = one.colour;
    if (one.dash) path.style.strokeDasharray = one.dash;
    return path;
  }

  area(one, below, y) {
    const steps = this.runs(() => 0).map((run) => {
      const lower = run.map((index) => `L${this.x(this.points[index]).toFixed(1)} ${y(below[index]).toFixed(1)}`).reverse();
      run.forEach((index) => { below[index] += one.read(this.points[index]) ?? 0; });
      const upper = run.map((index, step) => `${step ? "L" : "M"}${this.x(this.points[index]).toFixed(1)} ${y(below[index]).toFixed(1)}`);
      return `${upper.join("")}${lower.join("")}Z`;
    });
    const path = svg("path", { class: "area", d: steps.join("") });
    path.style.fill = one.colour;
    return path;
  }

  drawLegend(shown) {
    const items = this.series.map((one) => {
      const mark = el("i");
      mark.style.background = one.colour;
      return el("li", {}, mark, one.name, el("b", {}, shown ? this.format(one.read(shown)) : "–"));
    });
    if (this.cursor !== null && shown) {
      const time = new Date(shown.unix_s * 1e3).toLocaleTimeString();
      items.push(el("li", { class: "time" }, time));
    }
    this.legend.replaceChildren(...items);
  }
}

// Draw the widths of a family: the time of one item across, quality up, the larger the more answers.
export function drawFrontier(plot, family, formatTime) {
  const widths = family.widths.filter((width) => width.item_s !== null);
  const total = widths.reduce((sum, width) => sum + width.answered_per_s, 0);
  const [left, right, top, bottom] = [52, 400, 16, 196];
  const times = widths.map((width) => width.item_s), qualities = widths.map((width) => width.quality);
  const longest = ceiling(Math.max(0, ...times));
  const low = Math.min(...qualities), high = Math.max(...qualities), margin = (high - low) * 0.2 || Math.abs(high) * 0.05 || 1;
  const x = (value) => left + ((right - left) * value) / longest;
  const y = (value) => bottom - ((bottom - top) * (value - low + margin)) / (high - low + 2 * margin);
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    parts.push(svg("line", { class: "grid", x1: x(longest * part), x2: x(longest * part), y1: top, y2: bottom }));
    parts.push(svg("text", { x: x(longest * part), y: bottom + 16, "text-anchor": "middle" }, formatTime(longest * part)));
  }
  if (widths.length) {
    for (const value of new Set([low, high])) {
      parts.push(svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(3)));
    }
    parts.push(svg("polyline", { points: widths.map((width) => `${x(width.item_s)},${y(width.quality)}`).join(" ") }));
  }
  parts.push(svg("text", { x: right, y: bottom + 31, "text-anchor": "end" }, widths.length ? "expected time of one item →" : "no times are known yet"));
  let labelled = null;
  for (const width of widths) {
    const part = total ? width.answered_per_s / total : 0;
    const radius = 4 + 9 * Math.sqrt(part);
    parts.push(svg("circle", { cx: x(width.item_s), cy: y(width.quality), r: radius.toFixed(1) }));
    const [at, up] = [x(width.item_s), y(width.quality) - radius - 4];
    const isClose = labelled !== null && Math.abs(at - labelled[0]) < (width.item_j === null ? 40 : 90) && Math.abs(up - labelled[1]) < 14;
    const place = isClose ? { x: at + radius + 4, y: y(width.quality) + 4, "text-anchor": "start" } : { x: at, y: up, "text-anchor": "middle" };
    parts.push(svg("text", { class: "label", ...place }, width.item_j === null ? `${width.width} %` : `${width.width} %, ${quantity(width.item_j)} J`));
    labelled = [at, up];
  }
  plot.replaceChildren(...parts);
  const words = widths.map((width) => `${width.width} %: quality ${width.quality.toFixed(3)}, ${formatTime(width.item_s)}${width.item_j === null ? "" : `, ${quantity(width.item_j)} J`}`);
  plot.setAttribute("aria-label", `Frontier of ${family.name}. ${words.join("; ") || "No times are known yet."}`);
}
