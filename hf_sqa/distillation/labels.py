"""Windows of degraded speech and what teachers say of them, made once and kept on disk.

A folder holds windows, and labels of any number of teachers:

    speech.json                             what the windows are made from; windows made from something else are refused
    excluded.json                           recordings that are not used, and why
    windows/train-00000.safetensors         samples int16 (W, T), zeros after the end; num_samples int32 (W,); peak float32 (W,);
                                            in the metadata a row of JSON a window: digest, talker, language, clips, degradations
    windows/validation-00000.safetensors    other talkers, likewise `test-`
    labels/<teacher>/teacher.json           identity, score names and scale of the teacher; <teacher> is a digest
                                            of these, names left out
    labels/<teacher>/train-00000.safetensors  scores float32 (W, L), NaN where the teacher abstained; features float16 (W, D), the
                                            pooled features before its last layer, where it has them; if asked for, frames float16
                                            (W, F, 2 D), what goes into its transformer and what comes out, two frames averaged

A waveform is `samples / 32767 * peak`; teachers hear it after this rounding, as students do. Every file appears whole or not at
all, so a run that was killed loses the shard it was at and goes on from there. A window depends on the seed, its split and its
number only.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_sqa.audio import AUDIO_SUFFIXES, AudioError, Recording, load_recording, resample
from hf_sqa.blocks.sqa_transformer import SQATransformer
from hf_sqa.data.bench import FORMS, VOICES, Phrase, find_phrases, reference_waveform
from hf_sqa.degradations import Chain
from hf_sqa.pipelines import model_identity
from hf_sqa.runs import whole_file, write_whole

SPLITS = ("train", "validation", "test")
#: Splits of twenty shards, in the order in which they are made.
CYCLE = (*["train"] * 3, "validation", *["train"] * 3, "test", *["train"] * 12)
WINDOWS_PER_SHARD = 64
FULL_SCALE = 32767
#: Goes up when the same seed would give other windows.
VERSION = 2
#: Share of the windows that are filled; the others are shorter, uniformly down to `SHORTEST_SECONDS`.
FULL_SHARE, SHORTEST_SECONDS = 0.7, 1.5
#: Between two phrases of one talker: seconds, and level of the noise there.
PAUSE_SECONDS, PAUSE_DBFS = (0.1, 0.9), (-85.0, -65.0)
#: Degraded and cut off on both sides, so that codecs and filters are under way when the window begins.
LEAD_SECONDS = 0.25
#: Share of the training windows played faster or slower, pitch and formants with it: few talkers become many.
SPEED_SHARE, SPEED = 0.6, (0.82, 1.22)
#: A recording whose level moves less than this between its 10th and 95th percentile of 10 ms frames is a tone or steady noise.
MIN_LEVEL_RANGE_DB = 8.0
#: Recordings drawn in vain before all are read to find those that can be used.
MAX_DRAWS = 200


@dataclass(frozen=True)
class SpeechClip:
    """A recording of speech to make windows of.

    Args:
        name (`str`): Its name, unique.
        path (`str`): Where it is.
        talker (`str`): Who speaks: phrases of one talker are joined to fill a window, and a talker is in one split only.
        language (`str`): As far as known, or `""`.
        split (`str`): One of `SPLITS`.
        num_bytes (`int`): Size of its file.
        phrase ([`~hf_sqa.data.bench.Phrase`], *optional*): Where it is one of the bench corpus.
        share (`float`, *optional*, defaults to 1): Weight of its talker when one is drawn, beside the square root of the number of
            recordings.
    """

    name: str
    path: str
    talker: str
    language: str
    split: str
    num_bytes: int
    phrase: Phrase | None = None
    share: float = 1.0


def bench_speech(packages: str | Path | None = None, num_phrases: int | None = None) -> list[SpeechClip]:
    """The recorded phrases of the bench corpus, seven voices in six languages, split by talker as there.

    Args:
        packages (`str` or `Path`, *optional*): Folder of unpacked Debian packages; those installed if not given.
        num_phrases (`int`, *optional*): Phrases of each voice; all if not given.

    Raises:
        MissingPackagesError: If packages are missing; it names them.
    """
    clips = []
    for phrase in find_phrases("training", packages, num_phrases):
        voice = VOICES[phrase.voice]
        name = f"{phrase.voice}/{phrase.name}"
        clips.append(SpeechClip(name, phrase.path, voice.talker, voice.language, voice.split, phrase.num_bytes, phrase))
    return clips


def folder_speech(folder: str | Path, validation_share: float = 0.1) -> list[SpeechClip]:
    """Recordings in a folder, in depth. A subfolder counts as a talker; without any, each file does.

    Talkers go to `"validation"` with the probability given, by a hash of their name: adding files moves none of the others. Of two
    talkers or more, one goes there in any case.

    Raises:
        ValueError: If there is no such folder, or no recording in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"Expected a folder of recordings, got {str(folder)!r}, which is none.")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"Expected recordings ({', '.join(sorted(AUDIO_SUFFIXES))}) in {str(folder)!r}, got none.")
    names = [path.relative_to(root) for path in files]
    talkers = [name.parts[0] if len(name.parts) > 1 else name.as_posix() for name in names]
    drawn = {talker: int.from_bytes(hashlib.sha256(talker.encode()).digest()[:4], "big") / 2**32 for talker in talkers}
    validation = {talker for talker, share in drawn.items() if share < validation_share}
    if len(drawn) > 1:
        validation |= {min(drawn, key=drawn.__getitem__)}
        validation -= {max(drawn, key=drawn.__getitem__)}
    return [
        SpeechClip(name.as_posix(), str(path), talker, "", "validation" if talker in validation else "train", path.stat().st_size)
        for path, name, talker in zip(files, names, talkers, strict=True)
    ]


