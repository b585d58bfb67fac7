// Parallel coordinates: an axis for each choice and figure, a line for each student, and a range on each axis.
const parallel = { ranges: new Map(), axes: [], rows: [] };
const SVG = "http://www.w3.org/2000/svg";
const PANEL = { width: 1100, height: 300, top: 42, bottom: 26, left: 46, right: 46 };
const STEPS = 20;
const BEYOND = 8;

function svgElement(kind, attributes, text) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// The students of the panels beside it, with the costs that the frontier is drawn against.
function parallelRows() {
  const spec = document.querySelector('figure[data-chart="slices"] script');
  const byName = new Map(students.map((student) => [student.name, student]));
  return JSON.parse(spec.textContent).datasets.students.map((row) => ({ ...byName.get(row.name), ...row }));
}

function parallelAxes(rows) {
  const whole = (value) => String(Math.round(value));
  const unqualified = (title) => title.replace(/^Predicted (.)/, (_, first) => first.toUpperCase());
  const costs = data.axes.map((axis, i) => ({ key: `x${i}`, title: `${unqualified(axis.title)} (${axis.unit})`, isLog: true }));
  const wanted = [
    { key: "num_layers", title: "Layers", write: whole }, { key: "hidden_size", title: "Hidden size", write: whole },
    { key: "head_size", title: "Head size", write: whole },
    { key: "distillation_learning_rate", title: "Distil. rate", write: (value) => value.toExponential(1), isLog: true },
    { key: "finetuning_learning_rate", title: "Fine-tuning rate", write: (value) => value.toExponential(1), isLog: true },
    ...costs.filter((axis) => axis.key === data.rule.latency || axis.key === data.rule.size),
    { key: "accuracy", title: "Accuracy", write: (value) => value.toFixed(3) },
  ];
  const write = (value) => String(Number(value.toPrecision(3)));
  return wanted.map((axis) => {
    const values = rows.map((row) => row[axis.key]).filter((value) => value !== null && value !== undefined);
    return { write, ...axis, low: Math.min(...values), high: Math.max(...values) };
  }).filter((axis) => axis.low < axis.high);
}

const scaled = (axis, value) => (axis.isLog && axis.low > 0 ? Math.log(value) : value);
function share(axis, value) {
  const [low, high] = [scaled(axis, axis.low), scaled(axis, axis.high)];
  return (scaled(axis, value) - low) / (high - low);
}
function valueAt(axis, part) {
  const [low, high] = [scaled(axis, axis.low), scaled(axis, axis.high)];
  const at = low + Math.min(1, Math.max(0, part)) * (high - low);
  return axis.isLog && axis.low > 0 ? Math.exp(at) : at;
}
const heightOf = (part) => PANEL.height - PANEL.bottom - part * (PANEL.height - PANEL.bottom - PANEL.top);
const partAt = (y) => (PANEL.height - PANEL.bottom - y) / (PANEL.height - PANEL.bottom - PANEL.top);
const isWithinRanges = (row) => parallel.axes.every((axis) => {
  const [low, high] = parallel.ranges.get(axis.key);
  const value = row[axis.key];
  if (value === null || value === undefined) return low <= 0 && high >= 1;
  const part = share(axis, value);
  return part >= low - 1e-9 && part <= high + 1e-9;
});

function applyRanges() {
  const kept = parallel.rows.filter(isWithinRanges);
  const isKept = new Set(kept);
  parallel.rows.forEach((row, i) => {
    const isFront = row.place === "on the frontier";
    parallel.lines[i].setAttribute("class", isKept.has(row) ? `kept${isFront ? " front" : ""}` : "");
  });
  for (const axis of parallel.axes) {
    const [low, high] = parallel.ranges.get(axis.key);
    axis.brush.setAttribute("y", heightOf(high));
    axis.brush.setAttribute("height", Math.max(1, heightOf(low) - heightOf(high)));
    [["low", low], ["high", high]].forEach(([name, part]) => {
      const end = axis.ends[name];
      end.setAttribute("cy", heightOf(part));
      end.setAttribute("aria-valuenow", Math.round(100 * part));
      end.setAttribute("aria-valuetext", axis.write(valueAt(axis, part)));
    });
  }
  const best = kept.reduce((found, row) => (found === null || row.accuracy > found.accuracy ? row : found), null);
  const drawn = parallel.rows.length === students.length ? "students" : `students drawn, of ${students.length},`;
  document.getElementById("parallel-says").textContent = `${kept.length} of ${parallel.rows.length} ${drawn} are within the ranges.`
    + (best === null ? "" : ` The most accurate of them is ${best.name} (${best.shape}), ${best.accuracy.toFixed(4)}.`);
}

function setEnd(axis, name, part) {
  const [low, high] = parallel.ranges.get(axis.key);
  const at = Math.min(1, Math.max(0, part));
  parallel.ranges.set(axis.key, name === "low" ? [Math.min(at, high), high] : [low, Math.max(at, low)]);
  applyRanges();
}

