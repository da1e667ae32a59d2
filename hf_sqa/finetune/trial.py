"""A trial: the original and its calibrated or trained version, both scored on held-out clips."""

import contextlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.blocks.score_mapping import apply_score_mapping
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.finetune.calibration import cross_fitted_mapping, fit_score_mapping
from hf_sqa.finetune.folder import WORK
from hf_sqa.finetune.plan import Part, Plan
from hf_sqa.finetune.rated_clips import RatedClips, Track
from hf_sqa.finetune.settings import FinetuneOptions, freeze_by_recipe, training_recipe
from hf_sqa.runs import whole_file
from hf_sqa.training.front_memory import FrontMemory
from hf_sqa.training.run import run_recipe

#: File with the original's scores, in the folder of an unfinished run.
BEFORE = "before.npz"
#: Most training clips to score before training; the line that maps the original is fitted to them.
MAX_TRAIN_CLIPS_SCORED = 500


@dataclass
class Outcome:
    """The outcome of calibration or training."""

    model: Any  # the model to keep
    # `"before"`, `"after"` and possibly `"calibrated"`, each `(num_judged, num_scores)`, NaN if a clip was not judged
    predictions: dict[str, np.ndarray]
    mapping: dict[str, list[float]] = field(default_factory=dict)  # the score mapping, for a calibration
    training: dict[str, Any] = field(default_factory=dict)  # facts about the training of the model to keep
    adapter: Path | None = None  # folder of the adapter alone
    remarks: list[str] = field(default_factory=list)  # caveats for the reader


