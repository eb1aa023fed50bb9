#!/usr/bin/env bash
# Runs the example's test documents through all rules and budgets and writes docs/accuracy.md.
set -euo pipefail
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'HELP'
usage: scripts/accuracy.sh [DOCUMENTS [OUTPUT.md]]
Builds the release programs, asks all questions about the first DOCUMENTS test documents (default 10) under every rule and
budget, scores answers and plain text against dense attention, replays the questions, and writes OUTPUT.md (default
docs/accuracy.md). About 25 minutes on two cores; files go to build/accuracy. Needs python3 (standard library only).
HELP
  exit 0
fi
cd "$(dirname "$0")/.."
scripts/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target squeeze-dump squeeze-build squeeze-inspect squeeze-run
exec python3 scripts/accuracy.py "${1:-10}" "${2:-docs/accuracy.md}"
