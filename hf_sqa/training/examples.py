"""Rated rows as examples and batches for training. Labels are checked at once; audio is read, cut and degraded clip by clip.

Everything random about an example is drawn from `(seed, epoch, row)`, so it depends neither on the number of processes and workers
nor on an interruption. A recording that cannot be read becomes an example without a waveform, never an exception: an epoch of
100,000 clips survives one corrupted file.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.schema import undecoded

#: Columns that training and validation use besides audio and scores.
COLUMNS = ("system_id", "condition_id", "corpus", "mos_std", "num_ratings")
#: Global batches that are drawn together and sorted by length. More would save padding but repeat the same batches every epoch.
BATCHES_PER_BUCKET = 50


class Draw(NamedTuple):
    """A row drawn in an epoch."""

    row: int  # its number in the data set
    epoch: int = 0  # seeds the random choices: where a recording is cut, how it is degraded
    # whether it only keeps a process busy that has no row left in the last step; its example has no label, and `-1` as its row
    is_filler: bool = False


def make_example(
    draw: Draw,
    labels: np.ndarray,
    waveform: np.ndarray | None,
    sampling_rate: int | None,
    offset: float = 0.0,
    failure: tuple[str, str, str] | None = None,
) -> dict[str, Any]:
    """Return a row for the collator. `offset`, 0 to 1, says where the clip is cut; a filler has no labels."""
    return {
        "row": -1 if draw.is_filler else draw.row,
        "labels": np.full_like(labels, np.nan) if draw.is_filler else labels,
        "offset": offset,
        "failure": failure,
        "waveform": waveform,
        "sampling_rate": sampling_rate,
    }


class Examples(torch.utils.data.Dataset):
    """Base class of what a trainer takes: labelled recordings, by default without systems or known spread of ratings, never cut.

    Attributes:
        labels (`np.ndarray` of shape `(num_rows, num_labels)`): Float32, NaN where not rated.
        lengths (`list`): `(num_frames, rate)` of every recording, from its header; `(0, 1)` if it cannot be read.
        excluded (`Counter`): Rows left out before training, by reason.
        systems, conditions (`list[str | None]`, *optional*): System and condition of every row; `None` if no row names one.
    """

    labels: np.ndarray
    lengths: Any
    systems: list[str | None] | None = None
    conditions: list[str | None] | None = None
    max_seconds: float | None = None
    window_samples: int | None = None
    seed = 0

    def __init__(self, name: str, score_names: Sequence[str], sampling_rate: int | None):
        self.name, self.score_names, self.sampling_rate = name, list(score_names), sampling_rate
        self.excluded: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> dict[str, Any]:
        """Return the example of a row, given as its number, `(row, epoch)` or a [`Draw`]."""
        return self._example(Draw(*key) if isinstance(key, tuple) else Draw(int(key)))

    def _example(self, draw: Draw) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def corpora(self) -> list[str]:
        """Corpus of every row, `"unknown"` if it is not named."""
        return ["unknown"] * len(self)

    @property
    def label_variances(self) -> np.ndarray:
        """Squared standard error of every mean rating, `(num_rows,)`; NaN if unknown."""
        return np.full(len(self), np.nan)

    def seconds(self) -> np.ndarray:
        """Duration of every clip in training, after cutting, in seconds, `(num_rows,)`."""
        seconds, limit = np.array([frames / rate for frames, rate in self.lengths]), self.max_seconds
        if self.window_samples is not None:
            limit = self.window_samples / (self.sampling_rate or 1)
        return seconds if limit is None else np.minimum(seconds, limit)

    def num_longer(self) -> int:
        """Number of clips longer than `max_seconds`."""
        limit = self.max_seconds
        return 0 if limit is None else int((np.array([frames / rate for frames, rate in self.lengths]) > limit).sum())

    def source(self, row: int) -> str:
        """Return a name for the recording of a row."""
        return f"row {row} of the {self.name}"


class RatedSpeech(Examples):
    """Examples of rated speech: rows with `audio` and a column per score, as `load_corpus` gives them, NaN where unrated.

    Recordings are read at `sampling_rate`, at their own if `None`. Clips longer than `max_seconds`, or than `window_samples`, are
    cut at random; `seed` is that of cuts and augmentation. A score that no row has is an error in training, a warning in
    validation.

    Raises:
        ValueError: If a score has no column, is text, or is missing in every row.
    """

    def __init__(
        self,
        data: Any,
        score_names: Sequence[str],
        sampling_rate: int | None,
        *,
        max_seconds: float | None = None,
        window_samples: int | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        training: bool = True,
    ):
        super().__init__("training data" if training else "validation data", score_names, sampling_rate)
        self.max_seconds, self.window_samples = max_seconds, window_samples
        self.augmentation, self.seed = augmentation, seed
        self._data = undecoded(data) if hasattr(data, "cast_column") else data
        columns = _columns(self._data, (*self.score_names, *COLUMNS), self.score_names, self.name)
        labels = _label_matrix(columns, self.score_names, self.name)
        rated = ~np.isnan(labels).all(axis=1)
        if not rated.all():
            self.excluded["unrated"] = int((~rated).sum())
        if not rated.any():
            raise ValueError(
                f"Expected rated rows in the {self.name}, got {len(labels)} without a score in {', '.join(self.score_names)}."
            )
        if unrated := [score for score, column in zip(self.score_names, labels.T, strict=True) if np.isnan(column).all()]:
            message = (
                f"Expected ratings of every score of the model in the {self.name}, got none of {', '.join(unrated)}: choose the "
                "scores to train with `model.scores`."
            )
            if training:
                raise ValueError(message)
            warnings.warn(message, UserWarning, stacklevel=2)
        self._rows = np.flatnonzero(rated)
        self.labels = labels[self._rows]
        facts = {name: [columns[name][row] for row in self._rows] for name in COLUMNS if name in columns}
        self._facts = {name: values for name, values in facts.items() if any(values)}
        self.systems, self.conditions = self._facts.get("system_id"), self._facts.get("condition_id")

    @cached_property
    def corpora(self) -> list[str]:  # type: ignore[override]
        return [str(corpus) if corpus else "unknown" for corpus in self._facts.get("corpus", [None] * len(self))]

    @cached_property
    def label_variances(self) -> np.ndarray:  # type: ignore[override]
        spread, count = (np.array(self._facts.get(name, [None] * len(self)), float) for name in ("mos_std", "num_ratings"))
        return np.where(count > 0, spread**2 / np.where(count > 0, count, 1), np.nan)

    @cached_property
    def lengths(self) -> list[tuple[int, int]]:  # type: ignore[override]
        return [_length(self._audio(row)) for row in range(len(self))]

    def source(self, row: int) -> str:
        audio = self._audio(row)
        path = audio.get("path") if isinstance(audio, dict) else audio if isinstance(audio, str) else None
        return str(path) if path else super().source(self._rows[row])

    def _example(self, draw: Draw) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, draw.epoch, draw.row])
        example = partial(make_example, draw, self.labels[draw.row], offset=float(rng.random()))
        try:
            recording = load_recording(self._audio(draw.row), sampling_rate=self.sampling_rate)
            waveform, rate = recording.waveform, recording.sampling_rate
            limit = self.window_samples or (self.max_seconds and round(self.max_seconds * rate))
            if limit and len(waveform) > limit:
                start = int(rng.integers(len(waveform) - limit + 1))
                waveform = waveform[start : start + limit]
            if self.augmentation is not None:
                waveform = self.augmentation(waveform, rate, rng)
            return example(waveform, rate)
        except AudioError as error:
            failure = (error.code, str(error))
        except (OSError, ValueError, RuntimeError) as error:
            failure = (type(error).__name__, f"{self.source(draw.row)}: {error}")
        return example(None, self.sampling_rate, failure=(self.source(draw.row), *failure))

    def _audio(self, row: int) -> Any:
        return self._data[int(self._rows[row])]["audio"]


@dataclass(eq=False)
class EpochBatches(torch.utils.data.Sampler):
    """Batches of [`Draw`] for one process, `batch_size` rows each. The global batches do not depend on the number of processes.

    One process with batches of 8 and two with batches of 4 see the same rows in the same steps. The order of an epoch follows only
    from the seed and the number of the epoch, so a resumed run continues with the right batch. With `seconds`, the durations of all
    rows, rows of similar duration share a batch; with `groups`, only rows of equal value do.
    """

    num_rows: int
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    seconds: np.ndarray | None = None
    groups: Sequence[Any] | None = None
    shuffle: bool = True
    process_index: int = 0
    num_processes: int = 1
    drop_last: bool = False
    epoch: int = 0

    def __post_init__(self) -> None:
        self._codes = None if self.groups is None else np.unique(np.array(list(map(str, self.groups))), return_inverse=True)[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.global_batches(0))

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        for rows in self.global_batches(epoch):
            parts = np.array_split(rows, self.num_processes)
            mine = [Draw(int(row), epoch) for row in parts[self.process_index]]
            # Every process must take part in the last step, even without rows.
            yield mine or [Draw(int(rows[0]), epoch, is_filler=True)]

    def global_batches(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of all processes, batch by batch."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.num_rows) if self.shuffle else np.arange(self.num_rows)
        size = self.batch_size * self.num_processes
        if self._codes is not None:
            batches = [
                rows[start : start + size]
                for code in np.unique(self._codes)
                for rows in [order[self._codes[order] == code]]
                for start in range(0, len(rows), size)
            ]
        elif self.seconds is not None:
            batches = []
            for start in range(0, self.num_rows, BATCHES_PER_BUCKET * size):
                bucket = order[start : start + BATCHES_PER_BUCKET * size]
                bucket = bucket[np.argsort(self.seconds[bucket], kind="stable")]
                batches += [bucket[first : first + size] for first in range(0, len(bucket), size)]
        else:
            batches = [order[start : start + size] for start in range(0, self.num_rows, size)]
        if self.drop_last:
            batches = [rows for rows in batches if len(rows) == size]
        if self.shuffle and (self._codes is not None or self.seconds is not None):
            batches = [batches[index] for index in rng.permutation(len(batches))]
        return batches


class Augmentation:
    """Degradations that keep the label, so only for changes that would not change a rating."""

    def __init__(self, chain: Any, probability: float = 1.0):
        if not 0 <= probability <= 1:
            raise ValueError(f"Expected the `probability` of augmentation between 0 and 1, got {probability!r}.")
        chain.check_requirements()
        self.chain, self.probability = chain, probability

    def __call__(self, waveform: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        return self.chain(waveform, sampling_rate, rng)[0] if rng.random() < self.probability else waveform


def _columns(data: Any, wanted: Sequence[str], needed: Sequence[str], name: str) -> dict[str, list[Any]]:
    """Return the wanted columns that the rows have. Refuse rows without recordings or without a needed column."""
    is_table = hasattr(data, "column_names")
    there = list(data.column_names if is_table else dict.fromkeys(key for row in data for key in row))
    if len(data) and "audio" not in there:
        raise ValueError(f"Expected a column 'audio' with the recordings, got {', '.join(there)}.")
    if missing := [score for score in needed if score not in there]:
        numeric = [column for column in there if column not in ("audio", "reference_audio")]
        raise ValueError(
            f"Expected a column for every score of the model ({', '.join(needed)}) in the {name}, got none for "
            f"{', '.join(missing)}; its columns are {', '.join(numeric)}. Rename yours, or choose the scores with `model.scores`."
        )
    return {column: list(data[column]) if is_table else [row.get(column) for row in data] for column in wanted if column in there}


def _label_matrix(columns: dict[str, list[Any]], score_names: Sequence[str], name: str) -> np.ndarray:
    """Return labels `(num_rows, num_labels)`, float32, NaN where not rated."""
    matrix = np.empty((len(columns[score_names[0]]), len(score_names)), np.float32)
    for index, score in enumerate(score_names):
        for row, value in enumerate(columns[score]):
            try:
                matrix[row, index] = np.nan if value is None else float(value)
            except (TypeError, ValueError):
                raise ValueError(f"Expected numbers in the column {score!r} of the {name}, got {value!r}.") from None
    if np.isinf(matrix).any():
        raise ValueError(f"Expected finite scores in the {name}, got infinite ones; write an empty cell where a score is missing.")
    return matrix


def _length(audio: Any) -> tuple[int, int]:
    if isinstance(audio, dict):
        if audio.get("array") is not None:
            return len(audio["array"]), int(audio["sampling_rate"])
        audio = io.BytesIO(audio["bytes"]) if audio.get("bytes") else audio.get("path")
    try:
        info = soundfile.info(audio)
    except (RuntimeError, TypeError, OSError):
        return 0, 1
    return info.frames, info.samplerate
