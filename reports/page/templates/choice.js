// The students, and what `pick` chooses within limits: the rules of reports/selection/preference.py.
const data = JSON.parse(document.getElementById("data").textContent);
const objects = ({ keys, rows }) => rows.map((row) => Object.fromEntries(row.map((value, i) => [keys[i], value])));
const models = objects(data.models).map((model) => ({ ...model, within: true }));
const unfinished = objects(data.unfinished);
const students = models.filter((model) => model.role === "student");
const ROUNDING = 1e-12;

function meets(student, limits) {
  return limits.every(({ name, bound, value }) => {
    if (name === "accuracy" && data.teacher !== null) return student.accuracy / data.teacher + ROUNDING >= value / 100;
    if (name === "accuracy") return student.accuracy >= Number((value / 100).toPrecision(15));
    const figure = data.measured[name]?.[student.trial] ?? student[name];
    return figure !== null && (bound === "max" ? figure <= value : figure >= value);
  });
}

const cost = (student, key) => (key === "accuracy" ? -student.accuracy : student[key] ?? Infinity);

// Students that no other one beats: at least as good in every figure, and better in one.
function unbeaten(from, keys) {
  const front = [];
  const beats = (a, b) => a.every((value, i) => value <= b[i]) && a.some((value, i) => value < b[i]);
  for (const student of [...from].sort((a, b) => b.accuracy - a.accuracy)) {
    const costs = keys.map((key) => cost(student, key));
    if (!front.some((other) => beats(other.costs, costs))) front.push({ student, costs });
  }
  // Of equal accuracy, a later one may beat an earlier one. The order is that of the records, which decides ties.
  const kept = new Set(front.filter((one) => !front.some((other) => beats(other.costs, one.costs))).map((one) => one.student));
  return from.filter((student) => kept.has(student));
}

function firstBy(from, ...keys) {
  const order = [...keys, data.rule.latency, "accuracy", data.rule.size].filter((key) => key !== null);
  const compare = (a, b) => {
    for (const key of order) {
      if (cost(a, key) !== cost(b, key)) return cost(a, key) < cost(b, key) ? -1 : 1;
    }
    return a.trial - b.trial;
  };
  return from.reduce((best, student) => (best === null || compare(student, best) < 0 ? student : best), null);
}

function isTied(student, best) {
  if (student === best) return true;
  const [row, column] = [data.ties.trials.indexOf(best.trial), data.ties.trials.indexOf(student.trial)];
  return row >= 0 && column >= 0 && data.ties.rows[row][column] === "1";
}

function knee(from, keys) {
  const spans = keys.map((key) => {
    const values = from.map((student) => cost(student, key));
    return { low: Math.min(...values), span: Math.max(...values) - Math.min(...values) || 1 };
  });
  const sum = (student) => keys.reduce((total, key, i) => total + (cost(student, key) - spans[i].low) / spans[i].span, 0);
  return from.reduce((best, student) => (best === null || sum(student) < sum(best) ? student : best), null);
}

function choose(limits) {
  const qualifying = students.filter((student) => meets(student, limits));
  if (!qualifying.length) return null;
  const cheap = data.rule.cheap;
  const keys = ["accuracy", ...data.rule.objectives];
  const candidates = unbeaten(qualifying, cheap === null ? keys : [...keys, cheap]);
  const [onAccuracy, onCost] = [limits.some((l) => l.name === "accuracy"), limits.some((l) => l.name !== "accuracy")];
  if (onAccuracy && onCost) return knee(unbeaten(candidates, keys), keys);
  if (onAccuracy) return firstBy(candidates, cheap);
  const best = firstBy(candidates, "accuracy", cheap);
  return firstBy(candidates.filter((student) => isTied(student, best)), cheap, "accuracy");
}

function pickCommand(limits) {
  const option = ({ name, value }) => {
    if (name === "accuracy" && data.teacher !== null) return ` --within ${trimmed(100 - value)}%`;
    if (name === "accuracy") return ` --min-accuracy ${trimmed(value)}%`;
    const axis = data.axes[Number(name.slice(1))];
    return ` ${axis.option} ${trimmed(value)}${axis.suffix}`;
  };
  return data.pick + limits.map(option).join("");
}

const trimmed = (value) => String(Number(value.toPrecision(6)));
