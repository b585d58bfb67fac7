"use strict";
// Sorting: a button in every column's head; numbers by value, the rest by text; rows without a value come last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return rising ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
// Filters: rows beyond a limit are hidden; a row without the figure stays.
const filters = [...document.querySelectorAll(".filters input")];
function applyFilters() {
  for (const input of filters) {
    input.parentNode.querySelector("output").value = `${Number(input.value).toFixed(3)} ${input.dataset.unit}`;
  }
  const rows = [...document.querySelectorAll("tr[data-filtered]")];
  for (const row of rows) {
    row.hidden = filters.some((input) => {
      const value = row.getAttribute(`data-${input.dataset.key}`);
      if (value === null || value === "") return false;
      const excess = Number(value) / Number(input.dataset.scale) - Number(input.value);
      return input.dataset.bound === "max" ? excess > 0 : excess < 0;
    });
  }
  const count = document.getElementById("rows-shown");
  if (count) count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows shown in both tables`;
}
for (const input of filters) input.addEventListener("input", applyFilters);
if (filters.length) applyFilters();
// Charts: the still picture stays where drawing fails, and for print.
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = { actions: false, mode: "vega-lite", renderer: "svg" };
  window.vegaEmbed(figure.querySelector(".live"), spec, options)
    .then(() => figure.classList.add("is-live"))
    .catch((error) => console.error(error));
}
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
