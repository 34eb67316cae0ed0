#!/usr/bin/env bash
# Prepares what is missing and runs every check: run_tests.py with a Python that is found here. Arguments go to pytest:
#   bash scripts/test.sh tests/golden -k rope
set -euo pipefail
# shellcheck source=scripts/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"
exec "$BASE_PYTHON" "$SCRIPTS/run_tests.py" "$@"
