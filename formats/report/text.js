// The text, token by token, coloured by how many lookups read each token for the chosen question.
const tokensPerPart = 20000;
const strongest = 0.65;  // opacity of the token that is read most
const { text } = report;

function labelOf(question) {
  if (question.kind === "window") {
    return `tokens ${question.first_token} to ${question.first_token + question.n_tokens - 1} of the text`;
  }
  return question.text.trim().replace(/\s+/g, " ") || "(a question without text)";
}

const isPinned = (token) => token < text.n_sinks || token >= text.tokens.length - text.n_window;

function mostKept(question) {
  const clustered = question.kept.filter((_, token) => !isPinned(token));
  return Math.max(1, clustered.reduce((most, n) => Math.max(most, n), 0));
}

function tokenNode(token, question, most) {
  const shown = text.kind === "ids" ? `${text.tokens[token]} ` : text.tokens[token];
  const node = element("span", { textContent: shown });
  node.dataset.token = token;
  if (isPinned(token)) {
    node.className = "pinned";
  } else {
    node.style.background = `rgba(var(--kept), ${(strongest * question.kept[token] / most).toFixed(3)})`;
  }
  return node;
}

function showText() {
  const question = report.questions[byId("question").value];
  const most = mostKept(question);
  const begin = byId("part").value * tokensPerPart;
  const end = Math.min(begin + tokensPerPart, text.tokens.length);
  const nodes = [];
  for (let token = begin; token < end; ++token) nodes.push(tokenNode(token, question, most));
  byId("text").replaceChildren(...nodes);
  byId("text-max").textContent = kinds.percent.text(100 * most / question.n_lookups);
  byId("text-scale").style.background =
    `linear-gradient(90deg, transparent, rgba(var(--kept), ${strongest}))`;
}

function showToken(event) {
  const { token } = event.target.dataset;
  if (token === undefined) return;
  const question = report.questions[byId("question").value];
  const kept = isPinned(Number(token)) ? "pinned, always read"
    : `read by ${question.kept[token]} of ${question.n_lookups} lookups (${kinds.percent.text(100 * question.kept[token] / question.n_lookups)})`;
  const shown = text.kind === "ids" ? `id ${text.tokens[token]}` : JSON.stringify(text.tokens[token]);
  byId("token-status").textContent = `Token ${token}, ${shown}: ${kept}.`;
}

function startText() {
  const nParts = Math.ceil(text.tokens.length / tokensPerPart);
  const parts = Array.from({ length: nParts }, (_, i) =>
    `tokens ${i * tokensPerPart} to ${Math.min((i + 1) * tokensPerPart, text.tokens.length) - 1}`);
  const { curve, point } = report.focus;
  byId("text-policy").textContent = nameOfPoint(report.curves[curve], report.curves[curve].points[point]);
  fillSelect(byId("question"), report.questions.map(labelOf), 0);
  fillSelect(byId("part"), parts, 0);
  byId("part-label").hidden = nParts < 2;
  byId("question").addEventListener("change", showText);
  byId("part").addEventListener("change", showText);
  byId("text").addEventListener("pointerover", showToken);
  byId("text").addEventListener("click", showToken);
  showText();
}

startText();
