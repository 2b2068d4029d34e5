#!/usr/bin/env bash
# The main job on a fresh machine: makes its own virtual environment, installs, runs `gguflike demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${GGUFLIKE_VENV:-.venv-demo}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet .
exec "$venv/bin/gguflike" demo "$@"