function keyOnEnd(axis, name, event) {
  const at = parallel.ranges.get(axis.key)[name === "low" ? 0 : 1];
  const moved = { ArrowUp: at + 1 / STEPS, ArrowRight: at + 1 / STEPS, ArrowDown: at - 1 / STEPS, ArrowLeft: at - 1 / STEPS, Home: 0, End: 1 };
  if (!(event.key in moved)) return;
  event.preventDefault();
  setEnd(axis, name, moved[event.key]);
}

function drawAxis(svg, axis, x) {
  svg.append(
    svgElement("text", { x, y: 14, "text-anchor": "middle" }, axis.title),
    svgElement("text", { x, y: 29, "text-anchor": "middle", class: "tick" }, axis.write(axis.high)),
    svgElement("text", { x, y: PANEL.height - 4, "text-anchor": "middle", class: "tick" }, axis.write(axis.low)),
    svgElement("line", { x1: x, x2: x, y1: heightOf(1), y2: heightOf(0) }),
  );
  axis.brush = svgElement("rect", { x: x - 9, width: 18, class: "brush" });
  // The whole axis takes a drag, which may begin a little beyond its ends.
  const area = svgElement("rect", { x: x - 14, width: 28, y: heightOf(1) - BEYOND, height: heightOf(0) - heightOf(1) + 2 * BEYOND, class: "area" });
  const partOf = (event) => {
    const box = svg.getBoundingClientRect();
    return partAt(((event.clientY - box.top) / box.height) * PANEL.height);
  };
  let from = null;
  const brushed = (event) => {
    const to = partOf(event);
    const range = [Math.min(from, to), Math.max(from, to)].map((part) => Math.min(1, Math.max(0, part)));
    parallel.ranges.set(axis.key, range);
    applyRanges();
  };
  let before = null;
  area.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    [from, before] = [partOf(event), parallel.ranges.get(axis.key)];
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointercancel", () => {
    if (from === null) return;
    from = null;
    parallel.ranges.set(axis.key, before);
    applyRanges();
  });
  area.addEventListener("pointermove", (event) => { if (from !== null) brushed(event); });
  area.addEventListener("pointerup", (event) => {
    if (from === null) return;
    // A click without a drag takes the range back.
    if (Math.abs(partOf(event) - from) < 0.01) { parallel.ranges.set(axis.key, [0, 1]); applyRanges(); }
    from = null;
  });
  axis.ends = {};
  svg.append(axis.brush, area);
  for (const name of ["low", "high"]) {
    const end = svgElement("circle", { cx: x, r: 6, class: "end", tabindex: 0, role: "slider", "aria-orientation": "vertical",
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `${axis.title}, ${name === "low" ? "lower" : "upper"} end` });
    let isHeld = false;
    end.addEventListener("keydown", (event) => keyOnEnd(axis, name, event));
    end.addEventListener("pointerdown", (event) => { isHeld = event.button === 0; end.setPointerCapture(event.pointerId); });
    end.addEventListener("pointermove", (event) => { if (isHeld) setEnd(axis, name, partOf(event)); });
    for (const ended of ["pointerup", "pointercancel"]) end.addEventListener(ended, () => { isHeld = false; });
    axis.ends[name] = end;
    svg.append(end);
  }
}

function drawParallel() {
  const target = document.querySelector("#parallel .axes");
  if (!target) return;
  parallel.rows = parallelRows();
  parallel.axes = parallelAxes(parallel.rows);
  parallel.ranges = new Map(parallel.axes.map((axis) => [axis.key, [0, 1]]));
  const svg = svgElement("svg", { viewBox: `0 0 ${PANEL.width} ${PANEL.height}`, role: "group", "aria-label": "Parallel coordinates of the students" });
  const gap = (PANEL.width - PANEL.left - PANEL.right) / Math.max(1, parallel.axes.length - 1);
  const place = (axis, i, row) => {
    const value = row[axis.key];
    return value === null || value === undefined ? null : `${PANEL.left + i * gap},${heightOf(share(axis, value)).toFixed(1)}`;
  };
  parallel.lines = parallel.rows.map((row) => {
    const points = parallel.axes.map((axis, i) => place(axis, i, row)).filter((point) => point !== null);
    return svgElement("path", { d: `M${points.join("L")}` });
  });
  // Those on the frontier lie over the others.
  const isFront = (i) => parallel.rows[i].place === "on the frontier";
  svg.append(...parallel.lines.filter((_, i) => !isFront(i)), ...parallel.lines.filter((_, i) => isFront(i)));
  parallel.axes.forEach((axis, i) => drawAxis(svg, axis, PANEL.left + i * gap));
  target.replaceChildren(svg);
  applyRanges();
}

document.getElementById("parallel-reset")?.addEventListener("click", () => {
  for (const axis of parallel.axes) parallel.ranges.set(axis.key, [0, 1]);
  applyRanges();
});
// Its colours are those of the style sheet, so that it is drawn once.
drawParallel();
