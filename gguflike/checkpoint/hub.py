"""The Hugging Face Hub: the only module that imports huggingface_hub, and only when a Hub id is asked for."""

from __future__ import annotations

from pathlib import Path

from gguflike.errors import CheckpointError

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md"]


def snapshot(repo_id: str, revision: str | None = None) -> tuple[Path, str]:
    """Folder of a model repository in the Hub's cache and its commit, downloading what is missing.

    Only configuration, tokenizer and safetensors files are fetched. CheckpointError where the Hub or the
    network refuses.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=_FILES,
            ignore_patterns=["original/*", "consolidated*"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot be fetched from the Hugging Face Hub: {reason}",
            path=repo_id,
            remedy="check the name, the network and, for gated models, that HF_TOKEN is set",
        ) from error
    return Path(folder), Path(folder).name
