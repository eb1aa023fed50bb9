"""Measures accuracy against bytes on the example documents and writes the tables of docs/accuracy.md.

Called by accuracy.sh from the repository's root: accuracy.py N_DOCUMENTS OUTPUT.md. Standard library only.
"""
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BIN = Path(os.environ.get("SQUEEZE_BIN", "build/bin"))
WORK = Path("build/accuracy")
MODEL = Path("examples/model")
TEST = Path("examples/documents/test")
N_PINNED = {"default": 104, "flat": 104, "window32": 36, "window16": 20}
POSITIONS = 8192  # of the example model
QUERY_BLOCK = 4   # squeeze-run's default

# name -> options of squeeze-build. "flat" is the paper's single level: 5 % leaves, centroids as the keys, no sketches.
INDEXES = {
    "default": [],
    "flat": ["--leaf", "5%", "--coarse", "none", "--centroids", "keys", "--sketch", "0"],
    "half": ["--sketch", "0.5"],
    "two": ["--sketch", "2"],
    "window32": ["--window", "32"],
    "window16": ["--window", "16", "--leaf", "1.25%"],
}


class Setting:
    """One line of the main tables: an index, a policy with its value for a document, and further options."""

    def __init__(self, label, index, policy, *options):
        self.label, self.index, self.policy, self.options = label, index, policy, list(options)

    def policy_for(self, n_tokens):
        return self.policy(n_tokens) if callable(self.policy) else self.policy


def oracle(budget):
    """Ideal top-k with as many keys as the budget pays besides the pinned tokens."""
    return lambda n: f"oracle:{round(budget * n - N_PINNED['default'])}"


def quest(budget):
    """Quest's pages: their bounds cost a sixteenth of the clustered keys."""
    def policy(n):
        clustered = n - N_PINNED["default"]
        return f"quest:{round(budget * n - N_PINNED['default'] - clustered / 16)}"
    return policy


def settings():
    drop = ("--rest", "drop")
    rows = [Setting("dense", "default", "dense")]
    for budget, name in ((0.125, "8x"), (0.05, "20x"), (0.03125, "32x")):
        rows.append(Setting(f"{name}: Squeeze", "default", f"budget:{budget}"))
        if name == "32x":
            rows.append(Setting(f"{name}: Squeeze, `--window 32`", "window32", f"budget:{budget}"))
        else:
            rows.append(Setting(f"{name}: Squeeze, rest drop", "default", f"budget:{budget}", *drop))
            rows.append(Setting(f"{name}: flat 5 %", "flat", f"budget:{budget}", *drop))
        if name in ("8x", "20x"):
            rows.append(Setting(f"{name}: Squeeze, `--sketch 0.5`", "half", f"budget:{budget}"))
            rows.append(Setting(f"{name}: Squeeze, `--sketch 2`", "two", f"budget:{budget}"))
        if name == "8x":
            rows.append(Setting(f"{name}: Quest pages", "default", quest(budget)))
        rows.append(Setting(f"{name}: ideal top-k", "default", oracle(budget)))
    rows.append(Setting("64x: Squeeze, `--window 16 --leaf 1.25%`", "window16", "budget:0.015625"))
    rows.append(Setting("20x: Squeeze, one selection per question", "default", "budget:0.05", "--query-block", "0"))
    rows.append(Setting("20x: flat 5 %, one selection per question", "flat", "budget:0.05", *drop, "--query-block", "0"))
    rows.append(Setting("20x: Squeeze, a selection per token", "default", "budget:0.05", "--query-block", "1"))
    rows.append(Setting("20x: ideal top-k, a selection per token", "default", oracle(0.05), "--query-block", "1"))
    rows.append(Setting("flat 5 %, sparsity 0.9 (the paper's rule)", "flat", "sparsity:0.9", *drop, "--query-block", "0"))
    rows.append(Setting("sparsity 0.9", "default", "sparsity:0.9"))
    rows.append(Setting("sparsity 0.98", "default", "sparsity:0.98"))
    rows.append(Setting("top-k 160", "default", "top-k:160"))
    rows.append(Setting("top-p 0.5", "default", "top-p:0.5"))
    rows.append(Setting("threshold 0.0005", "default", "threshold:0.0005"))
    return rows


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def questions(document):
    return TEST / f"doc_{document:02d}.questions.jsonl"


