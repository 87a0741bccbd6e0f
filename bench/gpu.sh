#!/usr/bin/env bash
# On a machine with a GPU: build for it, run every test marked gpu, look for bad memory accesses and races, time the
# cases beside Neural Tangents and the device's own floors. One JSON: bench/results/gpu-<device>.json, or $OUT.
#
#   bench/gpu.sh [build] [test] [sanitize] [time [arguments of run_gpu.py]]      default: all four
#
# Needs nvcc, cmake, ninja and compute-sanitizer, and in the Python that PYTHON names (default python3): numpy, cupy,
# pybind11, the packages of '.[test]', and jax with neural-tangents to compare with. Nothing is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}
export XLA_PYTHON_CLIENT_PREALLOCATE=false # JAX leaves memory to others
unset "${!FASTNTK_@}"
place=build/gpu
mkdir -p "$place"
(($#)) || set -- build test sanitize time
failed=0

# note STEP STATUS LINE: what the JSON says of a step
note() {
  "$python" - "$place/checks.json" "$@" <<'PYTHON'
import json, pathlib, subprocess, sys

path, step, status, line = pathlib.Path(sys.argv[1]), *sys.argv[2:]
found = json.loads(path.read_text()) if path.exists() else {}
ask = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()
found[step] = {"status": int(status), "says": line, "git": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "-uno", "-s"))}
path.write_text(json.dumps(found, indent=1) + "\n")
PYTHON
  printf '==== %s: status %s, %s\n' "$@"
  (($2)) && failed=1
  return 0
}

build() {
  local target
  target=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
  cmake -S . -B "$place" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFASTNTK_CUDA=ON \
    -DFASTNTK_CUDA_ARCHITECTURES="$target-real" -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
  cmake --build "$place"
  cmake --install "$place" --prefix python
  note build 0 "sm_$target, $(nvcc --version | tail -n 1)"
}

run_tests() {
  local status=0
  "$python" -m pytest -m gpu -q -p no:cacheprovider 2>&1 | tee "$place/tests.txt" || status=$?
  note test "$status" "$(tail -n 1 "$place/tests.txt")"
}

sanitize() {
  local tool status
  for tool in memcheck racecheck; do
    status=0
    compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex kns=fntk "$python" bench/gpu_small.py \
      2>&1 | tee "$place/$tool.txt" || status=$?
    grep -q '^all agree' "$place/$tool.txt" || status=1
    note "$tool" "$status" "$(grep SUMMARY "$place/$tool.txt" | tail -n 1 | sed "s,^=* *,,")"
  done
}

while (($#)); do
  step=$1
  shift
  case $step in
    build) build ;;
    test) run_tests ;;
    sanitize) sanitize ;;
    time)
      "$python" bench/run_gpu.py --checks "$place/checks.json" ${OUT:+--out "$OUT"} "$@"
      break
      ;;
    *)
      echo "unknown step: $step (build, test, sanitize, time)" >&2
      exit 2
      ;;
  esac
done
exit "$failed"
