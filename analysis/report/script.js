"use strict";

// Charts. A figure names the page's colours as var(--name), so that it follows the theme.

function themed(source) {
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(source.replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim()));
}

function layoutOf(figure) {
  const own = figure.layout;
  const axis = { gridcolor: "var(--line)", zeroline: false, automargin: true, linecolor: "var(--line)" };
  const common = themed(JSON.stringify({
    height: 320,
    margin: { l: 8, r: 8, t: 12, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: "var(--ink)", size: 12, family: "system-ui, sans-serif" },
    hoverlabel: { font: { family: "system-ui, sans-serif" } },
    showlegend: false,
    dragmode: false,
    xaxis: axis,
    yaxis: axis,
  }));
  return { ...common, ...own, xaxis: { ...common.xaxis, ...own.xaxis }, yaxis: { ...common.yaxis, ...own.yaxis } };
}

function draw(chart) {
  const figure = themed(chart.nextElementSibling.textContent);
  Plotly.react(chart, figure.data, layoutOf(figure), { responsive: true, displayModeBar: false })
    .then(() => showMethods(chart));
}

function drawVisible() {
  for (const chart of document.querySelectorAll(".chart")) {
    if (!chart.closest("[hidden]")) draw(chart);
  }
}

// Legend: a button hides or shows its method in every chart of its section.

const hidden = new Set();

function showMethods(chart) {
  const visible = chart.data.map((trace) => !hidden.has(trace.meta));
  if (chart.data.some((trace, i) => (trace.visible ?? true) !== visible[i])) {
    Plotly.restyle(chart, { visible }, visible.map((_, i) => i));
  }
}

for (const button of document.querySelectorAll("[data-method]")) {
  button.addEventListener("click", () => {
    const method = button.dataset.method;
    hidden.delete(method) || hidden.add(method);
    button.setAttribute("aria-pressed", !hidden.has(method));
    button.closest("section").querySelectorAll(".js-plotly-plot").forEach(showMethods);
  });
}

// Views: a select shows one of several.

for (const views of document.querySelectorAll(".views")) {
  views.querySelector("select").addEventListener("change", (event) => {
    views.querySelectorAll(".view").forEach((view, i) => { view.hidden = i !== event.target.selectedIndex; });
    views.querySelectorAll(".view:not([hidden]) .chart").forEach(draw);
  });
}

// The table of cells.

const table = document.querySelector("table.cells");
const rows = [...table.tBodies[0].rows];
const [search, state] = ["input", "select"].map((kind) => document.querySelector(`.controls ${kind}`));

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const rightState = !state.value || row.querySelector(".state").textContent === state.value;
    row.hidden = !rightState || !words.every((word) => text.includes(word));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.querySelector(".controls output").textContent = `${shown} of ${rows.length} cells`;
}

// Numbers by value, words by the alphabet, missing values last whichever way.
function compareCells(a, b, sign) {
  const missing = (a === "—") - (b === "—");
  if (missing) return missing;
  return sign * (parseFloat(a) - parseFloat(b) || a.localeCompare(b));
}

[...table.tHead.rows[0].cells].forEach((heading, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    rows.sort((a, b) => compareCells(a.cells[column].textContent, b.cells[column].textContent, sign));
    table.tBodies[0].append(...rows);
  });
});

search.addEventListener("input", filter);
state.addEventListener("change", filter);
filter();
drawVisible();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawVisible);
