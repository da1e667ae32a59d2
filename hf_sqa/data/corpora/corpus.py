"""A published corpus: its facts, its published counts, and a reader of its label files."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sqa.data import tables
from hf_sqa.data.schema import Row
from hf_sqa.folders import find_recordings

#: `read(root, parts)` yields label rows for `hf_sqa.data.schema.examine`.
Reader = Callable[[Path, Sequence[str]], Iterator[Row]]


@dataclass(frozen=True)
class Corpus:
    """A published corpus, read as it was downloaded; `hf-sqa corpus list` shows its facts."""

    name: str  # its name in `load_corpus`. A corpus of several tests has parts: `nisqa/TRAIN_SIM`, also in the column `corpus`
    title: str  # its name by its authors
    language: str  # codes of its languages, separated by spaces
    # published number of rated recordings by part (`""`: the only one) and split (`""`: not split)
    clips: dict[str, dict[str, int]]
    source: str  # where to get it
    read: Reader
    size: str = ""  # hours, gigabytes or systems, as far as known
    licence: str = "unknown"  # licence, if one was found
    scale: tuple[float, float] = (1.0, 5.0)  # ends of the scale of the scores in the label files
    sampling_rate: int | None = None  # rate of every recording in Hz; `None` where it differs
    rows_are_ratings: bool = False  # label files have one row per rating rather than means
    default_parts: tuple[str, ...] = ()  # parts meant by the bare name; all by default
    # finds the scale from the scores, if releases differ in it
    detect_scale: Callable[[Sequence[float]], tuple[float, float]] | None = None
    hub_id: str | None = None  # repository, for a corpus that is only on the Hub

    @property
    def num_clips(self) -> int:
        """Published number of rated recordings of the parts that the bare name means."""
        return sum(sum(self.clips[part].values()) for part in self.default_parts or self.clips)

    def parts(self, asked: str | None) -> tuple[str, ...]:
        """Parts to read: the one asked for, or all that the bare name means."""
        if asked is None:
            return self.default_parts or tuple(self.clips)
        by_lower = {part.lower(): part for part in self.clips if part}
        if asked.lower() not in by_lower:
            known = ", ".join(f"{self.name}/{part}" for part in self.clips if part) or f"none, it is just {self.name!r}"
            raise ValueError(f"Expected a part of the corpus {self.name}, got {asked!r}; its parts are {known}.")
        return (by_lower[asked.lower()],)

    def label(self, part: str) -> str:
        """Value of the column `corpus`: recordings of one listening test."""
        return f"{self.name}/{part}" if part else self.name


#: Every published corpus by its name.
CORPORA: dict[str, Corpus] = {}


def published(**facts: Any) -> Callable[[Reader], Reader]:
    """Register a function as the reader of a corpus; `facts` are the other fields of [`Corpus`]."""

    def register(read: Reader) -> Reader:
        CORPORA[facts["name"]] = Corpus(read=read, **facts)
        return read

    return register


def locate(root: Path, corpus: str, *label_files: str) -> list[Path]:
    """Find the label files below the folder a user gave, which may be the corpus's own, its parent or its only sub-folder.

    `label_files` are globs relative to the corpus's own folder; all are tried in `root`, then one and two folders below.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"Expected the folder of {corpus}, but {str(root)!r} is not a folder.")
    for depth in ("", "*/", "*/*/"):
        found = sorted({path for pattern in label_files for path in root.glob(depth + pattern) if path.is_file()})
        if found:
            return found
    there = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir())
    shown = ", ".join(there[:8]) + (f", and {len(there) - 8:,} more" if len(there) > 8 else "") if there else "nothing"
    raise FileNotFoundError(
        f"This does not look like the folder of {corpus}: looked in {str(root)!r}, and up to two folders below, for "
        f"{' or '.join(label_files)}; found {shown}. Name the folder that was unpacked."
    )


def read_labels(
    corpus: str, paths: Sequence[Path], columns: Sequence[str] | int, sheet: str | None = None
) -> Iterator[tuple[Path, Any, str]]:
    """Yield the rows of label files: the file, the row's cells, and file and line for messages.

    Cells are a dict by column if `columns` names the required columns, and a list if it is the minimum number of cells in files
    without a header. A row that cannot be read, or is too short, and a header that lacks a column are refused (`ValueError`).
    """
    for path in paths:
        if isinstance(columns, int):
            expected = f"the label file of {corpus} with at least {columns} columns separated by commas"
            records: Iterator[Any] = tables.delimited_cells(tables.lines_of(path), has_header=False)
        else:
            expected = f"a row of the label file of {corpus}"
            header, records = tables.read_table(path, sheet)
            if missing := [name for name in columns if name not in header]:
                raise ValueError(
                    f"Expected the label file of {corpus} with the columns {', '.join(columns)}, got {str(path)!r} with "
                    f"{', '.join(header[:12]) or 'no header'}; missing: {', '.join(missing)}. "
                    "Is it the label file of another corpus?"
                )
        for cells, line in records:
            if isinstance(cells, ValueError) or (isinstance(columns, int) and len(cells) < columns):
                got = cells if isinstance(cells, ValueError) else repr(",".join(cells))
                raise ValueError(
                    f"Expected {expected}, got {got} in {str(path)!r} line {line}. Is it the label file of another corpus?"
                )
            yield path, cells, f"{path.name} line {line}"


def index_audio(root: Path) -> dict[str, str]:
    """Index the recordings below a folder by file name without suffix, for corpora whose labels give names but no folders."""
    index: dict[str, str] = {}
    for path in find_recordings(root, (".wav", ".flac")):
        index.setdefault(os.path.splitext(os.path.basename(path))[0], path)
    return index
