"""The runs of a study, their names, and where each lies in the output folder.

Names of runs and cells carry a digest of what defines them: what changed in the study file is done again, the rest is kept.
"""

import contextlib
import copy
import hashlib
import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_sqa.options import parse_yaml, set_dotted
from hf_sqa.runs import digest_of, write_whole
from hf_sqa.shipped import find_file
from hf_sqa.studies.study_data import StudyData
from hf_sqa.studies.study_file import ModelSpec, Study, models_in_order


@dataclass(frozen=True)
class Run:
    """One model and seed: claimed by one process, made, then tested.

    Args:
        model ([`ModelSpec`]): The model.
        seed (`int`, *optional*): None for a published checkpoint.
        name (`str`): Name of its folder.
        cells (`dict[str, str]`): Name of the folder of each test set's cell, by test set.
    """

    model: ModelSpec
    seed: int | None
    name: str
    cells: Mapping[str, str]


def plan_runs(study: Study, data: StudyData) -> list[Run]:
    """All runs of a study: needed models before the models that need them, and all models of one seed before the next seed, so that
    an interrupted study can compare all its models. Reads the labels of the corpora."""
    runs: dict[tuple[str, int | None], Run] = {}
    evaluation = asdict(study.evaluation)
    for model in models_in_order(study):
        for seed in study.seeds_of(model):
            digest = digest_of(_definition(study, data, runs, model, seed))
            name = f"{model.name}-{'published' if seed is None else f's{seed}'}-{digest}"
            cells = {
                test_set: f"{test_set}-{digest_of([data.digest(test_set), evaluation])}" for test_set in study.test_sets_of(model)
            }
            runs[model.name, seed] = Run(model, seed, name, cells)
    turn = {key: study.seeds_of(run.model).index(key[1]) for key, run in runs.items()}
    return [runs[key] for key in sorted(runs, key=lambda key: turn[key])]


def needed_run(study: Study, runs: Mapping[tuple[str, int | None], Run], name: str, seed: int | None) -> Run:
    """The run of a needed model: of the same seed if there is one, else of its first."""
    seeds = study.seeds_of(study.model(name))
    return runs[name, seed if seed in seeds else seeds[0]]


def _definition(
    study: Study, data: StudyData, runs: Mapping[tuple[str, int | None], Run], model: ModelSpec, seed: int | None
) -> dict[str, Any]:
    """What makes a run what it is; any change gives it another name."""
    unnamed = dict.fromkeys(("name", "series", "test_sets", "seeds"))
    defined: dict[str, Any] = {"model": {**asdict(model), **unnamed}}
    if model.checkpoint is not None:
        return {**defined, "weights": _weights_digest(model.checkpoint)}
    recipe = _recipe_content(model.recipe if model.recipe is not None else study.recipe)
    defined |= {
        "seed": seed,
        "sets": {name: data.digest(name) for name in (model.train, model.validation) if isinstance(name, str)},
        "recipe": recipe,
        "start": _starting_weights(recipe, model.set),
        "needs": [needed_run(study, runs, name, seed).name for name in model.needs],
    }
    if model.clips is not None:
        defined["sizes"] = sorted({other.clips for other in study.models if other.train == model.train and other.clips})
    return defined


def _recipe_content(recipe: Any) -> Any:
    if isinstance(recipe, (str, os.PathLike)):
        return find_file(recipe, "recipes").read_text(encoding="utf-8")
    return recipe


def _starting_weights(recipe: Any, changes: Mapping[str, Any]) -> str | None:
    """Digest of the local checkpoint that a recipe starts from, if there is one."""
    content = parse_yaml(recipe, "the study's recipe") if isinstance(recipe, str) else copy.deepcopy(recipe or {})
    for key, value in changes.items():
        set_dotted(content, key, value)
    model = content.get("model") if isinstance(content, dict) else None
    checkpoint = model.get("checkpoint") if isinstance(model, dict) else None
    return _weights_digest(str(checkpoint)) if checkpoint else None


def _weights_digest(checkpoint: str) -> str | None:
    """Digest of the weights of a local folder, which may be trained again under the same name."""
    file = Path(checkpoint) / "model.safetensors"
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class StudyFolder:
    """An output folder: `models/`, `cells/`, `failures/`, `claims/`, `unfinished/` and the tables."""

    root: Path

    def model(self, run: Run) -> Path:
        return self.root / "models" / run.name

    def cell(self, run: Run, test_set: str) -> Path:
        return self.root / "cells" / run.name / run.cells[test_set]

    def lock(self, name: str) -> Path:
        return self.root / "claims" / f"{name}.lock"

    def is_made(self, run: Run) -> bool:
        return run.model.checkpoint is not None or (self.model(run) / "made.json").is_file()

    def is_tested(self, run: Run, test_set: str) -> bool:
        return (self.cell(run, test_set) / "cell.json").is_file()

    def is_done(self, run: Run) -> bool:
        return self.is_made(run) and all(self.is_tested(run, test_set) for test_set in run.cells)

    def num_tested(self, runs: list[Run]) -> int:
        """Cells that are done."""
        return sum(self.is_tested(run, test_set) for run in runs for test_set in run.cells)

    def failed_since(self, run: Run, began: float) -> str | None:
        """Why a run failed, if that was after a point in time."""
        with contextlib.suppress(OSError, ValueError):
            failure = json.loads(self._failure(run).read_text(encoding="utf-8"))
            if failure["time"] >= began:
                return str(failure["reason"])
        return None

    def note_failure(self, run: Run, error: Exception) -> str:
        """Write down why a run failed; returns the reason on one line."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
        self._failure(run).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._failure(run), json.dumps({"reason": reason, "time": time.time(), "trace": trace}, indent=2))
        return reason

    def _failure(self, run: Run) -> Path:
        return self.root / "failures" / f"{run.name}.json"
