"""llama.cpp's converter as a process of its own: run with the path of its source tree, it converts one folder per line.

It has a process because its gguf package is another than ours to test with; it stays alive because importing torch and
transformers takes longer than converting. See processes.py for what goes to and fro.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import answer


def start(tree: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    sys.path[:1] = [str(tree / "gguf-py"), str(tree)]  # in place of this file's folder
    import conversion
    import gguf
    import torch
    from conversion.base import TextModel

    load = conversion.ModelBase.load_hparams

    def convert(request: dict[str, Any]) -> dict[str, Any]:
        """What convert_hf_to_gguf.py does with ``--outtype f32 --no-mtp``.

        A pre-tokenizer is found there by a hash of the ids that the tokenizer gives for a text, so that only published
        vocabularies are known: for our small ones "pre" answers instead. "published" are keys that config.json has in
        published checkpoints, and the converter reads, but transformers 5 does not write; "removed" the reverse.
        "heads": without ``--no-mtp``, of a vocabulary that lacks what a published one of the family has.
        """
        folder = Path(request["folder"])
        hparams = {**load(folder, False), **request["published"]}
        for key in request["removed"]:
            del hparams[key]
        conversion.ModelBase.load_hparams = staticmethod(lambda *_, **__: dict(hparams))
        TextModel.get_vocab_base_pre = lambda *_, **__: request["pre"]
        model_class = conversion.get_model_class(conversion.get_model_architecture(hparams, conversion.ModelType.TEXT))
        if model_class.supports_mtp_export:
            model_class.no_mtp = not request.get("heads")
        if request.get("heads"):
            model_class.set_vocab = TextModel._set_vocab_gpt2
        try:
            with torch.inference_mode():
                model_class(folder, gguf.LlamaFileType.ALL_F32, Path(request["out"])).write()
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
            return {"error": f"{type(error).__name__}: {error} ({where})"}
        return {}

    return convert


if __name__ == "__main__":
    answer(start(Path(sys.argv[1])))
