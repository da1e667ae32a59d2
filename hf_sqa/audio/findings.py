"""What can be wrong with a recording: one stable code per finding, and the error that carries it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Findings without a score. `failed`: the recording could not be read or scored; `abstained`: it was read, but cannot be judged.
REFUSALS = {
    **dict.fromkeys(("missing", "is_directory", "unreachable", "unsupported", "no_sampling_rate", "no_such_channel"), "failed"),
    **dict.fromkeys(("empty", "undecodable", "truncated", "no_audio"), "failed"),
    **dict.fromkeys(("too_short", "not_finite", "silent", "channels_cancel"), "abstained"),
    **dict.fromkeys(("score_not_finite", "out_of_memory", "timed_out", "decoder_died"), "failed"),
}

#: Findings that make a score doubtful: the score is given, and the warning with it.
WARNINGS = {
    "short": "under one second: the model saw mostly padding",
    "little_speech": "less than half a second of active signal",
    "no_speech": "steady noise or tones: no band changes its level as speech does",
    "low_level": "active level below -50 dBFS: recording noise dominates",
    "clipped": "at least 0.5 % of all samples sit on a flat top",
    "over_full_scale": "samples beyond +-1: they were used as they are",
    "dc_offset": "a constant offset, a tenth of the speech level or more: it moves the score; a high-pass filter removes it",
    "digital_tail": "the last second or more, and a fifth of the whole, is digital silence: was the file written to its end?",
    "narrowband": "telephone bandwidth: next to nothing above 4 kHz",
    "channels_partly_cancel": "the mean of the channels is far weaker than the channels",
    "out_of_scale": "a score outside the scale of the model: it was left as it is; is the checkpoint trained, and is this speech?",
}


@dataclass(frozen=True)
class Finding:
    """One thing found in a recording."""

    code: str  # stable name, a key of `REFUSALS` or `WARNINGS`, for programs and tables
    message: str  # what was found and what to do, for people

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class AudioError(ValueError):
    """A recording that cannot be scored.

    Args:
        source (`str`): File name, URL or kind of object, as the user would recognise it.
        code (`str`): A key of `REFUSALS`.
        message (`str`): What was expected, what was found, what to do.
    """

    def __init__(self, source: str, code: str, message: str):
        assert code in REFUSALS, code
        super().__init__(source, code, message)
        self.source = source
        self.code = code
        self.message = message

    @property
    def status(self) -> str:
        """`"failed"` if the recording could not be read, `"abstained"` if it was read but holds nothing to judge."""
        return REFUSALS[self.code]

    def __str__(self) -> str:
        return f"{self.source}: {self.message} [{self.code}]"


@contextmanager
def errors_of(source: str) -> Iterator[None]:
    """Context that turns whatever a decoder, a file object or a data set raises into an [`AudioError`] of that recording."""
    try:
        yield
    except AudioError:
        raise
    except MemoryError:
        raise AudioError(source, "out_of_memory", "the recording does not fit into memory; cut it into pieces") from None
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise AudioError(source, "undecodable", f"it cannot be read ({cause}); check the file, or convert it first") from error
