// The title, the headline and the index at a glance.
function showHeadline() {
  const { curve, point } = report.focus;
  const path = `/curves/${curve}/points/${point}`;
  const file = report.index.file.split("/").pop();
  document.title = `${file}: Squeeze report`;
  byId("title").textContent = file;
  byId("version").textContent = report.version_of_writer;
  const policy = nameOfPoint(report.curves[curve], report.curves[curve].points[point]);
  byId("headline").append(
    "At ", element("b", { textContent: policy }), " a lookup reads ", figure("b", `${path}/budget`, "percent"),
    " of the cache's bytes and keeps ", figure("b", `${path}/kept_mass`, "percent"),
    " of the attention that falls on clustered tokens; the output is off by ", figure("b", `${path}/output_error`, "percent"), ".");
  const source = report.source === "probes" ? "the dump's probe questions" : "the last tokens of the text";
  const block = report.query_block;
  byId("replayed").textContent = `${source}, ${block === 1 ? "one query token" : `${block} query tokens`} per lookup`;
}

function showTiles() {
  const tile = (path, kind, label) =>
    element("div", { className: "tile" }, figure("b", path, kind), element("span", { textContent: label }));
  byId("tiles").append(
    tile("/index/n_tokens", "count", "tokens of context"), tile("/index/n_layers", "count", "layers"),
    tile("/index/n_kv_heads", "count", "KV heads per layer"), tile("/index/n_query_heads", "count", "query heads per layer"),
    tile("/index/head_dim", "count", "dimensions per head"), tile("/index/bytes", "mebibytes", "index file"),
    tile("/index/kv_bytes", "mebibytes", "keys and values"));
}

function showLevels() {
  const { levels } = report.index;
  const name = (i) => (i + 1 === levels.length ? "leaves" : levels.length === 2 ? "coarse" : `level ${i}`);
  fillTable(byId("levels"), ["Level", "Clusters per head", "Clusters", "Largest (keys)", "Bytes"],
    levels.map((level, i) => [words("td", name(i)), figure("td", `/index/levels/${i}/clusters_per_head`, "count"),
      figure("td", `/index/levels/${i}/n_clusters`, "count"), figure("td", `/index/levels/${i}/biggest`, "count"),
      figure("td", `/index/levels/${i}/bytes`, "mebibytes")]));
}

function showFacts() {
  const shown = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  const facts = Object.entries(report.index).filter(([name]) => name !== "levels" && name !== "calibration");
  const calibration = Object.entries(report.index.calibration).map(([name, value]) => [`calibration ${name}`, value]);
  const rows = [...facts, ...calibration, ["queries", report.queries]];
  fillTable(byId("facts"), ["Fact", "Value"], rows.map(([name, value]) => [words("td", name), words("td", shown(value))]));
}

showHeadline();
showTiles();
showLevels();
showFacts();
