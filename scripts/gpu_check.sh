#!/usr/bin/env bash
# Builds the CUDA kernels alone, checks and times them on this machine's GPU; a short table last.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'HELP'
usage: scripts/gpu_check.sh [OUTPUT FOLDER]
Needs CMake 3.24, nvcc, a C++20 compiler and a GPU; nothing else. In build-gpu:
  1. builds the kernels, their tests and their benchmark for the GPU that is there
  2. runs the tests, and compute-sanitizer on small cases where it is installed (memcheck, racecheck)
  3. runs the benchmark, and PyTorch on the same shapes where python3 has it
Logs and JSON go to the output folder (build-gpu/check). Exit status 0 only if everything that ran passed.
SQUEEZE_GPU_ARCH chooses the architecture (default: native).
HELP
  exit 0
fi

out=${1:-build-gpu/check}
mkdir -p "$out"
status=0
step() { # NAME COMMAND...: logs, and remembers failures
  local name=$1 begin=$SECONDS rc=0
  shift
  "$@" >"$out/$name.log" 2>&1 || rc=$?
  local found="FAILED, exit $rc: $out/$name.log"
  [ $rc != 0 ] || found=passed
  [ $rc != 77 ] || found="SKIPPED, nothing was checked: $out/$name.log"
  printf '%-24s %s (%d s)\n' "$name" "$found" $((SECONDS - begin)) | tee -a "$out/steps.txt"
  if [ $rc != 0 ]; then status=1; tail -15 "$out/$name.log"; fi
}
: >"$out/steps.txt"

generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
step configure cmake -S . -B build-gpu "${generator[@]}" -DSQUEEZE_KERNELS_ONLY=ON -DSQUEEZE_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES="${SQUEEZE_GPU_ARCH:-native}"
step build cmake --build build-gpu -j "$(nproc)"
[ $status = 0 ] || exit 1
bin=build-gpu/bin
step tests "$bin/cuda_tests"
if command -v compute-sanitizer >/dev/null; then
  for case in "attend_decode: bytes, dim 256" "attend_prefill: bytes, dim 64" "lookup: some clusters" "sketch_lookup: one bit" "forward_ops: append_each" "decode_call: sketches" "matvec: rows" "row_cache: requests that share rows"; do
    name=${case%%:*}
    step "memcheck-$name" compute-sanitizer --tool memcheck --error-exitcode 9 "$bin/cuda_tests" "$case"
    step "racecheck-$name" compute-sanitizer --tool racecheck --error-exitcode 9 "$bin/cuda_tests" "$case"
  done
else
  echo "compute-sanitizer is not installed: skipped" | tee -a "$out/steps.txt"
fi
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  step peers timeout 150 python3 scripts/bench_cuda_peers.py --json "$out/peers.json"
fi
step bench timeout 240 "$bin/cuda_bench" --json "$out/bench.json"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader >"$out/gpu.txt" 2>/dev/null || true

echo
cat "$out/gpu.txt" "$out/steps.txt" 2>/dev/null
git rev-parse --short HEAD 2>/dev/null | sed 's/^/commit /'
[ ! -f "$out/peers.log" ] || cat "$out/peers.log"
cat "$out/bench.log"
exit $status
