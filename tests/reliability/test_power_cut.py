"""What a checkpoint needs is on the disk when it is complete: content, and every name above it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from training_helpers import Place

from lmx.training import checkpoints


class Disk:
    """What a power cut would leave: content by inode, and the names in a folder, as of their last flush."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[int, int] = {}
        self.names: dict[int, set[str]] = {}
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.flush)

    def flush(self, handle: int) -> None:
        self._fsync(handle)
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = set(os.listdir(handle))
        else:
            self.sizes[found.st_ino] = found.st_size

    def lost(self, root: Path, above: Path) -> set[str]:
        """Paths below `root` whose names or content would be gone; what is above `above` was there before."""
        return {
            str(path.relative_to(root))
            for path in (root, *root.rglob("*"))
            if not self._named(path, above)
            or (path.is_file() and self.sizes.get(path.stat().st_ino) != path.stat().st_size)
        }

    def _named(self, path: Path, above: Path) -> bool:
        if path == above:
            return True
        parent = path.parent
        return path.name in self.names.get(parent.stat().st_ino, set()) and self._named(parent, above)


def test_a_checkpoint_survives_a_power_cut(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    lost: list[set[str]] = []
    write = checkpoints.write_checkpoint

    def look(path: Path, *arguments: Any, **facts: Any) -> None:
        write(path, *arguments, **facts)
        if facts["role"] == checkpoints.LAST:
            lost.append(disk.lost(path.parents[1], tmp_path))

    monkeypatch.setattr(checkpoints, "write_checkpoint", look)
    folder = place.train("name=two/folders", "train.horizon=4steps", "checkpoint.every_steps=2").folder
    assert lost == [{".lock"}, {".lock"}]  # a lock dies with its machine anyway
    names = {path.name for path in folder.path.iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "checkpoints", "samples", "tokenizer"} <= names
