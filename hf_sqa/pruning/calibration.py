"""Calibration: the speech on which units are measured, pruned models are repaired, and agreement is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_sqa.audio import load_recording
from hf_sqa.data import load_corpus
from hf_sqa.data.speech import folder_speech
from hf_sqa.data.windows import Shard, WindowCache

NUM_WINDOWS = 400
#: Share of the windows that are kept aside to measure agreement, and the least number on either side.
HELD_OUT_SHARE, MIN_WINDOWS = 0.25, 4
#: Length of a window for models that take any length.
WINDOW_SECONDS = 7.68


@dataclass
class Calibration:
    """Windows to measure and repair on, and windows of other recordings to measure agreement on."""

    repair: list[np.ndarray]  # float32 waveforms
    held_out: list[np.ndarray]  # float32 waveforms
    excluded: dict[str, str] = field(default_factory=dict)  # by name of a recording, why it is not used
    # `(num_repair, num_labels)`: scores of listeners for the recordings of `repair`, NaN where there are none; only of a table or
    # corpus
    labels: np.ndarray | None = None


def load_calibration(source: str | Path, model: Any, num_windows: int = NUM_WINDOWS, seed: int = 0) -> Calibration:
    """Windows of recordings.

    Args:
        source (`str` or `Path`): A folder of recordings, a table or corpus as for `load_corpus`, or a folder of windows of
            `hf-sqa distill`. It should sound like what the model will hear, and be degraded as much.
        model: The model to prune.
        num_windows (`int`, *optional*, defaults to 400): Windows in all, a quarter of them kept aside. Repair on a few dozen makes
            a model worse on others.
        seed (`int`, *optional*, defaults to 0): Seed of the order in which recordings are taken.

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
    """Windows in batches `(B, T)`, see [`stacked`]."""
    for first in range(0, len(windows), batch_size):
        yield stacked(model, windows[first : first + batch_size])


def stacked(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Windows as `(B, T)` on the model's device. Short ones are filled up with zeros for a fixed window, and repeated if not."""
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


def _windows_of_recordings(
    source: str | Path, rate: int, samples: int, num_windows: int, seed: int, score_names: Sequence[str]
) -> Calibration:
    labels: dict[str, list[float]] = {}
    if Path(source).is_dir():
        recordings = [(clip.name, clip.path, clip.talker) for clip in folder_speech(source)]
    else:
        recordings, labels = _recordings_of_table(str(source), score_names)
    excluded: dict[str, str] = {}
    windows: list[tuple[str, str, np.ndarray]] = []  # recording, talker, samples
    for place in np.random.default_rng(seed).permutation(len(recordings)):
        name, path, talker = recordings[place]
        try:
            waveform = load_recording(path, sampling_rate=rate).waveform
        except (ValueError, OSError, RuntimeError) as error:
            excluded[name] = str(error)
            continue
        starts = range(0, max(1, len(waveform) - samples // 4), samples)
        windows += [(name, talker, waveform[start : start + samples]) for start in starts]
        if len(windows) >= num_windows and name != windows[0][0]:
            break
    num_recordings = len({name for name, _, _ in windows})
    if num_recordings < 2:
        raise ValueError(
            f"Expected two recordings or more to calibrate on, some to repair with and others to measure agreement, got "
            f"{num_recordings} in {str(source)!r}{f' ({len(excluded)} cannot be read)' if excluded else ''}."
        )
    # Whole talkers are kept aside; of one talker, whole recordings.
    owner = 1 if len({talker for _, talker, _ in windows}) > 1 else 0
    owners = list(dict.fromkeys(window[owner] for window in windows))
    aside = set(owners[: max(1, round(len(owners) * HELD_OUT_SHARE))])
    repair = [(window[0], window[2]) for window in windows if window[owner] not in aside]
    held_out = [window[2] for window in windows if window[owner] in aside]
    num_held_out = _num_held_out(num_windows)
    repair = repair[: max(MIN_WINDOWS, num_windows - num_held_out)]
    return Calibration(
        [window for _, window in repair],
        held_out[:num_held_out],
        excluded,
        np.array([labels[name] for name, _ in repair], np.float32) if labels else None,
    )


def _recordings_of_table(source: str, score_names: Sequence[str]) -> tuple[list[tuple[str, str, str]], dict[str, list[float]]]:
    """Name, path and talker of every row of a table or corpus; and by name, the scores that listeners gave."""
    recordings, labels = [], {}
    for number, row in enumerate(load_corpus(source)):
        path = str(row["audio"]["path"] if isinstance(row["audio"], dict) else row["audio"])
        recordings.append((path, path, str(row.get("talker_id") or number)))
        labels[path] = [float(row.get(name, np.nan)) for name in score_names]
    return recordings, labels
