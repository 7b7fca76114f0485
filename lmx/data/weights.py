"""Weights of the Hub: the safetensors of a repository and their configuration, whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

from lmx.config import CheckpointError
from lmx.data.client import ROUNDS, arrived, cause, downloads, offline, quiet, remove_damaged, watched

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FILES = (CONFIG, WEIGHTS, INDEX, "model-*.safetensors")
SECONDS = 30.0


def fetch_weights(repository: str, seconds: float = SECONDS) -> Path:
    """Return the folder of what was fetched before; else fetch it, and what arrives damaged once more.

    Raises CheckpointError when the Hub does not have it, has pickles alone, or neither answers nor sends
    anything for `seconds`.
    """
    quiet()
    kept = downloads("models", repository)
    try:
        for _ in range(ROUNDS):
            folder = watched(lambda: _fetched(repository, seconds), seconds, lambda: arrived(kept))
            damaged = remove_damaged(kept)
            if not damaged:
                return folder
    except CheckpointError:
        raise
    except Exception as error:  # whatever the client raises becomes one line
        remove_damaged(kept)
        reason = cause(error, "init_from", seconds)
    else:
        reason = f"what arrived is damaged, {ROUNDS} times: {', '.join(damaged)}"
    off = " (HF_HUB_OFFLINE is set)" if offline() else ""
    raise CheckpointError(
        f"init_from: hf:{repository} cannot be read: {reason}{off}; allowed: a folder, or a name on the Hub "
        "(with network, once)"
    )


def _fetched(repository: str, seconds: float) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(FILES), local_files_only=True))
        if offline() or _whole(folder):
            return folder
    except LocalEntryNotFoundError:
        if offline():
            raise
    # asked once, without the client's retries
    siblings = HfApi().model_info(repository, timeout=seconds).siblings or []
    names = {sibling.rfilename for sibling in siblings}
    if not names & {WEIGHTS, INDEX}:
        pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
        told = f"; {pickles[0]} is a pickle, which can run code" if pickles else ""
        raise CheckpointError(
            f"init_from: hf:{repository} has no {WEIGHTS}, allowed: weights in safetensors{told}"
        )
    return Path(snapshot_download(repository, allow_patterns=list(FILES)))


def _whole(folder: Path) -> bool:
    """Whether all files are there; the tokenizer's may have been fetched alone."""
    names = {CONFIG, WEIGHTS}
    if (folder / INDEX).is_file():
        names = {CONFIG, *json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()}
    return all((folder / name).is_file() for name in names)
