#!/usr/bin/env bash
# Makes a talking-avatar video with the demo model: run_demo.py with a Python that is found here.
set -euo pipefail
# shellcheck source=scripts/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"
exec "$BASE_PYTHON" "$SCRIPTS/run_demo.py" "$@"
