"""Decides which files of a checkpoint may be copied to a repository, a Space or another folder; none through links outside.

A folder may come from a stranger, or hold leftovers of a training. What is copied out of it is often published next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

CARD_FILE, RECIPE_FILE, RESULT_FILES = "README.md", "recipe.yaml", ("evaluation.json", "report.json")
#: Records of a training; they may name folders of this machine.
RECORDS = (RECIPE_FILE, *RESULT_FILES, "training_result.json")
#: Files of a folder that are copied; all others are left behind, and listed.
COPIED = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "base.json",
    CARD_FILE,
    *RECORDS,
    "LICENSE*",
    "NOTICE*",
)
#: ONNX graphs: the file of an export, and the paths where optimum and transformers.js look in a repository, float32 and 8 bits.
GRAPH_FILE, HUB_GRAPHS = "model.onnx", ("onnx/model.onnx", "onnx/model_quantized.onnx")
#: Weights in formats that can run code when they are opened.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.h5", "*.keras", "*.tar", "*.npy", "*.npz")
#: Pickles that training leaves beside a checkpoint; scoring does not need them, so they are not copied and cause no error.
TRAINING_LEFTOVERS = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.*")


def checkpoint_files(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of the files to copy, and those of the files left behind, each with the reason.

    Raises:
        ValueError: If weights are pickled, there are none in safetensors, or a file to copy is a link that leaves the folder.
    """
    copied, left_out, pickled = graph_files(folder), {}, []
    is_adapter = (folder / "adapter_config.json").is_file()
    for path in sorted(folder.iterdir()):
        if is_adapter and is_one_of(path.name, ("config.json", "model*.safetensors", "model.safetensors.index.json")):
            left_out[path.name] = "part of the adapter's base"
        elif path.name in {Path(name).parts[0] for name in copied}:
            continue
        elif path.is_dir():
            left_out[path.name + "/"] = "a folder"
        elif is_one_of(path.name, COPIED):
            copied.append(path.name)
        elif is_one_of(path.name, TRAINING_LEFTOVERS):
            left_out[path.name] = "state of a training run, pickled"
        elif is_one_of(path.name, PICKLES):
            pickled.append(path.name)
        else:
            left_out[path.name] = "not part of a checkpoint"
    if pickled:
        raise ValueError(
            f"Expected weights as safetensors only, got {', '.join(pickled)} in {str(folder)!r}: opening such a file can run code. "
            "Load the model and `save_pretrained` it into a new folder, or move the file away."
        )
    if not any(name.endswith((".safetensors", ".onnx")) for name in copied):
        raise ValueError(
            f"Expected weights in {str(folder)!r} (model.safetensors, adapter_model.safetensors, or a graph, model.onnx), got none."
        )
    refuse_links_outside(folder, [*COPIED, *copied])
    return copied, left_out


def graph_files(folder: Path) -> list[str]:
    """Return the names of the ONNX graphs in a folder, float32 ones first."""
    return [name for name in (GRAPH_FILE, *HUB_GRAPHS) if (folder / name).is_file()]


def copy_checkpoint(folder: Path, target: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Copy a checkpoint into a new folder; return the files left behind, each with the reason. Errors as [`checkpoint_files`]."""
    copied, left_out = checkpoint_files(folder)
    target.mkdir()
    for name in copied:
        if name not in without:
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, target / name)
    return left_out


def refuse_links_outside(folder: Path, names: Sequence[str] = COPIED) -> None:
    """Refuse files that are links out of their folder, or that are no regular files, such as pipes and devices.

    In the cache of huggingface_hub, files of a snapshot are links to blobs of their repository; these count as inside.
    """
    real = folder.resolve()
    inside = [real] + ([real.parents[1] / "blobs"] if real.parent.name == "snapshots" else [])
    for path in sorted([*folder.iterdir(), *(folder / name for name in graph_files(folder))]):
        if not (is_one_of(path.name, names) or str(path.relative_to(folder)) in names) or path.is_dir():
            continue
        target = Path(os.path.realpath(path))  # Path.resolve raises an error for circular links
        if not any(target.is_relative_to(place) for place in inside):
            raise ValueError(
                f"Expected the files of a checkpoint in {str(folder)!r}, got {path.name}, a link to {str(target)!r} outside of it: "
                "that file would be copied, and perhaps published. Replace the link by the file itself."
            )
        if not path.is_file():
            raise ValueError(f"Expected a file, got {path.name} in {str(folder)!r}, which is none; remove it.")


def is_one_of(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(Path(name).match(pattern) for pattern in patterns)
