"""Report on a scored corpus: distributions, groups, thresholds, worst and best, failures; and whether it got worse."""

import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_sqa.cells import finite
from hf_sqa.metrics import compare_systems
from hf_sqa.scoring.shards import WORST, ShardFolder, kept_name, read_run
from hf_sqa.scoring.sinks import columns_of

THRESHOLD_STEP = 0.25
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
#: Number of groups listed, lowest mean first; the others are only counted.
NUM_GROUPS = 40
NUM_EXTREMES = 20
#: A column of the source with more values than this, such as a file name, does not define groups.
MOST_GROUPS = 500
CONFIDENCE_LEVEL = 0.95
#: Largest numbers of groups and rows that are compared with each other, and number of draws: a report should take seconds.
MOST_COMPARED, MOST_ROWS_COMPARED, NUM_DRAWS = 20, 50_000, 1000


@dataclass(frozen=True)
class Spread:
    """How scores are spread."""

    name: str  # Name of the group; empty for all rows
    num_rows: int  # Rows, scored or not
    num_scored: int  # Rows with a score
    hours: float  # Audio of the scored rows
    mean: float  # Mean score; this and the numbers below are NaN if there is none
    low: float  # Lower end of Student's 95 % interval of the mean; NaN for fewer than two scores
    high: float
    deviation: float  # Standard deviation
    percentiles: dict[int, float]  # Percentile by per cent


@dataclass
class Report:
    """Everything that a report shows."""

    run: dict[str, Any]  # The content of `run.json`
    score: str  # The score that groups, thresholds and extremes are about
    num_rows: int  # Rows scored so far
    missing_shards: list[int]  # Shards that do not exist yet; empty when the run is complete
    statuses: Counter[str]  # Rows by status
    reasons: dict[tuple[str, str], tuple[int, str]]  # `(count, an example)` of rows without a score, by status and code
    warnings: Counter[str]  # Scored rows by warning
    hours: float  # Audio of all rows whose length is known
    spreads: dict[str, Spread]  # Spread of every score
    groups: dict[str, list[Spread]]  # Spread of the score by column and value, lowest mean first
    verdicts: dict[str, str]  # Which groups are shown to differ, in words, by column; absent for very many groups or rows
    thresholds: list[tuple[float, int, float]]  # Threshold, rows and hours that reach it
    worst: list[dict[str, Any]]  # Rows with the lowest scores; `best`: with the highest
    best: list[dict[str, Any]]
    num_repeated_keys: int  # Rows whose key occurred in an earlier row
    scores: np.ndarray = field(repr=False)  # All scores, for plots
    seconds: np.ndarray = field(repr=False)  # Durations of the same recordings

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "source": self.run["source"],
            "identity": self.run["identity"],
            **{name: getattr(self, name) for name in ("score", "missing_shards", "statuses", "warnings", "hours", "verdicts")},
            "rows": self.num_rows,
            "reasons": {f"{status}: {code}": count for (status, code), (count, _) in self.reasons.items()},
            "scores": {name: _plain(spread) for name, spread in self.spreads.items()},
            "groups": {column: [_plain(spread) for spread in spreads] for column, spreads in self.groups.items()},
            "thresholds": [{"from": at, "rows": rows, "hours": hours} for at, rows, hours in self.thresholds],
            "repeated_keys": self.num_repeated_keys,
        }


