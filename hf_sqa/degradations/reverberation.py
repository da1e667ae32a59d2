"""Reverberation, a synthetic tail or a room simulated by pyroomacoustics; and echo."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.signal

from hf_sqa.degradations.kind import Record, check_range, degradation, note
from hf_sqa.extras import import_extra

#: Highest order of reflections: beyond it, a room of usual size takes seconds and hundreds of megabytes.
MAX_IMAGE_ORDER = 60


@degradation(t60_seconds=(0.05, 10), direct_to_reverberant_db=(-40, 60), predelay_ms=(0, 100))
def reverberation(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    t60_seconds: float,
    rng: np.random.Generator,
    direct_to_reverberant_db: float = 0.0,
    predelay_ms: float = 5.0,
) -> np.ndarray:
    """Add a reverberant tail: white Gaussian noise that decays exponentially (Polack's model), after the direct sound.

    The direct sound passes unchanged, at its own time and level.

    Args:
        t60_seconds (`float`): Time in which the tail decays by 60 dB, 0.05 to 10 s.
        direct_to_reverberant_db (`float`, *optional*, defaults to `0.0`): Energy of the direct sound over that of the tail, in dB,
            -40 to 60; a lower value means farther from the talker.
        predelay_ms (`float`, *optional*, defaults to `5.0`): Time between the direct sound and the tail, 0 to 100 ms.
    """
    num_samples = min(round(t60_seconds * sampling_rate), len(waveform))
    decay = np.exp(-np.log(1000) * np.arange(num_samples, dtype=np.float32) / (t60_seconds * sampling_rate))
    tail = rng.standard_normal(num_samples, dtype=np.float32) * decay
    predelay = max(1, round(predelay_ms * sampling_rate / 1000))
    # The energy is that of the whole tail, so that a recording shorter than the tail does not become drier or wetter.
    energy = sampling_rate * t60_seconds / (2 * np.log(1000))
    tail *= np.float32(10 ** (-direct_to_reverberant_db / 20) / np.sqrt(energy))
    response = np.concatenate([np.ones(1, np.float32), np.zeros(predelay - 1, np.float32), tail])
    return scipy.signal.fftconvolve(waveform, response)[: len(waveform)]


def _pyroomacoustics() -> Any:
    return import_extra(
        "pyroomacoustics", "The kind 'room'", "rooms", "take `reverberation`, which needs nothing", ModuleNotFoundError
    )


@degradation(requires=lambda parameters: _pyroomacoustics(), t60_seconds=(0.1, 3))
def room(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    t60_seconds: float,
    rng: np.random.Generator,
    room_m: Sequence[float] = (6.0, 5.0, 2.7),
    distance_m: float = 1.5,
    record: Record = None,
) -> np.ndarray:
    """Put talker and microphone into a shoebox room, simulated by image sources (pyroomacoustics).

    Both stand at random places, 1.2 to 1.8 m above the floor. The time of flight is removed, and the direct sound keeps the input's
    level. Reflections beyond order 60 are left out, which shortens the tail of a reverberant room.

    Args:
        t60_seconds (`float`): Time in which sound decays by 60 dB according to Sabine, 0.1 to 3 s.
        room_m (three `float`, *optional*, defaults to `(6.0, 5.0, 2.7)`): Length, width and height of the room, 2 to 50 m.
        distance_m (`float`, *optional*, defaults to `1.5`): Horizontal distance from talker to microphone; at most the smaller of
            length and width minus 1 m.
        record (`dict`, *optional*): Receives `talker_m` and `microphone_m`, the places, and `image_order`.

    Raises:
        ModuleNotFoundError: If pyroomacoustics is not installed.
        ValueError: If the room cannot have that T60, or is too small for that distance.
    """
    pyroomacoustics = _pyroomacoustics()
    size = [float(side) for side in room_m]
    if len(size) != 3 or not all(2 <= side <= 50 for side in size):
        raise ValueError(f"Expected `room_m` to be length, width and height, 2 to 50 m each, got {room_m!r}.")
    check_range("distance_m", distance_m, 0.1, min(size[:2]) - 1)
    try:
        absorption, order = pyroomacoustics.inverse_sabine(t60_seconds, size)
    except ValueError as error:
        raise ValueError(f"A room of {size} m cannot have a T60 of {t60_seconds:g} s after Sabine: {error}.") from None
    talker, microphone = _places(size, distance_m, rng)
    shoebox = pyroomacoustics.ShoeBox(
        size, fs=sampling_rate, materials=pyroomacoustics.Material(absorption), max_order=min(order, MAX_IMAGE_ORDER)
    )
    shoebox.add_source(talker)
    shoebox.add_microphone(microphone)
    shoebox.compute_rir()
    response = np.asarray(shoebox.rir[0][0], np.float32)
    flight = round(float(np.linalg.norm(np.subtract(talker, microphone))) / pyroomacoustics.constants.get("c") * sampling_rate)
    direct = flight + pyroomacoustics.constants.get("frac_delay_length") // 2
    response = response / response[direct - 1 : direct + 2].max()
    note(record, talker_m=talker, microphone_m=microphone, image_order=min(order, MAX_IMAGE_ORDER))
    return scipy.signal.fftconvolve(waveform, response)[direct : direct + len(waveform)]


def _places(size: list[float], distance_m: float, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Draw two places a horizontal `distance_m` apart, half a metre or more from the walls."""
    while True:
        angle = rng.uniform(0, 2 * np.pi)
        step = distance_m * np.array([np.cos(angle), np.sin(angle)])
        talker = rng.uniform(0.5, np.array(size[:2]) - 0.5)
        microphone = talker + step
        if (microphone >= 0.5).all() and (microphone <= np.array(size[:2]) - 0.5).all():
            heights = rng.uniform(1.2, min(1.8, size[2] - 0.1), 2)
            places = np.round(np.column_stack([np.stack([talker, microphone]), heights]), 3)
            return places[0].tolist(), places[1].tolist()


@degradation(delay_ms=(1, 5000), attenuation_db=(0, 120), num_repeats=(1, 50))
def echo(waveform: np.ndarray, sampling_rate: int, *, delay_ms: float, attenuation_db: float, num_repeats: int = 1) -> np.ndarray:
    """Add delayed copies: the k-th comes `k` delays later and is `k` attenuations softer.

    Args:
        delay_ms (`float`): Delay of each copy after the one before, in ms, 1 to 5000, rounded to a sample.
        attenuation_db (`float`): How much softer each copy is than the one before, in dB, 0 to 120.
        num_repeats (`int`, *optional*, defaults to `1`): Number of copies, 1 to 50. What falls beyond the end is left out.
    """
    degraded = waveform.copy()
    delay = max(1, round(delay_ms * sampling_rate / 1000))
    for repeat in range(1, num_repeats + 1):
        if repeat * delay < len(waveform):
            factor = np.float32(10 ** (-repeat * attenuation_db / 20))
            degraded[repeat * delay :] += factor * waveform[: -repeat * delay]
    return degraded
