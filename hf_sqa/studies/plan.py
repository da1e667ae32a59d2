"""The runs of a study, their names, and their places in the output folder.

Names of runs and cells contain a digest of their definition: what changed in the study file is done again, the rest is kept.
"""

import contextlib
import hashlib
import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_sqa.options import load_yaml, with_values
from hf_sqa.runs import digest_of, write_whole
from hf_sqa.shipped import find_file
from hf_sqa.studies.study_data import StudyData
from hf_sqa.studies.study_file import ModelSpec, Study, models_in_order


@dataclass(frozen=True)
class Run:
    """One model and seed: claimed by one process, made, then tested."""

    model: ModelSpec  # the model
    seed: int | None  # `None` for a published checkpoint
    name: str  # name of its folder
    cells: Mapping[str, str]  # name of the folder of each test set's cell, by test set
    needs: Mapping[str, "Run"]  # the runs whose checkpoints it is made from, by model


def plan_runs(study: Study, data: StudyData) -> list[Run]:
    """Return all runs of a study: needed models before the models that need them, and all models of a seed before the next seed, so
    that an interrupted study can compare all its models. Reads the labels of the corpora."""
    runs: dict[tuple[str, int | None], Run] = {}
    evaluation = asdict(study.evaluation)
    for model in models_in_order(study):
        for seed in study.seeds_of(model):
            needs = {name: runs[name, study.seed_of(name, seed)] for name in model.needs}
            digest = digest_of(_definition(study, data, model, seed, needs))
            name = f"{model.name}-{'published' if seed is None else f's{seed}'}-{digest}"
            cells = {
                test_set: f"{test_set}-{digest_of([data.digest(test_set), evaluation])}" for test_set in study.test_sets_of(model)
            }
            runs[model.name, seed] = Run(model, seed, name, cells, needs)
    return sorted(runs.values(), key=lambda run: study.seeds_of(run.model).index(run.seed))


def _definition(study: Study, data: StudyData, model: ModelSpec, seed: int | None, needs: Mapping[str, Run]) -> dict[str, Any]:
    """Return what defines a run; any change to it changes the run's name."""
    unnamed = dict.fromkeys(("name", "series", "test_sets", "seeds"))
    defined: dict[str, Any] = {"model": {**asdict(model), **unnamed}}
    if model.checkpoint is not None:
        return {**defined, "weights": _weights_digest(model.checkpoint)}
    recipe = study.recipe_of(model)
    if isinstance(recipe, str | os.PathLike):
        recipe = load_yaml(find_file(recipe, "recipes"), "recipe")
    defined |= {
        "seed": seed,
        "sets": {name: data.digest(name) for name in (model.train, model.validation) if isinstance(name, str)},
        "recipe": recipe,
        "start": _starting_weights(with_values(recipe or {}, model.set).get("model")),
        "needs": [run.name for run in needs.values()],
    }
    if model.clips is not None:
        defined["sizes"] = sorted({other.clips for other in study.models if other.train == model.train and other.clips})
    return defined


def _starting_weights(model: Any) -> str | None:
    """Return the digest of the local checkpoint that the section `model` of a recipe starts from, if there is one."""
    checkpoint = model.get("checkpoint") if isinstance(model, dict) else None
    return _weights_digest(str(checkpoint)) if checkpoint else None


def _weights_digest(checkpoint: str) -> str | None:
    """Return the digest of the weights in a local folder, because a new model or adapter may be trained under the same name."""
    digest, files = hashlib.sha256(), sorted(Path(checkpoint).expanduser().glob("*.safetensors"))
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest() if files else None


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
        """Return the number of finished cells."""
        return sum(self.is_tested(run, test_set) for run in runs for test_set in run.cells)

    def failed_since(self, run: Run, began: float) -> str | None:
        """Return why a run failed, if it failed after `began`."""
        with contextlib.suppress(OSError, ValueError):
            failure = json.loads(self._failure(run).read_text(encoding="utf-8"))
            if failure["time"] >= began:
                return str(failure["reason"])
        return None

    def note_failure(self, run: Run, error: Exception) -> str:
        """Record why a run failed, and return the reason on one line."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
        self._failure(run).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._failure(run), json.dumps({"reason": reason, "time": time.time(), "trace": trace}, indent=2))
        return reason

    def _failure(self, run: Run) -> Path:
        return self.root / "failures" / f"{run.name}.json"
