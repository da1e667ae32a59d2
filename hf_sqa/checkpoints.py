"""What a user calls a model, and where it is: short names of checkpoints inside packages, folders, the Hub at a revision."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import cached_assets_path, snapshot_download
from huggingface_hub.constants import HF_ASSETS_CACHE
from transformers.utils import cached_file, is_peft_available
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from hf_sqa import __version__
from hf_sqa.auto import AutoModelForAudioQuality, families
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import CHECKPOINT_NAME, convert
from hf_sqa.models.xlsr_sqa.convert_xlsr_sqa import convert as convert_xlsr_sqa

DEFAULT_MODEL = CHECKPOINT_NAME
#: Heads of XLS-R-SQA that need no encoder, by short name.
MFCC_HEADS = {
    f"xls-r-{version}-mfcc-{data}": f"{version}/mfcc_{data}" for version in ("sqa", "sqa-v2") for data in ("full", "subset")
}
#: Students of the default model, inside this package: a folder each.
STUDENTS_FOLDER = Path(__file__).parents[0] / "assets" / "students"
#: The default where the `distillmos` package is absent.
STAND_IN = "distilled-sqa-m"
HUB_OWNER = "hf-sqa"
#: Files of a checkpoint, for a whole snapshot of a repository.
CHECKPOINT_FILES = ["*.json", "*.safetensors", "README.md", "sample.flac"]
AT_REVISION = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>[\w./-]+)")
#: Part of the folder's name; counts up when the layout of the converted folder changes.
LAYOUT = 1


def default_checkpoint() -> str:
    """Folder of the default checkpoint, Distill-MOS v7; converted on first use into the Hugging Face cache.

    Without the `distillmos` package, whose weight file is read, it is a student of it that comes with `hf_sqa`, and a warning says
    so.

    Raises:
        OSError: If the cache cannot be written.
    """
    try:
        return published_checkpoint()
    except FileNotFoundError:
        if STAND_IN not in students():
            raise
        warnings.warn(
            f"Distill-MOS v7 is not at hand, so the default is its student {STAND_IN!r}, whose scores are close but not the same: "
            "`pip install --no-deps distillmos` for the published model, or name the student to choose it.",
            UserWarning,
            stacklevel=2,
        )
        return str(students()[STAND_IN])


def published_checkpoint() -> str:
    """Folder of Distill-MOS v7.

    Raises:
        FileNotFoundError: If the `distillmos` package, whose weight file is read, is not installed.
        OSError: If the cache cannot be written.
    """
    return _converted(CHECKPOINT_NAME, lambda: convert())


def students() -> dict[str, Path]:
    """Students of the default model inside this package, smallest first: name to folder."""
    folders = [path.parent for path in STUDENTS_FOLDER.glob("*/config.json")]
    return {folder.name: folder for folder in sorted(folders, key=lambda one: (one / "model.safetensors").stat().st_size)}


def short_names() -> dict[str, Callable[[], str]]:
    """Checkpoints that packages hold, by the name to call them: each a function that returns its folder."""
    names: dict[str, Callable[[], str]] = {"default": default_checkpoint, DEFAULT_MODEL: published_checkpoint}
    for name, folder in students().items():
        names[name] = names[f"{HUB_OWNER}/{name}"] = lambda folder=folder: str(folder)  # type: ignore[misc]
    for name, head in MFCC_HEADS.items():
        names[name] = lambda name=name, head=head: _converted(name, lambda: convert_xlsr_sqa(head))  # type: ignore[misc]
    return names


def _converted(name: str, converter: Callable[[], Any]) -> str:
    """Folder of a checkpoint in the cache, made on first use."""
    try:
        folder = cached_assets_path("hf_sqa", namespace="checkpoints", subfolder=f"{name}-layout{LAYOUT}")
    except (OSError, ValueError) as error:  # ValueError: there is a file where a folder should be
        raise _cannot_be_written(HF_ASSETS_CACHE, error) from error
    # cached_assets_path creates the folder, empty: only a rename over an empty folder is atomic, and only once.
    if not (folder / "model.safetensors").exists():
        _write_atomically(folder, converter)
    return str(folder)


def _write_atomically(folder: Path, converter: Callable[[], Any]) -> None:
    model = converter()
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
        model (*optional*): `None` or `"default"`: the default; another of [`short_names`]; `"owner/name@revision"`: that branch,
            tag or commit, downloaded; a folder, a Hub id or a model that is loaded already is returned as it is.
    """
    if model is None:
        return default_checkpoint()
    if isinstance(model, str) and not Path(model).exists():
        if model in short_names():
            return short_names()[model]()
        name, revision = split_revision(model)
        if revision is not None:
            return snapshot_download(name, revision=revision, allow_patterns=CHECKPOINT_FILES)
    return str(model) if isinstance(model, Path) else model


def split_revision(model: str) -> tuple[str, str | None]:
    """`"owner/name@revision"` as name and revision; the revision is `None` where none is named, or a folder has this name."""
    match = None if Path(model).exists() else AT_REVISION.fullmatch(model)
    return (match["name"], match["revision"]) if match else (model, None)


