"""The input gate: what a recording must have before a model may judge it, measured in one pass over its blocks.

A model returns a number for anything: silence scores 1.4 to 2.1 in every published system, 0.1 s of noise 1.7. The gate refuses
what cannot be judged (`REFUSALS`) and warns of what makes a score doubtful (`WARNINGS`).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hf_sqa.audio.findings import WARNINGS, AudioError, Finding

MIN_SECONDS = 0.25  # this long or shorter is refused
SHORT_SECONDS = 1.0
MIN_SPEECH_SECONDS = 0.5
LOW_LEVEL_DBFS = -50.0
CLIPPED_SHARE = 0.005
ONE_STEP = 1 / 32768  # of 16-bit samples
FLAT_SHARE_OF_TOP = 1e-4
#: Noise of a few quantisation steps has equal neighbours at every level; clipping has them at the tops.
TOPS_OVER_OTHER_LEVELS = 2.0
#: Levels below this share of the top are pauses, where neighbours are equal as well.
PAUSE_SHARE_OF_TOP = 0.2
#: An offset this far below the speech moves the score of Distill-MOS by 0.1.
OFFSET_OVER_SPEECH_DB = -20.0
CANCELLED_DB = -40.0
PARTLY_CANCELLED_DB = -10.0
NARROWBAND_DB = -50.0
TAIL_SECONDS, TAIL_SHARE = 1.0, 0.2

FRAME_SECONDS = 0.01
#: The offset is the median of the means of this many frames: in half a second, a voice swings through zero dozens of times.
OFFSET_FRAMES, OFFSET_PIECE = 51, 10_000
SPECTRUM_SIZE = 512

#: Edges in Hz of the bands whose levels a voice changes, each independently, and a steady sound does not.
VOICE_BANDS_HZ = (100, 300, 600, 1200, 2400, 4000)
#: Levels are averaged over this time, and compared within this many dB of the loudest, in bands with this share of the power.
BAND_LEVEL_SECONDS, ACTIVE_RANGE_DB, CARRYING_SHARE = 0.1, 25.0, 1e-5
#: How far a band must rise above its 10th percentile, for half a second or 5 % of a shorter recording. Steady noise, tones and
#: hum stay below 6.2 dB; speech reaches more than 12 dB in noise as loud as itself (`docs/reliability.md`).
STEADY_DB, LOUD_SECONDS, LOUD_SHARE = 6.5, 0.5, 0.05

#: ITU-T P.56: the active level lies this far above the threshold that separates activity from pause ...
P56_MARGIN_DB = 15.9
#: ... and activity lasts this much longer than the threshold is exceeded.
P56_HANGOVER_FRAMES = 20


class InputGate:
    """Measures a recording block by block; `close` refuses it or returns the warnings.

    Levels, activity and clipping are measured without a constant offset (ITU-T P.56 measures band-limited speech).
    `source` names the recording in messages; `sampling_rate` is that of the mono blocks.
    """

    def __init__(self, source: str, source_sampling_rate: int, sampling_rate: int, num_channels: int):
        self.source = source
        self.source_sampling_rate = source_sampling_rate
        self.sampling_rate = sampling_rate
        self.num_channels = num_channels
        self.num_frames = 0
        self.lowest, self.highest = np.inf, -np.inf
        self._channel_sums = np.zeros((2, num_channels))
        self._mono_sums = np.zeros(2)
        self._tail_frames, self._last = 0, np.nan
        self._flat_tops = self._flat_between = 0
        self._frame_sums: list[np.ndarray] = []
        self._rest = np.zeros(0, np.float32)
        self._spectrum = np.zeros(SPECTRUM_SIZE // 2 + 1)
        self._band_powers: list[np.ndarray] = []

    def see_channels(self, block: np.ndarray, mono: np.ndarray) -> None:
        """Measure a block of shape `(num_frames, num_channels)` at the native rate, and the mono signal made from it."""
        if not np.isfinite(block).all():
            bad = int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            seconds = (self.num_frames + bad) / self.source_sampling_rate
            raise AudioError(
                self.source,
                "not_finite",
                f"a sample at {seconds:.3f} s is NaN or infinite; whatever wrote the recording failed there, so write it again",
            )
        if len(block) == 0:
            return
        self.num_frames += len(block)
        self._channel_sums += [block.sum(axis=0, dtype=np.float64), np.square(block, dtype=np.float64).sum(axis=0)]
        self._mono_sums += [mono.sum(dtype=np.float64), np.square(mono, dtype=np.float64).sum()]
        self._count_tail(mono)
        self._count_flat_tops(mono)

    def see_mono(self, block: np.ndarray) -> None:
        """Measure a mono block at the model's rate."""
        block = np.concatenate([self._rest, block])
        step = self._samples_in_frame * SPECTRUM_SIZE
        usable = len(block) - len(block) % step
        self._measure(block[:usable])
        self._rest = block[usable:]

    @property
    def _samples_in_frame(self) -> int:
        return max(1, round(FRAME_SECONDS * self.sampling_rate))

    def _measure(self, samples: np.ndarray) -> None:
        frames = samples[: len(samples) - len(samples) % self._samples_in_frame].reshape(-1, self._samples_in_frame)
        powers = np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / self._samples_in_frame
        self._frame_sums.append(np.stack([frames.mean(axis=1, dtype=np.float64), powers]))
        pieces = samples[: len(samples) - len(samples) % SPECTRUM_SIZE].reshape(-1, SPECTRUM_SIZE)
        spectrum = np.fft.rfft(pieces.astype(np.float64) * np.hanning(SPECTRUM_SIZE))
        powers = spectrum.real**2 + spectrum.imag**2
        self._spectrum += powers.sum(axis=0)
        hertz = np.fft.rfftfreq(SPECTRUM_SIZE, 1 / self.sampling_rate)
        edges = np.searchsorted(hertz, VOICE_BANDS_HZ)
        self._band_powers.append(np.stack([powers[:, low:high].sum(axis=1) for low, high in pairwise(edges)], axis=1))

    def _count_tail(self, mono: np.ndarray) -> None:
        """Count the equal samples at the end of the recording."""
        others = np.flatnonzero(mono != mono[-1])
        before = self._tail_frames if mono[-1] == self._last else 0
        self._tail_frames = len(mono) - 1 - int(others[-1]) if len(others) else len(mono) + before
        self._last = float(mono[-1])

    def _count_flat_tops(self, mono: np.ndarray) -> None:
        """Count equal neighbours at the highest and lowest level, and equal neighbours in between."""
        lowest, highest = min(self.lowest, float(mono.min())), max(self.highest, float(mono.max()))
        if highest - lowest > 1.001 * (self.highest - self.lowest):
            self._flat_tops = self._flat_between = 0
        self.lowest, self.highest = lowest, highest
        top = (highest - lowest) / 2
        if top <= ONE_STEP:
            return
        # Also relative to the top: the crest of a low tone is almost flat, and that of a quiet tone lies within a step.
        flat = np.abs(np.diff(mono)) <= min(1.5 * ONE_STEP, FLAT_SHARE_OF_TOP * top)
        magnitude = np.abs(mono[1:][flat] - (highest + lowest) / 2)
        self._flat_tops += int((magnitude >= 0.999 * top).sum())
        self._flat_between += int(((magnitude < 0.999 * top) & (magnitude >= PAUSE_SHARE_OF_TOP * top)).sum())

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.source_sampling_rate

    @property
    def clipped_share(self) -> float:
        """Share of samples that sit on a flat top, as hard clipping leaves them."""
        stands_out = self._flat_tops > TOPS_OVER_OTHER_LEVELS * self._flat_between
        return self._flat_tops / max(self.num_frames, 1) if stands_out else 0.0

    def close(self) -> list[Finding]:
        """Return the warnings, in the order of `WARNINGS`, or raise `empty`, `too_short`, `silent` or `channels_cancel`."""
        self._refuse_what_cannot_be_judged()
        self._measure(self._rest)
        self._rest = self._rest[:0]
        self.level_dbfs, self.speech_seconds = active_level(_without_offset(*np.concatenate(self._frame_sums, axis=1)))
        offset = abs(self._mono_sums[0]) / self.num_frames

        found = {
            "short": self.duration_seconds < SHORT_SECONDS,
            "little_speech": self.speech_seconds < MIN_SPEECH_SECONDS,
            "no_speech": self.duration_seconds >= SHORT_SECONDS and self._is_steady(),
            "low_level": self.level_dbfs < LOW_LEVEL_DBFS,
            "clipped": self.clipped_share >= CLIPPED_SHARE,
            "over_full_scale": max(self.highest, -self.lowest) > 1.0 + ONE_STEP,
            "dc_offset": offset > ONE_STEP and 20 * np.log10(offset) > self.level_dbfs + OFFSET_OVER_SPEECH_DB,
            "digital_tail": self._tail_frames >= max(TAIL_SECONDS * self.source_sampling_rate, TAIL_SHARE * self.num_frames),
            "narrowband": self._is_narrowband(),
            "channels_partly_cancel": self._cancellation_db() < PARTLY_CANCELLED_DB,
        }
        return [Finding(code, WARNINGS[code]) for code, is_found in found.items() if is_found]

    def _refuse_what_cannot_be_judged(self) -> None:
        if self.num_frames == 0:
            raise AudioError(self.source, "empty", "the header is there, but no samples follow; record or copy it again")
        if self.duration_seconds <= MIN_SECONDS:
            raise AudioError(
                self.source,
                "too_short",
                f"expected more than {MIN_SECONDS} s of audio, got {self.duration_seconds:.3f} s; join it with what precedes or "
                "follows it",
            )
        cancels = self._cancellation_db() < CANCELLED_DB
        if len(self._carrying_powers()) == 0 or (self.highest - self.lowest < ONE_STEP and not cancels):
            raise AudioError(
                self.source,
                "silent",
                f"all {self.num_frames:,} samples are digital silence; check the recording, a silent channel can be left out with "
                "`channel=...`",
            )
        if cancels:
            raise AudioError(
                self.source,
                "channels_cancel",
                f"the {self.num_channels} channels cancel when averaged (opposite phase); score one of them with `channel=0`",
            )

    def _carrying_powers(self) -> np.ndarray:
        """Powers, without their offsets, of the channels that carry sound."""
        means, powers = self._channel_sums / self.num_frames
        moving = np.maximum(powers - means**2, 0)
        return moving[moving > np.maximum(1e-12 * powers, 1e-24)]

    def _cancellation_db(self) -> float:
        """Level of the mono mix relative to the mean level of the channels that carry sound, in dB."""
        carrying = self._carrying_powers()
        if len(carrying) < 2:
            return 0.0
        mean, power = self._mono_sums / self.num_frames
        return float(10 * np.log10(max(power - mean**2, 1e-30) / carrying.mean()))

    def _is_narrowband(self) -> bool:
        if self.source_sampling_rate <= 8000:
            return True
        if self.sampling_rate < 16000:
            return False
        hertz = np.fft.rfftfreq(SPECTRUM_SIZE, 1 / self.sampling_rate)
        voice = self._spectrum[(hertz >= 300) & (hertz <= 3400)].mean()
        above = self._spectrum[(hertz >= 4400) & (hertz <= 7600)].mean()
        return bool(voice > 0 and 10 * np.log10(max(above, 1e-30) / voice) < NARROWBAND_DB)

    def _is_steady(self) -> bool:
        """Whether the level of every band stays constant while there is sound."""
        powers = np.concatenate(self._band_powers)
        length = max(1, round(BAND_LEVEL_SECONDS * self.sampling_rate / SPECTRUM_SIZE))
        if len(powers) < 4 * length:
            return False
        smoothed = np.stack([np.convolve(band, np.full(length, 1 / length), "valid") for band in powers.T], axis=1)
        total = smoothed.sum(axis=1)
        smoothed = smoothed[total > np.percentile(total, 95) * 10 ** (-ACTIVE_RANGE_DB / 10)]
        share = smoothed.mean(axis=0)
        levels = 10 * np.log10(smoothed[:, share > CARRYING_SHARE * share.sum()] + 1e-30)
        loud = max(1, int(min(LOUD_SECONDS * self.sampling_rate / SPECTRUM_SIZE, LOUD_SHARE * len(levels))))
        ordered = np.sort(levels, axis=0)
        return bool((ordered[-loud] - ordered[len(levels) // 10]).max(initial=0.0) < STEADY_DB)


def _without_offset(means: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Power of every frame without the offset of the half second around it."""
    windows = sliding_window_view(np.pad(means, OFFSET_FRAMES // 2, mode="edge"), OFFSET_FRAMES)
    # A median copies its input: an hour at once would take 150 MB.
    pieces = [np.median(windows[start : start + OFFSET_PIECE], axis=1) for start in range(0, len(windows), OFFSET_PIECE)]
    offsets = np.concatenate(pieces)
    return np.maximum(powers - 2 * offsets * means + offsets**2, 0)


def active_level(frame_powers: np.ndarray) -> tuple[float, float]:
    """Return the active speech level in dB relative to full scale, and the seconds of activity (ITU-T P.56, method B).

    `frame_powers` of shape `(num_frames,)` are the mean squares of frames of 10 ms, full scale 1; silence has the level `-inf`.
    Steady noise counts as active throughout: the measure knows levels, not speech.
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
