"use strict";

// Tables that sort by a click on a heading: numbers by data-value, all else as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = heading.ariaSort === "ascending" ? "descending" : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction);
      sort(table.tBodies[0], column, direction === "ascending" ? 1 : -1);
    });
  });
}

function sort(body, column, sign) {
  const compare = (one, other) => {
    const [first, second] = [one.cells[column], other.cells[column]];
    return "value" in first.dataset
      ? first.dataset.value - second.dataset.value
      : first.textContent.localeCompare(second.textContent, undefined, { numeric: true });
  };
  body.append(...[...body.rows].sort((one, other) => sign * compare(one, other)));
}

// A finger that draws on a chart scrolls the page.
if (matchMedia("(pointer: coarse)").matches) {
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    Plotly.relayout(chart, { dragmode: false });
  }
}

// On paper charts are scaled to their columns, whatever width they were drawn for.
addEventListener("beforeprint", () => {
  for (const drawing of document.querySelectorAll(".main-svg")) {
    const [width, height] = [drawing.getAttribute("width"), drawing.getAttribute("height")];
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.parentElement.style.setProperty("--shape", `${width} / ${height}`);
  }
});
addEventListener("afterprint", () => {
  document.querySelectorAll(".main-svg").forEach((drawing) => drawing.removeAttribute("viewBox"));
});
