"""Shards of rows: Parquet files, each written whole or not at all, that identify their scores and their rows."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_sqa.cells import finite
from hf_sqa.row_tables import import_parquet
from hf_sqa.runs import whole_file
from hf_sqa.scoring.items import Item

#: Key of the JSON in a shard's schema metadata.
METADATA_KEY = b"hf_sqa"
FOLDER = "shards"
RUN_FILE = "run.json"
#: Columns before and after the scores. `row` is the number of the row in the source.
LEADING = (("row", "int64"), ("key", "string"), ("audio", "string"))
TRAILING = (
    ("status", "string"),
    ("code", "string"),
    ("reason", "string"),
    ("duration_seconds", "float64"),
    ("sampling_rate", "int32"),
    ("num_windows", "int32"),
    ("warnings", "list"),
    ("speech_ratio", "float64"),
    ("level_dbfs", "float64"),
    ("clipped_share", "float64"),
)
#: Columns after the scores if the run has timelines: the lowest local score of a recording, and where it starts and ends.
WORST = ("worst", "worst_start", "worst_end")
OWN_COLUMNS = frozenset((*(name for name, _ in (*LEADING, *TRAILING)), *WORST))


class OutputError(OSError):
    """The output cannot be written: disk full, no permission."""


class ShardFolder:
    """Shards of an output folder, and the content of its `run.json`."""

    def __init__(self, output: str | os.PathLike, run: dict[str, Any]):
        import_parquet("Scoring a corpus into a folder", "name a file, such as scores.csv")
        self.folder = Path(output) / FOLDER
        #: Columns of scores, and those of the worst stretch if the run has timelines.
        self._numbers = [*run["columns"].values(), *(WORST if run["identity"].get("timeline") else ())]
        self._kept_columns = run["kept_columns"]

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.parquet"

    def indices(self) -> list[int]:
        """Indices of the finished shards, in order."""
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.parquet") if path.stem.isdecimal())

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata of a shard; empty if it does not exist or is damaged."""
        import pyarrow.parquet

        try:
            return json.loads((pyarrow.parquet.read_schema(self.path(index)).metadata or {})[METADATA_KEY])
        except (OSError, KeyError, ValueError, pyarrow.ArrowException):
            return {}

    def rows(self, index: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        import pyarrow.parquet

        return pyarrow.parquet.read_table(self.path(index), columns=columns).to_pylist()

    def write(self, index: int, rows: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
        """Write a shard whole or not at all."""
        import pyarrow.parquet

        schema = self._schema().with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})
        columns = [pyarrow.array([row.get(field.name) for row in map(finite, rows)], type=field.type) for field in schema]
        table = pyarrow.Table.from_arrays(columns, schema=schema)
        with writing_whole(self.path(index), sole_writer=True) as unfinished:
            pyarrow.parquet.write_table(table, unfinished, compression="zstd")

    def _schema(self) -> Any:
        import pyarrow

        columns = [*LEADING, *((name, "float64") for name in self._numbers), *TRAILING]
        columns += [(kept_name(name, self._numbers), "string") for name in self._kept_columns]
        texts = pyarrow.list_(pyarrow.string())
        return pyarrow.schema([(name, texts if kind == "list" else pyarrow.type_for_alias(kind)) for name, kind in columns])


@contextlib.contextmanager
def writing_whole(path: Path, sole_writer: bool = False) -> Iterator[Path]:
    """Write as [`whole_file`] does, safe from a power cut; make the folder first, and raise [`OutputError`] for any failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sole_writer, durable=True) as unfinished:
            yield unfinished
    except OutputError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{str(path)!r} cannot be written ({error.strerror or error}). What was finished before is complete and kept; make room, "
        "or correct the permissions, and run the same command again."
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all; as ASCII if it holds names that are not UTF-8."""
    try:
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = json.dumps(content, indent=1, sort_keys=True).encode()
    with writing_whole(path) as unfinished:
        unfinished.write_bytes(text + b"\n")


class RowsDigest:
    """Digest of the source's rows in one shard; it shows whether they are still the rows that were scored."""

    def __init__(self, kept_columns: Sequence[str]):
        self._kept_columns = kept_columns
        self._digest = hashlib.blake2b(digest_size=16)
        self.num_rows = 0

    def add(self, item: Item) -> None:
        refused = None if item.refusal is None else item.refusal.code
        kept = [kept_text(item.columns.get(name)) for name in self._kept_columns]
        self._digest.update(json.dumps([item.key, item.name, refused, kept]).encode())
        self.num_rows += 1

    def value(self) -> str:
        return f"{self.num_rows}-{self._digest.hexdigest()}"


def kept_name(name: str, score_columns: Sequence[str]) -> str:
    """Name of a source column in a shard; it is prefixed if one of our own columns has that name."""
    return f"source_{name}" if name in OWN_COLUMNS or name in score_columns else name


def kept_text(value: Any) -> str | None:
    """Convert a cell of the source to text."""
    if value is None or isinstance(value, str):
        return value if value is None else value.encode("utf-8", "backslashreplace").decode()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def read_run(output: str | os.PathLike) -> dict[str, Any]:
    """Return the content of an output folder's `run.json`; refuse a folder that holds no scores of a corpus."""
    path = Path(output) / RUN_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"Expected the output folder of `hf-sqa score <corpus> --output <folder>/`, but {str(output)!r} holds no {RUN_FILE}."
        ) from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); restore it, or score into another folder.") from None


def iterate_rows(output: str | os.PathLike, run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of an output folder in order, reading one shard at a time."""
    shards = ShardFolder(output, run)
    for index in shards.indices():
        yield from shards.rows(index)
