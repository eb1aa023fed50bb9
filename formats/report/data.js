// The report's data, elements that show figures of it, and number formats.
const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);

// An element with properties and children; text only ever becomes text, never markup.
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const kinds = {
  percent: { scale: 100, text: (x) => `${x.toFixed(1)}\u00a0%` },
  figure: { scale: 1, text: (x) => x.toPrecision(3) },
  short: { scale: 1, text: (x) => x.toPrecision(2) },
  count: { scale: 1, text: (x) => x.toLocaleString("en") },
  value: { scale: 1, text: (x) => String(x) },
  mebibytes: { scale: 1 / 1048576, text: (x) => `${x.toFixed(1)}\u00a0MiB` },
};

function atPath(path) {
  return path.split("/").slice(1).reduce((node, key) => node[key], report);
}

// A figure of the JSON, by its JSON pointer. data-path and data-scale let a test compare what is shown with it.
function figure(tag, path, kind) {
  const { scale, text } = kinds[kind];
  const node = element(tag, { textContent: text(atPath(path) * scale) });
  node.dataset.path = path;
  node.dataset.scale = scale;
  return node;
}

const words = (tag, text) => element(tag, { className: "words", textContent: text });

function fillTable(table, heads, rows) {
  table.replaceChildren(
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { textContent: head, scope: "col" })))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells))));
}

function fillSelect(select, labels, chosen) {
  select.replaceChildren(...labels.map((label, i) => element("option", { value: i, textContent: label })));
  select.value = chosen;
}

const nameOfPoint = (curve, point) => `${point.label}${curve.rest === "mean" ? ", rest mean" : ""}`;
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const darkQuery = matchMedia("(prefers-color-scheme: dark)");