def joined_speech(bench: Sequence[SpeechClip], further: Sequence[SpeechClip], further_share: float) -> list[SpeechClip]:
    """The phrases of the bench corpus and further recordings, all of these for training: validation and test stay what they are.

    Args:
        bench, further (sequences of [`SpeechClip`]): What to join.
        further_share (`float`): Share of the training windows whose speech is of the further recordings.
    """

    def weight(clips: Sequence[SpeechClip]) -> float:
        return float(sum(count**0.5 for count in Counter(clip.talker for clip in clips).values()))

    own = weight([clip for clip in bench if clip.split == "train"])
    share = further_share / (1 - further_share) * own / weight(further)
    return [*bench, *(replace(clip, split="train", share=share) for clip in further)]


class SpeechPool:
    """Speech in memory as 16-bit samples, and the reason for every recording that is left out.

    Args:
        clips (sequence of [`SpeechClip`]): What there is.
        sampling_rate (`int`): Rate to bring everything to, in Hz.

    Attributes:
        excluded (`dict[str, str]`): Name of a recording to `"code: reason"` why it is not used. Filled as recordings are read.
    """

    def __init__(self, clips: Sequence[SpeechClip], sampling_rate: int):
        self.clips = tuple(clips)
        self.sampling_rate = sampling_rate
        self.excluded: dict[str, str] = {}
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
        """Sixteen digits that differ where names, sizes, talkers or splits of the recordings do."""
        rows = sorted((clip.name, clip.num_bytes, clip.talker, clip.split, round(clip.share, 6)) for clip in self.clips)
        return hashlib.sha256(json.dumps([self.sampling_rate, rows]).encode()).hexdigest()[:16]

    def draw(self, split: str, rng: np.random.Generator, num_samples: int) -> tuple[np.ndarray, list[SpeechClip]]:
        """Speech of one talker, phrases joined by pauses or a piece of a long recording, and what it was made of.

        Raises:
            ValueError: If no recording of the split can be used.
        """
        usable = {name: clips for name, clips in self._talkers.get(split, {}).items() if clips}
        for attempt in range(MAX_DRAWS + 1):
            if attempt == MAX_DRAWS:  # nearly everything is unusable: look at all of it
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
        reasons = sorted(set(self.excluded.values()))
        raise ValueError(
            f"Expected recordings of speech for the split {split!r}, got none that can be used: {'; '.join(reasons[:3]) or 'none'}."
        )

    def _filled(
        self, first: SpeechClip, clips: Sequence[SpeechClip], rng: np.random.Generator, num_samples: int
    ) -> tuple[np.ndarray, list[SpeechClip]]:
        """A piece of the first recording, or if it is too short, others of the same talker after it."""
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
            except (AudioError, ValueError, RuntimeError, OSError) as error:
                self.excluded[clip.name] = f"{error.code}: {error.message}" if isinstance(error, AudioError) else str(error)
                return None
            self._waveforms[clip.name] = np.round(waveform.clip(-1, 1) * FULL_SCALE).astype(np.int16)
        return self._waveforms[clip.name]

    def _read(self, clip: SpeechClip) -> np.ndarray:
        if clip.phrase is not None:
            return reference_waveform(clip.phrase)
        recording = load_recording(clip.path, sampling_rate=self.sampling_rate)
        if any(finding.code == "little_speech" for finding in recording.warnings):
            raise ValueError(f"little_speech: {recording.speech_seconds:.2f} s of activity are too little")
        waveform = recording.waveform
        frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
        levels = 10 * np.log10(np.maximum(np.square(frames).mean(axis=1), 1e-12))
        low, high = np.percentile(levels, [10, 95])
        if high - low < MIN_LEVEL_RANGE_DB:
            raise ValueError(f"no_speech: its level moves by {high - low:.1f} dB only, a tone or steady noise")
        return waveform


