#!/usr/bin/env bash
# Prepares what is missing and runs every check: lint, format, types, tests. Arguments go to pytest, which then runs alone:
#   bash scripts/test.sh tests/golden -k rope
set -euo pipefail
# shellcheck source=scripts/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

prepare_tests
cd "$ROOT"
export CHROMIUM_PATH COMFYUI_PATH="$COMFYUI"
# More threads than cores make the small tensors of the tests slower, not faster.
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores < 4 ? cores : 4))}"

failed=()
run() {
    say "- $*"
    "$VENV_PYTHON" -m "$@" || failed+=("$*;")
}

if (($# == 0)); then
    run ruff check
    run ruff format --check
    run pyright
fi
run pytest "$@"
((${#failed[@]} == 0)) || fail "Not passed: ${failed[*]}"
