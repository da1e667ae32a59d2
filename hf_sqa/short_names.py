"""Short names of the checkpoints inside packages: the default model, its students, and those that authors published as wheels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import cached_assets_path
from huggingface_hub.constants import HF_ASSETS_CACHE

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa.auto import Converter, PublishedCheckpoint, converters
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import CHECKPOINT_NAME, PUBLISHED, convert
from hf_sqa.runs import whole_folder

DEFAULT_MODEL = CHECKPOINT_NAME
#: Students of the default model, inside this package, each in its own folder.
STUDENTS_FOLDER = Path(__file__).parents[0] / "assets" / "students"
#: The default if Distill-MOS v7 is not available, and the error of its scores: RMSE in MOS points on windows of talkers that were
#: not in its training (`model_cards/results.json`).
STAND_IN, STAND_IN_RMSE = "distilled-sqa-m", 0.27
HUB_OWNER = "hf-sqa"
#: Part of the folder's name, increased when the layout of the converted folder changes.
LAYOUT = 2


def default_checkpoint() -> str:
    """Return the folder of the default checkpoint, Distill-MOS v7; on first use it is downloaded and converted into the cache.

    The cache is that of Hugging Face. If Distill-MOS v7 is not available, the default is a student of it that comes with `hf_sqa`,
    and a warning says why, and by how much scores can differ.

    Raises:
        OSError: If the cache cannot be written.
    """
    try:
        return published_checkpoint()
    except FileNotFoundError as error:
        if STAND_IN not in students():
            raise
        warnings.warn(
            f"The default model, Distill-MOS v7, is not available, so its student {STAND_IN!r} takes its place. Scores differ by "
            f"{STAND_IN_RMSE:.1f} MOS (RMSE on speech like that of its training), by more than 1 on some coders. {error} To "
            f"silence this, name the model: {STAND_IN!r}.",
            UserWarning,
            stacklevel=2,
        )
        return str(students()[STAND_IN])


def published_checkpoint() -> str:
    """Return the folder of Distill-MOS v7, or raise a [`WheelError`] if it is not on this machine and cannot be downloaded."""
    return _converted(CHECKPOINT_NAME, convert)


def students() -> dict[str, Path]:
    """Return the students of the default model inside this package, smallest first, as name to folder."""
    folders = [path.parent for path in STUDENTS_FOLDER.glob("*/config.json")]
    return {folder.name: folder for folder in sorted(folders, key=lambda folder: (folder / "model.safetensors").stat().st_size)}


def short_names() -> dict[str, Callable[[], str]]:
    """Return the checkpoints inside packages, as short name to a function that returns the folder."""
    names: dict[str, Callable[[], str]] = {"default": default_checkpoint, DEFAULT_MODEL: published_checkpoint}
    for name, folder in students().items():
        names[name] = names[f"{HUB_OWNER}/{name}"] = partial(str, folder)
    for published, converter in published_checkpoints():
        names[published.name] = partial(_converted, published.name, partial(converter.convert, published.source))
    return names


def shipped_checkpoint(name: Any, revision: str | None = None) -> Callable[[], str] | None:
    """Return the function that returns the folder of a short name; `None` for a folder, another name, or another revision."""
    if Path(str(name)).is_dir() or revision not in (None, "main"):
        return None
    return short_names().get(str(name))


def published_checkpoints() -> list[tuple[PublishedCheckpoint, Converter]]:
    """Return the checkpoints in the wheels of other packages, except the default one, each with the converter of its family."""
    return [(published, converter) for converter in converters().values() for published in converter.published]


def _converted(name: str, converter: Callable[[], Any]) -> str:
    """Return the folder of a converted checkpoint in the cache; it is made on first use."""
    try:
        folder = cached_assets_path("hf_sqa", namespace="checkpoints", subfolder=f"{name}-layout{LAYOUT}")
    except (OSError, ValueError) as error:  # ValueError: a file is in the place of the folder
        raise _cannot_be_written(HF_ASSETS_CACHE, error) from error
    # cached_assets_path creates the folder, empty: only a rename over an empty folder is atomic, and only once.
    if not (folder / "model.safetensors").exists():
        model = converter()
        try:
            with whole_folder(folder) as unfinished:
                model.save_pretrained(unfinished)
                model.make_feature_extractor().save_pretrained(unfinished)
        except OSError as error:
            if not (folder / "model.safetensors").exists():  # else another process was faster, and its folder is the same
                raise _cannot_be_written(folder.parent, error) from error
    return str(folder)


def _cannot_be_written(folder: str | Path, error: Exception) -> OSError:
    return OSError(
        f"The converted model cannot be written to {str(folder)!r} ({error}). "
        "Set HF_HOME (or HF_ASSETS_CACHE) to a folder that can be written."
    )


class DefaultModel(dict):
    """The `default` entry of a pipeline task; its checkpoint is made when it is first needed."""

    def __init__(self) -> None:
        super().__init__(model=None)

    def __getitem__(self, key: str) -> tuple[str, None]:
        return (default_checkpoint(), None) if key == "model" else super().__getitem__(key)


def models_at_hand() -> Iterator[tuple[str, str]]:
    """Yield `(name, origin)` for every model that loads without a network."""
    if PUBLISHED.is_here:
        yield DEFAULT_MODEL, f"default; {published_checkpoint()}"
    else:
        yield DEFAULT_MODEL, "not on this machine: `hf-sqa download`"
    for name, folder in students().items():
        yield name, f"student of {DEFAULT_MODEL}; {folder}"
