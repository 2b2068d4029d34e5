#!/usr/bin/env bash
# The tests of codecs, Hub, terminal and server on the oldest versions of the dependencies that pyproject.toml allows, in a virtual environment of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${GGUFLIKE_FLOORS_VENV:-.venv-floors}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
mapfile -t floors < <(sed -n '/^dependencies = \[/,/^\]/s/^ *"\(.*\)>=\(.*\)",.*$/\1==\2/p' pyproject.toml)
"$venv/bin/python" -m pip install --quiet "${floors[@]}" 'pytest>=8' 'pytest-timeout>=2.3' 'hypothesis>=6.100' 'gguf>=0.19' 'libgguf>=0.2.2'
"$venv/bin/python" -m pip install --quiet --no-deps -e .
"$venv/bin/python" -m pip list | grep -iE '^(numba|llvmlite|numpy|safetensors|huggingface|tqdm|tokenizers|jinja2|pyyaml|prompt|starlette|uvicorn|llguidance)'
[ $# -gt 0 ] || set -- tests/test_decode.py tests/test_encode.py tests/test_matmul.py tests/test_hub.py tests/test_hub_remote.py tests/test_upload.py \
    tests/test_chat_terminal.py tests/test_serve.py tests/test_serve_guard.py
exec "$venv/bin/python" -m pytest "$@"
