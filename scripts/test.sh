#!/usr/bin/env bash
# Set-up, build, all tests. Ends with ctest's summary.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'HELP'
usage: scripts/test.sh [PRESET]
Installs what is missing, builds the preset (release by default; asan for the sanitizers) and runs every test.
HELP
  exit 0
fi

preset=${1:-release}
cd "$(dirname "$0")/.."
scripts/setup.sh
jobs=$(nproc)
options=()
# One CUDA architecture will do where nothing is shipped.
[ -z "${CI:-}" ] || options=(-DSQUEEZE_WERROR=ON -DCMAKE_CUDA_ARCHITECTURES=90-real)
cmake --preset "$preset" "${options[@]}" >/dev/null
cmake --build --preset "$preset" -j "$jobs"
ctest --preset "$preset" -j "$jobs"
