"""What all kinds of degradation promise, enforced by one decorator: `(waveform, sampling_rate, ...)` in, a waveform like it out.

Parameters that many kinds have are described here once, in `SHARED_PARAMETERS`.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., np.ndarray])
#: Takes the parameters of a step as written in a chain, and raises if they need a library that is not installed.
Requirement = Callable[[Mapping[str, Any]], object]

#: Receives what a kind drew or measured, ready for JSON.
Record = dict[str, Any] | None

#: Every kind by name, in the order in which the modules are imported.
KINDS: dict[str, Callable[..., np.ndarray]] = {}
#: By kind, what to call before a kind that needs an optional library.
REQUIREMENTS: dict[str, Requirement] = {}
#: Descriptions of parameters, added to the docstring of every kind that has the parameter (with that default, if one is given) and
#: does not describe it itself.
SHARED_PARAMETERS = {
    "waveform": "`np.ndarray` of shape `(num_samples,)`): Speech, nominally in `[-1, 1]`.",
    "sampling_rate": "`int`): Its rate in Hz.",
    "snr_db": "`float`): Speech power over noise power, in dB, -60 to 120.",
    "rng": "`np.random.Generator`): Source of randomness.",
    "rng=None": "`np.random.Generator`, *optional*): Source of randomness, needed for losses only.",
    "speech_level": '`str`, *optional*, defaults to `"whole_file"`): `"whole_file"` or `"active"` (ITU-T P.56), see [`add_noise`].',
    "record": "`dict`, *optional*): Receives `clipped_samples`, how many samples were beyond full scale.",
    "cutoff_hz": "`float`): Cut-off frequency, 20 Hz to half the sampling rate.",
    "order=8": "`int`, *optional*, defaults to `8`): Order of the filter, 1 to 64.",
    "packet_ms": "`float`, *optional*, defaults to `20.0`): Length of a packet in ms, 1 to 200.",
    "pause_share": "`float`, *optional*, defaults to `0.2`): Share of the frames, the softest, taken for noise alone, 0.01 to 1.",
    "loss_share": "`float`, *optional*, defaults to `0.0`): Expected share of lost frames, concealed by the decoder, 0 to 0.99.",
    "mean_burst_packets": "`float`, *optional*): Expected number of frames lost in a row; independent losses if not given.",
}


def degradation(*, requires: Requirement | None = None, **ranges: tuple[float, float]) -> Callable[[Function], Function]:
    """Register a function as a kind of degradation, check its input, and enforce what all kinds promise.

    The function takes a waveform of shape `(num_samples,)`, nominally in `[-1, 1]`, and its sampling rate in Hz, and returns
    float32 samples of the same shape: as long, aligned with the input, finite, and never clipped unless clipping is what it does.
    A random kind takes a `numpy.random.Generator` named `rng`, and nothing else makes two calls differ. `record`, a dict, receives
    what was drawn or measured, ready for JSON. Anything else for a waveform or generator, or a parameter outside its range, is
    refused.

    Args:
        requires (*optional*): Function that raises an error naming the package if an optional library is missing; a chain calls it
            before its first recording.
        **ranges (`tuple[float, float]`): Lowest and highest value of a parameter, by its name.
    """

    def register(function: Function) -> Function:
        name = function.__name__

        @functools.wraps(function)
        def checked(waveform: np.ndarray, sampling_rate: int, **parameters: Any) -> np.ndarray:
            waveform = checked_waveform(waveform)
            rate = checked_sampling_rate(sampling_rate)
            rng = parameters.get("rng")
            if rng is not None and not isinstance(rng, np.random.Generator):
                raise TypeError(f"Expected `rng` to be a numpy.random.Generator, such as np.random.default_rng(0), got {rng!r}.")
            for parameter, (low, high) in ranges.items():
                if parameter in parameters:
                    check_range(parameter, parameters[parameter], low, high)
            degraded = np.asarray(function(waveform, rate, **parameters), np.float32)
            assert degraded.shape == waveform.shape, (name, degraded.shape, waveform.shape)
            if not np.isfinite(degraded).all():
                raise ValueError(f"{name} gave samples beyond the range of float32; its level or gain is out of all proportion.")
            return degraded

        checked.__doc__ = _documented(function)
        KINDS[name] = checked
        if requires is not None:
            REQUIREMENTS[name] = requires
        return cast(Function, checked)

    return register


def _documented(function: Callable[..., Any]) -> str:
    """Complete the docstring of a kind with the parameters it shares with others, in the order of its signature."""
    documentation = inspect.getdoc(function) or ""
    if "\nArgs:\n" not in documentation:
        description, raises, errors = documentation.partition("\n\nRaises:")
        documentation = f"{description}\n\nArgs:\n{raises}{errors}"
    start, title, rest = documentation.partition("\nArgs:\n")
    arguments, gap, end = rest.partition("\n\n")
    lines = {}
    for name, parameter in inspect.signature(function).parameters.items():
        meaning = SHARED_PARAMETERS.get(f"{name}={parameter.default}", SHARED_PARAMETERS.get(name))
        lines[name] = f"    {name} ({meaning}" if meaning else ""
    lines |= {entry.split()[0].rstrip(","): entry for entry in re.split(r"\n(?=    \w)", arguments) if entry}
    return start + title + "\n".join(filter(None, lines.values())) + gap + end


def checked_waveform(waveform: Any) -> np.ndarray:
    """Return `waveform` as a float32 array of shape `(num_samples,)`, or raise an error that says what is wrong."""
    waveform = np.asarray(waveform)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise TypeError(
            f"Expected floating-point samples in [-1, 1], got {waveform.dtype}; 16-bit samples become that by dividing by 32768."
        )
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"Expected a mono waveform of shape (num_samples,) with at least one sample, got {waveform.shape}.")
    finite = np.isfinite(waveform)
    if not finite.all():
        raise ValueError(
            f"Expected finite samples, got {int((~finite).sum())} that are NaN or infinite, the first at index "
            f"{int(np.argmin(finite))}; whatever made the waveform failed there."
        )
    return waveform.astype(np.float32, copy=False)


def checked_sampling_rate(sampling_rate: Any) -> int:
    """Return `sampling_rate` as an `int` of at least 1000 Hz."""
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, int | np.integer) or sampling_rate < 1000:
        raise ValueError(f"Expected `sampling_rate` to be a whole number of Hz, 1000 or more, got {sampling_rate!r}.")
    return int(sampling_rate)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse anything but a number in `[low, high]`; NaN is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"Expected `{name}` to be a number, got {value!r}.")
    if not low <= value <= high:
        raise ValueError(f"Expected `{name}` between {low:g} and {high:g}, got {value!r}.")


def note(record: Record, **facts: Any) -> None:
    """Write what was drawn or measured into `record`, if there is one, as plain Python values."""
    if record is not None:
        record.update({name: value.item() if isinstance(value, np.generic) else value for name, value in facts.items()})
