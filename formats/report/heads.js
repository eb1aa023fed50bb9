// Heat maps of layers and KV heads, and the worst heads, for a chosen policy and setting.

// Cividis (Nunez, Anderton and Renslow, 2018): as good without colour vision.
const cividis = [[0, 32, 77], [49, 68, 107], [102, 105, 112], [149, 143, 120], [203, 186, 105], [255, 234, 70]];
const heatMaps = [
  { name: "budget", title: "Budget", text: "Share of the head's cache that is read.", kind: "percent" },
  { name: "kept_mass", title: "Kept mass", text: "Share of the attention to clustered tokens that is kept.", kind: "percent" },
  { name: "output_error", title: "Output error", text: "Distance from dense attention, relative.", kind: "short" },
];

function heatColour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (cividis.length - 1);
  const i = Math.min(Math.floor(at), cividis.length - 2);
  return cividis[i].map((low, c) => Math.round(low + (at - i) * (cividis[i + 1][c] - low)));
}

function paint(cell, share) {
  const [r, g, b] = heatColour(share);
  cell.style.background = `rgb(${r}, ${g}, ${b})`;
  cell.style.color = 0.299 * r + 0.587 * g + 0.114 * b > 120 ? "#111" : "#fff";
  return cell;
}

function heatScale(low, high, kind) {
  const { scale, text } = kinds[kind];
  const bar = element("span", { className: "scale" });
  bar.style.background = `linear-gradient(90deg, ${cividis.map((c) => `rgb(${c})`).join(", ")})`;
  return element("p", { className: "legend" }, text(low * scale), bar, text(high * scale));
}

function heatMap(map, path) {
  const rows = atPath(`${path}/heads/${map.name}`);
  const low = Math.min(...rows.flat());
  const high = Math.max(...rows.flat());
  const cell = (layer, head) => {
    const node = paint(figure("td", `${path}/heads/${map.name}/${layer}/${head}`, map.kind),
      high > low ? (rows[layer][head] - low) / (high - low) : 0.5);
    node.title = `layer ${layer}, KV head ${head}: ${map.title.toLowerCase()} ${rows[layer][head]}`;
    return node;
  };
  const table = element("table", { className: "heat" });
  fillTable(table, ["", ...rows[0].map((_, head) => `H${head}`)], rows.map((cells, layer) =>
    [element("th", { textContent: `L${layer}`, scope: "row" }), ...cells.map((_, head) => cell(layer, head))]));
  return element("figure", {},
    element("figcaption", {}, element("b", { textContent: `${map.title}. ` }), map.text),
    element("div", { className: rows[0].length > 8 ? "scroll wide" : "scroll" }, table), heatScale(low, high, map.kind));
}

function showWorst(path) {
  const errors = atPath(`${path}/heads/output_error`);
  const heads = errors.flatMap((row, layer) => row.map((error, head) => ({ layer, head, error })));
  heads.sort((a, b) => b.error - a.error || a.layer - b.layer || a.head - b.head);
  const cellOf = (name, { layer, head }, kind) => figure("td", `${path}/heads/${name}/${layer}/${head}`, kind);
  fillTable(byId("worst"), ["Head", "Budget", "Kept mass", "Output error"], heads.slice(0, report.n_worst).map((h) =>
    [words("td", `layer ${h.layer}, KV head ${h.head}`), cellOf("budget", h, "percent"), cellOf("kept_mass", h, "percent"),
      cellOf("output_error", h, "figure")]));
}

function showHeads() {
  const path = `/curves/${byId("curve").value}/points/${byId("point").value}`;
  byId("heat").replaceChildren(...heatMaps.map((map) => heatMap(map, path)));
  showWorst(path);
}

function choosePoints(chosen) {
  const { points } = report.curves[byId("curve").value];
  fillSelect(byId("point"), points.map((p) => `${p.label} (budget ${kinds.percent.text(100 * p.budget)})`), chosen);
}

fillSelect(byId("curve"), report.curves.map((curve) => curve.label), report.focus.curve);
choosePoints(report.focus.point);
byId("curve").addEventListener("change", () => {
  const { points } = report.curves[byId("curve").value];
  choosePoints(Math.min(byId("point").value, points.length - 1));
  showHeads();
});
byId("point").addEventListener("change", showHeads);
showHeads();
