"""Options that several commands share, and conversion of texts to the arguments of functions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from hf_sqa.cli.stopping import stop

Settings = TypeVar("Settings")

Model = Annotated[str, typer.Option(help="`default` (Distill-MOS v7), a short name, a local folder, a Hub id, or an adapter.")]
Device = Annotated[str | None, typer.Option(help="`cpu`, `cuda`, `cuda:1`, `mps`; the first accelerator, else `cpu`.")]
Channel = Annotated[str, typer.Option(help="`mean` of the channels, or one of them by number from 0.")]
Scale = Annotated[
    tuple[float, float] | None, typer.Option(help="Ends of the scale of the labels, if not 1 5 or the corpus's own: `0 100`.")
]
Column = Annotated[
    list[str] | None,
    typer.Option(help="Column of a table for a name of the schema, such as `mos=opinion` or `audio=file`; may be repeated."),
]
Group = Annotated[
    str | None,
    typer.Option(help="Column whose values stay on one side of a split, such as the talker; found if it has a usual name."),
]
Root = Annotated[
    Path | None, typer.Option(help="Folder that paths are relative to: of a corpus as unpacked; by default that of the table.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Recordings handed to the model together; never changes a score.")]
Decoders = Annotated[int, typer.Option(min=0, help="Processes that decode and resample.")]
AllCores = Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default. Never changes a result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start again, and replace what another run has written.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        help="Options to change, by dotted key: `training.learning_rate=1e-4`, `data.train.0.root=/data/NISQA`, `output_dir=mine`.",
        metavar="[KEY=VALUE]...",
    ),
]
Resume = Annotated[bool, typer.Option(help="Continue a run that was interrupted.")]
License = Annotated[str | None, typer.Option(help="Licence of the weights: `mit`, `cc-by-nc-sa-4.0`, `other`, ...")]
LicenseName = Annotated[str | None, typer.Option(help="Name of the licence `other`.")]
LicenseLink = Annotated[str | None, typer.Option(help="Link to the text of the licence `other`.")]
Languages = Annotated[list[str] | None, typer.Option("--language", help="Language trained on, as a code; may be repeated.")]
BaseModel = Annotated[str | None, typer.Option("--base", help="Hub id of the model that it was made from, if that was a folder.")]


def settings_of(kind: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Make settings from a command's `locals()`: each field that is a parameter of the command takes its value."""
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})  # type: ignore[arg-type]


def assignments(option: str, texts: Sequence[str] | None, form: str) -> list[tuple[str, str]]:
    """Parse an option that may be repeated; `form` describes its texts, such as "`name=column`, such as `mos=opinion`"."""
    parsed = [text.partition("=") for text in texts or ()]
    if wrong := ["".join(parts) for parts in parsed if "" in parts]:
        raise ValueError(f"Expected {option} as {form}, got {wrong[0]!r}.")
    return [(name, value) for name, _, value in parsed]


def named_columns(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse `--column`: columns of a table by their names in the schema."""
    return dict(assignments("--column", texts, "`name=column`, such as `mos=opinion`"))


def columns_and_group(texts: Sequence[str] | None, group: str | None) -> tuple[dict[str, str], str | None]:
    """Parse `--column` and `--group`: columns by their names in the schema, and the name among these that holds the groups."""
    from hf_sqa.finetune.plan import schema_column

    columns = named_columns(texts)
    if group is None:
        return columns, None
    if known := schema_column(group):
        return columns, known
    return columns | {"talker_id": group}, "talker_id"  # a column with any other name is read as the talkers


def rated_clips(table: str, root: Path | None, **loading: Any) -> Any:
    """Load rated clips with [`hf_sqa.data.load_corpus`], without its warnings, because reports cover them."""
    import warnings

    from hf_sqa.data import load_corpus

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_corpus(table, root, **loading)


def name_of_original(model: str) -> str:
    """The name of this model that a model derived from it states as its base."""
    return "distill-mos-v7" if model == "default" else Path(model).name if Path(model).is_dir() else model


def words_of(text: str | None) -> list[str]:
    """Split a text at commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def parse_part(text: str, option: str = "--shards") -> tuple[int, int]:
    """Convert `"3/8"` to `(3, 8)`."""
    first, slash, second = text.partition("/")
    if not slash or not first.isdecimal() or not second.isdecimal() or not int(first) < int(second):
        raise ValueError(f"Expected {option} as i/n with i from 0 to n - 1, such as 0/8, got {text!r}.")
    return int(first), int(second)


def parse_channel(text: str) -> str | int:
    """Return `"mean"` or the number of a channel; anything else ends the command."""
    if text == "mean":
        return text
    if not text.isdecimal():
        stop(f"Expected --channel to be 'mean' or a channel number from 0, got {text!r}.")
    return int(text)


def num_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