def make_report(output: str | os.PathLike, *, score: str | None = None, group_by: Sequence[str] | None = None) -> Report:
    """Summarise an output folder, finished or not.

    Args:
        output (`str` or `Path`): The output folder.
        score (`str`, *optional*): The score to report on; the model's first if not given.
        group_by (sequence of `str`, *optional*): Columns of the source to group by; all that were kept if not given.

    Raises:
        ValueError: If the folder holds no scores, or a score or column does not exist.
    """
    run = read_run(output)
    score = score or next(iter(run["columns"]))
    column = columns_of(run, [score])[score]
    shards = ShardFolder(output, run)
    indices = shards.indices()
    if not indices:
        raise ValueError(f"{str(output)!r} holds no finished shard yet; wait, or start `hf-sqa score` again.")
    table = read_table(output, run)
    statuses = np.array(table.column("status").to_pylist(), dtype=object)
    seconds = _floats(table, "duration_seconds")
    scored = statuses == "ok"
    scores = {name: _floats(table, column) for name, column in run["columns"].items()}
    values = _floats(table, column)
    groups, verdicts = {}, {}
    for name, labels, members in _groups(table, run, group_by, np.arange(len(scored))):
        spreads = [_spread(value, values, seconds, scored, rows) for value, rows in members.items()]
        groups[name] = sorted(spreads, key=lambda spread: (math.isnan(spread.mean), spread.mean, spread.name))
        if 1 < len(members) <= MOST_COMPARED and scored.sum() <= MOST_ROWS_COMPARED:
            compared = compare_systems(values, labels.tolist(), score_name=score, num_draws=NUM_DRAWS)
            verdicts[name] = compared.verdict
    order = np.flatnonzero(scored)[np.argsort(values[scored], kind="stable")]
    keys = table.column("key").to_pylist()
    rows_per_shard = run["rows_per_shard"]
    # Before the end of the source is reached, at least one more shard is missing.
    num_shards = math.ceil(run["rows"] / rows_per_shard) if "rows" in run else indices[-1] + 2
    return Report(
        run=run,
        score=score,
        num_rows=len(keys),
        missing_shards=sorted(set(range(num_shards)) - set(indices)),
        statuses=Counter(statuses.tolist()),
        reasons=_reasons(table),
        warnings=Counter(code for codes in table.column("warnings").to_pylist() for code in codes or ()),
        hours=float(np.nansum(seconds)) / 3600,
        spreads={name: _spread("", scored_as, seconds, scored, np.arange(len(keys))) for name, scored_as in scores.items()},
        groups=groups,
        verdicts=verdicts,
        thresholds=_thresholds(values[scored], seconds[scored]),
        worst=[_extreme(table, int(index), column) for index in order[:NUM_EXTREMES]],
        best=[_extreme(table, int(index), column) for index in order[::-1][:NUM_EXTREMES]],
        num_repeated_keys=len(keys) - len(set(keys)),
        scores=values[scored],
        seconds=seconds[scored],
    )


def read_table(output: str | os.PathLike, run: dict[str, Any]) -> Any:
    """All rows of an output folder as one Arrow table."""
    import pyarrow.parquet

    shards = ShardFolder(output, run)
    tables = [pyarrow.parquet.read_table(shards.path(index)).replace_schema_metadata() for index in shards.indices()]
    try:
        return pyarrow.concat_tables(tables)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"The shards in {str(output)!r} have different columns ({error}); finish --rescore first.") from None


@dataclass(frozen=True)
class Difference:
    """Difference of scores between two runs over the same recordings."""

    name: str  # Name of the group; empty for all rows
    num_pairs: int  # Recordings that both runs scored
    before: float  # Mean score in the other run
    after: float  # Mean score in this run
    mean: float  # Mean of the differences, this run minus the other
    #: Interval of that mean: Student's interval of paired differences, for groups corrected for their number (Bonferroni).
    #: NaN for fewer than two pairs
    low: float
    high: float


