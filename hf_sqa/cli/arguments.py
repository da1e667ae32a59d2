"""What is typed, in the form that functions take."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hf_sqa.cli.stopping import stop


def named_columns(texts: Sequence[str] | None) -> dict[str, str]:
    """What the option `--column name=column` says, given once or more: columns of a table by their names in the schema.

    Raises:
        ValueError: If a text is no such pair.
    """
    columns = {}
    for text in texts or ():
        name, _, column = text.partition("=")
        if not name or not column:
            raise ValueError(f"Expected --column as `name=column`, such as `mos=opinion`, got {text!r}.")
        columns[name] = column
    return columns


def columns_and_group(texts: Sequence[str] | None, group: str | None) -> tuple[dict[str, str], str | None]:
    """What `--column` and `--group` say: the columns by their names in the schema, and which of these names holds the groups."""
    from hf_sqa.finetune.plan import schema_column

    columns = named_columns(texts)
    if group is None:
        return columns, None
    if known := schema_column(group):
        return columns, known
    return columns | {"talker_id": group}, "talker_id"  # a column of any other name takes the place of the talkers


def parse_part(text: str, option: str = "--shards") -> tuple[int, int]:
    """`"3/8"` to `(3, 8)`.

    Raises:
        ValueError: If it is no part.
    """
    first, slash, second = text.partition("/")
    if not slash or not first.isdecimal() or not second.isdecimal() or not int(first) < int(second):
        raise ValueError(f"Expected {option} as i/n with i from 0 to n - 1, such as 0/8, got {text!r}.")
    return int(first), int(second)


def parse_channel(text: str) -> str | int:
    """`"mean"`, or the number of a channel; anything else ends the command."""
    if text == "mean":
        return text
    if not text.isdecimal():
        stop(f"Expected --channel to be 'mean' or a channel number from 0, got {text!r}.")
    return int(text)


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
