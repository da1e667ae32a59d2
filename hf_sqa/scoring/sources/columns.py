"""Finds the recording, its name and its excerpt in a record of a manifest, a table or a data set."""

import math
import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from hf_sqa.data.corpora.own_table import USUAL_NAMES
from hf_sqa.scoring.items import Excerpt, Item, Refusal
from hf_sqa.scoring.remote import is_remote, join_remote
from hf_sqa.scoring.sources.names import native, path_of, printable, printable_text

#: Usual names of the column that holds a recording, and of the one that names it; the most specific first.
AUDIO_COLUMNS = ("audio_filepath", *USUAL_NAMES["audio"], "url", "flac", "mp3", "opus")
KEY_COLUMNS = ("key", "__key__", "utterance_id", "utt_id", "utteranceId", "sample_id", "uid", "id")
#: Deeper records are refused: JSON writers fail at a somewhat greater depth, which depends on the system.
MAX_DEPTH = 64
#: Longest recording that is accepted: about thirty years.
MAX_SECONDS = 1e9
SHOWN_CHARACTERS = 60


class BadRowError(ValueError):
    """A record that cannot be understood."""


class Columns:
    """Finds the recording, its name and its excerpt in a record; see [`~hf_sqa.scoring.sources.opening.open_source`]."""

    def __init__(self, audio: str | None, key: str | None, root: str | None):
        self._audio, self._key, self._root = audio, key, root

    def check_header(self, header: Iterable[str], source: str) -> str:
        """Return the column of a table that holds the recordings."""
        header = list(header)
        names = ", ".join(header) or "(none)"
        if self._key is not None and self._key not in header:
            raise ValueError(f"Expected a column {self._key!r} of keys in {source}, got the columns {names}.")
        if self._audio is not None:
            if self._audio not in header:
                raise ValueError(f"Expected a column {self._audio!r} of recordings in {source}, got the columns {names}.")
            return self._audio
        found = next((name for name in AUDIO_COLUMNS if name in header), None)
        if found is None:
            raise ValueError(
                f"Expected a column of recordings in {source} under a usual name ({', '.join(AUDIO_COLUMNS[:8])}, ...), got the "
                f"columns {names}; name it with --audio-column."
            )
        return found

    def item(
        self, position: int, record: Any, where: str, file: str | None, audio_column: str | None = None, unread: bool = False
    ) -> Item:
        """Make an item from a record: a dict, or an error instead of one. An invalid record gives an item with the reason.

        `where` is a readable name of the row; relative paths start in the folder of `file`; `unread` if no bytes were read.
        """
        try:
            return self._item(position, record, where, file, audio_column, unread)
        except BadRowError as error:
            reason = str(error)
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError, OverflowError) as error:
            reason = f"this row cannot be understood ({type(error).__name__}: {error}); repair it"
        return Item(position, where, "", None, {}, Refusal("failed", "bad_row", printable_text(reason)))

    def item_of_text(self, position: int, record: Any, where: str, file: str) -> Item:
        """Make an item from a row of text, as [`item`] does, and keep the row so that it can be written again with scores."""
        item = self.item(position, record, where, file)
        item.record = record if isinstance(record, dict) and depth_of(record) <= MAX_DEPTH else None
        return item

    def _item(self, position: int, record: Any, where: str, file: str | None, audio_column: str | None, unread: bool) -> Item:
        if isinstance(record, Exception):
            raise BadRowError(f"this row cannot be read ({record}); repair it")
        if not isinstance(record, dict):
            raise BadRowError(f"expected a JSON object, got {type(record).__name__}; repair the row")
        if depth_of(record) > MAX_DEPTH:
            raise BadRowError(f"expected a row nested {MAX_DEPTH} levels deep at most, got a deeper one; repair it")
        if audio_column is None and self._audio is None:
            if "recording" in record or record.get("type") == "MixedCut":
                return self._lhotse_cut(position, record, where, file)
            if isinstance(record.get("sources"), list):
                return self._lhotse_cut(position, {"id": record.get("id"), "recording": record}, where, file)
        column = audio_column or self._audio or _first_given(AUDIO_COLUMNS, record)
        cell = record.get(column) if column else None
        columns = {name: value for name, value in record.items() if name != column}
        key_column = self._key or _first_given(KEY_COLUMNS, record)
        key = record.get(key_column) if key_column else None
        key = None if key is None else printable_text(str(key))
        if isinstance(cell, Mapping) and cell.get("bytes") is None and cell.get("path") in (None, ""):
            cell = None
        if cell is None or cell == "":
            expected = repr(column) if column else f"one of {', '.join(AUDIO_COLUMNS[:4])}, ..."
            reason = f"expected a recording under {expected}, got the fields {', '.join(map(str, record)) or '(none)'}"
            if audio_column is None:
                raise BadRowError(reason)
            # If the bytes may be left unread, an empty and an unread cell must give the same row.
            refusal = None if unread else Refusal("failed", "bad_row", printable_text(reason))
            return Item(position, key or where, where, refusal, columns)
        item = self._located(position, key, cell, columns, where, file)
        if unread:
            item.audio = None
        return item

    def _located(self, position: int, key: str | None, cell: Any, columns: dict[str, Any], where: str, file: str | None) -> Item:
        if isinstance(cell, (bytes, bytearray, memoryview)):
            return Item(position, key or where, where, bytes(cell), columns)
        path = cell.get("path") if isinstance(cell, Mapping) else cell
        if isinstance(cell, Mapping) and cell.get("bytes") is not None:
            name = printable_text(path) if path else where
            return Item(position, key or name, name, bytes(cell["bytes"]), columns)
        if not isinstance(path, str):
            raise BadRowError(f"expected the recording as a path, a URL or bytes, got {type(path).__name__}")
        audio: Any = self.located(path, file)
        # The name of a struct is its path, whether or not its bytes were read.
        name = printable_text(path) if isinstance(cell, Mapping) else printable(audio)
        shown = printable_text(path)
        if columns.get("offset") not in (None, ""):  # NeMo
            start = _seconds(columns["offset"], "offset")
            duration = _seconds(columns["duration"], "duration") if columns.get("duration") not in (None, "") else None
            audio = Excerpt(audio, start, duration)
            name, shown = f"{name}{_stretch(start, duration)}", f"{shown}{_stretch(start, duration)}"
        return Item(position, key or shown, name, audio, columns)

    def _lhotse_cut(self, position: int, record: dict[str, Any], where: str, file: str | None) -> Item:
        key = printable_text(str(record.get("id") or where))
        try:
            audio, name = self._lhotse_audio(record, file)
        except BadRowError as error:
            return Item(position, key, "", None, {}, Refusal("failed", "bad_row", printable_text(str(error))))
        columns = {name: value for name, value in record.items() if name not in ("recording", "id")}
        match record.get("supervisions"):
            case [dict() as first, *_]:
                columns |= {name: first[name] for name in ("language", "speaker", "text") if first.get(name) is not None}
        return Item(position, key, name, audio, columns)

    def _lhotse_audio(self, record: dict[str, Any], file: str | None) -> tuple[Any, str]:
        """Return the recording of a cut, or the excerpt of it, and its name."""
        recording = record.get("recording")
        if record.get("type") == "MixedCut" or not isinstance(recording, dict):
            raise BadRowError("expected a cut of one recording, got a mixture; save its audio first (`cut.save_audio`)")
        if recording.get("transforms"):
            raise BadRowError("the recording is to be transformed before use; save its audio first (`cut.save_audio`)")
        sources = recording.get("sources")
        sources = [source if isinstance(source, dict) else {} for source in sources] if isinstance(sources, list) else []
        if len(sources) != 1 or sources[0].get("type") not in ("file", "url") or not isinstance(sources[0].get("source"), str):
            kinds = ", ".join(str(source.get("type")) for source in sources) or "none"
            raise BadRowError(f"expected one source of type file or url, got {kinds}")
        channel = record.get("channel")
        if isinstance(channel, list):
            available = recording.get("channel_ids") or sources[0].get("channels")
            if channel != available and len(channel) != 1:
                raise BadRowError(f"expected one channel or all of them, got {channel} of {available}")
            channel = channel[0] if len(channel) == 1 else None
        if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int)):
            raise BadRowError(f"expected 'channel' as a number from 0, got {_short(channel)}")
        start = _seconds(record.get("start") or 0.0, "start")
        duration = None if record.get("duration") is None else _seconds(record["duration"], "duration")
        audio = self.located(sources[0]["source"], file)
        whole = start == 0 and (duration is None or duration == recording.get("duration")) and channel in (None, 0)
        if whole and not (channel == 0 and len(sources[0].get("channels") or [0]) > 1):
            return audio, printable(audio)
        name = printable(audio) + _stretch(start, duration) + ("" if channel is None else f"@{channel}")
        return Excerpt(audio, start, duration, channel), name

    def located(self, path: str, file: str | None) -> str:
        """Resolve a path in a manifest relative to the manifest, in the notation of the operating system."""
        if is_remote(path):
            return path
        if not is_remote(self._root or file or ""):
            path = native(path)
        if os.path.isabs(path):
            return path
        if self._root is not None:
            return join_remote(self._root, path) if is_remote(self._root) else os.path.join(self._root, path)
        if file is None:
            return path
        if is_remote(file):
            return join_remote(posixpath.dirname(path_of(file)), path)
        return os.path.join(os.path.dirname(file), path)


def _first_given(names: Iterable[str], record: Mapping[str, Any]) -> str | None:
    return next((name for name in names if record.get(name) is not None and record[name] != ""), None)


def depth_of(record: Any) -> int:
    """Return the nesting depth of lists and dicts, counted without recursion, up to one more than is allowed."""
    depth, level = 0, [record]
    while level and depth <= MAX_DEPTH:
        depth += 1
        containers = [value for value in level if isinstance(value, (dict, list))]
        level = [
            value
            for container in containers
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, (dict, list))
        ]
    return depth


def _stretch(start: float, duration: float | None) -> str:
    return f"#{start:g}" + (f"+{duration:g}" if duration is not None else "")


def _seconds(value: Any, name: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRowError(f"expected {name!r} in seconds, got {_short(value)}") from None
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise BadRowError(f"expected {name!r} in seconds, zero or more, got {_short(value)}")
    return seconds


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes
        text = "a number of very many digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