@dataclass
class Trial:
    """The clips, their plan, the original, and the kept outputs of its front; see [`~hf_sqa.finetune.run.finetune`]."""

    options: FinetuneOptions
    checkpoint: str
    folder: Path
    model: Any
    extractor: Any
    scores: list[str]
    clips: RatedClips
    held_out: RatedClips | None
    plan: Plan
    announce: Callable[[str], None]
    track: Track
    group_column: str | None = None

    def __post_init__(self) -> None:
        self.judged = self.clips if self.held_out is None else self.held_out
        self.memory = FrontMemory()
        self.device = self.options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.recipe = training_recipe(self.checkpoint, self.model, self.options, self.scores[0], self.device)
        self.columns = [self.model.config.label2id[name] for name in self.scores]
        self.model = self._ready(self.model)

    def calibrate(self, order: str) -> Outcome:
        """Fit a mapping to all clips, and judge it on clips that its fit did not see."""
        raw, raw_judged = self._scores_before(None)
        mapped, mapping, remarks = [], {}, []
        for index, (name, column) in enumerate(zip(self.scores, self.columns, strict=True)):
            try:
                fitted = fit_score_mapping(raw[:, column], self.clips.labels[:, index], order)
                mapped.append(self._cross_fitted(index, raw, raw_judged, order))
                mapping[name] = fitted
            except ValueError as error:
                if index == 0:
                    raise
                remarks.append(f"{name} is not calibrated: {error}")
                mapped.append(raw_judged[:, column])
        predictions = {"before": self._as_given(raw_judged), "after": np.stack(mapped, axis=1)}
        return Outcome(self.model, predictions, mapping, remarks=remarks)

    def train(self) -> Outcome:
        """Train and judge a model for every part of the plan, and train the model to keep."""
        config = self.model.config
        unrated = [name for name in config.score_names if name not in self.scores]
        raw, raw_judged = self._scores_before(None if unrated else self._needed_before())
        anchors = {name: raw[:, config.label2id[name]] for name in unrated}
        predictions = {"before": self._as_given(raw_judged)}
        with contextlib.suppress(ValueError):  # if no line can be fitted
            by_line = [self._cross_fitted(index, raw, raw_judged, "first") for index in range(len(self.scores))]
            predictions["calibrated"] = np.stack(by_line, axis=1)
        after = np.full((len(self.judged), len(self.scores)), np.nan)
        remarks = []
        if unrated:
            remarks.append(f"Nobody rated {', '.join(unrated)}: training holds these scores to what the original gives.")
        for part in self.plan.parts:
            model, result = self._trained(part, anchors)
            rows = self._judged_rows(part)
            scored = self._scores_of(model, self.judged, rows, f"after, {part.name}")
            after[rows] = scored[np.ix_(rows, self.columns)]
            remarks += [note for note in result.notes if note not in remarks]
        if self.plan.final is not None:
            model, result = self._trained(self.plan.final, anchors)
        training = {
            "num_train": result.num_train,
            "num_validation": result.num_validation,
            "best_step": result.best_step,
            "num_steps": result.num_steps,
            "unreadable": result.failures,
            "settings": self.recipe,
        }
        adapter = self._work(self.plan.final or self.plan.parts[0]) / "adapter" if self.options.lora else None
        return Outcome(model, predictions | {"after": after}, training=training, adapter=adapter, remarks=remarks)

    def _trained(self, part: Part, anchors: dict[str, np.ndarray]) -> tuple[Any, Any]:
        self.announce(f"Training, {part.name}: {len(part.train)} clips, {len(part.validation)} choose the epoch.")
        model = _loaded(self.checkpoint)
        model.config.score_mapping = model.config.score_intervals = None
        result = run_recipe(
            self.recipe | {"output_dir": str(self._work(part))},
            train_dataset=self.clips.rows(part.train, anchors),
            validation_dataset=self.clips.rows(part.validation, anchors),
            model=self._ready(model, move=False),
            announce=self.announce,
        )
        return self._ready(_loaded(str(self._work(part)))), result

    def _ready(self, model: Any, *, move: bool = True) -> Any:
        if self.options.calibrate is None:
            freeze_by_recipe(model, self.recipe)
        if self.device == "cpu":
            self.memory.attach(model)
        return model.to(self.device) if move else model

    def _needed_before(self) -> np.ndarray | None:
        """Return the rows to score before training; `None` for all."""
        if self.plan.kind == "crossfit" or len(self.clips) <= MAX_TRAIN_CLIPS_SCORED:
            return None
        part = self.plan.parts[0]
        return np.union1d(part.validation, part.test)

    def _scores_before(self, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the original's unmapped scores of the clips and of those to judge on. They are kept for `--resume`."""
        kept = self.folder / WORK / BEFORE
        if kept.is_file():
            num_scores = len(self.model.config.score_names)
            # Compute the scores anew if the file is damaged or does not hold numbers.
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(kept) as arrays:
                raw, raw_judged = arrays["clips"].astype(float), arrays["judged"].astype(float)
                if (raw.shape, raw_judged.shape) == ((len(self.clips), num_scores), (len(self.judged), num_scores)):
                    return raw, raw_judged
        raw = raw_judged = self._scores_of(self.model, self.clips, rows, "before")
        if self.held_out is not None:
            raw_judged = self._scores_of(self.model, self.held_out, None, "before, held out")
        if kept.parent.is_dir():
            with whole_file(kept) as unfinished, unfinished.open("wb") as file:
                np.savez(file, clips=raw, judged=raw_judged)
        return raw, raw_judged

    def _scores_of(self, model: Any, clips: RatedClips, rows: np.ndarray | None, title: str) -> np.ndarray:
        """Return unmapped scores `(num_clips, num_labels)`; NaN for rows not asked for, and for clips that the model refuses."""
        scores = np.full((len(clips), len(model.config.score_names)), np.nan)
        numbers = np.arange(len(clips)) if rows is None else rows
        for row in self.track(numbers.tolist(), title, len(numbers)):
            try:
                recording = load_recording(clips.audio[row], sampling_rate=model.config.sampling_rate)
                scores[row] = model.score_recordings([recording], self.extractor)[0].scores
            except AudioError:
                continue
        return scores

    def _as_given(self, raw: np.ndarray) -> np.ndarray:
        """Return scores `(num_clips, num_scores)` as the pipeline gives them: mapped, if the original has a mapping."""
        mappings = self.model.config.score_mapping or {}
        given = raw[:, self.columns].copy()
        for index, name in enumerate(self.scores):
            if name in mappings:
                given[:, index] = apply_score_mapping(given[:, index], mappings[name])
        return given

    def _cross_fitted(self, index: int, raw: np.ndarray, raw_judged: np.ndarray, order: str) -> np.ndarray:
        """Map a score of the original, `(num_judged,)`, for every part of the plan by a fit to the clips that its training sees."""
        column = self.columns[index]
        parts = [(np.concatenate([part.train, part.validation]), self._judged_rows(part)) for part in self.plan.parts]
        return cross_fitted_mapping(raw[:, column], self.clips.labels[:, index], raw_judged[:, column], parts, order)

    @property
    def judged_parts(self) -> list[str]:
        """Return the part of the plan that judges each clip; empty for a clip that only trains."""
        if self.held_out is not None:
            return ["held out"] * len(self.held_out)
        part_of = {row: part.name for part in self.plan.parts for row in part.test.tolist()}
        return [part_of.get(row, "") for row in range(len(self.clips))]

    def _judged_rows(self, part: Part) -> np.ndarray:
        return part.test if self.held_out is None else np.arange(len(self.judged))

    def _work(self, part: Part) -> Path:
        return self.folder / WORK / part.name.replace(" ", "-")


def _loaded(checkpoint: str) -> Any:
    return load_checkpoint(checkpoint, merge=True, dtype="float32").model
