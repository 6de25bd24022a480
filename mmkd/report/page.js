"use strict";
// Under the pointer: the step and each line's value there, read back from the drawn paths.
const short = (v) => (Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(+v.toPrecision(3)));
for (const svg of document.querySelectorAll("svg.lines")) {
  const [left, right, top, bottom, x0, x1, y0, y1] = svg.dataset.scale.split(" ").map(Number);
  const log = "log" in svg.dataset, figure = svg.closest("figure");
  const lines = [...svg.querySelectorAll("path.line")].map((path) => ({
    name: path.dataset.name,
    points: path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number)),
  }));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const tip = document.createElement("div");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", top);
  cursor.setAttribute("y2", bottom);
  tip.className = "tip";
  const value = (y) => {
    const share = (bottom - y) / (bottom - top);
    return log ? y0 * Math.pow(y1 / y0, share) : y0 + share * (y1 - y0);
  };
  const away = () => { cursor.remove(); tip.remove(); };
  svg.addEventListener("pointerleave", away);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), ratio = box.width / svg.viewBox.baseVal.width;
    const at = (event.clientX - box.left) / ratio;
    if (at < left || at > right || !lines.length) return away();
    const rows = new Map();
    let place = null;
    for (const { name, points } of lines) {
      const near = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      if (place === null || Math.abs(near[0] - at) < Math.abs(place - at)) place = near[0];
      const before = rows.get(name);
      if (!before || Math.abs(near[0] - at) < Math.abs(before[0] - at)) rows.set(name, near);
    }
    const step = Math.round(x0 + ((place - left) / (right - left)) * (x1 - x0));
    tip.textContent = [`step ${step}`, ...[...rows].map(([name, point]) => `${name}  ${short(value(point[1]))}`)].join("\n");
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    svg.append(cursor);
    figure.append(tip);
    const home = figure.getBoundingClientRect(), x = box.left - home.left + place * ratio;
    tip.style.top = `${box.top - home.top + 4}px`;
    tip.style.left = `${x + 10 + tip.offsetWidth > home.width ? x - 10 - tip.offsetWidth : x + 10}px`;
  });
}
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => {
    const run = document.getElementById(link.hash.slice(1))?.closest("details");
    if (run) run.open = true;
  });
}
