"use strict";

// Charts. A figure names the page's colours as var(--name), so that it follows the theme.

const root = document.documentElement;

function themed(source) {
  const style = getComputedStyle(root);
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

const isDrawn = (chart) => chart.classList.contains("js-plotly-plot");

function draw(chart) {
  const figure = themed(chart.nextElementSibling.textContent);
  for (const trace of figure.data) trace.visible = !hidden.has(trace.meta);
  const layout = layoutOf(figure);
  if (root.classList.contains("paper")) layout.width = chart.clientWidth;
  Plotly.react(chart, figure.data, layout, { responsive: true, displayModeBar: false });
}

const charts = [...document.querySelectorAll(".chart")];

// A page may have thousands of charts: they are drawn once they come near the screen.
const nearScreen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && !isDrawn(target)) draw(target);
  }
}, { rootMargin: "600px" });

function redraw() {
  charts.filter(isDrawn).forEach(draw);
}

// Legend: a button hides or shows its method in every chart; pointing at one dims all others.

const hidden = new Set();
const buttons = [...document.querySelectorAll("[data-method]")];

function toggle(method) {
  hidden.delete(method) || hidden.add(method);
  for (const button of buttons) button.setAttribute("aria-pressed", !hidden.has(button.dataset.method));
  for (const chart of charts.filter(isDrawn)) {
    if (chart.data.some((trace) => trace.meta === method)) draw(chart);
  }
}

function emphasise(method) {
  for (const chart of charts.filter(isDrawn)) {
    const lines = chart.querySelectorAll(".scatterlayer > .trace");
    const shown = chart.data.filter((trace) => trace.visible);
    if (lines.length !== shown.length) continue;
    lines.forEach((line, i) => { line.style.opacity = method && shown[i].meta !== method ? 0.12 : ""; });
  }
}

for (const button of buttons) {
  const { method } = button.dataset;
  button.addEventListener("click", () => toggle(method));
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => emphasise(method));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => emphasise(null));
}

// Views: selects show one of several; what one figure shows, all others show, too, if they can.

function viewsOf(block) {
  const selects = [...block.querySelectorAll(".choices select")];
  const bodies = [...block.querySelectorAll(".view")];
  const keys = bodies.map((body) => JSON.parse(body.dataset.key));
  function show() {
    let left = keys;
    selects.forEach((select, axis) => {
      const words = new Set(left.map((key) => key[axis]));
      for (const option of select.options) option.hidden = option.disabled = !words.has(option.value);
      if (!words.has(select.value)) select.value = [...words][0];
      select.disabled = words.size === 1;
      left = left.filter((key) => key[axis] === select.value);
    });
    bodies.forEach((body, i) => { body.hidden = keys[i] !== left[0]; });
  }
  return { selects, show };
}

const nameOf = (select) => select.parentElement.firstChild.textContent;
const allViews = [...document.querySelectorAll(".views")].map(viewsOf);

for (const { selects, show } of allViews) {
  show();
  for (const select of selects) {
    select.addEventListener("change", () => {
      for (const views of allViews) {
        const same = views.selects.find((other) => nameOf(other) === nameOf(select));
        if (same && [...same.options].some((option) => option.value === select.value)) {
          same.value = select.value;
          views.show();
        }
      }
    });
  }
}

// Tables.

const textOf = (cell) => (cell.querySelector(".state") ?? cell).textContent;

// Numbers by value, words by the alphabet, missing values last whichever way.
function compare(a, b, sign) {
  const missing = (a === "—") - (b === "—");
  if (missing) return missing;
  return sign * (parseFloat(a) - parseFloat(b) || a.localeCompare(b));
}

function makeSortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const word = (row) => textOf(row.cells[column]);
      body.append(...[...body.rows].sort((a, b) => compare(word(a), word(b), sign)));
    });
  });
}

function makeFilterable(controls, table) {
  const search = controls.querySelector("input");
  const selects = [...controls.querySelectorAll("select")];
  const rows = [...table.tBodies[0].rows];
  for (const select of selects) {
    const words = rows.map((row) => textOf(row.cells[select.dataset.column]));
    for (const word of [...new Set(words)].sort()) select.add(new Option(word, word));
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const chosen = selects.every(({ value, dataset }) => !value || textOf(row.cells[dataset.column]) === value);
      row.hidden = !chosen || !words.every((word) => text.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    controls.querySelector("output").textContent = `${shown} of ${rows.length} ${table.dataset.name}`;
  }
  controls.addEventListener("input", filter);
  filter();
}

for (const block of document.querySelectorAll(".table")) {
  const table = block.querySelector("table");
  makeSortable(table);
  const controls = block.querySelector(".controls");
  if (controls) makeFilterable(controls, table);
}

// Theme and print: paper is light and as wide as style.css says, and shows all that is not hidden.

charts.forEach((chart) => nearScreen.observe(chart));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  root.classList.add("paper");
  charts.filter((chart) => chart.checkVisibility()).forEach(draw);
});
addEventListener("afterprint", () => {
  root.classList.remove("paper");
  redraw();
  charts.filter(isDrawn).forEach((chart) => Plotly.Plots.resize(chart));
});
