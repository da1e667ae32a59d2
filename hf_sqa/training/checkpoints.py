"""The checkpoint that a run resumes from after `kill -9`, a full disk or a power cut: the newest complete one."""

import json
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

STATE_FILE = "trainer_state.json"
#: Folders in checkpoints of DeepSpeed and FSDP, whose files have other names.
SHARDED = ("global_step", "pytorch_model_fsdp", "optimizer_")


def find_resumable_checkpoint(folder: str | Path, num_processes: int = 1) -> tuple[Path | None, list[str]]:
    """The newest complete `checkpoint-<step>` in a folder, which need not exist, and a line for every torn one that is newer.

    Each of the `num_processes` that resume needs its own random state.
    """
    checkpoints = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    torn: list[str] = []
    for path in sorted(checkpoints, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        problem = what_is_torn(path, num_processes)
        if problem is None:
            return path, torn
        torn.append(f"{path.name} is not complete ({problem}); it is skipped")
    return None, torn


def what_is_torn(path: Path, num_processes: int = 1) -> str | None:
    """Why a run cannot resume from a checkpoint; `None` if it can."""
    state = path / STATE_FILE
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"{STATE_FILE} is missing or cut short"
    if not isinstance(content, dict) or not isinstance(content.get("global_step"), int):
        return f"{STATE_FILE} does not say the step"
    sharded = any(entry.is_dir() and entry.name.startswith(SHARDED) for entry in path.iterdir())
    weights = sorted(path.glob("*.safetensors"))
    if not weights and not sharded:
        return "no weights"
    for file in weights:
        try:
            with safe_open(file, "np"):  # refuses a file that is not as long as its header says
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is cut short"
    wanted = [] if sharded else ["optimizer.pt", "scheduler.pt"]
    wanted += ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{index}.pth" for index in range(num_processes)]
    for name in wanted:
        if not (path / name).is_file():
            hint = "; it was saved by another number of processes" if name.startswith("rng_state") else ""
            return f"{name} is missing{hint}"
        if not _is_whole_archive(path / name):
            return f"{name} is cut short"
    return None


def _is_whole_archive(path: Path) -> bool:
    """Whether a file of `torch.save` has its directory, which is written last, and every entry it names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
