// Tables: a heading sorts; the table of all trials is shown in pages.
const PAGE = 50;
const NUMBER = /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?(?=$|[ %\[])/;
const parsed = (text) => (NUMBER.test(text) ? Number.parseFloat(text.replaceAll(",", "")) : null);

function compareCells(a, b, rising) {
  const [x, y] = [parsed(a), parsed(b)];
  const [noX, noY] = [a === "–" || a === "", b === "–" || b === ""];
  if (noX || noY) return noX - noY;
  const order = x === null || y === null
    ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  return rising ? order : -order;
}

function markSorted(head) {
  const rising = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  return rising;
}

for (const button of document.querySelectorAll("table:not(#trials) th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const rising = markSorted(head);
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.value ?? "";
    body.append(...[...body.rows].sort((a, b) => compareCells(value(a), value(b), rising)));
  });
}

const trials = { order: data.trials.rows.map((_, i) => i), shown: [], from: 0 };
const trialsTable = document.getElementById("trials");

function cell(kind, text, isNumber) {
  const element = document.createElement(kind);
  if (isNumber) element.className = "number";
  element.textContent = text;
  return element;
}

function showTrials(numRows = PAGE) {
  if (!trialsTable) return;
  const find = document.getElementById("find").value.trim().toLowerCase();
  const isShown = (i) => {
    const model = data.trials.models[i] === null ? null : models[data.trials.models[i]];
    return (model === null || model.within) && (find === "" || data.trials.rows[i].join(" ").toLowerCase().includes(find));
  };
  trials.shown = trials.order.filter(isShown);
  trials.from = Math.min(trials.from, Math.max(0, trials.shown.length - 1));
  trials.from -= trials.from % PAGE;
  const page = trials.shown.slice(trials.from, trials.from + numRows);
  trialsTable.tBodies[0].replaceChildren(...page.map((i) => {
    const row = document.createElement("tr");
    row.append(...data.trials.rows[i].map((text, column) => {
      const element = cell(column ? "td" : "th", text, data.trials.columns[column].number);
      if (!column) element.scope = "row";
      return element;
    }));
    return row;
  }));
  const last = trials.from + page.length;
  document.getElementById("trials-shown").textContent = trials.shown.length
    ? `${trials.from + 1} to ${last} of ${trials.shown.length} rows (${data.trials.rows.length} in all)` : "no row";
  document.getElementById("before").disabled = trials.from === 0;
  document.getElementById("after").disabled = last >= trials.shown.length;
}

if (trialsTable) {
  const heads = document.createElement("tr");
  data.trials.columns.forEach((column, index) => {
    const head = cell("th", "", column.number);
    head.scope = "col";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.title;
    button.addEventListener("click", () => {
      const rising = markSorted(head);
      const text = (i) => data.trials.rows[i][index];
      trials.order.sort((a, b) => compareCells(text(a), text(b), rising) || a - b);
      trials.from = 0;
      showTrials();
    });
    head.append(button);
    heads.append(head);
  });
  trialsTable.tHead.append(heads);
  document.getElementById("find").addEventListener("input", () => { trials.from = 0; showTrials(); });
  document.getElementById("before").addEventListener("click", () => { trials.from -= PAGE; showTrials(); });
  document.getElementById("after").addEventListener("click", () => { trials.from += PAGE; showTrials(); });
}
