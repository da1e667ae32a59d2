"""From a record of a manifest, a table or a data set to the recording, its name and its excerpt."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from hf_sqa.data.corpora.own_table import USUAL_NAMES
from hf_sqa.scoring.items import Excerpt, Item, Refusal
from hf_sqa.scoring.remote import is_remote, join_remote
from hf_sqa.scoring.sources.names import native, path_of, printable, printable_text

#: Usual names of the column that holds a recording, and of the one that names it; the most telling first.
AUDIO_COLUMNS = ("audio_filepath", *USUAL_NAMES["audio"], "url", "flac", "mp3", "opus")
KEY_COLUMNS = ("key", "__key__", "utterance_id", "utt_id", "utteranceId", "sample_id", "uid", "id")


class Columns:
    """Finds the recording, its name and its excerpt in a record."""

    def __init__(self, audio: str | None, key: str | None, root: str | None):
        self._audio, self._key, self._root = audio, key, root

    def check_header(self, header: Iterable[str], source: str) -> str:
        """Column of the recordings among those of a table."""
        header = list(header)
        if self._key is not None and self._key not in header:
            raise ValueError(f"Expected a column {self._key!r} of keys in {source}, got the columns {', '.join(header)}.")
        if self._audio is not None:
            if self._audio not in header:
                raise ValueError(
                    f"Expected a column {self._audio!r} of recordings in {source}, got the columns {', '.join(header)}."
                )
            return self._audio
        found = next((name for name in AUDIO_COLUMNS if name in header), None)
        if found is None:
            raise ValueError(
                f"Expected a column of recordings in {source} under a usual name ({', '.join(AUDIO_COLUMNS[:8])}, ...), got the "
                f"columns {', '.join(header) or '(none)'}; name it with --audio-column."
            )
        return found

    def item(
        self,
        position: int,
        record: Any,
        where: str,
        file: str | None,
        audio_column: str | None = None,
        unread: bool = False,
    ) -> Item:
        """Make one item of a record: a dict, or the error that stands in its place. `unread`: its bytes were left out."""
        if isinstance(record, Exception):
            return bad_row(position, where, f"this row cannot be read ({record}); repair it")
        if not isinstance(record, dict):
            return bad_row(position, where, f"expected a JSON object, got {type(record).__name__}; repair the row")
        if audio_column is None and self._audio is None and ("recording" in record or record.get("type") == "MixedCut"):
            return self._lhotse_cut(position, record, where, file)
        if audio_column is None and self._audio is None and isinstance(record.get("sources"), list):
            return self._lhotse_cut(position, {"id": record.get("id"), "recording": record}, where, file)
        column = audio_column or self._audio or next((name for name in AUDIO_COLUMNS if record.get(name) not in (None, "")), None)
        if unread and column not in record:
            record = {**record, column: b""}
        if column is None or record.get(column) is None or record[column] == "":
            expected = repr(column) if column else f"one of {', '.join(AUDIO_COLUMNS[:4])}, ..."
            return bad_row(
                position, where, f"expected a recording under {expected}, got the fields {', '.join(record) or '(none)'}"
            )
        columns = {name: value for name, value in record.items() if name != column}
        key_column = self._key or next((name for name in KEY_COLUMNS if record.get(name) not in (None, "")), None)
        key = record.get(key_column) if key_column else None
        try:
            item = self._located_item(position, key, record[column], columns, where, file)
        except (TypeError, ValueError) as error:
            return bad_row(position, where, str(error))
        if unread:
            item.audio = None
        return item

    def _located_item(self, position: int, key: Any, cell: Any, columns: dict[str, Any], where: str, file: str | None) -> Item:
        if isinstance(cell, (bytes, bytearray, memoryview)):
            return Item(position, printable_text(str(key)) if key is not None else where, where, bytes(cell), columns)
        path = cell
        if isinstance(cell, Mapping):
            path = cell.get("path")
            if cell.get("bytes") is not None:
                name = printable_text(path) if path else where
                return Item(position, printable_text(str(key)) if key is not None else name, name, bytes(cell["bytes"]), columns)
            if path is None:
                return Item(position, printable_text(str(key)) if key is not None else where, where, None, columns)
        if not isinstance(path, str):
            raise TypeError(f"expected the recording as a path, a URL or bytes, got {type(path).__name__}")
        audio: Any = self.located(path, file)
        # Of a struct the path as it stands there, whether or not its bytes were read.
        name = printable_text(path) if isinstance(cell, Mapping) else printable(audio)
        shown = printable_text(path)
        if columns.get("offset") not in (None, ""):  # of NeMo
            start = _seconds(columns["offset"], "offset")
            duration = _seconds(columns["duration"], "duration") if columns.get("duration") not in (None, "") else None
            audio = Excerpt(audio, start, duration)
            name, shown = f"{name}{_stretch(start, duration)}", f"{shown}{_stretch(start, duration)}"
        return Item(position, printable_text(str(key)) if key is not None else shown, name, audio, columns)

    def _lhotse_cut(self, position: int, record: dict[str, Any], where: str, file: str | None) -> Item:
        key = printable_text(str(record.get("id") or where))
        recording = record.get("recording")
        if record.get("type") == "MixedCut" or not isinstance(recording, dict):
            return bad_row(position, key, "expected a cut of one recording, got a mixture; save its audio first (`cut.save_audio`)")
        if recording.get("transforms"):
            return bad_row(position, key, "the recording is to be transformed before use; save its audio first (`cut.save_audio`)")
        sources = recording.get("sources") or []
        if len(sources) != 1 or sources[0].get("type") not in ("file", "url") or not isinstance(sources[0].get("source"), str):
            kinds = ", ".join(str(source.get("type")) for source in sources if isinstance(source, dict)) or "none"
            return bad_row(position, key, f"expected one source of type file or url, got {kinds}")
        audio: Any = self.located(sources[0]["source"], file)
        name = printable(audio)
        channel = record.get("channel")
        if isinstance(channel, list):
            available = recording.get("channel_ids") or sources[0].get("channels")
            if channel != available and len(channel) != 1:
                return bad_row(position, key, f"expected one channel or all of them, got {channel} of {available}")
            channel = channel[0] if len(channel) == 1 else None
        columns = {name: value for name, value in record.items() if name not in ("recording", "id")}
        columns |= _of_supervision(record.get("supervisions"))
        try:
            start = _seconds(record.get("start") or 0.0, "start")
            duration = None if record.get("duration") is None else _seconds(record["duration"], "duration")
        except (TypeError, ValueError) as error:
            return bad_row(position, key, str(error))
        whole = start == 0 and (duration is None or duration == recording.get("duration")) and channel in (None, 0)
        if not whole or (channel == 0 and len(sources[0].get("channels") or [0]) > 1):
            audio = Excerpt(audio, start, duration, channel)
            name += _stretch(start, duration) + ("" if channel is None else f"@{channel}")
        return Item(position, key, name, audio, columns)

    def located(self, path: str, file: str | None) -> str:
        """A path of a manifest, from where the manifest lies, as the system writes it."""
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


def _stretch(start: float, duration: float | None) -> str:
    return f"#{start:g}" + (f"+{duration:g}" if duration is not None else "")


def bad_row(position: int, where: str, reason: str) -> Item:
    return Item(position, where, "", None, {}, Refusal("failed", "bad_row", printable_text(reason)))


def _of_supervision(supervisions: Any) -> dict[str, Any]:
    first = supervisions[0] if isinstance(supervisions, list) and supervisions and isinstance(supervisions[0], dict) else {}
    return {name: first[name] for name in ("language", "speaker", "text") if first.get(name) is not None}


def _seconds(value: Any, name: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected {name!r} in seconds, got {value!r}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"expected {name!r} in seconds, zero or more, got {value!r}")
    return seconds
