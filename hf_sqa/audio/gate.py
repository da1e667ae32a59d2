"""The input gate: what a recording must have before a model may judge it, measured in one pass over its blocks.

A model returns a number for anything: silence scores 1.4 to 2.1 in every published system, 0.1 s of noise 1.7. The gate refuses
what cannot be judged (`REFUSALS`) and warns of what makes a score doubtful (`WARNINGS`).
"""

from __future__ import annotations

import numpy as np

from hf_sqa.audio.findings import WARNINGS, AudioError, Finding

MIN_SECONDS = 0.25  # this long or shorter is refused
SHORT_SECONDS = 1.0
MIN_SPEECH_SECONDS = 0.5
LOW_LEVEL_DBFS = -50.0
CLIPPED_SHARE = 0.005
ONE_STEP = 1 / 32768  # of 16-bit samples
FLAT_SHARE_OF_TOP = 1e-4
CANCELLED_DB = -40.0
PARTLY_CANCELLED_DB = -10.0
NARROWBAND_DB = -50.0

FRAME_SECONDS = 0.01
SPECTRUM_SIZE = 512
#: ITU-T P.56: the active level lies this far above the threshold that separates activity from pause ...
P56_MARGIN_DB = 15.9
#: ... and activity lasts this much longer than the threshold is exceeded.
P56_HANGOVER_FRAMES = 20


