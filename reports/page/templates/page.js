// The card of a student, the limits, and what they act on.
const percent = (fraction) => `${(100 * fraction).toFixed(1)}%`;
const shown = (value, digits = 2) => (value === null || value === undefined ? "not measured" : value.toFixed(digits));
const packageCommand = (trial) => `${data.package} --trial ${trial} -o student`;

function copyButton(text, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.dataset.copy = text;
  button.textContent = "Copy";
  button.setAttribute("aria-label", label);
  return button;
}

function commandLine(text, label) {
  const line = document.createElement("p");
  const span = document.createElement("span");
  const code = document.createElement("code");
  span.className = "command";
  code.textContent = text;
  span.append(code, copyButton(text, label));
  line.append(span);
  return line;
}

function pairsOf(student) {
  const teacher = models.find((model) => model.role === "teacher");
  const pairs = [student.source ? ["published, not measured here", student.source] : ["place", student.place ?? student.status]];
  if (student.accuracy !== undefined) {
    pairs.push(["accuracy [95%]", student.accuracy_with_interval ?? shown(student.accuracy, 4)]);
    if (data.teacher && !student.source) pairs.push(["of the teacher's", percent(student.accuracy / data.teacher)]);
  }
  if (student.confirmed) pairs.push(["confirmed", student.confirmed]);
  data.axes.forEach((axis, i) => {
    const value = student[`x${i}`];
    if (value === null || value === undefined) return;
    const times = teacher && teacher[`x${i}`] && !student.source ? ` (${(teacher[`x${i}`] / value).toFixed(1)}× less than the teacher)` : "";
    pairs.push([axis.title.toLowerCase(), `${shown(value)} ${axis.unit}${student.role === "teacher" ? "" : times}`]);
  });
  return pairs;
}

function showCard(student) {
  const card = document.getElementById("card");
  if (!card || !student) return;
  const title = document.createElement("h3");
  title.textContent = `${student.name}: ${student.shape}`;
  const list = document.createElement("dl");
  for (const [name, value] of pairsOf(student)) {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, text.textContent] = [name, value];
    list.append(term, text);
  }
  card.replaceChildren(title, list);
  if (student.role === "student") {
    card.append(commandLine(packageCommand(student.trial), `Copy the command that packages ${student.name}`));
  }
}

const chips = document.getElementById("chips");
function showChips() {
  if (!chips) return;
  const onFrontier = students.filter((s) => s.place === "on the frontier" && s.within).sort((a, b) => b.accuracy - a.accuracy);
  chips.replaceChildren(...onFrontier.slice(0, 40).map((student) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${student.shape.split(" ")[0].replace("x", "×")} ${percent(student.accuracy)}`;
    button.title = `${student.name}: ${student.shape}, accuracy ${shown(student.accuracy, 4)}`;
    for (const event of ["focus", "click", "mouseenter"]) button.addEventListener(event, () => showCard(student));
    return button;
  }));
}

const inputs = [...document.querySelectorAll(".filters input[type=range]")];
const isMaximum = (input) => input.dataset.bound === "max";
const neutral = (input) => Number(isMaximum(input) ? input.max : input.min);

function limitsOf() {
  return inputs.filter((input) => Number(input.value) !== neutral(input)).map((input) => ({
    name: input.dataset.name, bound: input.dataset.bound, value: Number(trimmed(rounded(input))),
  }));
}

// The value that the command has.
const rounded = (input) => Number(Number(input.value).toFixed(Number(input.dataset.digits)));

function showAnswer(limits) {
  const [own, limited] = [document.getElementById("answer"), document.getElementById("answer-limited")];
  own.hidden = limits.length > 0;
  limited.hidden = !limits.length;
  if (!limits.length) return;
  const headline = document.createElement("p");
  headline.className = "headline";
  const student = choose(limits);
  if (student === null) {
    headline.textContent = "Within the limits below no student qualifies: loosen one of them.";
    limited.replaceChildren(headline);
    return;
  }
  headline.textContent = `Within the limits below: ${student.name} (${student.shape}).`;
  const numbers = document.createElement("ul");
  numbers.className = "numbers";
  const teacher = models.find((model) => model.role === "teacher");
  const add = (value, words) => {
    const item = document.createElement("li");
    const bold = document.createElement("b");
    bold.textContent = value;
    item.append(bold, ` ${words}`);
    numbers.append(item);
  };
  if (data.teacher) add(percent(student.accuracy / data.teacher), "of the teacher's accuracy");
  else add(shown(student.accuracy, 4), "accuracy");
  for (const [key, words] of [[data.rule.latency, "faster"], [data.rule.size, "smaller"]]) {
    if (key && teacher && teacher[key] && student[key]) add(`${(teacher[key] / student[key]).toFixed(1)}×`, words);
  }
  limited.replaceChildren(headline, numbers, commandLine(pickCommand(limits), "Copy the pick command"));
  limited.dataset.trial = student.trial;
}

function applyLimits() {
  for (const input of inputs) {
    input.parentNode.querySelector("output").value = `${trimmed(rounded(input))} ${input.dataset.unit}`;
  }
  const limits = limitsOf();
  updateFrontier(limits);
  const byTrial = new Map(students.map((student) => [String(student.trial), student]));
  for (const row of document.querySelectorAll("#frontier-table tr[data-trial]")) row.hidden = !byTrial.get(row.dataset.trial).within;
  const num = students.filter((student) => student.within).length;
  const said = document.getElementById("rows-shown");
  if (said) said.textContent = `${num} of ${students.length} complete students are within the limits`;
  const command = document.getElementById("pick-command");
  if (command) command.textContent = pickCommand(limits);
  showAnswer(limits);
  showChips();
  showTrials();
}

for (const input of inputs) input.addEventListener("input", applyLimits);
document.getElementById("reset")?.addEventListener("click", () => {
  for (const input of inputs) input.value = neutral(input);
  applyLimits();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const text = button.id === "copy-pick" ? document.getElementById("pick-command").textContent
    : button.dataset.copy ?? packageCommand(button.dataset.trial);
  navigator.clipboard?.writeText(text).then(() => { button.textContent = "Copied"; }, () => window.prompt("Copy", text));
});
axisSelect?.addEventListener("change", drawFrontier);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  showTrials(500);
});
window.addEventListener("afterprint", () => showTrials());
drawAll();
applyLimits();
