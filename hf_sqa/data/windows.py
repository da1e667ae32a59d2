"""Windows of degraded speech, made once and kept on disk beside the teachers' labels.

A folder holds:

    speech.json                             what the windows are made from; other windows are refused
    excluded.json                           recordings that are not used, and why
    windows/train-00000.safetensors         samples int16 (W, T), zeros after the end; num_samples int32 (W,); peak float32 (W,);
                                            in the metadata a JSON row for each window: digest, talker, clips, degradations
    windows/validation-00000.safetensors    the same for other talkers, as are `test-` files
    labels/<teacher>/teacher.json           identity, score names and scale of the teacher; <teacher> is a digest of these
    labels/<teacher>/train-00000.safetensors  scores float32 (W, L), NaN where the teacher gave none; features float16 (W, D), the
                                            pooled features before its last layer, if it has one; on request, frames float16
                                            (W, F, 2 D), input and output of its transformer, averaged over pairs of frames

A waveform is `samples / 32767 * peak`; teachers and students hear it after this rounding. Files are whole or absent: a killed run
loses only the shard it was writing, and resumes there. A window depends only on the seed, its split and its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_sqa.audio import Finding, resample
from hf_sqa.data.bench import FORMS
from hf_sqa.data.speech import FULL_SCALE, SPLITS, SpeechPool
from hf_sqa.degradations import Chain
from hf_sqa.runs import check_same_run, digest_of, in_processes, whole_file, write_whole

WINDOWS_PER_SHARD = 64
#: Increased whenever the same seed gives other windows.
VERSION = 2
#: Share of windows of full length; the lengths of the others are drawn uniformly, down to `SHORTEST_SECONDS`.
FULL_SHARE, SHORTEST_SECONDS = 0.7, 1.5
#: Speech on both sides that is degraded and then cut off, so that codecs and filters have settled when the window begins.
LEAD_SECONDS = 0.25
#: Share of training windows played faster or slower, and by how much: it changes pitch and formants, so few talkers become many.
SPEED_SHARE, SPEED = 0.6, (0.82, 1.22)


def load_degradations(mix: Mapping[str, float]) -> list[tuple[float, list[Chain]]]:
    """Return chains with the weights for drawing one; a `ValueError` if a preset is unknown, or a weight is not a valid number.

    `"none"` keeps speech as recorded, `"bench"` draws one of the 42 conditions of the bench corpus, any other name is a preset or
    YAML file of [`~hf_sqa.degradations.Chain`].
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
    for weight, alternatives in chains:
        for chain in alternatives if weight else ():
            chain.check_requirements()
    return chains


class WindowMaker:
    """Makes windows of degraded speech, `window_samples` long at most; the same number always gives the same window."""

    def __init__(self, pool: SpeechPool, degradations: Mapping[str, float], window_samples: int, seed: int = 0):
        self.pool, self.window_samples, self.seed = pool, window_samples, seed
        self.degradations = dict(degradations)
        self._chains = load_degradations(degradations)

    @property
    def description(self) -> dict[str, Any]:
        """Everything that determines the windows, ready for JSON."""
        steps = [[chain.steps for chain in chains] for _, chains in self._chains]
        return {
            "version": VERSION,
            "seed": self.seed,
            "window_samples": self.window_samples,
            "sampling_rate": self.pool.sampling_rate,
            "speech": self.pool.digest,
            "degradations": self.degradations,
            "chains": digest_of(steps),
        }

    def make(self, split: str, number: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Make a window, float32 `(num_samples,)`, and return it with facts about it.

        The `status` is `"ok"`, or `"failed"` with a `reason` if the degradation refused the speech or left silence.
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
    """The folder that the docstring of this module describes.

    Windows made from other speech, by other degradations or with another seed than the maker's are a [`~hf_sqa.runs.RunMismatch`].
    """

    def __init__(self, folder: str | Path, maker: WindowMaker | None = None):
        self.folder, self.maker = Path(folder), maker
        path = self.folder / "speech.json"
        if maker is not None:
            check_same_run(path, maker.description)
            (self.folder / "windows").mkdir(exist_ok=True)
        elif not path.exists():
            raise ValueError(f"Expected windows in {str(folder)!r}, got none; make them with `hf-sqa distill <recipe>`.")
        self.description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.sampling_rate, self.window_samples = int(self.description["sampling_rate"]), int(self.description["window_samples"])

    def shards(self, split: str) -> list[Path]:
        """Return the files with the windows of a split, in order."""
        return sorted((self.folder / "windows").glob(f"{split}-*.safetensors"))

    def ensure_shard(self, split: str, index: int) -> Path:
        """Return the file of a shard, and make it first if it is missing."""
        path = self.folder / "windows" / f"{split}-{index:05}.safetensors"
        if not path.exists():
            if self.maker is None:
                raise ValueError(f"Expected {str(path)!r}, which is missing, and there is no speech to make it from.")
            with whole_file(path) as unfinished:
                self._make_shard(split, index, unfinished)
            if self.maker.pool.excluded:
                excluded = {name: asdict(finding) for name, finding in (self.excluded | self.maker.pool.excluded).items()}
                write_whole(self.folder / "excluded.json", json.dumps(excluded, indent=1, ensure_ascii=False))
        return path

    def ensure_shards(self, plan: Iterable[tuple[str, int]], num_workers: int = 0) -> Iterator[Path]:
        """Yield the files of shards, given by split and index, in order.

        Those that are missing are made, a few ahead if there are workers, processes that do not load torch.
        """
        if num_workers < 1 or self.maker is None:
            return (self.ensure_shard(split, index) for split, index in plan)
        return in_processes(_ensure_shard, plan, num_workers, self, in_order=True, ahead=True)

    @property
    def excluded(self) -> dict[str, Finding]:
        """Why some of the recordings drawn are not used, by name."""
        path = self.folder / "excluded.json"
        written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {name: Finding(**finding) for name, finding in written.items()}

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


def _ensure_shard(task: tuple[str, int], cache: WindowCache) -> Path:
    return cache.ensure_shard(*task)


@dataclass
class Shard:
    """Windows in memory."""

    samples: np.ndarray  # `(W, T)`, int16
    num_samples: np.ndarray  # `(W,)`: length of each window
    peak: np.ndarray  # `(W,)`: magnitude of the largest sample
    rows: list[dict[str, Any]]  # facts about each window

    @classmethod
    def read(cls, path: Path) -> Shard:
        with safe_open(path, "np") as file:
            rows = json.loads(file.metadata()["rows"])
            return cls(file.get_tensor("samples"), file.get_tensor("num_samples"), file.get_tensor("peak"), rows)

    def waveform(self, place: int) -> np.ndarray:
        """A window in float32, without the zeros after its end."""
        return as_waveform(self.samples[place, : self.num_samples[place]], self.peak[place])

    @property
    def digest(self) -> str:
        """Sixteen digits that change with the windows."""
        return hashlib.sha256("".join(row["digest"] for row in self.rows).encode()).hexdigest()[:16]


def as_waveform(samples: np.ndarray, peak: float) -> np.ndarray:
    """Return stored samples as a float32 waveform."""
    return samples.astype(np.float32) * np.float32(float(peak) / FULL_SCALE)