class InputGate:
    """Collects what a recording shows, block by block; `close` refuses it or returns the warnings.

    Args:
        source (`str`): What to call the recording in messages.
        source_sampling_rate (`int`): Native rate in Hz.
        sampling_rate (`int`): Rate of the mono blocks in Hz.
        num_channels (`int`): Channels of the recording.
    """

    def __init__(self, source: str, source_sampling_rate: int, sampling_rate: int, num_channels: int):
        self.source = source
        self.source_sampling_rate = source_sampling_rate
        self.sampling_rate = sampling_rate
        self.num_channels = num_channels
        self.num_frames = 0
        self.lowest, self.highest = np.inf, -np.inf
        self._channel_energy = np.zeros(num_channels)
        self._mono_energy = 0.0
        self._top = 0.0
        self._flat_tops = 0
        self._frame_powers: list[np.ndarray] = []
        self._rest = np.zeros(0, np.float32)
        self._spectrum = np.zeros(SPECTRUM_SIZE // 2 + 1)

    def see_channels(self, block: np.ndarray, mono: np.ndarray) -> None:
        """Look at a block of shape `(num_frames, num_channels)` at the native rate, and at what was made of it."""
        if not np.isfinite(block).all():
            bad = int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            seconds = (self.num_frames + bad) / self.source_sampling_rate
            raise AudioError(
                self.source,
                "not_finite",
                f"a sample at {seconds:.3f} s is NaN or infinite; whatever wrote the recording failed there, so write it again",
            )
        self.num_frames += len(block)
        self._channel_energy += np.square(block, dtype=np.float64).sum(axis=0)
        self._mono_energy += float(np.square(mono, dtype=np.float64).sum())
        self.lowest = min(self.lowest, float(mono.min()))
        self.highest = max(self.highest, float(mono.max()))
        self._count_flat_tops(mono)

    def see_mono(self, block: np.ndarray) -> None:
        """Look at a mono block at the model's rate."""
        block = np.concatenate([self._rest, block])
        frame = max(1, round(FRAME_SECONDS * self.sampling_rate))
        step = frame * SPECTRUM_SIZE
        usable = len(block) - len(block) % step
        self._measure(block[:usable], frame)
        self._rest = block[usable:]

    def _measure(self, samples: np.ndarray, frame: int) -> None:
        whole = samples[: len(samples) - len(samples) % frame].reshape(-1, frame)
        self._frame_powers.append(np.einsum("ij,ij->i", whole, whole, dtype=np.float64) / frame)
        pieces = samples[: len(samples) - len(samples) % SPECTRUM_SIZE].reshape(-1, SPECTRUM_SIZE)
        spectrum = np.fft.rfft(pieces * np.hanning(SPECTRUM_SIZE).astype(np.float32))
        self._spectrum += (spectrum.real**2 + spectrum.imag**2).sum(axis=0)

    def _count_flat_tops(self, mono: np.ndarray) -> None:
        magnitude = np.abs(mono)
        top = float(magnitude.max(initial=0.0))
        if top > 1.001 * self._top:
            self._top, self._flat_tops = top, 0
        at_top = magnitude[1:] >= 0.999 * self._top
        if self._top > ONE_STEP and at_top.any():
            # Relative to the top too: the crest of a low tone is almost flat, and of a quiet one within a step.
            flat = np.abs(np.diff(mono)) <= min(1.5 * ONE_STEP, FLAT_SHARE_OF_TOP * self._top)
            self._flat_tops += int((at_top & flat).sum())

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.source_sampling_rate

    @property
    def clipped_share(self) -> float:
        """Share of samples that sit on a flat top, as hard clipping leaves them."""
        return self._flat_tops / max(self.num_frames, 1)

    def close(self) -> list[Finding]:
        """Judge the recording.

        Raises:
            AudioError: `empty`, `too_short`, `silent` or `channels_cancel`.

        Returns:
            `list[Finding]`: Warnings, in the order of `WARNINGS`.
        """
        self._refuse_what_cannot_be_judged()
        self._measure(self._rest, max(1, round(FRAME_SECONDS * self.sampling_rate)))
        self._rest = self._rest[:0]
        level_dbfs, self.speech_seconds = active_level(np.concatenate(self._frame_powers))
        self.level_dbfs = level_dbfs

        found = {
            "short": self.duration_seconds < SHORT_SECONDS,
            "little_speech": self.speech_seconds < MIN_SPEECH_SECONDS,
            "low_level": level_dbfs < LOW_LEVEL_DBFS,
            "clipped": self.clipped_share >= CLIPPED_SHARE,
            "over_full_scale": max(self.highest, -self.lowest) > 1.0 + ONE_STEP,
            "narrowband": self._is_narrowband(),
            "channels_partly_cancel": self._cancellation_db() < PARTLY_CANCELLED_DB,
        }
        return [Finding(code, WARNINGS[code]) for code in WARNINGS if found[code]]

    def _refuse_what_cannot_be_judged(self) -> None:
        if self.num_frames == 0:
            raise AudioError(self.source, "empty", "the header is there but not one sample follows; record or copy it again")
        if self.duration_seconds <= MIN_SECONDS:
            raise AudioError(
                self.source,
                "too_short",
                f"expected more than {MIN_SECONDS} s of audio, got {self.duration_seconds:.3f} s; join it with what precedes or "
                "follows it",
            )
        if not np.any(self._channel_energy) or (self.num_channels == 1 and self._spans_under_one_step()):
            raise AudioError(
                self.source,
                "silent",
                f"all {self.num_frames:,} samples are digital silence; check the recording, a silent channel can be left out with "
                "`channel=...`",
            )
        if self._cancellation_db() < CANCELLED_DB:
            raise AudioError(
                self.source,
                "channels_cancel",
                f"the {self.num_channels} channels cancel when averaged (opposite phase); score one of them with `channel=0`",
            )
        if self._spans_under_one_step():
            raise AudioError(self.source, "silent", f"all {self.num_frames:,} samples are digital silence; check the recording")

    def _spans_under_one_step(self) -> bool:
        return self.highest - self.lowest < ONE_STEP

    def _cancellation_db(self) -> float:
        """Level of the mono mix against the mean level of the channels that carry signal."""
        carrying = self._channel_energy[self._channel_energy > 0]
        if len(carrying) < 2:
            return 0.0
        return 10 * np.log10(max(self._mono_energy, 1e-30) / carrying.mean())

    def _is_narrowband(self) -> bool:
        if self.source_sampling_rate <= 8000:
            return True
        if self.sampling_rate < 16000:
            return False
        hertz = np.fft.rfftfreq(SPECTRUM_SIZE, 1 / self.sampling_rate)
        voice = self._spectrum[(hertz >= 300) & (hertz <= 3400)].mean()
        above = self._spectrum[(hertz >= 4400) & (hertz <= 7600)].mean()
        return bool(voice > 0 and 10 * np.log10(max(above, 1e-30) / voice) < NARROWBAND_DB)


def active_level(frame_powers: np.ndarray) -> tuple[float, float]:
    """Active speech level and how long the activity lasts, after ITU-T P.56 method B on frames of 10 ms.

    Args:
        frame_powers (`np.ndarray` of shape `(num_frames,)`): Mean square of every frame, full scale 1.

    Returns:
        `(level_dbfs, active_seconds)`: Mean power while active, in dB below full scale (`-inf` for silence), and seconds of
        activity. Steady noise counts as active throughout: the measure knows levels, not speech.
    """
    total = float(frame_powers.sum())
    if total <= 0:
        return -np.inf, 0.0
    levels = 10 * np.log10(np.maximum(frame_powers, 1e-12))
    # Hangover: a pause shorter than 0.2 s belongs to the activity before it.
    held = levels.copy()
    for shift in range(1, min(P56_HANGOVER_FRAMES, len(levels))):
        np.maximum(held[shift:], levels[:-shift], out=held[shift:])
    ordered = np.sort(held)
    thresholds = np.arange(-100.0, 0.5, 0.5)
    counts = len(ordered) - np.searchsorted(ordered, thresholds)
    with np.errstate(divide="ignore"):
        active_levels = 10 * np.log10(total / np.maximum(counts, 1e-9))
    above_margin = active_levels - thresholds >= P56_MARGIN_DB
    chosen = int(np.flatnonzero(above_margin & (counts > 0))[-1]) if (above_margin & (counts > 0)).any() else 0
    return float(active_levels[chosen]), float(counts[chosen] * FRAME_SECONDS)