@dataclass
class RunComparison:
    """Comparison of this run with another."""

    score: str  # The score compared
    overall: Difference  # Difference over all recordings that both runs scored
    groups: dict[str, list[Difference]]  # Differences by column and value
    only_here: int  # Rows whose key the other run lacks; `only_there`: whose key this run lacks
    only_there: int
    lost: list[str]  # Keys of recordings that only the other run could score
    won: list[str]  # Keys of recordings that only this run could score
    most_worse: list[dict[str, Any]]  # Recordings whose score fell most
    tolerance: float  # How much scores may fall
    differences: np.ndarray = field(repr=False)  # All differences, for plots

    @property
    def faults(self) -> list[str]:
        """Reasons why this run is worse than the other, in words; empty if it is not shown to be worse."""
        named = [("", self.overall)]
        named += [(f" of {column} {group.name!r}", group) for column, groups in self.groups.items() for group in groups]
        faults = [
            f"{self.score}{of_group} fell by {-found.mean:.3f} [{-found.high:.3f}, {-found.low:.3f}] over {found.num_pairs:,} "
            "recordings"
            for of_group, found in named
            if found.high < -self.tolerance
        ]
        if self.lost:
            faults.append(f"recordings that had a score and have none now: {len(self.lost):,}, first {self.lost[0]!r}")
        if self.only_there:
            faults.append(f"recordings of the other run that are not in this one: {self.only_there:,}")
        return faults


def compare_runs(
    output: str | os.PathLike,
    other: str | os.PathLike,
    *,
    score: str | None = None,
    group_by: Sequence[str] | None = None,
    tolerance: float = 0.0,
) -> RunComparison:
    """Compare two runs of one model over recordings with the same keys, such as two nightly builds.

    Rows with the same key are paired in their order. Scores got worse if the whole interval of the difference lies below
    `-tolerance`.

    Raises:
        ValueError: If the scores are not of the same model and mode, or no key is in both.
    """
    run, other_run = read_run(output), read_run(other)
    identity, other_identity = ({**each["identity"], "interval": None} for each in (run, other_run))
    differs = [name for name in identity if identity[name] != other_identity.get(name)]
    if differs:
        raise ValueError(
            f"Expected two runs of one model in one mode, but they differ in {', '.join(differs)}: such scores do not compare. "
            "Score one of them again."
        )
    score = score or next(iter(run["columns"]))
    column, other_column = columns_of(run, [score])[score], columns_of(other_run, [score])[score]
    here, there = read_table(output, run), read_table(other, other_run)
    before = dict(zip(_numbered(there.column("key").to_pylist()), _floats(there, other_column), strict=True))
    keys = _numbered(here.column("key").to_pylist())
    if not before.keys() & set(keys):
        raise ValueError("Expected runs over recordings with the same keys, but no key is in both; give keys with --key-column.")
    after = _floats(here, column)
    old = np.array([before.get(key, math.nan) for key in keys])
    known = np.array([key in before for key in keys])
    difference = after - old
    paired = np.isfinite(difference)
    groups = {}
    for name, _, members in _groups(here, run, group_by, np.flatnonzero(paired)):
        groups[name] = [_difference(value, old[rows], after[rows], len(members)) for value, rows in members.items()]
    order = np.flatnonzero(paired)[np.argsort(difference[paired], kind="stable")]
    return RunComparison(
        score=score,
        overall=_difference("", old[paired], after[paired], 1),
        groups=groups,
        only_here=int((~known).sum()),
        only_there=len(before) - int(known.sum()),
        lost=[keys[index][0] for index in np.flatnonzero(known & np.isfinite(old) & ~np.isfinite(after))],
        won=[keys[index][0] for index in np.flatnonzero(known & ~np.isfinite(old) & np.isfinite(after))],
        most_worse=[
            {"key": keys[index][0], "before": float(old[index]), "after": float(after[index])}
            for index in order[:NUM_EXTREMES]
            if difference[index] < 0
        ],
        tolerance=tolerance,
        differences=difference[paired],
    )


def _difference(name: str, before: np.ndarray, after: np.ndarray, num_groups: int) -> Difference:
    differences = after - before
    count = len(differences)
    if not count:
        return Difference(name, 0, math.nan, math.nan, math.nan, math.nan, math.nan)
    mean, half = float(differences.mean()), _half_width(differences, 1 - (1 - CONFIDENCE_LEVEL) / num_groups)
    return Difference(name, count, float(before.mean()), float(after.mean()), mean, mean - half, mean + half)


