#!/usr/bin/env bash
# Finds a Python and prepares what the demo and the tests need (prepare.py). demo.sh and test.sh source it;
# `bash scripts/prepare.sh [--tests]` only prepares. PYTHON names the Python to use.
set -euo pipefail

SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Sets BASE_PYTHON.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            BASE_PYTHON=$candidate
            return
        elif [[ $candidate == "${PYTHON:-}" ]]; then
            printf '\nerror: PYTHON=%s is not a Python 3.10 or newer that runs.\n' "$PYTHON" >&2
            exit 1
        fi
    done
    printf '\nerror: %s\n       %s\n' "Python 3.10 or newer is needed and none was found." \
        "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: PYTHON=/path/to/python3." >&2
    exit 1
}

find_python
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    exec "$BASE_PYTHON" "$SCRIPTS/prepare.py" "$@"
fi
