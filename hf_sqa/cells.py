"""Makes values safe for output: for JSON, which has no NaN; for CSV, in which spreadsheets run formulas; for a terminal."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

#: First characters of a CSV cell that spreadsheets run as a formula, unless it is a number.
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


def finite(value: Any) -> Any:
    """Replace every number in a row, or any other value, that is NaN or infinite by `None`, because JSON has neither."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_row(
    name: str, score_names: Sequence[str], result: Mapping[str, Any], asked: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """Make the row of one file, the same for the command line and the service.

    `result` is that of the pipeline with `on_error="row"`, `return_details=True` and the options in `asked` (`return_segments`,
    `return_timeline`); for a recording that did not reach it, `status`, `code` and `reason`.
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
    """Convert a value to a CSV cell: empty for `None` and NaN, a list of texts joined by `;`, JSON for nested values.

    With `as_text`, an apostrophe is put before text that spreadsheets would run as a formula.
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
    """Make text safe for a terminal: characters that move the cursor, ring the bell or hide text are shown as escapes."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode() for sign in text)


def clock(seconds: float) -> str:
    """Format a time in a recording for people: `12.5 s`, `3:07` or `1:02:03`."""
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
