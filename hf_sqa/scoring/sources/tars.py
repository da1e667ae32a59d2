"""WebDataset tars."""

from __future__ import annotations

import contextlib
import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hf_sqa.audio import AUDIO_SUFFIXES
from hf_sqa.scoring.items import Item, Refusal, TarMember
from hf_sqa.scoring.remote import is_remote
from hf_sqa.scoring.sources.names import printable, shown
from hf_sqa.scoring.sources.source import FileSource, Wanted, open_binary


class Tars(FileSource):
    """WebDataset tars: files that share a name up to the first dot belong together; a `.json` beside the audio gives columns.

    Members of a local uncompressed tar are read where they are decoded. Others are read in one pass and held in memory one by one.
    """

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        local = not is_remote(file) and not file.lower().endswith((".gz", ".tgz"))
        position = first
        group: list[tuple[str, Any]] = []
        key = ""

        def needed() -> bool:
            """Whether the member at hand may be wanted; its number depends on how the group before it ends."""
            return any(wanted(position + ahead) for ahead in range(len(group) + 1))

        for name, content in self._members(file, local, needed):
            own_key = _tar_key(name)
            if group and own_key != key:
                for item in self._grouped(file, key, group, position):
                    yield item
                    position += 1
                group = []
            key = own_key
            group.append((name, content))
        for item in self._grouped(file, key, group, position):
            yield item
            position += 1

    def _members(self, file: str, local: bool, needed: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
        """Name and content of every member; the content is bytes, a place to read them from, or a refusal."""
        broken: str | None = None
        end = 0
        with contextlib.ExitStack() as stack:
            try:
                if local:
                    size = Path(file).stat().st_size
                    archive = stack.enter_context(tarfile.open(file, "r:"))
                else:
                    archive = stack.enter_context(
                        tarfile.open(fileobj=stack.enter_context(open_binary(file, raw=True)), mode="r|*")
                    )
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                    if not member.isfile():
                        continue
                    end = member.offset_data + member.size
                    suffix = Path(member.name).suffix.lower()
                    if suffix not in AUDIO_SUFFIXES and suffix != ".json":
                        continue
                    if local and end > size:
                        broken = (
                            f"the archive ends after {size - member.offset_data:,} of the {member.size:,} bytes of this member; "
                            "copy the archive again"
                        )
                        yield member.name, Refusal("failed", "truncated", broken)
                        return
                    if local and suffix != ".json":
                        yield member.name, TarMember(file, member.offset_data, member.size, member.name)
                    else:
                        stream = archive.extractfile(member)
                        assert stream is not None
                        try:
                            content = stream.read() if suffix == ".json" or needed() else None
                        except (tarfile.TarError, OSError, EOFError) as error:
                            yield (
                                member.name,
                                Refusal("failed", "truncated", f"the archive breaks off here ({error}); copy it again"),
                            )
                            return
                        if content is not None and len(content) < member.size:
                            yield member.name, Refusal("failed", "truncated", "the archive ends inside this member; copy it again")
                            return
                        yield member.name, content
                if local and end < size and not _is_blank_from(file, end):
                    broken = "the archive goes on after its last readable member, with something that is not a member"
            except (tarfile.TarError, EOFError, OSError, gzip.BadGzipFile) as error:
                broken = f"the archive cannot be read further ({error})"
        if broken is not None:
            name = f"{shown(file)}#rest"
            yield name, Refusal("failed", "truncated", f"{broken}; what follows is lost. Copy the archive again")

    def _grouped(self, file: str, key: str, group: list[tuple[str, Any]], first: int) -> Iterator[Item]:
        columns: dict[str, Any] = {}
        for name, content in group:
            if name.lower().endswith(".json") and isinstance(content, bytes):
                with contextlib.suppress(ValueError):
                    record = json.loads(content)
                    columns |= record if isinstance(record, dict) else {}
        audio = [(name, content) for name, content in group if not name.lower().endswith(".json")]
        for offset, (name, content) in enumerate(audio):
            shown = f"{printable(file)}#{printable(name)}"
            own_key = printable(key if len(audio) == 1 else name)
            if isinstance(content, Refusal):
                yield Item(first + offset, own_key, shown, None, dict(columns), content)
            else:
                yield Item(first + offset, own_key, shown, content, dict(columns))


def _tar_key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    key = base.split(".", 1)[0] or base
    return f"{folder}/{key}" if folder else key


def _is_blank_from(file: str, offset: int) -> bool:
    """Whether nothing but zeros follows: the end of a tar, however it was padded."""
    with open(file, "rb") as raw:
        raw.seek(-(-offset // 512) * 512)
        while block := raw.read(1 << 20):
            if block.strip(b"\0"):
                return False
    return True
