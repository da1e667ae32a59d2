"""Gaps: chopping, packet loss, and the concealment with which a receiver fills what is lost.

Losses follow a two-state Markov chain (Gilbert), given by the share of losses and their mean burst. Concealment is pitch waveform
substitution as in ITU-T G.711 Appendix I; Opus, AMR and Speex conceal in their own decoders, see `hf_sqa.degradations.codec`.
"""

from typing import Literal

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.kind import Record, check_range, degradation, note

Concealment = Literal["pitch", "repeat", "zeros"]
CONCEALMENTS = ("pitch", "repeat", "zeros")

#: ITU-T G.711 Appendix I: pitch is searched from 66 to 200 Hz in 20 ms; substitution is full for 10 ms, then fades out until 60 ms.
MIN_PITCH_MS, MAX_PITCH_MS, CORRELATION_MS = 5.0, 15.0, 20.0
FULL_MS, SILENT_MS = 10.0, 60.0


@degradation(chops_per_second=(0.1, 50), chop_ms=(1, 1000))
def chop(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    chops_per_second: float,
    chop_ms: float,
    rng: np.random.Generator,
    mode: Literal["zeros", "previous"] = "zeros",
    record: Record = None,
) -> np.ndarray:
    """Replace stretches of equal length, one at a random place in every `1 / chops_per_second` seconds, as in TCD-VoIP.

    Args:
        chops_per_second (`float`): Number of stretches per second, 0.1 to 50; TCD-VoIP has 1 to 6.
        chop_ms (`float`): Length of a stretch in ms, 1 to 1000, at most the interval between two; TCD-VoIP has 20 to 40.
        mode (`str`, *optional*, defaults to `"zeros"`): What is heard instead: `"zeros"`, silence, or `"previous"`, a repetition of
            the stretch before.
        record (`dict`, *optional*): Receives `starts_seconds`, where the stretches begin.
    """
    check_choice("mode", mode, ("zeros", "previous"))
    length = max(1, round(chop_ms * sampling_rate / 1000))
    interval = round(sampling_rate / chops_per_second)
    if length > interval:
        raise ValueError(f"Expected stretches no longer than the {1000 / chops_per_second:g} ms between them, got {chop_ms:g} ms.")
    starts = [start + int(rng.integers(interval - length + 1)) for start in range(0, len(waveform), interval)]
    starts = [start for start in starts if start + length <= len(waveform)]
    degraded = waveform.copy()
    for start in starts:
        before = waveform[max(start - length, 0) : start] if mode == "previous" else waveform[:0]
        degraded[start : start + length] = np.pad(before, (length - len(before), 0))
    note(record, starts_seconds=[round(start / sampling_rate, 4) for start in starts])
    return degraded


def draw_losses(
    num_packets: int, *, loss_share: float, mean_burst_packets: float | None = None, rng: np.random.Generator
) -> np.ndarray:
    """Draw which packets are lost, from a two-state Markov chain that starts in its stationary state.

    Args:
        num_packets (`int`): Number of packets.
        loss_share (`float`): Expected share of lost packets, 0 to below 1.
        mean_burst_packets (`float`, *optional*): Expected number of packets lost in a row, 1 or more. If not given, losses are
            independent, which gives `1 / (1 - loss_share)`; in shorter bursts, they would have to avoid each other.
        rng (`np.random.Generator`): Source of randomness.

    Returns:
        `np.ndarray` of shape `(num_packets,)`: `True` where a packet is lost.

    Raises:
        ValueError: If the bursts are too short to lose that share of packets.
    """
    check_range("loss_share", loss_share, 0, 0.99)
    mean_burst_packets = 1 / (1 - loss_share) if mean_burst_packets is None else mean_burst_packets
    check_range("mean_burst_packets", mean_burst_packets, 1, 1000)
    end_burst = 1 / mean_burst_packets
    begin_burst = end_burst * loss_share / (1 - loss_share)
    if begin_burst > 1:
        raise ValueError(
            f"Expected `mean_burst_packets` of {loss_share / (1 - loss_share):.3g} or more for a `loss_share` of {loss_share:g}, "
            f"got {mean_burst_packets:g}: bursts so short cannot lose so many packets."
        )
    lost = np.zeros(num_packets, bool)
    now = rng.random() < loss_share
    for packet, chance in enumerate(rng.random(num_packets)):
        lost[packet] = now
        now = chance >= end_burst if now else chance < begin_burst
    return lost


