#!/usr/bin/env bash
# The compiled module under GCC's sanitizers, in build/sanitize-KIND: the core tests, and drawn calls for SECONDS.
#     bash tests/sanitize.sh address [SECONDS]    addresses and undefined behaviour
#     bash tests/sanitize.sh thread [SECONDS]     data races
# What follows goes to pytest in place of the core tests.
# BASELINE=ON builds the loops of one instruction set alone, in a third of the time.
# PYTHON names an interpreter (default: python3) with NumPy, pytest, hypothesis, mpmath, pybind11, CMake and Ninja.
set -euo pipefail

kind=${1:?address or thread}
seconds=${2:-60}
(($# > 2)) || set -- "$kind" "$seconds" @tests/core.txt
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(type -P "${PYTHON:-python3}")
build=$root/build/sanitize-$kind
case $kind in
  address) flags=address,undefined runtime=libasan.so ;;
  thread) flags=thread runtime=libtsan.so ;;
  *) echo "address or thread, given $kind" >&2 && exit 2 ;;
esac

cmake -S "$root" -B "$build" -G Ninja -DFASTNTK_CUDA=OFF -DFASTNTK_SANITIZE=$flags -DCMAKE_BUILD_TYPE=None \
  -DFASTNTK_BASELINE="${BASELINE:-OFF}" \
  -DCMAKE_CXX_FLAGS="-O1 -D_GLIBCXX_ASSERTIONS" -DPython_EXECUTABLE="$python" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
cmake --build "$build" --parallel 2
rm -rf "$build/package"
mkdir "$build/package"
cp -R "$root/python/fastntk" "$build/package/"
rm -f "$build"/package/fastntk/*.so
cmake --install "$build" --prefix "$build/package"

# Python itself is not instrumented: the runtime comes first, and with it C++'s, whose exceptions it watches.
library() { "${CXX:-g++}" -print-file-name="$1"; }
export LD_PRELOAD="$(library $runtime) $(library libstdc++.so.6)"
export PYTHONPATH=$build/package PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1 FASTNTK_NUM_THREADS=4
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS="exitcode=66 suppressions=$root/tests/suppressed_races.txt"
run=()
[[ $kind == thread ]] && run=(setarch "$(uname -m)" --addr-no-randomize) # its map of memory takes no other
cd "$root"
"${run[@]}" "$python" -c 'import sys; from fastntk import _cpu; print("under sanitizers:", _cpu.__file__)'
"${run[@]}" "$python" -m pytest -q -p no:cacheprovider "${@:3}"
"${run[@]}" "$python" tests/fuzz.py --seconds "$seconds" --seed "${SEED:-0}"