def prepare(document, n_documents):
    """The dump with all questions as probes, every index, and text that continues it up to the model's last position."""
    dump = WORK / f"{document:02d}.kv.h5"
    run(BIN / "squeeze-dump", "--model", MODEL, "--context", TEST / f"doc_{document:02d}.txt", "--probes",
        questions(document), "--precision", "f32", "-o", dump, "--force", "--quiet")
    for name, options in INDEXES.items():
        run(BIN / "squeeze-build", dump, "-o", WORK / f"{document:02d}.{name}.h5", "--force", "--quiet", *options)
    other = TEST / f"doc_{(document + 1) % n_documents:02d}.txt" if n_documents > 1 else TEST / "doc_01.txt"
    (WORK / f"{document:02d}.txt").write_text("\n\n" + other.read_text()[:3000])
    described = json.loads(run(BIN / "squeeze-inspect", WORK / f"{document:02d}.default.h5", "--json"))
    return described["n_tokens"]


def squeeze_run(document, setting, n_tokens, tag, *arguments):
    stats = WORK / f"{document:02d}.{tag}.json"
    run(BIN / "squeeze-run", "--index", WORK / f"{document:02d}.{setting.index}.h5", "--model", MODEL, "--precision",
        "f32", "--policy", setting.policy_for(n_tokens), "--threads", "1", "--stats", stats, "-o",
        stats.with_suffix(".jsonl"), "--force", "--quiet", *setting.options, *arguments)
    return json.loads(stats.read_text())


def measure(document, number, setting, n_tokens):
    tag = f"setting{number}"
    asked = squeeze_run(document, setting, n_tokens, tag, questions(document), "--max-tokens", "16", "--stop", "\n")
    scored = squeeze_run(document, setting, n_tokens, tag, questions(document), "--score-answers", "--compare-dense")
    text = squeeze_run(document, setting, n_tokens, tag, "--score-text", WORK / f"{document:02d}.txt", "--max-tokens",
                       POSITIONS - n_tokens, "--compare-dense")
    return {"correct": asked["n_correct"], "graded": asked["n_graded"], "bytes_read": asked["bytes_read"],
            "bytes_dense": asked["bytes_dense"], "question": (scored["prompt_mean_kl"], scored["prompt_n_scored"]),
            "answer": (scored["mean_kl"], scored["n_scored"]), "text": (text["mean_kl"], text["n_scored"]),
            "nll": (text["mean_nll"] - text["dense_mean_nll"], text["n_scored"])}


def pooled(results):
    """Sums over documents; means weighted by their number of positions."""
    total = {key: sum(r[key] for r in results) for key in ("correct", "graded", "bytes_read", "bytes_dense")}
    for key in ("question", "answer", "text", "nll"):
        n = sum(r[key][1] for r in results)
        total[key] = sum(r[key][0] * r[key][1] for r in results) / n
        total[f"n_{key}"] = n
    return total


def wilson(correct, n, z=1.96):
    """95 % interval of a proportion (Wilson)."""
    p = correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


N_REPLAYED = 2  # documents; replay computes dense attention for every question
REPLAY_BUDGETS = (0.025, 0.03, 0.05, 0.075, 0.1, 0.125, 0.2, 0.3)


def replay(document, n_tokens):
    """Kept mass and output error at equal bytes, over the document's questions: {(who, budget): metrics}."""
    def figures(index, names, *options):
        policies = [argument for _, policy in names for argument in ("--policy", policy)]
        found = json.loads(run(BIN / "squeeze-inspect", WORK / f"{document:02d}.{index}.h5", "--queries",
                               WORK / f"{document:02d}.kv.h5", "--probes", "--query-block", QUERY_BLOCK, "--json", *policies,
                               *options))
        return {name: target for (name, _), target in zip(names, found["targets"])}

    def feasible(least):
        return [b for b in REPLAY_BUDGETS if b >= least]

    result = figures("default", [(("ours", b), f"budget:{b}") for b in feasible(0.03)] +
                     [(("oracle", b), oracle(b)(n_tokens)) for b in REPLAY_BUDGETS] +
                     [(("quest", b), quest(b)(n_tokens)) for b in feasible(0.1)])
    result |= figures("window32", [(("ours, window 32", b), f"budget:{b}") for b in REPLAY_BUDGETS])
    result |= figures("default", [(("ours, drop", b), f"budget:{b}") for b in feasible(0.03)], "--rest", "drop")
    result |= figures("flat", [(("flat", b), f"budget:{b}") for b in feasible(0.05)], "--rest", "drop")
    return result