def _half_width(values: np.ndarray, level: float) -> float:
    """Half width of Student's interval of a mean; NaN for fewer than two values."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / math.sqrt(len(values)))


def _numbered(keys: list[str]) -> list[tuple[str, int]]:
    """Number the rows of every key."""
    numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)
    return [(key, next(numbers[key])) for key in keys]


def _groups(
    table: Any, run: dict[str, Any], group_by: Sequence[str] | None, rows: np.ndarray
) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Yield the columns that divide rows into groups: name, value in every row of the table, and the chosen rows by value.

    All kept columns are tried if none is named; those with one value, or almost as many as rows, then divide nothing.
    """
    kept = {name: kept_name(name, list(run["columns"].values())) for name in run["kept_columns"]}
    if unknown := [name for name in group_by or () if name not in kept]:
        raise ValueError(f"Expected --group-by among {', '.join(kept) or '(no column was kept: --keep)'}, got {unknown[0]!r}.")
    for name in kept if group_by is None else dict.fromkeys(group_by):
        labels = np.array([value or "(none)" for value in table.column(kept[name]).to_pylist()], dtype=object)
        values, codes = np.unique(labels[rows], return_inverse=True)
        if len(values) <= MOST_GROUPS and (group_by is not None or 1 < len(values) <= max(2, len(labels) / 2)):
            members = np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
            yield name, labels, dict(zip(values.tolist(), members, strict=False))  # no values, one empty part


def _spread(name: str, values: np.ndarray, seconds: np.ndarray, scored: np.ndarray, rows: np.ndarray) -> Spread:
    chosen = rows[scored[rows]]
    scores = values[chosen]
    if not len(scores):
        return Spread(name, len(rows), 0, 0.0, math.nan, math.nan, math.nan, math.nan, dict.fromkeys(PERCENTILES, math.nan))
    percentiles = dict(zip(PERCENTILES, np.percentile(scores, PERCENTILES).tolist(), strict=True))
    hours = float(np.nansum(seconds[chosen])) / 3600
    mean, half = float(scores.mean()), _half_width(scores, CONFIDENCE_LEVEL)
    return Spread(name, len(rows), len(scores), hours, mean, mean - half, mean + half, float(scores.std()), percentiles)


def _thresholds(values: np.ndarray, seconds: np.ndarray) -> list[tuple[float, int, float]]:
    if not len(values):
        return []
    first = math.floor(values.min() / THRESHOLD_STEP)
    last = math.ceil(values.max() / THRESHOLD_STEP)
    step = max(1, math.ceil((last - first) / 24))
    reached = ((number * THRESHOLD_STEP, values >= number * THRESHOLD_STEP) for number in range(first, last + 1, step))
    return [(at, int(kept.sum()), float(seconds[kept].sum()) / 3600) for at, kept in reached]


def _reasons(table: Any) -> dict[tuple[str, str], tuple[int, str]]:
    reasons: dict[tuple[str, str], tuple[int, str]] = {}
    names = ("status", "code", "reason", "key")
    for status, code, reason, key in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        if status != "ok":
            count, example = reasons.get((status, code), (0, f"{key}: {reason}"))
            reasons[status, code] = (count + 1, example)
    return dict(sorted(reasons.items(), key=lambda pair: -pair[1][0]))


def _extreme(table: Any, index: int, column: str) -> dict[str, Any]:
    names = ["row", "key", "audio", "duration_seconds", "warnings"]
    names += WORST if WORST[0] in table.column_names else ()
    row = {name: table.column(name)[index].as_py() for name in names}
    return {**row, "score": table.column(column)[index].as_py()}


def _floats(table: Any, name: str) -> np.ndarray:
    return np.array(table.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)


def _plain(spread: Spread) -> dict[str, Any]:
    described = {"name": spread.name, "rows": spread.num_rows, "scored": spread.num_scored, "hours": spread.hours}
    numbers = {"mean": spread.mean, "low": spread.low, "high": spread.high, "deviation": spread.deviation}
    numbers |= {f"p{at:02d}": value for at, value in spread.percentiles.items()}
    return finite(described | numbers)
