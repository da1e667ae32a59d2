"""Selects recordings by their scores: it writes those that pass, counts the others, and deletes nothing."""

from collections import Counter, defaultdict
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
    """Result of a filter, by the rule that a row breaks; `None` stands for the rows that pass."""

    rows: Counter[str | None] = field(default_factory=Counter)
    seconds: dict[str | None, float] = field(default_factory=lambda: defaultdict(float))  # Of audio, where the length is known


def filter_rows(
    output: Path, rule: Rule, *, write: Path | None = None, annotate: Path | None = None, source: Source | None = None
) -> Chosen:
    """Select rows of an output folder, and write those that pass, or all with the columns `kept` and `gone_because`.

    If the source that was scored is given, its own rows are written, with the scores added.
    """
    run = read_run(output)
    columns = columns_of(run, [*rule.minima, *rule.maxima])
    chosen = Chosen()
    for row in iterate_rows(output, run):
        reason = rule.reason_against(row, columns)
        chosen.rows[reason] += 1
        chosen.seconds[reason] += row["duration_seconds"] or 0.0

    def rows(only_kept: bool) -> Iterator[dict[str, Any]]:
        for row in iterate_rows(output, run):
            reason = rule.reason_against(row, columns)
            if not only_kept:
                yield {**row, "kept": reason is None, "gone_because": reason}
            elif reason is None:
                yield row

    for path, only_kept in ((write, True), (annotate, False)):
        if path is not None:
            chosen_rows = rows(only_kept)
            if source is not None:
                chosen_rows = with_manifest(chosen_rows, source, run)
            write_rows(path, chosen_rows, as_text=source is None)
    return chosen
