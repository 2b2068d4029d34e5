#!/usr/bin/env bash
# What users install: builds sdist and wheel, checks them, installs the wheel alone in a fresh environment and runs the demo there.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet --upgrade pip build twine
"$work/build/bin/python" -m build --outdir "$work/dist" .
"$work/build/bin/twine" check --strict "$work"/dist/*
python3 -m venv "$work/user"
"$work/user/bin/python" -m pip install --quiet --upgrade pip
"$work/user/bin/python" -m pip install --quiet "$work"/dist/*.whl
cd "$work"  # away from the sources
"$work/user/bin/gguflike" --version
"$work/user/bin/gguflike" demo
