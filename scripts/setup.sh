#!/usr/bin/env bash
# Installs the Debian packages that Squeeze builds with. Does nothing, quietly, when all are there.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'HELP'
usage: scripts/setup.sh [--bench]
Installs what is missing of the compiler, CMake, Ninja and the libraries that Squeeze builds with (Debian packages, as
root or through sudo). Needs the network only if something is missing. --bench: also Faiss and OpenBLAS, which
scripts/bench.sh compares k-means with.
HELP
  exit 0
fi

packages=(g++ cmake ninja-build pkg-config libcli11-dev libhdf5-dev libfmt-dev doctest-dev libdnnl-dev
  libsentencepiece-dev libpcre2-dev libutf8proc-dev nlohmann-json3-dev libssl-dev libjs-chart.js)
[ "${1:-}" != "--bench" ] || packages+=(libfaiss-dev libopenblas-openmp-dev)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup.sh: ${missing[*]} must be installed; run as root, or install sudo" >&2; exit 1; }
  as_root=(sudo)
fi
echo "setup.sh: installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; }
if ! { "${as_root[@]}" apt-get update && install; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "setup.sh: could not install ${missing[*]}; see the messages above" >&2
  exit 1
fi
