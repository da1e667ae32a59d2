"""Values on their way out: into JSON, which has no NaN; into CSV, which spreadsheets take for formulas; onto a terminal."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

#: A cell of a CSV that begins so is computed by spreadsheets, unless it is a number.
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


def finite(value: Any) -> Any:
    """A row, or any other value, with `None` for every number in it that is NaN or infinite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_row(
    name: str, score_names: Sequence[str], result: Mapping[str, Any], asked: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """The row of one file, the same from the command line and the service.

    Args:
        name (`str`): Name of the file.
        score_names (sequence of `str`): Scores of the model.
        result (mapping): What the pipeline returned with `on_error="row"` and `return_details=True`; of a recording that never came
            to it, `status`, `code` and `reason`.
        asked (mapping, *optional*): What else was asked of the pipeline: `return_segments`, `return_timeline`.
    """
    asked = asked or {}
    row = {
        # A file name that is not UTF-8 can be opened but not written to a table.
        "file": os.fsencode(name).decode("utf-8", "backslashreplace"),
        **{score: result.get(score) for score in score_names},
        **{key: result[key] for key in ("status", "code", "reason")},
        "warnings": [finding["code"] for finding in result.get("warnings", [])],
        **{key: result.get(key) for key in ("duration_seconds", "sampling_rate")},
    }
    if asked.get("return_segments"):
        row["segments"] = result.get("segments", [])
    if asked.get("return_timeline"):
        worst = result.get("worst") or {}
        row |= {"worst": worst.get(score_names[0]), "worst_start": worst.get("start"), "worst_end": worst.get("end")}
        row |= {"faults": result.get("faults", []), "timeline": result.get("timeline", [])}
    return row


def csv_cell(value: Any, as_text: bool = True) -> Any:
    """A value as a cell of CSV: nothing for `None` and NaN, texts of a list joined by `;`, JSON for what is nested.

    With `as_text`, an apostrophe precedes what spreadsheets would compute.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        value = ";".join(value)
    elif isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if as_text and isinstance(value, str) and value.startswith(FORMULA_MARKS) and not _is_number(value):
        return f"'{value}"
    return value


def visible(text: str) -> str:
    """Text for a terminal: what moves the cursor, rings the bell or hides something is shown as an escape."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode() for sign in text)


def clock(seconds: float) -> str:
    """A time in a recording for people: `12.5 s`, `3:07` or `1:02:03`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
