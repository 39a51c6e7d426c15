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

// Starting plotly takes longer than all else on the page: it starts with the first chart that is drawn.
function startPlotly() {
  const kept = document.getElementById("plotly");
  if (!kept) return;
  const script = document.createElement("script");
  script.textContent = kept.textContent;
  kept.replaceWith(script);
}

const isDrawn = (chart) => chart.classList.contains("js-plotly-plot");

function draw(chart) {
  startPlotly();
  const figure = themed(chart.nextElementSibling.textContent);
  const layout = layoutOf(figure);
  if (root.classList.contains("paper")) layout.width = chart.clientWidth;
  Plotly.react(chart, figure.data, layout, { responsive: true, displayModeBar: false }).then(() => light(chart));
}

const charts = [...document.querySelectorAll(".chart")];

// A page may have thousands of charts: they are drawn once they come near the screen.
const nearScreen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && !isDrawn(target)) {
      draw(target);
      offerValues(target);
    }
  }
}, { rootMargin: "600px" });

function redraw() {
  charts.filter(isDrawn).forEach(draw);
}

// Legend: a click on a method lights it in all charts, maps and tables, others fade; pointing at it
// does so in charts for as long. Only the opacity of what is drawn changes: no chart is drawn anew.

const lit = new Set();
let pointedAt = null;
const buttons = [...document.querySelectorAll("[data-method]")];

const isFaded = (method) => {
  const chosen = pointedAt === null ? lit : new Set([pointedAt]);
  return chosen.size > 0 && !chosen.has(method);
};

function light(chart) {
  const lines = chart.querySelectorAll(".scatterlayer > .trace");
  chart.data.forEach((trace, i) => {
    if (!lines[i] || trace.meta === undefined) return;
    const own = trace.opacity ?? 1;
    lines[i].style.opacity = isFaded(trace.meta) ? 0.08 : !lit.size && pointedAt === null ? own : Math.max(own, 0.9);
  });
  const names = chart.querySelectorAll(".annotation");
  (chart.layout.annotations ?? []).forEach((label, i) => {
    if (names[i]) names[i].style.opacity = isFaded(label.name) ? 0.15 : "";
  });
}

function lightAll() {
  charts.filter(isDrawn).forEach(light);
}

function toggle(method) {
  lit.delete(method) || lit.add(method);
  for (const button of buttons) button.setAttribute("aria-pressed", lit.has(button.dataset.method));
  for (const part of document.querySelectorAll("[data-of]")) part.classList.toggle("faded", isFaded(part.dataset.of));
  tables.forEach((table) => table.light());
  lightAll();
}

for (const button of buttons) {
  const { method } = button.dataset;
  button.addEventListener("click", () => toggle(method));
  for (const [event, at] of [["pointerenter", method], ["pointerleave", null]]) {
    button.addEventListener(event, () => {
      pointedAt = at;
      lightAll();
    });
  }
}

// The values of a chart as a table, made when it is asked for.

function valuesOf(figure) {
  if (figure.data[0].z) {
    const [{ x, y, z, customdata }] = figure.data;
    // Where colours mean something else than the values, these are beside them.
    const values = customdata?.flat().some(Number.isFinite) ? customdata : z;
    return [["", ...x], ...values.map((row, i) => [y[i], ...row.map((value) => value ?? "—")])];
  }
  const rows = figure.data.flatMap((trace) => trace.x.map((x, i) => [trace.name, trace.text?.[i] ?? "", x, trace.y[i]]));
  const title = (axis) => figure.layout[axis]?.title?.text ?? "";
  return [["", "", title("xaxis"), title("yaxis")], ...rows];
}

function tableOf([head, ...rows]) {
  const cell = (tag, html, scope) => {
    const element = document.createElement(tag);
    element.innerHTML = html;
    if (scope) element.scope = scope;
    return element;
  };
  const line = (cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  };
  const table = document.createElement("table");
  table.createTHead().append(line(head.map((word) => cell("th", word, "col"))));
  table.createTBody().append(...rows.map(([first, ...rest]) =>
    line([cell("th", first, "row"), ...rest.map((value) => cell("td", value))])));
  return table;
}

