"use strict";

// A click on a heading sorts its table: cells with data-value as numbers, all others as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = heading.ariaSort === "ascending" ? "descending" : "ascending";
      headings.forEach((cell) => cell.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction);
      sort(table.tBodies[0], column, direction === "ascending" ? 1 : -1);
    });
  });
}

function sort(body, column, sign) {
  const compare = (firstRow, secondRow) => {
    const first = firstRow.cells[column];
    const second = secondRow.cells[column];
    return "value" in first.dataset
      ? first.dataset.value - second.dataset.value
      : first.textContent.localeCompare(second.textContent, undefined, { numeric: true });
  };
  body.append(...[...body.rows].sort((first, second) => sign * compare(first, second)));
}

// On touch screens, dragging across a chart scrolls the page instead of zooming the chart.
if (matchMedia("(pointer: coarse)").matches) {
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    Plotly.relayout(chart, { dragmode: false });
  }
}

// In print, charts are scaled to the width of their columns.
addEventListener("beforeprint", () => {
  for (const drawing of document.querySelectorAll(".main-svg")) {
    const width = drawing.getAttribute("width");
    const height = drawing.getAttribute("height");
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.parentElement.style.setProperty("--shape", `${width} / ${height}`);
  }
});
addEventListener("afterprint", () => {
  document.querySelectorAll(".main-svg").forEach((drawing) => drawing.removeAttribute("viewBox"));
});