def load_degradations(mix: Mapping[str, float]) -> list[tuple[float, list[Chain]]]:
    """Chains to draw from with weights.

    Args:
        mix (mapping of `str` to `float`): `"none"`: as recorded; `"bench"`: one of the 42 conditions of the bench corpus;
            anything else: a preset or YAML file of [`~hf_sqa.degradations.Chain`].

    Raises:
        ValueError: If a name is no preset, or no weight is above 0.
    """
    chains: list[tuple[float, list[Chain]]] = []
    for name, weight in mix.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(f"Expected a weight of 0 or more for the degradations {name!r}, got {weight!r}.")
        if name == "none":
            chains.append((weight, [Chain([], name="none")]))
        elif name == "bench":
            chains.append((weight, [condition.chain() for condition in FORMS["training"]]))
        else:
            chains.append((weight, [Chain.load(name)]))
    if not sum(weight for weight, _ in chains) > 0:
        raise ValueError(f"Expected a weight above 0 for some degradation, got {dict(mix)!r}; `none: 1` keeps speech as it is.")
    for weight, several in chains:
        for chain in several if weight else ():
            chain.check_requirements()
    return chains


class WindowMaker:
    """Makes windows of degraded speech; the same number always gives the same window.

    Args:
        pool ([`SpeechPool`]): The speech.
        degradations (mapping, *optional*): See [`load_degradations`].
        window_samples (`int`): Length of a full window.
        seed (`int`, *optional*, defaults to 0): Seed of everything drawn.
    """

    def __init__(self, pool: SpeechPool, degradations: Mapping[str, float], window_samples: int, seed: int = 0):
        self.pool, self.window_samples, self.seed = pool, window_samples, seed
        self.degradations = dict(degradations)
        self._chains = load_degradations(degradations)

    @property
    def description(self) -> dict[str, Any]:
        """What decides on the windows, ready for JSON."""
        steps = [[chain.steps for chain in chains] for _, chains in self._chains]
        return {
            "version": VERSION,
            "seed": self.seed,
            "window_samples": self.window_samples,
            "sampling_rate": self.pool.sampling_rate,
            "speech": self.pool.digest,
            "degradations": self.degradations,
            "chains": hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()[:16],
        }

    def make(self, split: str, number: int) -> tuple[np.ndarray, dict[str, Any]]:
        """One window: float32 samples `(num_samples,)`, and a row about it.

        The row has `status`: `"ok"`, or `"failed"` with a `reason` where the degradation refused the speech or left silence.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(split), number])
        rate = self.pool.sampling_rate
        seconds = self.window_samples / rate
        shortest = min(SHORTEST_SECONDS, seconds / 2)
        length = self.window_samples if rng.random() < FULL_SHARE else int(rate * rng.uniform(shortest, seconds))
        lead = int(LEAD_SECONDS * rate)
        speed = float(rng.uniform(*SPEED)) if split == "train" and rng.random() < SPEED_SHARE else 1.0
        speech, clips = self.pool.draw(split, rng, int((length + 2 * lead) * speed))
        speech = resample(speech, rate * speed, rate) if speed != 1 else speech  # type: ignore[arg-type]
        weights = np.array([weight for weight, _ in self._chains])
        chains = self._chains[int(rng.choice(len(weights), p=weights / weights.sum()))][1]
        chain = chains[int(rng.integers(len(chains)))]
        row: dict[str, Any] = {
            "split": split,
            "number": number,
            "talker": clips[0].talker,
            "language": clips[0].language,
            "clips": [clip.name for clip in clips],
            "speed": round(speed, 4),
            "chain": chain.name,
            "status": "ok",
            "reason": None,
        }
        try:
            degraded, record = chain(speech, rate, rng)
        except (ValueError, RuntimeError, OSError) as error:
            return np.zeros(0, np.float32), row | {"status": "failed", "reason": str(error)}
        row["degradations"] = [{"kind": step["kind"], **step["parameters"]} for step in record["steps"]]
        window = degraded[lead : lead + length] if len(degraded) > lead + shortest * rate else degraded[:length]
        if not np.isfinite(window).all() or np.abs(window).max(initial=0) < 1e-4:
            return np.zeros(0, np.float32), row | {"status": "failed", "reason": "the degradation left silence"}
        return window.astype(np.float32), row


class WindowCache:
    """The folder described at the top of this module.

    Args:
        folder (`str` or `Path`): Where.
        maker ([`WindowMaker`], *optional*): What makes windows; to read what is there, none is needed.

    Raises:
        ValueError: If the folder has windows made from other speech, degradations or seed, or is empty and there is no maker.
    """

    def __init__(self, folder: str | Path, maker: WindowMaker | None = None):
        self.folder, self.maker = Path(folder), maker
        path = self.folder / "speech.json"
        if not path.exists():
            if maker is None:
                raise ValueError(f"Expected windows in {str(folder)!r}, got none; make them with `hf-sqa distill <recipe>`.")
            (self.folder / "windows").mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(maker.description, indent=1))
        self.description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if maker is not None and self.description != maker.description:
            differing = [key for key in maker.description if maker.description[key] != self.description.get(key)]
            raise ValueError(
                f"The windows in {str(folder)!r} were made from something else; different: {', '.join(differing)}. Choose another "
                "folder, or delete this one."
            )

    @property
    def sampling_rate(self) -> int:
        return int(self.description["sampling_rate"])

    @property
    def window_samples(self) -> int:
        return int(self.description["window_samples"])

    def shards(self, split: str) -> list[Path]:
        """Files of windows of a split, in order."""
        return sorted((self.folder / "windows").glob(f"{split}-*.safetensors"))

    def ensure_shard(self, split: str, index: int) -> Path:
        """File of a shard, made now if it is not there."""
        path = self.folder / "windows" / f"{split}-{index:05}.safetensors"
        if not path.exists():
            if self.maker is None:
                raise ValueError(f"{str(path)!r} is not there, and there is no speech to make it from.")
            with whole_file(path) as unfinished:
                self._make_shard(split, index, unfinished)
            if self.maker.pool.excluded:
                content = json.dumps(self.excluded | self.maker.pool.excluded, indent=1, ensure_ascii=False)
                write_whole(self.folder / "excluded.json", content)
        return path

    @property
    def excluded(self) -> dict[str, str]:
        """Recordings met so far that are not used, and why."""
        path = self.folder / "excluded.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _make_shard(self, split: str, index: int, path: Path) -> None:
        assert self.maker is not None
        samples = np.zeros((WINDOWS_PER_SHARD, self.window_samples), np.int16)
        num_samples, peaks = np.zeros(WINDOWS_PER_SHARD, np.int32), np.zeros(WINDOWS_PER_SHARD, np.float32)
        rows = []
        for place in range(WINDOWS_PER_SHARD):
            window, row = self.maker.make(split, index * WINDOWS_PER_SHARD + place)
            if len(window):
                peaks[place] = np.abs(window).max()
                num_samples[place] = len(window)
                samples[place, : len(window)] = np.round(window / peaks[place] * FULL_SCALE)
            row["digest"] = hashlib.sha256(samples[place].tobytes() + peaks[place].tobytes()).hexdigest()[:16]
            rows.append(row)
        tensors: dict[str, Any] = {"samples": samples, "num_samples": num_samples, "peak": peaks}
        save_file(tensors, path, metadata={"rows": json.dumps(rows)})


@dataclass
class Shard:
    """Windows in memory: `samples` int16 `(W, T)`, `num_samples` `(W,)`, `peak` `(W,)`, and a row of facts for each."""

    samples: np.ndarray
    num_samples: np.ndarray
    peak: np.ndarray
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Shard:
        with safe_open(path, "np") as file:
            rows = json.loads(file.metadata()["rows"])
            return cls(file.get_tensor("samples"), file.get_tensor("num_samples"), file.get_tensor("peak"), rows)

    def waveform(self, place: int) -> np.ndarray:
        """Float32 samples of a window, without the zeros after its end."""
        return as_waveform(self.samples[place, : self.num_samples[place]], self.peak[place])

    @property
    def digest(self) -> str:
        return hashlib.sha256("".join(row["digest"] for row in self.rows).encode()).hexdigest()[:16]


class Teacher:
    """A model that labels windows.

    Args:
        model: Any model of `AutoModelForAudioQuality`, loaded.
        feature_extractor: Its feature extractor.

    Attributes:
        identity (`dict`): Of [`~hf_sqa.pipelines.model_identity`]; other weights, precision or extractor make another teacher.
    """

    def __init__(self, model: Any, feature_extractor: Any):
        self.model, self.feature_extractor = model.eval(), feature_extractor
        self.identity = model_identity(model, feature_extractor, mode=model.modes[0])

    @property
    def description(self) -> dict[str, Any]:
        """Everything that decides on its labels, ready for JSON."""
        config = self.model.config
        return {
            "identity": self.identity,
            "score_names": config.score_names,
            "score_min": config.score_min,
            "score_max": config.score_max,
            "sampling_rate": config.sampling_rate,
        }

    @property
    def digest(self) -> str:
        """Sixteen digits that differ where its labels could; what it is called, and where it lies, does not count."""
        named = {"id", "revision"}
        identity = {name: value for name, value in self.identity.items() if name not in named}
        content = json.dumps(self.description | {"identity": identity}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def label(
        self, recordings: Sequence[Recording], frames: list[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores float32 `(W, L)` and pooled features float32 `(W, D)` of recordings at its sampling rate.

        A recording at which the model raises [`AudioError`], or that gets a score that is not finite, has NaN. Where a list is
        given for `frames`, it gets an array `(W', F, 2 D)` for every call of the network.
        """
        with pooled_features(self.model) as pooled, transformer_frames(self.model, frames):
            try:
                results = self.model.score_recordings(recordings, self.feature_extractor)
            except AudioError:
                if len(recordings) > 1:
                    return _stacked([self.label([recording]) for recording in recordings])
                return np.full((1, self.model.config.num_labels), np.nan, np.float32), None
            scores = np.stack([result.scores for result in results]).astype(np.float32)
            scores[~np.isfinite(scores).all(axis=1)] = np.nan
            features = np.concatenate(pooled) if pooled else None
        # Windows of one recording have features each; only where there is one a recording is it clear whose they are.
        return scores, features if features is not None and len(features) == len(recordings) else None


