"""Calibration: speech to measure units, repair pruned models and measure agreement on."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_sqa.audio import load_recording
from hf_sqa.data import load_corpus
from hf_sqa.data.speech import folder_speech
from hf_sqa.data.windows import Shard, WindowCache

NUM_WINDOWS = 400
#: Share of the windows to hold out for measuring agreement, and the least number on either side.
HELD_OUT_SHARE, MIN_WINDOWS = 0.25, 4
#: Length of a window for models that take any length.
WINDOW_SECONDS = 7.68


@dataclass
class Calibration:
    """Windows to measure and repair on, and windows of other recordings to measure agreement on."""

    repair: list[np.ndarray]  # float32 waveforms
    held_out: list[np.ndarray]  # float32 waveforms
    excluded: dict[str, str] = field(default_factory=dict)  # names of unused recordings, and why
    # `(num_repair, num_labels)`: listeners' scores of the recordings of `repair`, NaN if missing; only if the source is a table or
    # corpus
    labels: np.ndarray | None = None

    @property
    def digest(self) -> str:
        """Sixteen digits that change with the windows and the labels."""
        digest = hashlib.sha256()
        for array in (*self.repair, *self.held_out, *([] if self.labels is None else [self.labels])):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def load_calibration(source: str | Path, model: Any, num_windows: int = NUM_WINDOWS, seed: int = 0) -> Calibration:
    """Load windows of recordings for a model to prune; a quarter is held out. The seed is that of the order of the recordings.

    `source` is a folder of recordings, a table or corpus as for `load_corpus`, or a folder of windows of `hf-sqa distill`. It
    should sound like what the model will hear, with similar degradations. Repair on a few dozen windows makes a model worse on
    others.

    Raises:
        ValueError: If there are fewer than two recordings, or too few windows.
    """
    rate = model.config.sampling_rate or 16_000
    samples = model.window_samples or round(WINDOW_SECONDS * rate)
    if (Path(source) / "speech.json").exists():
        calibration = _windows_of_cache(WindowCache(source), rate, num_windows)
    else:
        calibration = _windows_of_recordings(source, rate, samples, num_windows, seed, model.config.score_names)
    if min(len(calibration.repair), len(calibration.held_out)) < MIN_WINDOWS:
        raise ValueError(
            f"Expected {MIN_WINDOWS} calibration windows of {samples / rate:.2f} s or more on both sides, got "
            f"{len(calibration.repair)} to repair on and {len(calibration.held_out)} to measure agreement on; give more recordings."
        )
    return calibration


def batches_of(model: Any, windows: Sequence[np.ndarray], batch_size: int) -> Iterator[torch.Tensor]:
    """Yield windows in batches `(B, T)`, see [`stacked`]."""
    for first in range(0, len(windows), batch_size):
        yield stacked(model, windows[first : first + batch_size])


def stacked(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Stack windows to `(B, T)` on the model's device. Short ones are zero-padded to a fixed window, or else repeated."""
    if length := model.window_samples:
        padded = [np.pad(window, (0, length - len(window))) for window in windows]
    else:
        longest = max(map(len, windows))
        padded = [np.resize(window, longest) for window in windows]
    return torch.from_numpy(np.stack(padded)).to(model.device)


def _num_held_out(num_windows: int) -> int:
    return max(MIN_WINDOWS, round(num_windows * HELD_OUT_SHARE))


def _windows_of_cache(cache: WindowCache, rate: int, num_windows: int) -> Calibration:
    if cache.sampling_rate != rate:
        raise ValueError(f"Expected windows at {rate} Hz, the rate of the model, got {cache.sampling_rate} Hz.")

    def windows(split: str, count: int) -> list[np.ndarray]:
        waveforms: list[np.ndarray] = []
        for path in cache.shards(split):
            if len(waveforms) >= count:
                break
            shard = Shard.read(path)
            waveforms += [shard.waveform(place) for place, row in enumerate(shard.rows) if row["status"] == "ok"]
        return waveforms[:count]

    held_out = _num_held_out(num_windows)
    return Calibration(windows("train", max(MIN_WINDOWS, num_windows - held_out)), windows("validation", held_out))


class _Window(NamedTuple):
    recording: str
    talker: str
    samples: np.ndarray
    labels: list[float] | None  # listeners' scores, if the speech is a table or corpus


def _windows_of_recordings(
    source: str | Path, rate: int, samples: int, num_windows: int, seed: int, score_names: Sequence[str]
) -> Calibration:
    recordings: list[tuple[str, Any, str, list[float] | None]]
    if is_folder := Path(source).is_dir():
        recordings = [(clip.name, clip.path, clip.talker, None) for clip in folder_speech(source)]
    else:
        recordings = []
        for number, row in enumerate(load_corpus(str(source))):
            path = str(row["audio"]["path"] if isinstance(row["audio"], dict) else row["audio"])
            labels = [float(row.get(name, np.nan)) for name in score_names]
            recordings.append((path, path, str(row.get("talker_id") or number), labels))
    excluded: dict[str, str] = {}
    windows: list[_Window] = []
    for place in np.random.default_rng(seed).permutation(len(recordings)):
        name, path, talker, scores = recordings[place]
        try:
            waveform = load_recording(path, sampling_rate=rate).waveform
        except (ValueError, OSError, RuntimeError) as error:
            excluded[name] = str(error)
            continue
        starts = range(0, max(1, len(waveform) - samples // 4), samples)
        windows += [_Window(name, talker, waveform[start : start + samples], scores) for start in starts]
        if len(windows) >= num_windows and name != windows[0].recording:
            break
    num_recordings = len({window.recording for window in windows})
    if num_recordings < 2:
        raise ValueError(
            f"Expected two recordings or more to calibrate on, some to repair with and others to measure agreement, got "
            f"{num_recordings} in {str(source)!r}{f' ({len(excluded)} cannot be read)' if excluded else ''}."
        )
    # Hold out whole talkers, or whole recordings if there is only one talker.
    owner = "talker" if len({window.talker for window in windows}) > 1 else "recording"
    owners = list(dict.fromkeys(getattr(window, owner) for window in windows))
    aside = set(owners[: max(1, round(len(owners) * HELD_OUT_SHARE))])
    num_held_out = _num_held_out(num_windows)
    held_out = [window.samples for window in windows if getattr(window, owner) in aside][:num_held_out]
    repair = [window for window in windows if getattr(window, owner) not in aside][: max(MIN_WINDOWS, num_windows - num_held_out)]
    labels_of_repair = None if is_folder else np.array([window.labels for window in repair], np.float32)
    return Calibration([window.samples for window in repair], held_out, excluded, labels_of_repair)
