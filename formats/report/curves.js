// Kept mass and output error against budget, and the histogram of cluster sizes: Chart.js charts.

// Okabe and Ito's palette, for any kind of colour vision; a policy keeps its colour and marker, `rest mean` is dashed and
// hollow.
const palette = {
  light: ["#0072b2", "#009e73", "#d55e00", "#b3558a", "#6b7280", "#b07a00", "#3b8fc2"],
  dark: ["#56b4e9", "#2fcb9a", "#ff8f4d", "#e39ac6", "#a8b0ba", "#f0c24b", "#8ec9ee"],
};
const markers = ["circle", "rect", "triangle", "rectRot", "crossRot", "star", "cross"];
const firstPolicies = ["sparsity", "flat", "quest", "window", "oracle"];  // the same colours in every report
const charts = [];

function seriesOf(curve, colours, y) {
  const policies = [...new Set([...firstPolicies, ...report.curves.map((c) => c.policy)])];
  const order = policies.indexOf(curve.policy);
  const colour = colours[order % colours.length];
  return {
    label: curve.label,
    data: curve.points.map((point) => ({ x: 100 * point.budget, y: y.scale * point[y.name], point }))
      .filter((p) => p.x > 0 && (!y.log || p.y > 0)),
    borderColor: colour, backgroundColor: colour, borderWidth: 2, pointBorderWidth: 2,
    pointBackgroundColor: curve.rest === "mean" ? style("--background") : colour, borderDash: curve.rest === "mean" ? [6, 4] : [],
    pointStyle: markers[order % markers.length], pointRadius: 4, pointHoverRadius: 6, clip: 8,
  };
}

const withUnit = (x) => `${Number(x.toPrecision(3))}\u00a0%`;

function logAxis(title, colours) {
  return {
    type: "logarithmic", title: { display: true, text: title, color: colours.text },
    grid: { color: colours.line, borderColor: colours.line },
    ticks: { color: colours.muted, maxRotation: 0,
      callback: (x) => ([1, 2, 5].includes(Number(x.toExponential()[0])) && /^\de/.test(x.toExponential()) ? withUnit(x) : null) },
  };
}

function budgetChart(id, y, colours) {
  const yAxis = y.log ? logAxis(y.title, colours) : {
    min: 0, max: 100, title: { display: true, text: y.title, color: colours.text },
    grid: { color: colours.line }, ticks: { color: colours.muted, callback: withUnit },
  };
  return new Chart(byId(id), {
    type: "line",
    data: { datasets: report.curves.map((curve) => seriesOf(curve, colours.series, y)) },
    options: {
      animation: false, maintainAspectRatio: false, parsing: false, interaction: { mode: "nearest", intersect: false },
      scales: { x: logAxis("budget (% of the cache's bytes, log scale)", colours), y: yAxis },
      plugins: {
        legend: { position: "bottom", labels: { color: colours.text, usePointStyle: true, boxWidth: 8, boxHeight: 8, padding: 12 } },
        tooltip: { usePointStyle: true, callbacks: {
          title: (items) => items.map((i) => `${i.dataset.label} (${i.raw.point.label})`).join(", "),
          label: (item) => [`budget ${withUnit(item.raw.x)}`, `${y.label} ${withUnit(item.raw.y)}`] } },
      },
    },
  });
}

const nameOfBin = (bin) => (bin.from === bin.to ? String(bin.from) : `${bin.from}-${bin.to}`);

function sizeChart(colours) {
  const bins = report.cluster_sizes;
  const axis = (text) => ({ title: { display: true, text, color: colours.text }, grid: { color: colours.line },
    ticks: { color: colours.muted } });
  return new Chart(byId("size-chart"), {
    type: "bar",
    data: { labels: bins.map(nameOfBin), datasets: [{ label: "leaf clusters", data: bins.map((bin) => bin.n_clusters),
      backgroundColor: colours.series[0] }] },
    options: {
      animation: false, maintainAspectRatio: false, scales: { x: axis("keys in the cluster"), y: axis("leaf clusters") },
      plugins: { legend: { display: false }, tooltip: { callbacks: {
        title: (items) => `${items[0].label} keys`,
        label: (item) => `${item.raw} clusters, ${bins[item.dataIndex].n_keys} keys together` } } },
    },
  });
}

function drawCharts() {
  for (const chart of charts.splice(0)) chart.destroy();
  const colours = { text: style("--text"), muted: style("--muted"), line: style("--line"),
    series: darkQuery.matches ? palette.dark : palette.light };
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  charts.push(
    budgetChart("mass-chart", { name: "kept_mass", label: "kept mass", title: "kept attention mass (%)", scale: 100 }, colours),
    budgetChart("error-chart", { name: "output_error", label: "output error", title: "output error (%, log scale)",
      scale: 100, log: true }, colours),
    sizeChart(colours));
}

function showPoints() {
  const rows = report.curves.flatMap((curve, c) => curve.points.map((_, p) => {
    const path = `/curves/${c}/points/${p}`;
    return [words("td", curve.label), figure("td", `${path}/value`, "value"),
      figure("td", `${path}/measured_sparsity`, "percent"), figure("td", `${path}/budget`, "percent"),
      figure("td", `${path}/kept_mass`, "percent"), figure("td", `${path}/topk_recall`, "percent"),
      figure("td", `${path}/output_error`, "figure")];
  }));
  fillTable(byId("points"), ["Policy", "Setting", "Keys skipped", "Budget", "Kept mass", "Top-k recall", "Output error"], rows);
  fillTable(byId("sizes"), ["Keys in the cluster", "Leaf clusters", "Keys together"], report.cluster_sizes.map((bin, i) =>
    [words("td", nameOfBin(bin)), figure("td", `/cluster_sizes/${i}/n_clusters`, "count"),
      figure("td", `/cluster_sizes/${i}/n_keys`, "count")]));
}

drawCharts();
showPoints();
darkQuery.addEventListener("change", drawCharts);