@contextmanager
def pooled_features(model: Any) -> Iterator[list[np.ndarray]]:
    """Collects what goes into the last layer, `score_head`, in arrays `(B, D)`, for models that have such a layer after pooling."""
    collected: list[np.ndarray] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() == 2:
            collected.append(inputs[0].detach().float().cpu().numpy())

    head = find_score_head(model)
    handle = head.register_forward_pre_hook(keep) if head is not None else None
    try:
        yield collected
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def transformer_frames(model: Any, collected: list[np.ndarray] | None) -> Iterator[None]:
    """Collects what goes into a model's [`SQATransformer`] after its projection, beside what comes out: `(W, F, 2 D)` float16, two
    frames averaged.

    Raises:
        ValueError: If there is a list to fill, and the model has no such transformer.
    """
    if collected is None:
        yield
        return
    transformer = find_transformer(model)
    if transformer is None:
        raise ValueError(f"Expected a teacher with an SQATransformer for labels of frames, got {type(model).__name__}.")
    projected: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        both = torch.cat([projected.pop(), inputs[0]], dim=2).detach().float()
        collected.append(F.avg_pool1d(both.transpose(1, 2), 2).transpose(1, 2).half().cpu().numpy())

    handles = [
        transformer.positions.register_forward_pre_hook(lambda _, inputs: projected.append(inputs[0])),
        transformer.pooling.register_forward_pre_hook(keep),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_transformer(model: Any) -> SQATransformer | None:
    """The transformer over frames, of the families that have one."""
    return next((module for module in model.modules() if isinstance(module, SQATransformer)), None)


def find_score_head(model: Any) -> torch.nn.Linear | None:
    """The linear layer named `score_head`, if a model has exactly one."""
    found = [
        module for name, module in model.named_modules() if name.endswith("score_head") and isinstance(module, torch.nn.Linear)
    ]
    return found[0] if len(found) == 1 else None


def label_shard(cache: WindowCache, teacher: Teacher, path: Path, with_frames: bool = False) -> Path:
    """Labels of one file of windows by one teacher, made now if they are not there, or without the frames asked for.

    Raises:
        ValueError: If the labels there are of other windows.
    """
    folder = cache.folder / "labels" / teacher.digest
    labels_path = folder / path.name
    shard = Shard.read(path)
    if labels_path.exists():
        with safe_open(labels_path, "np") as file:
            if file.metadata()["windows"] != shard.digest:
                raise ValueError(f"The labels in {str(labels_path)!r} are of other windows than {str(path)!r}; delete them.")
            complete = not with_frames or "frames" in file.keys()  # noqa: SIM118  # no mapping
        if complete:
            return labels_path
    if teacher.model.config.sampling_rate not in (None, cache.sampling_rate):
        raise ValueError(
            f"Expected windows at the rate of the teacher, {teacher.model.config.sampling_rate} Hz, got {cache.sampling_rate} Hz."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "teacher.json").exists():
        text = json.dumps(teacher.description, indent=1)
        write_whole(folder / "teacher.json", text)
    scores = np.full((len(shard.rows), teacher.model.config.num_labels), np.nan, np.float32)
    features: np.ndarray | None = None
    frames: np.ndarray | None = None
    reasons: dict[int, str] = {}
    recordings: dict[int, Recording] = {}
    for place, row in enumerate(shard.rows):
        if row["status"] == "ok":
            try:
                recordings[place] = load_recording({"array": shard.waveform(place), "sampling_rate": cache.sampling_rate})
            except AudioError as error:
                reasons[place] = error.message
    places = list(recordings)
    # A processor's caches hold one window; an accelerator wants many.
    size = 1 if teacher.model.device.type == "cpu" else WINDOWS_PER_SHARD
    for first in range(0, len(places), size):
        together = places[first : first + size]
        seen: list[np.ndarray] | None = [] if with_frames else None
        scores[together], own = teacher.label([recordings[place] for place in together], seen)
        if seen:
            stacked = np.concatenate(seen)
            frames = np.full((len(shard.rows), *stacked.shape[1:]), np.nan, np.float16) if frames is None else frames
            if len(stacked) == len(together):
                frames[together] = stacked
        if own is not None:
            features = np.full((len(shard.rows), own.shape[1]), np.nan, np.float16) if features is None else features
            features[together] = own
    reasons |= {place: "the teacher gave no score" for place in places if np.isnan(scores[place]).any()}
    found = {"scores": scores, "features": features, "frames": frames}
    tensors: dict[str, Any] = {name: array for name, array in found.items() if array is not None}
    metadata = {"windows": shard.digest, "reasons": json.dumps(reasons)}
    with whole_file(labels_path) as unfinished:
        save_file(tensors, unfinished, metadata=metadata)
    return labels_path


def plan_shards(splits: Sequence[str], num_windows: int) -> list[tuple[str, int]]:
    """`(split, index)` of shards in the order in which they are made: of twenty, one each for validation and test.

    Stopped anywhere, the shares are about right. `num_windows` counts all splits and is rounded up to whole shards.
    """
    order = [split for split in CYCLE if split in splits]
    counts = dict.fromkeys(SPLITS, 0)
    plan = []
    for number in range(-(-num_windows // WINDOWS_PER_SHARD)):
        split = order[number % len(order)]
        plan.append((split, counts[split]))
        counts[split] += 1
    return plan


def label_windows(
    cache: WindowCache,
    teachers: Sequence[Teacher],
    num_windows: int | Sequence[tuple[str, int]],
    *,
    num_workers: int = 0,
    with_frames: bool = False,
) -> Iterator[dict[str, Any]]:
    """Make and label windows, shard by shard; yields a row a shard: `split`, `index`, `num_windows`, `num_labelled`, `num_skipped`.

    What is there is not made again.

    Args:
        cache ([`WindowCache`]): Where.
        teachers (sequence of [`Teacher`]): Who labels.
        num_windows (`int`, or sequence of `(split, index)`): How many, see [`plan_shards`]; or which shards.
        num_workers (`int`, *optional*, defaults to 0): Processes that make windows ahead of the teachers; they change no window.
        with_frames (`bool`, *optional*, defaults to `False`): Whether to keep the frames of the first teacher, 150 KB a window.
    """
    splits = cache.maker.pool.splits if cache.maker is not None else [split for split in SPLITS if cache.shards(split)]
    plan = plan_shards(splits, num_windows) if isinstance(num_windows, int) else list(num_windows)
    for (split, index), path in zip(plan, _made_shards(cache, plan, num_workers), strict=True):
        labelled = np.ones(WINDOWS_PER_SHARD, bool)
        for number, teacher in enumerate(teachers):
            with safe_open(label_shard(cache, teacher, path, with_frames and number == 0), "np") as file:
                labelled &= np.isfinite(file.get_tensor("scores")).all(axis=1)
        counts = {"num_windows": len(labelled), "num_labelled": int(labelled.sum()), "num_skipped": int((~labelled).sum())}
        yield {"split": split, "index": index, **counts}


def _made_shards(cache: WindowCache, plan: Sequence[tuple[str, int]], num_workers: int) -> Iterator[Path]:
    """Files of windows in the order of the plan, made here or in processes that are a few shards ahead."""
    if num_workers < 1 or cache.maker is None:
        yield from (cache.ensure_shard(split, index) for split, index in plan)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, context, _begin_worker, (cache,)) as executor:
        waiting: list[concurrent.futures.Future[Path]] = []
        todo = iter(plan)
        try:
            for _ in plan:
                while len(waiting) < 2 * num_workers and (task := next(todo, None)) is not None:
                    waiting.append(executor.submit(_make_in_worker, *task))
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


#: In a worker: the cache it makes windows for, with the speech it has read so far.
_cache_of_worker: WindowCache | None = None


def _begin_worker(cache: WindowCache) -> None:
    global _cache_of_worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that labels
    torch.set_num_threads(1)
    _cache_of_worker = cache


def _make_in_worker(split: str, index: int) -> Path:
    assert _cache_of_worker is not None
    return _cache_of_worker.ensure_shard(split, index)


def as_waveform(samples: np.ndarray, peak: float) -> np.ndarray:
    """Float32 waveform of stored samples."""
    return samples.astype(np.float32) * np.float32(float(peak) / FULL_SCALE)


def _as_float(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def _pause(rng: np.random.Generator, sampling_rate: int) -> np.ndarray:
    length = int(sampling_rate * rng.uniform(*PAUSE_SECONDS))
    return (10 ** (rng.uniform(*PAUSE_DBFS) / 20) * rng.standard_normal(length)).astype(np.float32)


def _stacked(parts: list[tuple[np.ndarray, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray | None]:
    return np.concatenate([scores for scores, _ in parts]), None
