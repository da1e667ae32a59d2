"""The models that a visitor can choose, and their judgements of recordings."""

import itertools
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.audio import load_recording
from hf_sqa.pipelines import AudioQualityPipeline
from hf_sqa.pipelines.quality_plot import envelope
from hf_sqa.scoring.scorer import Settings, load_pipeline
from hf_sqa.short_names import DEFAULT_MODEL

#: Number of columns in which a waveform is drawn.
COLUMNS = 480
#: Number of judgements kept, so that a recording is not scored again for a comparison or when a model is chosen again.
KEPT = 32
#: Ranges of scores that are not opinion scores; the configuration has one range for all scores of a model.
RANGES = {"pesq": (-0.5, 4.5), "stoi": (0.0, 1.0), "sdi": (0.0, 1.0)}
LOWER_IS_BETTER = frozenset({"sdi"})
#: Coverage of the interval that is shown: the share of recordings whose rating lies in it.
COVERAGE = 0.9


@dataclass(frozen=True)
class Scale:
    """Range of a score, `low` to `high` in label units, and whether the five-point words (bad to excellent) apply."""

    name: str
    low: float
    high: float
    is_opinion: bool

    def goodness(self, value: float) -> float:
        """Map a score to the range from 1 (worst) to 5 (best)."""
        share = self.share(value)
        return 1 + 4 * (1 - share if self.name in LOWER_IS_BETTER else share)

    def share(self, value: float) -> float:
        """Return where a score lies on its axis, from 0 (low) to 1 (high)."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Judgement:
    """A model's judgement of one recording."""

    name: str  # File name shown to the visitor
    row: dict[str, Any]  # Result of the pipeline with `on_error="row"`, timeline and details
    scales: tuple[Scale, ...]  # One scale for each score, in the model's order
    waveform: tuple[np.ndarray, np.ndarray, np.ndarray] | None  # `(seconds, low, high)` of [`envelope`], if it was scored
    method: str = ""  # How the local quality was found
    coverage: float | None = None  # Coverage of the interval in the row, if it has one

    @property
    def is_scored(self) -> bool:
        return self.row["status"] == "ok"


class Scorers:
    """Models by the name a visitor chooses, each loaded on first use; the default model if none is given.

    A folder is shown by its name, never by its path. `**options` are fields of [`~hf_sqa.scoring.Settings`].
    """

    def __init__(self, models: Iterable[str | Path] = (), **options: Any):
        self._models: dict[str, str] = {}
        for model in list(models) or [DEFAULT_MODEL]:
            shown = DEFAULT_MODEL if model == "default" else str(model)
            if Path(shown).is_dir() or Path(shown).is_absolute():
                shown = Path(shown).resolve().name
            self._models[unused(shown, self._models)] = str(model)
        self._options = options
        self._loaded: dict[str, AudioQualityPipeline] = {}
        self._coverages: dict[str, float | None] = {}
        self._judged = lru_cache(KEPT)(self._judge)
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names to choose from, in the order given."""
        return list(self._models)

    def load(self, name: str) -> AudioQualityPipeline:
        """Return the pipeline of a model; raise `ValueError` if it cannot be loaded."""
        if name not in self._models:
            raise ValueError(f"Expected a model out of {', '.join(self._models)}, got {name!r}.")
        with self._lock:
            if name not in self._loaded:
                try:
                    scorer = load_pipeline(Settings(model=self._models[name], **self._options))
                except ValueError as error:
                    raise ValueError(str(error).replace(self._models[name], name)) from error
                self._loaded[name], self._coverages[name] = scorer, COVERAGE
                try:
                    scorer.model.check_interval(COVERAGE)
                except ValueError:  # it has no calibration, or one of other weights
                    self._coverages[name] = None
            return self._loaded[name]

    def judge(self, model: str, path: str | Path) -> Judgement:
        """Score one file, or return its last judgement; if it cannot be scored, the judgement holds the reason."""
        return self._judged(model, str(path))

    def _judge(self, model: str, path: str) -> Judgement:
        scorer, name, coverage = self.load(model), Path(path).name, self._coverages[model]
        row = scorer(path, on_error="row", return_details=True, return_timeline=True, interval=coverage)
        if row["reason"]:
            row["reason"] = row["reason"].replace(path, name)
        waveform = envelope(load_recording(path), COLUMNS) if row["status"] == "ok" else None
        return Judgement(name, row, scales(scorer.model.config), waveform, scorer.local_method, coverage)


def unused(name: str, taken: Collection[str], suffix: str = "") -> str:
    """Return the name with its suffix, numbered if that name is taken."""
    numbered = (f"{name} ({number}){suffix}" for number in itertools.count(2))
    return next(new for new in itertools.chain([f"{name}{suffix}"], numbered) if new not in taken)


def scales(config: Any) -> tuple[Scale, ...]:
    """Return the scale of every score of a model."""
    return tuple(
        Scale(name, *RANGES[name], is_opinion=False)
        if name in RANGES
        else Scale(name, config.score_min, config.score_max, is_opinion=(config.score_min, config.score_max) == (1, 5))
        for name in config.score_names
    )
