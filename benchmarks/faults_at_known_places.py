"""Real speech with a fault of 0.5 to 5 s at a known place: what `local_quality.py` looks for.

A recording is one take of 6.5 to 30 s. The fault is one of `FAULTS`, of a strength drawn from a range fixed beforehand, cut into
the recording with a fade of 5 ms where at least 60 % of the time somebody speaks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from hf_sqa import degradations
from hf_sqa.audio import load_recording
from hf_sqa.data.bench.speech import G722_BYTES_PER_SECOND, G722_CODEC, NO_PHRASES, SIGNAL, VOICES, Phrase, reference_waveform

RATE = 16_000
SHORTEST, LONGEST = 0.5, 5.0
SHORTEST_TAKE, LONGEST_TAKE = 6.5, 30.0
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
FADE = RATE // 200
#: Level of the noise that a microphone adds to every recording, so that a pause is no digital silence.
FLOOR_DBFS = -72.0
ACTIVE_SHARE, ACTIVE_DB = 0.6, 30.0


@dataclass(frozen=True)
class Example:
    """A recording, clean and with a fault from `start` to `end` seconds."""

    name: str
    kind: str
    clean: np.ndarray
    faulty: np.ndarray
    start: float
    end: float


def _loss(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    concealment = str(rng.choice(["zeros", "pitch"]))
    share, burst = rng.uniform(0.2, 0.4), rng.uniform(1.5, 3)
    return degradations.packet_loss(speech, RATE, loss_share=share, mean_burst_packets=burst, concealment=concealment, rng=rng)


def _noise(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    add = (degradations.white_noise, degradations.pink_noise)[rng.integers(2)]
    return add(speech, RATE, snr_db=rng.uniform(0, 12), speech_level="active", rng=rng)


def _clipping(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return degradations.clip_share(speech, RATE, share=rng.uniform(0.1, 0.3))


def _codec(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    codecs: tuple[Callable[[], np.ndarray], ...] = (
        lambda: degradations.opus(speech, RATE, bitrate_kbps=6),
        lambda: degradations.amr_nb(speech, RATE, bitrate_kbps=4.75),
        lambda: degradations.g726(speech, RATE, bitrate_kbps=16),
        lambda: degradations.gsm(speech, RATE),
        lambda: degradations.mp3(speech, RATE, bitrate_kbps=8),
    )
    return codecs[rng.integers(len(codecs))]()


def _gap(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(speech)


def _band_limit(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return degradations.low_pass(speech, RATE, cutoff_hz=rng.uniform(1000, 3400))


def _reverberation(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return degradations.reverberation(
        speech, RATE, t60_seconds=rng.uniform(0.6, 1.2), direct_to_reverberant_db=rng.uniform(-6, 0), rng=rng
    )


FAULTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "loss": _loss,
    "noise": _noise,
    "clipping": _clipping,
    "codec switch": _codec,
    "gap": _gap,
    "band limit": _band_limit,
    "reverberation": _reverberation,
}


def takes(folder: Path) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Recordings of one take, 6.5 to 30 s, by name: prompts of the Debian packages of `hf-sqa corpus`, unpacked into the folder, or
    the audio files of any folder. One take, because phrases of several sessions differ in quality by themselves.

    Raises:
        ValueError: If there are fewer than ten.
    """
    found: list[tuple[str, Callable[[], np.ndarray]]] = []
    for voice in VOICES.values():
        for path in sorted((folder / voice.folder).glob(voice.pattern)) if voice.codec == G722_CODEC else ():
            seconds = path.stat().st_size / G722_BYTES_PER_SECOND
            if path.parent.name not in NO_PHRASES and SIGNAL not in path.name and SHORTEST_TAKE <= seconds <= LONGEST_TAKE:
                phrase = Phrase(voice.name, path.name, str(path), path.stat().st_size)
                found.append((f"{voice.name}/{path.stem}", lambda phrase=phrase: reference_waveform(phrase)))
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES) if not found else ():
        if SHORTEST_TAKE <= soundfile.info(path).duration <= LONGEST_TAKE:
            found.append((path.stem, lambda path=path: load_recording(path, sampling_rate=RATE).waveform))
    if len(found) < 10:
        raise ValueError(f"Expected ten recordings of clean speech or more in {str(folder)!r}, 6.5 to 30 s each; got {len(found)}.")
    return found


def examples(folder: Path, number: int, part: str = "test", seed: int = 0) -> Iterator[Example]:
    """Examples, the same for the same folder and seed; takes and kinds of fault take turns.

    Args:
        folder (`Path`): Clean speech, see [`takes`].
        number (`int`): How many.
        part (`str`, *optional*, defaults to `"test"`): `"test"`, three quarters of the takes, or `"development"`, the others, to
            look at while something changes.
        seed (`int`, *optional*, defaults to 0): Of kinds, strengths and places.
    """
    drawn = sorted(takes(folder), key=lambda take: hashlib.sha256(take[0].encode()).digest())
    drawn = [take for index, take in enumerate(drawn) if (index % 4 == 0) == (part == "development")]
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        name, read = drawn[index % len(drawn)]
        kind = list(FAULTS)[(index + index // len(drawn)) % len(FAULTS)]
        speech = read()
        clean = (speech + rng.normal(0, 10 ** (FLOOR_DBFS / 20), len(speech))).astype(np.float32)
        length = round(RATE * float(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST)))))
        yield _with_fault(name, kind, clean, _place(clean, length, rng), length, rng)


def _place(speech: np.ndarray, length: int, rng: np.random.Generator) -> int:
    """Where a fault can be heard: at least `ACTIVE_SHARE` of it lies within `ACTIVE_DB` of the loudest 20 ms."""
    frames = np.square(speech[: len(speech) // 320 * 320]).reshape(-1, 320).mean(axis=1)
    active = frames > frames.max() * 10 ** (-ACTIVE_DB / 10)
    starts = rng.permutation(max(1, len(active) - length // 320))
    shares = [active[start : start + length // 320].mean() for start in starts]
    good = next((start for start, share in zip(starts, shares, strict=True) if share >= ACTIVE_SHARE), None)
    return 320 * int(starts[int(np.argmax(shares))] if good is None else good)


def _with_fault(name: str, kind: str, clean: np.ndarray, start: int, length: int, rng: np.random.Generator) -> Example:
    degraded = FAULTS[kind](clean, rng)
    share = np.zeros(len(clean), np.float32)
    share[start : start + length] = 1
    if kind != "gap":  # a gap has hard edges
        share = np.convolve(share, np.full(FADE, 1 / FADE, np.float32), "same").astype(np.float32)
    faulty = np.clip((1 - share) * clean + share * degraded, -1, 1)
    return Example(name, kind, clean, faulty.astype(np.float32), start / RATE, (start + length) / RATE)