def replay_at_equal_keys(document, n_tokens):
    """Kept mass at 2 % and 10 % of the clustered keys, per layer and head, for half a bit, 1 and 2: {(bits, share): heads}."""
    dump = WORK / f"{document:02d}.kv.h5"
    clustered = n_tokens - N_PINNED["default"]
    result = {}
    for bits in (0.5, 1, 2):
        index = WORK / f"{document:02d}.bits{bits}.h5"
        run(BIN / "squeeze-build", dump, "-o", index, "--force", "--quiet", "--sketch", bits, "--sketch-keep", "0.9")
        policies = []
        for share in (0.02, 0.1):
            n_keys = round(share * clustered)
            policies += ["--policy", f"top-k:{n_keys}", "--policy", f"oracle:{n_keys}"]
        found = json.loads(run(BIN / "squeeze-inspect", index, "--queries", dump, "--probes", "--query-block", "1",
                               "--json", *policies))["targets"]
        for i, share in enumerate((0.02, 0.1)):
            ours, ideal = found[2 * i], found[2 * i + 1]
            result[bits, share] = [(layer["layer"], head["kv_head"], head["kept_mass"], best["kept_mass"])
                                   for layer, top in zip(ours["layers"], ideal["layers"])
                                   for head, best in zip(layer["heads"], top["heads"])]
    return result


DRIFT_POLICIES = ("sparsity:0.7", "sparsity:0.9", "sparsity:0.95", "sparsity:0.98", "budget:0.03125", "budget:0.05",
                  "budget:0.125", "budget:0.3")


