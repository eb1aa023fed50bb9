#!/usr/bin/env bash
# Checks that includes follow tools -> formats -> lib -> kernels, and that each library stays in its one place.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = "--help" ]; then echo "usage: scripts/check_arrows.sh   (exit 1 and the lines that break a rule)"; exit 0; fi

status=0
# rule NAME PATTERN FILES...: no line of the files may match.
rule() {
  local name=$1 pattern=$2; shift 2
  local found
  found=$(grep -nE "$pattern" "$@" /dev/null || true)
  [ -z "$found" ] || { echo "$name:"; echo "$found"; status=1; }
}
sources() { find "$@" -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh'; }

rule "kernels include only kernels" '#include "(lib|formats|tools)/' $(sources kernels)
rule "lib includes only lib and kernels" '#include "(formats|tools)/' $(sources lib)
rule "formats include no tools" '#include "tools/' $(sources formats)
rule "lib opens no file" '#include <(fstream|cstdio|filesystem|fcntl.h|sys/mman.h)>' $(sources lib)
rule "Faiss only in the benchmark of k-means" '#include <faiss/' $(sources kernels lib formats tools tests | grep -v tests/bench/kmeans_rows.cpp)
rule "HDF5 only in formats/h5.cpp" '#include [<"]hdf5' $(sources kernels lib formats tools | grep -v formats/h5.cpp)
rule "oneDNN only in the matmul file" '#include .*dnnl' $(sources kernels lib formats tools | grep -v kernels/cpu/matmul.cpp)
rule "CLI11 only in tools" '#include <CLI/' $(sources kernels lib formats)
rule "CUDA only in kernels/cuda" '#include <cuda' $(sources kernels lib formats tools | grep -v kernels/cuda/)
rule "cuBLAS only in kernels/cuda/matmul.cu" '#include <cublas' $(sources kernels lib formats tools tests | grep -v kernels/cuda/matmul.cu)
rule "doctest only in tests" '#include <doctest' $(sources kernels lib formats tools)
rule "JSON in one header" '#include <nlohmann/json.hpp>' $(find lib formats kernels tools -name "*.hpp" ! -path lib/model/json_node.hpp)
[ $status = 0 ] && echo "includes follow the arrows"
exit $status
