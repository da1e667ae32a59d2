"""Calibration: the speech on which units are measured, pruned models are repaired, and agreement is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.speech import SpeechClip, SpeechPool, folder_speech
from hf_sqa.data.windows import Shard, WindowCache

#: Calibration windows, unless another number is asked for.
NUM_WINDOWS = 400
#: Of the calibration windows, kept aside to measure agreement.
HELD_OUT_SHARE = 0.25
MIN_WINDOWS = 4


@dataclass
class Calibration:
    """Windows to measure and repair on, and others, of other recordings, to measure agreement on.

    Args:
        repair (`list[np.ndarray]`): Float32 waveforms.
        held_out (`list[np.ndarray]`): Float32 waveforms.
        sampling_rate (`int`): Their rate in Hz.
        excluded (`dict[str, str]`): Recordings that were not used, and why.
    """

    repair: list[np.ndarray]
    held_out: list[np.ndarray]
    sampling_rate: int
    excluded: dict[str, str] = field(default_factory=dict)


def load_calibration(source: str | Path, model: Any, num_windows: int = NUM_WINDOWS, seed: int = 0) -> Calibration:
    """Windows of recordings.

    Args:
        source (`str` or `Path`): A folder of recordings, a table or corpus as for `load_corpus`, or a folder of windows of
            `hf-sqa distill`. It should sound like what the model will hear, degraded as much.
        model: The model to prune.
        num_windows (`int`, *optional*, defaults to 400): Windows in all; a quarter is kept aside. Repair on a few dozen makes a
            model worse on others.
        seed (`int`, *optional*, defaults to 0): Of the draw.

    Raises:
        ValueError: If there are fewer than two recordings, or too few windows.
    """
    rate = model.config.sampling_rate or 16_000
    samples = model.window_samples or round(7.68 * rate)
    if (Path(source) / "speech.json").exists():
        calibration = _windows_of_cache(WindowCache(source), rate, num_windows)
    else:
        calibration = _windows_of_recordings(source, rate, samples, num_windows, seed)
    if min(len(calibration.repair), len(calibration.held_out)) < MIN_WINDOWS:
        raise ValueError(
            f"Expected {MIN_WINDOWS} calibration windows of {samples / rate:.2f} s or more on both sides, got "
            f"{len(calibration.repair)} to repair on and {len(calibration.held_out)} to measure agreement on; give more recordings."
        )
    return calibration


def batches_of(model: Any, windows: Sequence[np.ndarray], batch_size: int) -> Iterator[torch.Tensor]:
    for first in range(0, len(windows), batch_size):
        yield stacked(model, windows[first : first + batch_size])


def stacked(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Windows as `(B, T)`; a short one is followed by zeros, as DistilledSQA pads, or begins again for an encoder."""
    if length := model.window_samples:
        return torch.from_numpy(np.stack([np.pad(window, (0, length - len(window))) for window in windows]))
    return torch.from_numpy(np.stack([np.resize(window, max(map(len, windows))) for window in windows]))


def _windows_of_cache(cache: WindowCache, rate: int, num_windows: int) -> Calibration:
    if cache.sampling_rate != rate:
        raise ValueError(f"Expected windows at {rate} Hz, the rate of the model, got {cache.sampling_rate} Hz.")
    counts = {"validation": max(MIN_WINDOWS, round(num_windows * HELD_OUT_SHARE))}
    counts["train"] = max(MIN_WINDOWS, num_windows - counts["validation"])
    found: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for split, windows in found.items():
        for path in cache.shards(split):
            if len(windows) >= counts[split]:
                break
            shard = Shard.read(path)
            windows += [shard.waveform(place) for place, row in enumerate(shard.rows) if row["status"] == "ok"]
        del windows[counts[split] :]
    return Calibration(found["train"], found["validation"], rate)


def _windows_of_recordings(source: str | Path, rate: int, samples: int, num_windows: int, seed: int) -> Calibration:
    clips = folder_speech(source) if Path(source).is_dir() else _clips_of_table(source)
    pool = SpeechPool(clips, rate)
    by_clip: list[tuple[SpeechClip, list[np.ndarray]]] = []
    rng = np.random.default_rng(seed)
    for place in rng.permutation(len(clips)):
        clip = clips[place]
        try:
            waveform = load_recording(clip.path, sampling_rate=rate).waveform
        except (AudioError, OSError, RuntimeError) as error:
            pool.excluded[clip.name] = f"{error.code}: {error.message}" if isinstance(error, AudioError) else str(error)
            continue
        pieces = [waveform[start : start + samples] for start in range(0, max(1, len(waveform) - samples // 4), samples)]
        by_clip.append((clip, pieces))
        if sum(len(pieces) for _, pieces in by_clip) >= num_windows and len(by_clip) > 1:
            break
    if len(by_clip) < 2:
        raise ValueError(
            f"Expected two recordings or more to calibrate on, some to repair with and others to measure agreement, got "
            f"{len(by_clip)} in {str(source)!r}{f' ({len(pool.excluded)} cannot be read)' if pool.excluded else ''}."
        )
    talkers = list(dict.fromkeys(clip.talker for clip, _ in by_clip))
    side = {talker: place for place, talker in enumerate(talkers)}
    aside = max(1, round(len(talkers) * HELD_OUT_SHARE))
    if len(talkers) < 2:  # one talker: whole recordings are kept aside
        side, aside = {clip.name: place for place, (clip, _) in enumerate(by_clip)}, max(1, round(len(by_clip) * HELD_OUT_SHARE))
    held_out: list[np.ndarray] = []
    repair: list[np.ndarray] = []
    for clip, pieces in by_clip:
        (held_out if side.get(clip.talker, side.get(clip.name, 0)) < aside else repair).extend(pieces)
    wanted = max(MIN_WINDOWS, round(num_windows * HELD_OUT_SHARE))
    return Calibration(repair[: max(MIN_WINDOWS, num_windows - wanted)], held_out[:wanted], rate, dict(pool.excluded))


def _clips_of_table(source: str | Path) -> list[SpeechClip]:
    from hf_sqa.data import load_corpus

    rows = load_corpus(str(source))
    clips = []
    for number, row in enumerate(rows):
        audio = row["audio"]
        path = audio["path"] if isinstance(audio, dict) else audio
        talker, language = str(row.get("talker_id") or number), str(row.get("language") or "")
        clips.append(SpeechClip(str(path), str(path), talker, language, "train", 0))
    return clips
