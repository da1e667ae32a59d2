"""Checkpoints that need no Hub: the published default, converted once from the weights inside a PyPI package."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import cached_assets_path

from hf_sqa.models.distilled_sqa.convert_distilled_sqa import CHECKPOINT_NAME, convert

DEFAULT_MODEL = CHECKPOINT_NAME
#: Part of the folder's name; counts up when the layout of the converted folder changes.
LAYOUT = 1


def default_checkpoint() -> str:
    """Folder of the default checkpoint, Distill-MOS v7; converted on first use into the Hugging Face cache.

    Raises:
        FileNotFoundError: If the `distillmos` package, whose weight file is read, is not installed.
        OSError: If the cache cannot be written.
    """
    folder = cached_assets_path("hf_sqa", namespace="checkpoints", subfolder=f"{CHECKPOINT_NAME}-layout{LAYOUT}")
    # cached_assets_path creates the folder, empty: only a rename over an empty folder is atomic, and only once.
    if not (folder / "model.safetensors").exists():
        _write_atomically(folder)
    return str(folder)


def _write_atomically(folder: Path) -> None:
    model = convert()
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"The converted default model cannot be written to {str(folder.parent)!r} ({error}). "
            "Set HF_HOME (or HF_ASSETS_CACHE) to a folder that can be written."
        ) from error
    try:
        model.save_pretrained(unfinished)
        model.make_feature_extractor().save_pretrained(unfinished)
        os.replace(unfinished, folder)  # fails if another process was first: then its folder is as good
    except OSError:
        if not (folder / "model.safetensors").exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def resolve_checkpoint(model: str | None) -> str:
    """Turn what a user calls a model into something `from_pretrained` loads.

    Args:
        model (`str`, *optional*): `None`, `"default"` or `"distill-mos-v7"`: the default; a folder or Hub id is returned as it is.
    """
    return default_checkpoint() if model in {None, "default", DEFAULT_MODEL} else str(model)


class DefaultModel(dict):
    """The `default` entry of a pipeline task, whose checkpoint comes into being when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(model=None)

    def __getitem__(self, key: str) -> tuple[str, None]:
        return (default_checkpoint(), None) if key == "model" else super().__getitem__(key)


def models_at_hand() -> Iterator[tuple[str, str]]:
    """Yield `(name, where it comes from)` for every model that loads without a network."""
    try:
        yield DEFAULT_MODEL, f"default; {default_checkpoint()}"
    except FileNotFoundError:
        yield DEFAULT_MODEL, "not at hand: `pip install --no-deps distillmos`"
