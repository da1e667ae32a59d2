"""Selects recordings by their scores: it writes those that pass, counts the others, and deletes nothing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_sqa.scoring.shards import iterate_rows, read_run
from hf_sqa.scoring.sinks import columns_of, with_manifest, write_rows
from hf_sqa.scoring.sources import Source


@dataclass(frozen=True)
class Rule:
    """What a recording must have to pass."""

    minima: Mapping[str, float] = field(default_factory=dict)  # Lowest score that passes, by name
    maxima: Mapping[str, float] = field(default_factory=dict)  # Highest score that passes, by name
    min_seconds: float | None = None  # Shortest recording that passes
    max_seconds: float | None = None  # Longest recording that passes
    without_warnings: Sequence[str] = ()  # A recording with one of these warnings does not pass

    def reason_against(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
        """Return the first rule that a row breaks; `None` if it passes."""
        if row["status"] != "ok":
            return f"{row['status']}: {row['code']}"
        for name, lowest in self.minima.items():
            if row[columns[name]] < lowest:
                return f"{name} below {lowest:g}"
        for name, highest in self.maxima.items():
            if row[columns[name]] > highest:
                return f"{name} above {highest:g}"
        if self.min_seconds is not None and row["duration_seconds"] < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        if self.max_seconds is not None and row["duration_seconds"] > self.max_seconds:
            return f"longer than {self.max_seconds:g} s"
        return next((f"warning: {code}" for code in self.without_warnings if code in (row["warnings"] or [])), None)


@dataclass
class Chosen:
    """Result of a filter."""

    kept: int = 0  # Rows that pass
    kept_seconds: float = 0.0  # Seconds of audio in them
    gone: Counter[str] = field(default_factory=Counter)  # Rows that do not pass, by reason
    #: Seconds of audio in them, by reason; 0 where the length is unknown
    gone_seconds: dict[str, float] = field(default_factory=dict)


def filter_rows(
    output: Path, rule: Rule, *, write: Path | None = None, annotate: Path | None = None, source: Source | None = None
) -> Chosen:
    """Select rows of an output folder, and write those that pass, or all with the columns `kept` and `gone_because`.

    If the source that was scored is given, its own rows are written, with the scores added.

    Raises:
        ValueError: If a score does not exist, the folder holds no scores, or the source is no longer the one that was scored.
    """
    run = read_run(output)
    columns = columns_of(run, [*rule.minima, *rule.maxima])
    chosen = Chosen()
    for row in iterate_rows(output, run):
        reason = rule.reason_against(row, columns)
        seconds = row["duration_seconds"] or 0.0
        if reason is None:
            chosen.kept += 1
            chosen.kept_seconds += seconds
        else:
            chosen.gone[reason] += 1
            chosen.gone_seconds[reason] = chosen.gone_seconds.get(reason, 0.0) + seconds

    def rows(only_kept: bool) -> Iterator[dict[str, Any]]:
        for row in iterate_rows(output, run):
            reason = rule.reason_against(row, columns)
            if only_kept and reason is not None:
                continue
            yield row if only_kept else {**row, "kept": reason is None, "gone_because": reason}

    for path, only_kept in ((write, True), (annotate, False)):
        if path is not None:
            chosen_rows = rows(only_kept)
            if source is not None:
                chosen_rows = with_manifest(chosen_rows, source, run)
            write_rows(path, chosen_rows, as_text=source is None)
    return chosen
