"""Unrated speech: recordings of known talkers, split by talker, read once and kept in memory."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hf_sqa.audio import AudioError, Finding, load_recording
from hf_sqa.data.bench import VOICES, Phrase, find_phrases, reference_waveform
from hf_sqa.degradations import RecordingFolder
from hf_sqa.runs import digest_of

SPLITS = ("train", "validation", "test")
FULL_SCALE = 32767
#: Length and noise level of the pause between two phrases of one talker.
PAUSE_SECONDS, PAUSE_DBFS = (0.1, 0.9), (-85.0, -65.0)
#: A recording whose level moves less than this between its 10th and 95th percentile of 10 ms frames is a tone or steady noise.
MIN_LEVEL_RANGE_DB = 8.0
#: Number of unusable recordings drawn before all are read to find the usable ones.
MAX_DRAWS = 200


@dataclass(frozen=True)
class SpeechClip:
    """A recording of speech to make windows from."""

    name: str  # unique name
    path: str  # path of its file
    talker: str  # who speaks. Phrases of one talker are joined to fill a window; a talker is in one split only
    language: str  # language, or `""` if unknown
    split: str  # one of `SPLITS`
    num_bytes: int  # size of its file
    phrase: Phrase | None = None  # the phrase, if it is one of the bench corpus
    # factor on the probability of its talker, which also grows with the square root of the number of its recordings
    share: float = 1.0


def bench_speech(packages: str | Path | None = None) -> list[SpeechClip]:
    """Return the recorded phrases of the bench corpus, seven voices in six languages, with its splits; see [`find_phrases`]."""
    clips = []
    for phrase in find_phrases("training", packages):
        voice = VOICES[phrase.voice]
        name = f"{phrase.voice}/{phrase.name}"
        clips.append(SpeechClip(name, phrase.path, voice.talker, voice.language, voice.split, phrase.num_bytes, phrase))
    return clips


def folder_speech(folder: str | Path, validation_share: float = 0.1) -> list[SpeechClip]:
    """Return the recordings in a folder and below it. Each subfolder is a talker, and so is each file outside of subfolders.

    A hash of the name decides whether a talker is for validation, so that adding files does not move other talkers. With two or
    more talkers, at least one is for validation and one for training.
    """
    names = sorted(map(Path, RecordingFolder(folder).names), key=lambda name: name.parts)
    files = [folder / name for name in names]
    talkers = [name.parts[0] if len(name.parts) > 1 else name.as_posix() for name in names]
    drawn = {talker: int.from_bytes(hashlib.sha256(talker.encode()).digest()[:4], "big") / 2**32 for talker in talkers}
    validation = {talker for talker, share in drawn.items() if share < validation_share}
    if len(drawn) > 1:
        validation |= {min(drawn, key=drawn.__getitem__)}
        validation -= {max(drawn, key=drawn.__getitem__)}
    splits = ["validation" if talker in validation else "train" for talker in talkers]
    sizes = [path.stat().st_size if path.exists() else 0 for path in files]
    clips = zip(names, files, talkers, splits, sizes, strict=True)
    return [SpeechClip(name.as_posix(), str(path), talker, "", split, size) for name, path, talker, split, size in clips]


def joined_speech(bench: Sequence[SpeechClip], further: Sequence[SpeechClip], further_share: float) -> list[SpeechClip]:
    """Add further recordings to the bench corpus, for training only; `further_share` of the training windows come from them."""

    def weight(clips: Sequence[SpeechClip]) -> float:
        return float(sum(count**0.5 for count in Counter(clip.talker for clip in clips).values()))

    bench_weight = weight([clip for clip in bench if clip.split == "train"])
    share = further_share / (1 - further_share) * bench_weight / weight(further)
    return [*bench, *(replace(clip, split="train", share=share) for clip in further)]


class SpeechPool:
    """Speech of one sampling rate in memory, as 16-bit samples.

    Attributes:
        excluded (`dict[str, Finding]`): Why a recording is not used, by its name; grows as recordings are read.
    """

    def __init__(self, clips: Sequence[SpeechClip], sampling_rate: int):
        self.clips = tuple(clips)
        self.sampling_rate = sampling_rate
        self.excluded: dict[str, Finding] = {}
        self._waveforms: dict[str, np.ndarray] = {}
        self._talkers: dict[str, dict[str, list[SpeechClip]]] = {}
        for clip in self.clips:
            self._talkers.setdefault(clip.split, {}).setdefault(clip.talker, []).append(clip)

    @property
    def splits(self) -> list[str]:
        """Splits with speech, in the order of `SPLITS`."""
        return [split for split in SPLITS if self._talkers.get(split)]

    @property
    def digest(self) -> str:
        """Sixteen digits that change with the names, sizes, talkers or splits of the recordings."""
        rows = sorted((clip.name, clip.num_bytes, clip.talker, clip.split, round(clip.share, 6)) for clip in self.clips)
        return digest_of([self.sampling_rate, rows])

    def draw(self, split: str, rng: np.random.Generator, num_samples: int) -> tuple[np.ndarray, list[SpeechClip]]:
        """Draw speech of one talker, phrases joined by pauses or a piece of a long recording, with the recordings it comes from."""
        usable = {name: clips for name, clips in self._talkers.get(split, {}).items() if clips}
        for attempt in range(MAX_DRAWS + 1):
            if attempt == MAX_DRAWS:  # nearly all recordings are unusable: read them all
                usable = {
                    name: kept for name, clips in usable.items() if (kept := [c for c in clips if self._waveform(c) is not None])
                }
            if not usable:
                break
            names = sorted(usable)
            weights = np.array([usable[name][0].share * len(usable[name]) ** 0.5 for name in names])
            clips = usable[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
            if self._waveform(first := clips[int(rng.integers(len(clips)))]) is not None:
                return self._filled(first, clips, rng, num_samples)
        reasons = sorted(set(map(str, self.excluded.values())))
        raise ValueError(
            f"Expected recordings of speech for the split {split!r}, got none that can be used: {'; '.join(reasons[:3]) or 'none'}."
        )

    def _filled(
        self, first: SpeechClip, clips: Sequence[SpeechClip], rng: np.random.Generator, num_samples: int
    ) -> tuple[np.ndarray, list[SpeechClip]]:
        """Return a piece of the first recording, followed by others of the same talker if it is too short."""
        waveform = self._waveform(first)
        assert waveform is not None
        pieces, used = [_as_float(waveform)], [first]
        for _ in range(MAX_DRAWS):
            if sum(map(len, pieces)) >= num_samples:
                break
            clip = clips[int(rng.integers(len(clips)))]
            if (waveform := self._waveform(clip)) is not None:
                pieces += [_pause(rng, self.sampling_rate), _as_float(waveform)]
                used.append(clip)
        joined = np.concatenate(pieces)
        start = int(rng.integers(max(0, len(joined) - num_samples) + 1))
        return joined[start : start + num_samples], used

    def _waveform(self, clip: SpeechClip) -> np.ndarray | None:
        if clip.name in self.excluded:
            return None
        if clip.name not in self._waveforms:
            try:
                waveform = self._read(clip)
            except AudioError as error:
                waveform = Finding(error.code, error.message)
            except (ValueError, RuntimeError, OSError) as error:
                waveform = Finding("failed", str(error))
            if isinstance(waveform, Finding):
                self.excluded[clip.name] = waveform
                return None
            self._waveforms[clip.name] = np.round(waveform.clip(-1, 1) * FULL_SCALE).astype(np.int16)
        return self._waveforms[clip.name]

    def _read(self, clip: SpeechClip) -> np.ndarray | Finding:
        """Return the waveform of a recording, or why it does not count as speech."""
        if clip.phrase is not None:
            return reference_waveform(clip.phrase)
        recording = load_recording(clip.path, sampling_rate=self.sampling_rate)
        if any(finding.code == "little_speech" for finding in recording.warnings):
            return Finding("little_speech", f"{recording.speech_seconds:.2f} s of activity are too little")
        waveform = recording.waveform
        frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
        levels = 10 * np.log10(np.maximum(np.square(frames).mean(axis=1), 1e-12))
        low, high = np.percentile(levels, [10, 95])
        if high - low < MIN_LEVEL_RANGE_DB:
            return Finding("no_speech", f"its level moves by {high - low:.1f} dB only, a tone or steady noise")
        return waveform


def _as_float(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def _pause(rng: np.random.Generator, sampling_rate: int) -> np.ndarray:
    length = int(sampling_rate * rng.uniform(*PAUSE_SECONDS))
    return (10 ** (rng.uniform(*PAUSE_DBFS) / 20) * rng.standard_normal(length)).astype(np.float32)