function offerValues(chart) {
  const details = document.createElement("details");
  details.className = "values";
  details.append(Object.assign(document.createElement("summary"), { textContent: "Values" }));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const scroll = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
    scroll.append(tableOf(valuesOf(JSON.parse(chart.nextElementSibling.textContent))));
    details.append(scroll);
  });
  chart.closest(".panel").append(details);
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

// Tables: sorted by a click on a heading, filtered, and a page of rows at a time.

const ROWS_A_PAGE = 20;
const textOf = (cell) => (cell.querySelector(".state") ?? cell).textContent;

// Numbers by value, words by the alphabet, missing values last whichever way.
function compare(a, b, sign) {
  const missing = (a === "—") - (b === "—");
  if (missing) return missing;
  return sign * (parseFloat(a) - parseFloat(b) || a.localeCompare(b));
}

class Table {
  constructor(block) {
    this.table = block.querySelector("table");
    this.body = this.table.tBodies[0];
    this.headings = [...this.table.tHead.rows[0].cells];
    this.rows = this.found = [...this.body.rows];
    this.page = 0;
    this.methods = this.headings.findIndex((heading) => heading.textContent === "Method");
    this.headings.forEach((heading, column) => this.makeSortable(heading, column));
    this.controls = block.querySelector(".controls");
    if (this.controls) this.makeFilterable();
    if (this.rows.length > ROWS_A_PAGE) this.makePaged(block);
    this.show();
  }

  makeSortable(heading, column) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      this.headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const words = new Map(this.rows.map((row) => [row, textOf(row.cells[column])]));
      this.rows.sort((a, b) => compare(words.get(a), words.get(b), sign));
      this.filter();
    });
  }

  makeFilterable() {
    for (const select of this.controls.querySelectorAll("select")) {
      const words = this.rows.map((row) => textOf(row.cells[select.dataset.column]));
      for (const word of [...new Set(words)].sort()) select.add(new Option(word, word));
    }
    this.controls.addEventListener("input", () => this.filter());
    this.output = this.controls.querySelector("output");
  }

  filter() {
    const search = this.controls?.querySelector("input").value ?? "";
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const selects = [...(this.controls?.querySelectorAll("select") ?? [])];
    this.found = this.rows.filter((row) => {
      const text = row.textContent.toLowerCase();
      return selects.every(({ value, dataset }) => !value || textOf(row.cells[dataset.column]) === value)
        && words.every((word) => text.includes(word));
    });
    this.page = 0;
    this.show();
  }

  makePaged(block) {
    this.pager = document.createElement("div");
    this.pager.className = "pager";
    const button = (words, step) => {
      const made = Object.assign(document.createElement("button"), { type: "button", textContent: words });
      made.addEventListener("click", () => {
        this.page += step;
        this.show();
      });
      return made;
    };
    this.steps = [button("‹ previous", -1), button("next ›", 1)];
    this.place = document.createElement("span");
    this.pager.append(this.steps[0], this.place, this.steps[1]);
    block.append(this.pager);
  }

  show(all = false) {
    const pages = Math.max(1, Math.ceil(this.found.length / ROWS_A_PAGE));
    const first = this.page * ROWS_A_PAGE;
    this.body.replaceChildren(...(all || !this.pager ? this.found : this.found.slice(first, first + ROWS_A_PAGE)));
    if (this.output) this.output.textContent = `${this.found.length} of ${this.rows.length} ${this.table.dataset.name}`;
    if (!this.pager) return;
    this.place.textContent = `page ${this.page + 1} of ${pages}`;
    this.steps[0].disabled = this.page === 0;
    this.steps[1].disabled = this.page >= pages - 1;
  }

  light() {
    if (this.methods < 0) return;
    for (const row of this.rows) row.classList.toggle("faded", isFaded(textOf(row.cells[this.methods])));
  }
}

const tables = [...document.querySelectorAll(".table")].map((block) => new Table(block));

// Theme and print: paper is light and as wide as style.css says, and shows all that is not hidden.

charts.forEach((chart) => nearScreen.observe(chart));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  root.classList.add("paper");
  tables.forEach((table) => table.show(true));
  charts.filter((chart) => chart.checkVisibility()).forEach(draw);
});
addEventListener("afterprint", () => {
  root.classList.remove("paper");
  tables.forEach((table) => table.show());
  redraw();
  charts.filter(isDrawn).forEach((chart) => Plotly.Plots.resize(chart));
});
