#!/usr/bin/env python3
"""Write tests/data/tokenizer_goldens.json: token ids that llama.cpp gives for awkward texts on the bundled tokenizer.

usage: gen_tokenizer_goldens.py [TEXTS]     (needs the interop extra)

TEXTS is a file of texts separated by lines "__ggml_vocab_test__", as llama.cpp ships them beside its vocabularies; left
out, the texts already in the goldens are kept.
"""

import json
import sys
import tempfile
from pathlib import Path

from llama_cpp import Llama

import gguflike

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "tests" / "data" / "tokenizer_goldens.json"
CHECKPOINT = ROOT / "gguflike" / "data" / "austen-kjv-6m"

if len(sys.argv) > 1:
    texts = Path(sys.argv[1]).read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
else:
    texts = [row["text"] for row in json.loads(TARGET.read_text(encoding="utf-8"))]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "austen.gguf"
    gguflike.convert(CHECKPOINT, path, type="Q8_0")
    model = Llama(str(path), vocab_only=True, verbose=False)
    rows = [{"text": text, "ids": model.tokenize(text.encode(), add_bos=False, special=False)} for text in texts]
TARGET.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
print(f"{len(rows)} texts -> {TARGET}")
