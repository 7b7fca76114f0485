"""Hand a trained run to transformers: `python -m lmx.export RUN OUT`."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmx.data import Tokenizer
    from lmx.training.restore import Restored


def parser() -> argparse.ArgumentParser:
    """Return the command line of this door."""
    from lmx.config.door import Parser

    line = Parser(
        prog="python -m lmx.export",
        description="Write a run's model and tokenizer as a folder that transformers loads "
        "(GPT-2, Llama or Qwen3, whichever it is exactly).",
    )
    line.add_argument(
        "run", metavar="RUN", help="a run folder, such as outputs/storyworld_tiny/2026-01-31_12-00-00_abc123"
    )
    line.add_argument("out", metavar="OUT", help="the folder to write: new, or empty")
    line.add_argument("--checkpoint", metavar="FILE", help="a checkpoint file instead of the run's best")
    return line


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and say how to load it."""
    out = Path(arguments.out).expanduser()
    _check_place(out)
    from lmx.training.restore import restore

    restored = restore(arguments.run, arguments.checkpoint, lambda text: print(text, file=sys.stderr))
    architecture = export(restored, out)
    count = restored.model.num_parameters()
    print(f"{out}: {architecture}, {count:,} parameters; load it with")
    print(f'  AutoModelForCausalLM.from_pretrained("{out}"), AutoTokenizer.from_pretrained("{out}")')
    return 0


def export(restored: Restored, out: Path) -> str:
    """Write `restored` into the new or empty folder `out`, whole or not at all; return the architecture.

    Raises ConfigError naming each setting that no family of transformers has, and where `out` cannot be
    written; SpaceError when the disk is full.
    """
    from safetensors import SafetensorError

    from lmx.config import ConfigError
    from lmx.model.to_transformers import save_transformers
    from lmx.runs.files import space_guard, write_json

    _check_place(out)
    tokenizer, context = restored.tokenizer, restored.model.context_length
    special_ids = _special_ids(tokenizer)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        with space_guard(out):
            config = save_transformers(restored.model, temporary, special_ids)
            (temporary / "tokenizer.json").write_text(tokenizer.definition(), encoding="utf-8")
            write_json(temporary / "tokenizer_config.json", _tokenizer_config(tokenizer, context))
            write_json(temporary / "generation_config.json", special_ids)
            os.replace(temporary, out)
    except (OSError, SafetensorError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        raise ConfigError(
            f"OUT: got {str(out)!r}, which cannot be written ({reason}); allowed: a folder that can"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(config["architectures"][0])


def _check_place(out: Path) -> None:
    from lmx.config import ConfigError

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        kind = "a folder that is not empty" if out.is_dir() else "a file"
        raise ConfigError(f"OUT: got {str(out)!r}, {kind}; allowed: a new folder, or an empty one")


def _special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """As lmx uses them: a text without a beginning starts behind the end of another."""
    eos = tokenizer.eos_id
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": tokenizer.pad_id}


def _tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    import json

    rules = json.loads(tokenizer.definition())
    names = {token["id"]: token["content"] for token in rules["added_tokens"]}
    special = {"eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **{key: names[i] for key, i in special.items() if i in names},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.door import guarded

    return guarded(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
