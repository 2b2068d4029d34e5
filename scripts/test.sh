#!/usr/bin/env bash
# Pass the tests on a fresh machine: makes its own virtual environment, installs, checks, tests. Offline after the install.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${GGUFLIKE_VENV:-.venv-test}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet -e '.[test]'
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# Files of tests take turns in two processes; another -n behind this one counts.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