def drift(document):
    """Sparsity asked for and measured on held-out questions, calibrated on the window and on other questions."""
    dump = WORK / f"{document:02d}.kv.h5"
    rows = {}
    for source in ("window", "probes:30"):
        index = WORK / f"{document:02d}.drift.h5"
        run(BIN / "squeeze-build", dump, "-o", index, "--force", "--quiet", "--calibrate", source)
        found = json.loads(run(BIN / "squeeze-inspect", index, "--queries", dump, "--probes", "--query-block", QUERY_BLOCK,
                               "--json", *[a for p in DRIFT_POLICIES for a in ("--policy", p)]))["targets"]
        for policy, target in zip(DRIFT_POLICIES, found):
            rows[source, policy] = (target["measured_sparsity"], target["budget"])
    return rows


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def main_tables(rows, totals):
    dense = totals[0]
    lines = ["| setting | budget | accuracy | 95 % interval | KL question | KL answer | KL text | text perplexity |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for setting, t in zip(rows, totals):
        low, high = wilson(t["correct"], t["graded"])
        lines.append(
            f"| {setting.label} | {100 * t['bytes_read'] / t['bytes_dense']:.2f} % | "
            f"{100 * t['correct'] / t['graded']:.1f} % ({t['correct']} of {t['graded']}) | "
            f"{100 * low:.1f}-{100 * high:.1f} % | {t['question']:.4f} | {t['answer']:.4f} | {t['text']:.4f} | "
            f"{100 * (math.exp(t['nll']) - 1):+.2f} % |")
    lines.append("")
    lines.append(f"KL over {dense['n_question']} question, {dense['n_answer']} answer and {dense['n_text']} text positions.")
    return lines


def replay_tables(replays):
    lines = []
    names = ("ours", "ours, window 32", "ours, drop", "flat", "quest", "oracle")
    titles = ("Squeeze", "Squeeze, `--window 32`", "Squeeze, rest drop", "flat 5 %", "Quest pages", "ideal top-k")
    for key, title in (("kept_mass", "Kept attention mass of the clustered tokens"), ("output_error", "Output error")):
        lines += [f"**{title}**", "", "| budget | " + " | ".join(titles) + " |", "| --- " * (len(names) + 1) + "|"]
        for budget in REPLAY_BUDGETS:
            cells = [f"{mean(r[name, budget][key] for r in replays):.4f}" if (name, budget) in replays[0] else "-"
                     for name in names]
            lines.append(f"| {100 * budget:g} % | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def equal_keys_table(results):
    lines = ["| keys | bits | Squeeze | ideal | ratio | worst heads (ratio) |", "| --- | --- | --- | --- | --- | --- |"]
    for (bits, share) in results[0]:
        n_heads = len(results[0][bits, share])
        heads = [(results[0][bits, share][h][0], results[0][bits, share][h][1],
                  mean(r[bits, share][h][2] for r in results), mean(r[bits, share][h][3] for r in results))
                 for h in range(n_heads)]
        ours, ideal = mean(h[2] for h in heads), mean(h[3] for h in heads)
        worst = sorted(heads, key=lambda h: h[2] / h[3])[:3]
        named = ", ".join(f"layer {layer} head {head}: {a / b:.3f}" for layer, head, a, b in worst)
        lines.append(f"| {100 * share:g} % | {bits} | {ours:.4f} | {ideal:.4f} | {ours / ideal:.3f} | {named} |")
    return lines


def drift_table(results):
    lines = ["| calibrated on | asked for | measured sparsity | measured budget |", "| --- | --- | --- | --- |"]
    for source, target in results[0]:
        sparsity = mean(r[source, target][0] for r in results)
        budget = mean(r[source, target][1] for r in results)
        name, value = target.split(":")
        asked = f"{name} {100 * float(value):g} %"
        lines.append(f"| {source} | {asked} | {sparsity:.4f} | {100 * budget:.2f} % |")
    return lines


INTRO = """# Accuracy against bytes

Written by `scripts/accuracy.sh {n}` at commit {commit}. The example model (3.4 M parameters, 4 layers, 4 query and 2 KV heads of
64), {n} test documents of about 8,000 tokens that nothing was tuned on, {questions} questions. All layers sparse, the question
processed sparsely as well (a selection per 4 tokens unless said otherwise), float32 arithmetic, greedy decoding, exact match.
*Budget*: all bytes read of the context (pinned tokens, centroids, sketches, value means, keys and values) over its whole KV
cache. *KL*: mean divergence, in nats, of the next-token distribution from dense attention's, teacher-forced; text is plain
prose that continues the document up to the model's 8192 positions. *Flat 5 %*: one level of 5 % leaves with centroids as wide as
the keys (the paper's), with its best clusters up to the same bytes. *Quest pages*: 16 tokens, min/max bound. *Ideal top-k*:
the keys with the largest true attention, no index bytes, no compensation. Rows at one budget read equal bytes.
"""


def main():
    n_documents, output = int(sys.argv[1]), Path(sys.argv[2])
    WORK.mkdir(parents=True, exist_ok=True)
    commit = run("git", "rev-parse", "--short", "HEAD").strip()
    rows = settings()
    with ThreadPoolExecutor(2) as pool:
        documents = range(n_documents)
        n_tokens = list(pool.map(lambda d: prepare(d, n_documents), documents))
        jobs = {(i, d): pool.submit(measure, d, i, setting, n_tokens[d])
                for i, setting in enumerate(rows) for d in documents}
        totals = []
        for i, setting in enumerate(rows):
            totals.append(pooled([jobs[i, d].result() for d in documents]))
            print(f"{setting.label}: {totals[-1]}", file=sys.stderr, flush=True)
        replayed = documents[:N_REPLAYED]
        replays = list(pool.map(lambda d: replay(d, n_tokens[d]), replayed))
        equal_keys = list(pool.map(lambda d: replay_at_equal_keys(d, n_tokens[d]), replayed))
        drifts = list(pool.map(drift, replayed))
    lines = [INTRO.format(n=n_documents, commit=commit, questions=totals[0]["graded"])]
    lines += ["## Answers and distributions", ""] + main_tables(rows, totals)
    lines += ["", "## Attention, at equal bytes", "", f"Replay of the questions of {len(replays)} documents, blocks of {QUERY_BLOCK} tokens.", ""]
    lines += replay_tables(replays)
    lines += ["## Attention, at equal numbers of keys", "",
              "Top-k with sketches of 90 % of the keys (`--sketch-keep 0.9`), a selection per token, against the ideal.", ""]
    lines += equal_keys_table(equal_keys)
    lines += ["", "## Asked for and measured", "",
              "On the questions that did not calibrate (all of them, or the last 30 of 60).", ""] + drift_table(drifts)
    notes = Path("docs/accuracy_notes.md")
    text = "\n".join(lines) + "\n"
    if notes.exists():
        text += "\n" + notes.read_text()
    output.write_text(text)
    (WORK / "totals.json").write_text(json.dumps([[r.label, t] for r, t in zip(rows, totals)]))


if __name__ == "__main__":
    main()