@degradation(packet_ms=(1, 200))
def packet_loss(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    loss_share: float,
    rng: np.random.Generator,
    mean_burst_packets: float | None = None,
    packet_ms: float = 20.0,
    concealment: Concealment = "pitch",
    record: Record = None,
) -> np.ndarray:
    """Lose packets of waveform-coded speech, and conceal the gaps.

    Args:
        loss_share (`float`): Expected share of lost packets, 0 to 0.99.
        mean_burst_packets (`float`, *optional*): Expected number of packets lost in a row, 1 or more; independent losses if not
            given, see [`draw_losses`].
        concealment (`str`, *optional*, defaults to `"pitch"`): `"pitch"` (ITU-T G.711 Appendix I: the last pitch periods are
            repeated, silent after 60 ms), `"repeat"` (the last packet is repeated) or `"zeros"`.
        record (`dict`, *optional*): Receives `lost_packets`, their numbers from 0.
    """
    packet = max(1, round(packet_ms * sampling_rate / 1000))
    num_packets = -(-len(waveform) // packet)
    lost = draw_losses(num_packets, loss_share=loss_share, mean_burst_packets=mean_burst_packets, rng=rng)
    note(record, lost_packets=np.flatnonzero(lost).tolist())
    return conceal(waveform, sampling_rate, lost, packet, concealment)


@degradation(jitter_ms=(0, 10_000), buffer_ms=(0, 10_000), packet_ms=(1, 200))
def jitter(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    jitter_ms: float,
    rng: np.random.Generator,
    buffer_ms: float = 200.0,
    packet_ms: float = 20.0,
    concealment: Concealment = "pitch",
    record: Record = None,
) -> np.ndarray:
    """Lose packets that arrive later than the buffer of the receiver waits for them.

    The delay of a packet is normally distributed around the mean of the connection, and correlated with that of the previous
    packet (0.9), so that losses come in bursts.

    Args:
        jitter_ms (`float`): Standard deviation of the delay in ms, 0 to 10000.
        buffer_ms (`float`, *optional*, defaults to `200.0`): How much later than the mean a packet may arrive, in ms, 0 to 10000.
        concealment (`str`, *optional*, defaults to `"pitch"`): As for [`packet_loss`].
        record (`dict`, *optional*): Receives `lost_packets`, their numbers from 0.
    """
    packet = max(1, round(packet_ms * sampling_rate / 1000))
    steps = rng.standard_normal(-(-len(waveform) // packet))
    delays = np.empty(len(steps))
    delay = steps[0]
    for number, step in enumerate(steps):
        delay = 0.9 * delay + np.sqrt(1 - 0.9**2) * step if number else step
        delays[number] = delay
    lost = jitter_ms * delays > buffer_ms
    note(record, lost_packets=np.flatnonzero(lost).tolist())
    return conceal(waveform, sampling_rate, lost, packet, concealment)


def conceal(
    waveform: np.ndarray, sampling_rate: int, lost: np.ndarray, packet: int, concealment: Concealment = "pitch"
) -> np.ndarray:
    """Fill lost packets of `packet` samples, where `lost` of shape `(num_packets,)` is true, from what was played before.

    `"pitch"` also changes the last quarter of a pitch period before a gap and the first 4 to 10 ms after it, to cross-fade.
    """
    check_choice("concealment", concealment, CONCEALMENTS)
    played = waveform.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lost.astype(np.int8), [0]])))
    bursts = [(int(first) * packet, min(int(last) * packet, len(waveform))) for first, last in edges.reshape(-1, 2)]
    for number, (start, stop) in enumerate(bursts):
        played[start:stop] = 0
        if concealment == "repeat" and start:
            last = played[max(start - packet, 0) : start]
            played[start:stop] = np.resize(last, stop - start)
        elif concealment == "pitch":
            following = bursts[number + 1][0] if number + 1 < len(bursts) else len(waveform)
            _substitute(played, start, stop, following, sampling_rate)
    return played


def _substitute(played: np.ndarray, start: int, stop: int, following: int, sampling_rate: int) -> None:
    """Fill `played[start:stop]` from the pitch periods before it, and cross-fade on both sides. `following` is the next gap."""
    per_ms = sampling_rate / 1000
    longest = round(MAX_PITCH_MS * per_ms)
    past = played[max(start - 3 * longest - longest // 4 - round(CORRELATION_MS * per_ms), 0) : start]
    period = _pitch_period(past, per_ms)
    quarter = period // 4
    num_periods = min(3, (len(past) - quarter) // period) if period else 0
    if num_periods < 1:
        return

    gap_ms = (stop - start) / per_ms
    fade_ms = min(quarter / per_ms + 4 * max(gap_ms / 10 - 1, 0), 10.0)
    length = min(stop - start + round(fade_ms * per_ms), following - start)
    position = np.arange(length)
    rising = np.linspace(0, 1, quarter, endpoint=False, dtype=np.float32)

    # The first 10 ms repeat one period, the next two, then three: repeating one for long would beep.
    synthetic = np.zeros(length, np.float32)
    for periods in range(1, num_periods + 1):
        cycle = past[-periods * period :].copy()
        before = past[len(past) - periods * period - quarter : len(past) - periods * period]
        cycle[-quarter:] = cycle[-quarter:] * (1 - rising) + before * rising
        begin = round((periods - 1) * FULL_MS * per_ms)
        if begin >= length:
            break
        repeated = cycle[position[begin:] % len(cycle)]
        overlap = min(quarter, length - begin) if periods > 1 else 0
        repeated[:overlap] = synthetic[begin : begin + overlap] * (1 - rising[:overlap]) + repeated[:overlap] * rising[:overlap]
        synthetic[begin:] = repeated
        if periods == 1:
            played[start - quarter : start] = cycle[-quarter:]

    milliseconds = position / per_ms
    synthetic *= np.clip((SILENT_MS - milliseconds) / (SILENT_MS - FULL_MS), 0, 1).astype(np.float32)
    played[start:stop] = synthetic[: stop - start]
    good = length - (stop - start)
    fading = np.linspace(0, 1, good, endpoint=False, dtype=np.float32)
    played[stop : stop + good] = synthetic[stop - start :] * (1 - fading) + played[stop : stop + good] * fading


def _pitch_period(past: np.ndarray, per_ms: float) -> int:
    """Return the lag in samples, 5 to 15 ms, at which the last 20 ms correlate best with earlier ones; 0 if these are too few."""
    shortest, longest, window = round(MIN_PITCH_MS * per_ms), round(MAX_PITCH_MS * per_ms), round(CORRELATION_MS * per_ms)
    if len(past) < window + shortest + shortest // 4:
        return 0
    longest = min(longest, len(past) - window)
    recent = past[-window:].astype(np.float64)
    older = past[-window - longest : len(past) - shortest].astype(np.float64)
    products = np.correlate(older, recent, "valid")  # lags longest ... shortest
    squares = np.concatenate([[0.0], np.cumsum(older**2)])
    energies = squares[window:] - squares[:-window]
    return longest - int(np.argmax(products / np.sqrt(energies + 1e-9)))
