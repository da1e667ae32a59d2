"""Decodes items into checked recordings, in separate processes: a decoder that hangs or dies costs one row, not the run."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hf_sqa.audio import AudioError, Recording, open_stream
from hf_sqa.audio.files import FileStream
from hf_sqa.audio.findings import errors_of
from hf_sqa.audio.streams import AudioStream
from hf_sqa.isolation import DEFAULT_TIMEOUT_SECONDS, Isolated, Lost
from hf_sqa.scoring.items import Excerpt, Item, Refusal, TarMember
from hf_sqa.scoring.remote import is_remote, read_remote

#: Tolerance for excerpts, because manifests round their times.
STRETCH_TOLERANCE_SECONDS = 0.05


@dataclass(frozen=True)
class Decoding:
    """How recordings are decoded; all but the time limit is part of a score's identity."""

    sampling_rate: int  # Rate the model wants, in Hz
    channel: str | int = "mean"  # `"mean"`, or one channel by number
    max_seconds: float | None = None  # Longer recordings are skipped, and their rows say so
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS  # Time limit for one recording; it has no effect without workers


class ExcerptStream(AudioStream):
    """An excerpt of another stream, at its native rate."""

    def __init__(self, stream: AudioStream, excerpt: Excerpt):
        self.source = stream.source
        self.sampling_rate, self.num_channels = stream.sampling_rate, stream.num_channels
        self._stream = stream
        self._first = round(excerpt.start_seconds * self.sampling_rate)
        self._last = None
        if excerpt.duration_seconds is not None:
            self._last = round((excerpt.start_seconds + excerpt.duration_seconds) * self.sampling_rate)

    def blocks(self, first: int = 0) -> Iterator[np.ndarray]:
        position = self._first + first
        for block in self._stream.blocks(position):
            wanted = block if self._last is None else block[: max(0, self._last - position)]
            position += len(block)
            if len(wanted):
                yield wanted
            if self._last is not None and position >= self._last:
                return
        if self._last is not None and position < self._last - STRETCH_TOLERANCE_SECONDS * self.sampling_rate:
            raise AudioError(
                self.source,
                "truncated",
                f"expected an excerpt up to {self._last / self.sampling_rate:.3f} s, got a recording that ends before; correct the "
                "manifest, or copy the recording again",
            )


class MemberStream(FileStream):
    """A member of a tar, in memory. Only its position in the archive is sent between processes."""

    def __init__(self, member: TarMember):
        self._member = member
        super().__init__(_member_bytes(member), member.name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._file = _member_bytes(self._member)


def load(item: Item, decoding: Decoding) -> Recording | Refusal:
    """Open, check, mix down and resample one item. Return a refusal for whatever goes wrong."""
    try:
        with errors_of(item.name):
            stream, channel = _opened(item.audio), decoding.channel
            if isinstance(item.audio, Excerpt):
                stream = ExcerptStream(stream, item.audio)
                channel = item.audio.channel if item.audio.channel is not None else channel
            recording = Recording(stream, decoding.sampling_rate, channel)
    except AudioError as error:
        return Refusal.of(error)
    if decoding.max_seconds is not None and recording.duration_seconds > decoding.max_seconds:
        reason = f"longer than the limit asked for: {recording.duration_seconds:.2f} s, limit {decoding.max_seconds:g} s"
        return Refusal("skipped", "too_long", reason)
    return recording


def load_and_score(audio: Any, load: Callable[[Any], Any], score: Callable[[Recording], Any]) -> Any:
    """Load a recording; return a callable that scores it, without a time limit, or the result of `load` if that is no recording."""
    loaded = load(audio)
    return partial(score, loaded) if isinstance(loaded, Recording) else loaded


def _opened(audio: Any) -> AudioStream:
    if isinstance(audio, Excerpt):
        return _opened(audio.audio)
    if isinstance(audio, TarMember):
        return MemberStream(audio)
    if isinstance(audio, str) and is_remote(audio):
        try:
            return FileStream(read_remote(audio), audio)
        except FileNotFoundError:
            raise AudioError(audio, "missing", "there is no such file; check the address") from None
        except AudioError:
            raise
        except (ImportError, ValueError) as error:
            message = f"this kind of URL cannot be opened ({error}); install what it needs, or download it first"
            raise AudioError(audio, "unsupported", message) from None
        except PermissionError as error:
            raise AudioError(audio, "unreachable", f"it may not be read ({error}); check the credentials") from None
        except Exception as error:  # every file system of fsspec has its own
            raise AudioError(audio, "unreachable", f"the download failed ({error}); try again later") from None
    return open_stream(audio)


def _member_bytes(member: TarMember) -> bytes:
    try:
        with open(member.archive, "rb") as archive:
            archive.seek(member.offset)
            content = archive.read(member.size)
    except FileNotFoundError:
        raise AudioError(member.name, "missing", f"the archive {member.archive!r} is gone; check the path") from None
    except OSError as error:
        raise AudioError(member.name, "unreachable", f"the archive {member.archive!r} cannot be read ({error.strerror})") from None
    if len(content) < member.size:
        message = f"the archive {member.archive!r} ends inside this member; copy it again"
        raise AudioError(member.name, "truncated", message)
    return content


class Decoder(Isolated):
    """Decodes items in order, ahead of the consumer. Leaving it as a context ends its workers.

    Without workers it decodes in this process, without a time limit. `score` is called with a recording in the process that decoded
    it, and its result replaces the recording.
    """

    def __init__(self, decoding: Decoding, num_workers: int = 0, score: Callable[[Recording], Any] | None = None):
        function: Callable[[Any], Any] = partial(load, decoding=decoding)
        if score is not None:
            function = partial(load_and_score, load=function, score=score)
        super().__init__(function, num_workers, decoding.timeout_seconds)

    def decode(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        """Yield every item in order with its recording or the reason why it has none; `None` for an item without audio."""
        for item, result in self.map(items, _to_decode):
            if result is None:
                result = item.audio if isinstance(item.audio, Refusal) else item.refusal
            yield item, Refusal.of(result) if isinstance(result, Lost) else result


def _to_decode(item: Item) -> Item | None:
    """The part of an item that a worker needs; `None` if there is nothing to decode."""
    if item.refusal is not None or item.audio is None or isinstance(item.audio, Refusal):
        return None
    return replace(item, columns={}, record=None)
