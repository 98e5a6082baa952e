"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function config() {
  const ink = dark.matches && !window.matchMedia("print").matches ? "#d0d4da" : "#1c1e21";
  const line = dark.matches ? "#3a3f47" : "#e3e5e9";
  const axis = { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return { background: "transparent", view: { stroke: "transparent" }, axis, legend: { labelColor: ink, titleColor: ink, labelFontSize: 12 } };
}

async function draw(place) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  spec.config = config();
  await vegaEmbed(place, spec, { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false }, tooltip: { theme: dark.matches ? "dark" : "light" } });
  for (const select of place.querySelectorAll("select, input")) {
    select.setAttribute("aria-label", "Horizontal axis");
  }
  for (const summary of place.querySelectorAll("summary")) {
    summary.setAttribute("aria-label", "Save this picture");
  }
  place.dataset.drawn = "yes";
}

function tryToDraw(place) {
  draw(place).catch((error) => { place.textContent = "This picture can't be drawn: " + error.message; });
}

const places = [...document.querySelectorAll(".picture")];
const mostAtOnce = 40;
// A page of many pictures draws each when it comes near.
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    near.unobserve(entry.target);
    tryToDraw(entry.target);
  }
}, { rootMargin: "800px" });

function drawAll() {
  places.forEach(places.length > mostAtOnce ? (place) => near.observe(place) : tryToDraw);
}

function sortBy(header) {
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.cells) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.order;
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b) : Number(a) - Number(b);
    return up ? order : -order;
  });
  body.append(...rows);
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
for (const input of document.querySelectorAll("[data-filter]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of document.getElementById(input.dataset.filter).tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}
dark.addEventListener("change", drawAll);
drawAll();
