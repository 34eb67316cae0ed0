#!/usr/bin/env bash
# Makes a talking-avatar video with the demo model, on a fresh machine as on a prepared one.
#   bash scripts/demo.sh [--image F] [--audio F] [--prompt TEXT] [--num-clip N] [--output DIR] [--serve] [--port N]
set -euo pipefail
# shellcheck source=scripts/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

# A wrong path or option is told before minutes of downloading.
find_python
"$BASE_PYTHON" "$ROOT/scripts/run_workflow.py" --check-only "$@"
for argument in "$@"; do
    [[ $argument != -h && $argument != --help ]] || exit 0
done

prepare_demo
exec "$COMFYUI_PYTHON" "$ROOT/scripts/run_workflow.py" --comfyui "$COMFYUI" --base "$WORK/base" "$@"
