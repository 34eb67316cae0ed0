#!/usr/bin/env bash
# Prepares what is missing and runs every check: lint, format, types, tests. Arguments go to pytest, which then runs alone:
#   bash scripts/test.sh tests/golden -k rope
set -euo pipefail
# shellcheck source=scripts/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

prepare_tests
cd "$ROOT"
export CHROMIUM_PATH COMFYUI_PATH="$COMFYUI"
# All tests run in as many processes as there are cores, up to four, a file in one of them; each has a ComfyUI of its
# own. More threads than cores make the small tensors of the tests slower, not faster.
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
processes=$((cores < 4 ? cores : 4))

failed=()
run() {
    say "- $*"
    "$VENV_PYTHON" -m "$@" || failed+=("$*;")
}

if (($#)); then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$processes}"
    run pytest "$@"
else
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores / processes < 4 ? cores / processes : 4))}"
    run ruff check
    run ruff format --check
    run pyright
    run pytest --numprocesses "$processes" --dist loadfile
fi
((${#failed[@]} == 0)) || fail "Not passed: ${failed[*]}"
