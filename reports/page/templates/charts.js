// Charts: Vega-Lite specifications, drawn in the colours of the page.
const MANY = 1500;
const charts = [];
let frontier = null;

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const axis = { labelColor: of("--ink"), titleColor: of("--ink"), gridColor: of("--line"), domainColor: of("--quiet"),
    tickColor: of("--quiet") };
  return { background: "transparent", axis, text: { fill: of("--quiet") },
    legend: { labelColor: of("--ink"), titleColor: of("--ink"), columns: window.innerWidth < 700 ? 2 : 6 },
    header: { labelColor: of("--ink"), titleColor: of("--ink") }, view: { stroke: of("--line") } };
}

function withTheme(spec) {
  const { background, ...config } = spec.config ?? {};
  const theme = colours();
  for (const [key, value] of Object.entries(config)) {
    theme[key] = typeof value === "object" && value !== null ? { ...value, ...theme[key] } : value;
  }
  return { ...spec, config: theme };
}

function draw(target, spec, numPoints = 0) {
  const options = { actions: false, mode: "vega-lite", logLevel: 1, renderer: numPoints > MANY ? "canvas" : "svg" };
  // The element around a drawing states its finding; its parts have nothing to say on their own.
  return window.vegaEmbed(target, withTheme(spec), options).then((drawn) => {
    target.querySelector("svg, canvas").setAttribute("aria-hidden", "true");
    return drawn;
  }).catch((error) => console.error(error));
}

for (const figure of document.querySelectorAll("figure[data-chart]")) {
  charts.push({ target: figure.querySelector(".drawing"), spec: JSON.parse(figure.querySelector("script").textContent) });
}

// The frontier: its axis is chosen, and its models are those of the page.
const axisSelect = document.getElementById("axis");
let limitsNow = [];

async function drawFrontier() {
  if (!axisSelect || !window.vegaEmbed) return;
  const script = document.querySelector(`script[data-axis="${axisSelect.value}"]`);
  const { spec, line } = JSON.parse(script.textContent);
  const target = document.querySelector("#frontier-chart .drawing");
  target.setAttribute("aria-label", script.dataset.finding);
  document.getElementById("frontier-finding").textContent = script.dataset.finding;
  const datasets = { ...spec.datasets, models, unfinished, published: data.published, line: limitsNow.length ? lineOf(axisSelect.value) : line };
  const size = { width: "container", height: window.innerWidth < 700 ? 300 : 430, autosize: { type: "fit-x", contains: "padding" } };
  const drawn = await draw(target, { ...spec, ...size, datasets }, models.length);
  if (!drawn) return;
  frontier = drawn.view;
  frontier.addEventListener("mouseover", (event, item) => {
    const name = item && item.datum && item.datum.name;
    const found = [models, unfinished, data.published].map((rows) => rows.find((row) => row.name === name));
    if (name) showCard(found.find((row) => row !== undefined));
  });
}

function lineOf(axis) {
  const key = `x${axis}`;
  const within = students.filter((student) => student.within && student[key] !== null);
  const steps = [];
  for (const student of within.sort((a, b) => a[key] - b[key] || b.accuracy - a.accuracy)) {
    if (!steps.length || student.accuracy > steps.at(-1).accuracy) {
      steps.push({ [key]: student[key], accuracy: student.accuracy, label: student.shape.split(" ")[0].replace("x", "×") });
    }
  }
  return steps;
}

function updateFrontier(limits) {
  limitsNow = limits;
  for (const student of students) student.within = meets(student, limits);
  if (frontier) {
    const script = document.querySelector(`script[data-axis="${axisSelect.value}"]`);
    frontier.data("models", models.map((model) => ({ ...model })));
    frontier.data("line", limits.length ? lineOf(axisSelect.value) : JSON.parse(script.textContent).line);
    frontier.runAsync();
  }
}

function drawAll() {
  if (!window.vegaEmbed) return;
  for (const { target, spec } of charts) draw(target, spec);
  drawFrontier();
}
