"""WebDataset tars."""

import contextlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from hf_sqa.data.tables import parse_json
from hf_sqa.folders import AUDIO_SUFFIXES
from hf_sqa.scoring.items import Item, Refusal, TarMember
from hf_sqa.scoring.remote import is_remote
from hf_sqa.scoring.sources.columns import MAX_DEPTH, depth_of
from hf_sqa.scoring.sources.names import printable, shown
from hf_sqa.scoring.sources.source import FileSource, Wanted, open_binary

#: Largest member that is held in memory: more than a day of speech, and far less than a few kilobytes of gzip can expand to.
MAX_MEMBER_BYTES = 1 << 32
MAX_JSON_BYTES = 1 << 24
#: Headers that tarfile reads whole, such as those for long names.
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
MAX_HEADER_BYTES = 1 << 20


class _Member(tarfile.TarInfo):
    """A header that raises an error if it is damaged; tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not bytes(buf).strip(b"\0"):
                raise
            raise tarfile.ReadError(str(error)) from None
        if member.type in EXTENDED and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header states {member.size:,} bytes")
        return member


class Tars(FileSource):
    """WebDataset tars: files that share a name up to the first dot belong together; a `.json` beside the audio gives columns.

    Members of a local uncompressed tar are read by the process that decodes them. Others are read in one pass and held in memory
    one by one.
    """

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        local = not is_remote(file) and not file.lower().endswith((".gz", ".tgz"))
        position = first
        group: list[tuple[str, Any]] = []

        def needed() -> bool:
            """Whether the current member may be wanted; its row number depends on how the group before it ends."""
            return any(wanted(position + ahead) for ahead in range(len(group) + 1))

        for key, members in groupby(self._members(file, local, needed), lambda member: _tar_key(member[0])):
            for member in members:
                group.append(member)  # one by one, because the next one depends on how many there are
            for item in self._grouped(file, key, group, position):
                yield item
                position += 1
            group.clear()

    def _members(self, file: str, local: bool, needed: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
        """Yield the name and content of every member; the content is bytes, a [`TarMember`], or a refusal."""
        with contextlib.ExitStack() as stack:
            try:
                if local:
                    archive = stack.enter_context(tarfile.open(file, "r:", tarinfo=_Member))
                else:
                    opened = stack.enter_context(open_binary(file, raw=True))
                    archive = stack.enter_context(tarfile.open(fileobj=opened, mode="r|*", tarinfo=_Member))
                size = Path(file).stat().st_size if local else None
                broken, end = None, 0
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                    if member.size < 0 or (size is None and member.size > MAX_MEMBER_BYTES):
                        # tarfile would seek backwards, or read block by block beyond the end.
                        broken = f"the member {printable(member.name)!r} states {member.size:,} bytes, which cannot be read"
                        break
                    if not member.isfile():
                        continue
                    end = archive.offset if member.issparse() else member.offset_data + member.size
                    if Path(member.name).suffix.lower() not in (*AUDIO_SUFFIXES, ".json"):
                        continue
                    content = _content(archive, member, file, size, needed)
                    yield member.name, content
                    if isinstance(content, Refusal) and content.code == "truncated":
                        return
                if broken is None and size is not None and end < size and not _is_blank_from(file, end):
                    broken = "the archive goes on after its last readable member, with something that is not a member"
            # ValueError and OverflowError: sizes that no file can have
            except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
                broken = f"the archive cannot be read further ({error})"
        if broken is not None:
            reason = f"{broken}; what follows is lost. Copy the archive again"
            yield f"{shown(file)}#rest", Refusal("failed", "truncated", reason)

    def _grouped(self, file: str, key: str, group: list[tuple[str, Any]], first: int) -> Iterator[Item]:
        columns: dict[str, Any] = {}
        refusal: Refusal | None = None
        for name, content in group:
            if name.lower().endswith(".json") and isinstance(content, bytes):
                record = parse_json(content)
                if isinstance(record, dict) and depth_of(record) <= MAX_DEPTH:
                    columns |= record
                else:
                    cause = record if isinstance(record, ValueError) else "it is nested too deeply"
                    refusal = Refusal("failed", "bad_row", f"the {printable(name)!r} beside it cannot be read ({cause}); repair it")
            elif name.lower().endswith(".json") and isinstance(content, Refusal):
                refusal = content
        audio = [(name, content) for name, content in group if not name.lower().endswith(".json")]
        for offset, (name, content) in enumerate(audio):
            own_refusal = content if isinstance(content, Refusal) else refusal
            own_key = printable(key if len(audio) == 1 else name)
            given = None if own_refusal else content
            yield Item(first + offset, own_key, f"{printable(file)}#{printable(name)}", given, dict(columns), own_refusal)


def _content(
    archive: tarfile.TarFile, member: tarfile.TarInfo, file: str, size: int | None, needed: Callable[[], bool]
) -> bytes | TarMember | Refusal | None:
    """Return the content of a member; `None` if nobody needs it."""
    if member.issparse():
        return Refusal("failed", "undecodable", "it has holes that the archive leaves out; pack it without `--sparse`")
    if size is not None and member.offset_data + member.size > size:
        present = f"{size - member.offset_data:,} of the {member.size:,} bytes"
        return Refusal("failed", "truncated", f"the archive ends after {present} of this member; copy the archive again")
    is_json = member.name.lower().endswith(".json")
    if size is not None and not is_json:
        return TarMember(file, member.offset_data, member.size, member.name)
    if is_json and member.size > MAX_JSON_BYTES:
        return Refusal("failed", "bad_row", f"it has {member.size:,} bytes, which is too many to hold; make it smaller")
    if not is_json and not needed():
        return None
    stream = archive.extractfile(member)
    assert stream is not None
    try:
        content = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        return Refusal("failed", "truncated", f"the archive breaks off here ({error}); copy it again")
    if len(content) < member.size:
        return Refusal("failed", "truncated", "the archive ends inside this member; copy it again")
    return content


def _tar_key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    key = base.split(".", 1)[0] or base
    return f"{folder}/{key}" if folder else key


def _is_blank_from(file: str, offset: int) -> bool:
    """Whether only zeros follow `offset`, which is how a tar ends, whatever its padding."""
    with open(file, "rb") as raw:
        raw.seek(-(-offset // 512) * 512)
        while block := raw.read(1 << 20):
            if block.strip(b"\0"):
                return False
    return True