def load_adapter(model: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """A LoRA adapter on its base, which may be a short name: arguments for a pipeline; `None` if `model` is a whole checkpoint.

    Args:
        model (`str`): Folder or Hub id.
        options (`dict`): `revision`, `token`, `dtype` are heeded.

    Raises:
        OSError: If it is an adapter and peft is not installed, its weights are pickled, or its base cannot be loaded.
    """
    where = {key: options[key] for key in ("revision", "token") if options.get(key) is not None}
    config_file = find_adapter_config_file(model, **where)
    if config_file is None or (Path(model) / "config.json").is_file():
        return None
    if not is_peft_available():
        raise OSError(f"{model!r} is a LoRA adapter, which needs the package peft: `pip install 'hf-sqa[peft]'`.")
    missing: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    if cached_file(model, "adapter_model.safetensors", **where, **missing) is None:
        raise OSError(
            f"Expected the adapter's weights in adapter_model.safetensors of {model!r}, got none: hf_sqa does not read pickled "
            "weights (adapter_model.bin), which can run code. Ask for a safetensors version."
        )
    base = json.loads(Path(config_file).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise OSError(f"The adapter {model!r} does not say which model it belongs to (base_model_name_or_path is empty).")
    token = {key: where[key] for key in ("token",) if key in where}
    try:
        located = resolve_checkpoint(base)
        loaded = AutoModelForAudioQuality.from_pretrained(located, dtype=options.get("dtype", "auto"), **token)
    except (OSError, ValueError) as error:
        raise OSError(f"The adapter {model!r} belongs to {base!r}, which cannot be loaded: {error}") from error
    loaded.load_adapter(model, adapter_kwargs=dict(where))
    loaded.config._name_or_path = model
    loaded.config._commit_hash = extract_commit_hash(str(config_file), None)
    loaded.config.checkpoint_name = None
    has_extractor = cached_file(model, "preprocessor_config.json", **where, **missing) is not None
    extractor = transformers.AutoFeatureExtractor.from_pretrained(model if has_extractor else located, **token)
    return {"model": loaded.eval(), "feature_extractor": extractor}


def explained(model: Any, error: Exception) -> Exception:
    """The error of a model that does not load, with what to do about it where that is known; the same error elsewhere."""
    told = str(error)
    if "See the original errors" in told and (causes := re.findall(r"^(?:[\w.]+(?:Error|Exception)): (.*)$", told, re.MULTILINE)):
        told = causes[-1]
        error = OSError(told)
    if isinstance(error, ValueError) and (
        match := re.search(r"has model type `([^`]+)` but Transformers does not recognize", told)
    ):
        return ValueError(
            f"{model!r} is of the family {match[1]!r}, which neither hf_sqa {__version__} ({', '.join(families())}) nor "
            f"transformers {transformers.__version__} knows. A newer hf_sqa may: `pip install --upgrade hf-sqa`; if another "
            "package has it, import that first; if the repository carries its own code, read it and pass `trust_remote_code=True`."
        )
    if match := re.search(r"Unrecognized configuration class <class '([^']+)'>", told):
        return ValueError(
            f"{model!r} does not score speech: it is a {match[1].rsplit('.', 1)[-1].removesuffix('Config')} model. Expected one "
            f"of the families {', '.join(families())}; `hf-sqa models` lists what is there."
        )
    if "trust_remote_code" in told:
        return ValueError(
            f"{model!r} runs code of its own repository, and hf_sqa {__version__} has no class for it. Read that code; if you "
            f"trust it, pass `trust_remote_code=True`. ({told})"
        )
    is_missing = "is not a local folder and is not a valid model identifier" in told
    is_unreachable = "couldn't connect to" in told
    close = get_close_matches(str(model), list(short_names()), n=1, cutoff=0.8 if is_unreachable else 0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if is_unreachable and hint:
        return OSError(f"{model!r} is not at hand, and the Hub cannot be reached.{hint} ({told})")
    if is_missing and isinstance(model, str):
        return OSError(
            f"{model!r} is neither a folder, nor a short name ({', '.join(short_names())}), nor a repository on the Hub that you "
            f"may see; a private one needs `hf auth login` or HF_TOKEN.{hint}"
        )
    return error


class DefaultModel(dict):
    """The `default` entry of a pipeline task, whose checkpoint comes into being when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(model=None)

    def __getitem__(self, key: str) -> tuple[str, None]:
        return (default_checkpoint(), None) if key == "model" else super().__getitem__(key)


def models_at_hand() -> Iterator[tuple[str, str]]:
    """Yield `(name, where it comes from)` for every model that loads without a network."""
    try:
        yield DEFAULT_MODEL, f"default; {published_checkpoint()}"
    except FileNotFoundError:
        yield DEFAULT_MODEL, "not at hand: `pip install --no-deps distillmos`"
    for name, folder in students().items():
        yield name, f"student of {DEFAULT_MODEL}; {folder}"
