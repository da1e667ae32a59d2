"""A folder ready to push as a Space: the page, the package and the checkpoints."""

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import hf_sqa
from hf_sqa.checkpoint_files import RECORDS, copy_checkpoint
from hf_sqa.checkpoints import read_json, resolve_checkpoint
from hf_sqa.pipelines import pipeline
from hf_sqa.runs import whole_folder
from hf_sqa.short_names import DEFAULT_MODEL

MODEL_LIST = "models.txt"
LIST_HEADER = "# What a visitor can pick, a line each, the first one picked already: a folder, or <owner>/<name> on the Hub.\n"


def write_space(folder: str | Path, models: Sequence[str] = ()) -> Path:
    """Write everything a Space needs into a new folder; `hf upload <you>/<name> <folder> --repo-type space` publishes it.

    Args:
        folder (`str` or `Path`): A folder that does not exist yet, or is empty.
        models (`Sequence[str]`, *optional*): Checkpoints. Local folders and the default model are copied; the Space loads Hub
            ids itself. Only the default model if empty.

    Raises:
        FileExistsError: If the folder is not empty.
        FileNotFoundError: If the default model's weights are not available.
        OSError, ValueError: If a checkpoint does not load, two have the same name, one has pickled weights or a link that leaves
            its folder, or the base of an adapter is a folder, which would not be in the Space.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"Expected a new or empty folder to write the Space into, got {str(folder)!r}; name another one.")
    with whole_folder(folder) as unfinished:
        _fill(unfinished, models or [DEFAULT_MODEL])
    return folder


def models_beside(script: str | Path) -> list[str]:
    """Return the models listed in `models.txt` beside a script, folders relative to it; empty if that file does not exist."""
    folder = Path(script).parent
    if not (folder / MODEL_LIST).is_file():
        return []
    lines = [line.strip() for line in (folder / MODEL_LIST).read_text(encoding="utf-8").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    return [str(folder / name) if (folder / name).is_dir() else name for name in names]


def _fill(folder: Path, models: Sequence[str]) -> None:
    (folder / "models").mkdir()
    for file in files("hf_sqa.demo").joinpath("files").iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    listed = []
    for model in models:
        checkpoint = Path(resolve_checkpoint(model))
        if not checkpoint.is_dir():
            listed.append(str(model))
            continue
        name = DEFAULT_MODEL if model in ("default", DEFAULT_MODEL) else checkpoint.resolve().name
        if (folder / "models" / name).exists():
            raise ValueError(f"Expected checkpoints of different names, got {name!r} twice; rename one of the folders.")
        copy_checkpoint(checkpoint, folder / "models" / name, without=RECORDS)
        pipeline(str(model), device="cpu")  # a model that does not load is found out now, not by visitors
        _refuse_base_of_this_machine(str(model), folder / "models" / name / "adapter_config.json")
        listed.append(f"models/{name}")
    (folder / MODEL_LIST).write_text(LIST_HEADER + "".join(f"{name}\n" for name in listed), encoding="utf-8")
    shutil.copytree(Path(hf_sqa.__file__).parent, folder / "hf_sqa", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def _refuse_base_of_this_machine(model: str, adapter_file: Path) -> None:
    base = read_json(adapter_file).get("base_model_name_or_path") if adapter_file.is_file() else None
    if base is not None and Path(base).exists():
        raise ValueError(
            f"The adapter {model!r} belongs to {base!r}, a folder of this machine, which the Space will not have: merge the "
            "adapter into its base, or publish the base and name it in adapter_config.json."
        )
