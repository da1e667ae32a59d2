"""One recording of a source: its key, where its audio is, and what the source says about it."""

from dataclasses import dataclass, field
from typing import Any, Self

from hf_sqa.audio import AudioError
from hf_sqa.isolation import Lost


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row has no score."""

    status: str  # `"failed"`, `"abstained"` or `"skipped"`
    #: Stable name of the reason: a key of `hf_sqa.audio.REFUSALS`, or `bad_row`, `timed_out`, `decoder_died`, `too_long`,
    #: `out_of_memory`
    code: str
    reason: str  # What was expected, what was found, and what to do

    @classmethod
    def of(cls, error: AudioError | Lost) -> Self:
        """Make a refusal from the error of a recording, or from the loss of the process that decoded it."""
        return cls(error.status if isinstance(error, AudioError) else "failed", error.code, error.message)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file inside an uncompressed tar on a local disk, read by the process that decodes it."""

    archive: str
    offset: int
    size: int
    name: str


@dataclass(frozen=True, slots=True)
class Excerpt:
    """An excerpt of a recording, as NeMo (`offset`, `duration`) and Lhotse (`start`, `duration`, `channel`) describe it."""

    audio: Any  # Path, URL, bytes or [`TarMember`] of the recording that contains it
    start_seconds: float = 0.0  # Where it begins
    duration_seconds: float | None = None  # Its length; to the end of the recording if not given
    channel: int | None = None  # The channel to use; the average of all if not given


@dataclass(slots=True)
class Item:
    """One row of a source."""

    position: int  # Number of the row in the source, from 0; it identifies the row, because keys may occur twice
    key: str  # Name of the recording for people and for joining tables
    name: str  # Path, URL or member name of the audio, for people
    #: What the decoder opens: path, URL, bytes, [`TarMember`] or [`Excerpt`]; a [`Refusal`] if the row holds no recording;
    #: `None` if the audio of this row was not asked for
    audio: Any
    columns: dict[str, Any] = field(default_factory=dict)  # What the source says about the recording
    refusal: Refusal | None = None  # Set if the source itself is broken at this row
    #: The original row of a manifest or text table, which exports write again with the scores added
    record: dict[str, Any] | None = None
