#!/usr/bin/env bash
# Runs the benchmark and writes docs/performance.md.
set -euo pipefail
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'HELP'
usage: scripts/bench.sh [OUTPUT.md [BENCH OPTIONS...]]
Builds the release programs, runs build/bin/bench (its options: build/bin/bench --help) and, if python3 (or $PYTHON) has PyTorch,
scripts/bench_peers.py (with llama-cpp-python: llama.cpp too), and writes OUTPUT.md (default docs/performance.md). About 20 minutes on
two cores (build/bin/bench alone: under 10), 12 GB of memory; decoding at 512K tokens takes up to 13 GB and is skipped where there is less.
HELP
  exit 0
fi
cd "$(dirname "$0")/.."
output=${1:-docs/performance.md}
shift || true
scripts/setup.sh --bench
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target bench
commit=$(git rev-parse --short HEAD)
python=${PYTHON:-python3}
table=$(mktemp)
trap 'rm -f "$table"' EXIT

{
  echo "# Performance"
  echo
  echo "Written by \`scripts/bench.sh\` at commit $commit. Times are medians; a row's GB/s are the bytes that it has to read over its time,"
  echo "next to the speed at which as many threads read memory in the same run. Attention rows were checked against the scalar kernels first."
  echo "Contexts are made-up keys of many topics; lookup and selection are part of every sparse row. *Sparsity* reads whole leaves,"
  echo "*budget 5 %* chooses keys by sketches within 5 % of the bytes. Attention rows are one layer; prefill rows share a selection per"
  echo "4 tokens unless they say *one selection*; the scalar kernels ran on 8 of their tokens, and that time is scaled. K-means"
  echo "makes a twentieth as many clusters as there are keys in 10 iterations."
  echo
  build/bin/bench --commit "$commit" "$@"
  if "$python" -c 'import torch' 2>/dev/null; then
    echo
    echo "## Next to PyTorch and llama.cpp"
    echo
    "$python" scripts/bench_peers.py
  fi
} >"$table"
if [ -f docs/performance_notes.md ]; then
  { echo; cat docs/performance_notes.md; } >>"$table"
fi
cp "$table" "$output"
