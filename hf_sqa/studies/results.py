"""Tables of a study: one row for each model, seed, test set, score, level and metric, and the clips behind every number."""

import contextlib
import json
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.metrics import Comparison, compare_models
from hf_sqa.row_tables import write_table
from hf_sqa.runs import locked, whole_file
from hf_sqa.studies.plan import Run, StudyFolder, plan_runs
from hf_sqa.studies.study_data import StudyData
from hf_sqa.studies.study_file import Study

RESULTS, RESULTS_TEXT = "results.parquet", "results.csv"
#: Results columns that makers must not fill.
RESERVED_COLUMNS = frozenset(
    {"study", "model", "series", "seed", "test_set", "score", "level", "metric", "value", "low", "high", "num_clips", "num_failed"}
    | {"num_unrated", "num_units", "unit", "overlap", "overlap_clips", "overlap_sources", "overlap_talkers", "model_id", "weights"}
    | {"preprocessing", "num_parameters", "cpu_seconds_per_second"}
)
#: Most characters of a reason on the screen; `failures/` has the full text.
REASON_CHARACTERS = 300


@dataclass(frozen=True)
class StudyReport:
    """The content of a study's folder after a call."""

    folder: Path  # The output folder
    num_cells: int  # Cells of the study
    num_done: int  # Cells whose results are in the table
    failures: dict[str, str]  # Why runs failed, by run
    stale: list[str]  # Runs in the folder that the study no longer has or now defines differently; they are not in the table
    figures: list[Path]  # Figures drawn, and tables in the layout of a paper
    remarks: list[str]  # Figures that could not be drawn and tables that could not be made, and why


def collect_results(
    study: Study, folder: str | os.PathLike[str], *, began: float = 0.0, data: StudyData | None = None
) -> StudyReport:
    """Write `results.parquet` and `results.csv` from the finished cells, and draw the figures. Nothing is scored.

    The tables are written under a lock, so the last of several processes includes the results of all.
    """
    output = StudyFolder(Path(folder))
    runs = plan_runs(study, data or StudyData(study))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without locks, the last writer wins
            stack.enter_context(locked(output.lock("results"), wait=True))
        rows = [row for run in runs for row in _rows_of(study, run, output)]
        if rows:
            _write_results(rows, output.root)
    # If `began` is not given, every failure counts that no later call has fixed.
    failures = {run.name: output.failed_since(run, began) for run in runs if not output.is_done(run)}
    drawn, remarks = _draw(study, rows, output.root) if rows else ([], [])
    there = {path.name for kind in ("cells", "models") for path in (output.root / kind).glob("*")}
    return StudyReport(
        folder=output.root,
        num_cells=sum(len(run.cells) for run in runs),
        num_done=output.num_tested(runs),
        failures={name: textwrap.shorten(reason, REASON_CHARACTERS) for name, reason in failures.items() if reason},
        stale=sorted(there - {run.name for run in runs}),
        figures=drawn,
        remarks=remarks,
    )


def read_results(source: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a results table from a study's folder or its `.parquet` or `.csv` file. Missing numbers are NaN or None."""
    path = Path(source)
    path = path / RESULTS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"Expected the results of a study, but there is no file {str(path)!r}.")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    rows: list[dict[str, Any]] = pyarrow.csv.read_csv(path, convert_options=options).to_pylist()
    return rows


def read_clips(
    study: Study, folder: str | os.PathLike[str], model: str, test_set: str, seed: int | None = None
) -> list[dict[str, Any]]:
    """Read the clips of one cell with labels and predictions, as in [`~hf_sqa.evaluation.suite.SuiteResult`].

    Raises:
        ValueError: If the study has no such cell.
        FileNotFoundError: If the cell is not done yet.
    """
    for run in plan_runs(study, StudyData(study)):
        if (run.model.name, run.seed) == (model, seed) and test_set in run.cells:
            return _read_parquet(StudyFolder(Path(folder)).cell(run, test_set) / "clips.parquet")
    raise ValueError(f"Expected a cell of the study {study.name!r}, got model {model!r}, seed {seed}, test set {test_set!r}.")


def compare_cells(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    *,
    metric: str = "utt_srcc",
    score: str = "mos",
    cluster: str | None = None,
    names: tuple[str, str] = ("A", "B"),
    **kwargs: Any,
) -> Comparison:
    """Compare two models, paired by clip, from the clips of their cells; see [`~hf_sqa.metrics.compare_models`].

    Raises:
        ValueError: If they were not tested on the same clips.
    """
    if [clip["audio"] for clip in first] != [clip["audio"] for clip in second]:
        raise ValueError("Expected two cells of the same test set, got other clips or another order.")
    return compare_models(
        [clip[f"predicted_{score}"] for clip in first],
        [clip[f"predicted_{score}"] for clip in second],
        [clip[f"label_{score}"] for clip in first],
        metric=metric,
        names=names,
        systems=[clip.get("system_id") for clip in first] if metric.startswith("sys_") else None,
        conditions=[clip.get("condition_id") for clip in first] if metric.startswith("con_") else None,
        clusters=[clip.get(cluster) for clip in first] if cluster else None,
        **{"rng": 0, **kwargs},
    )


def _rows_of(study: Study, run: Run, output: StudyFolder) -> list[dict[str, Any]]:
    made: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        made = json.loads((output.model(run) / "made.json").read_text(encoding="utf-8"))
    rows = []
    for test_set in run.cells:
        try:
            cell = json.loads((output.cell(run, test_set) / "cell.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        columns = {**cell["columns"], **made, **{f"variable_{name}": value for name, value in run.model.variables.items()}}
        head = {"study": study.name, "model": run.model.name, "series": run.model.series, "seed": run.seed}
        rows += [{**head, **row, **columns} for row in cell["rows"]]
    return rows


def _write_results(rows: list[dict[str, Any]], root: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: {isinstance(row[name], str) for row in rows if row.get(name) is not None} for name in columns}
    full = [
        # A variable that is a number in one model and a word in another becomes text, because a Parquet column has one type.
        {name: str(row[name]) if len(kinds[name]) > 1 and row.get(name) is not None else row.get(name) for name in columns}
        for row in rows
    ]
    with whole_file(root / RESULTS, sole_writer=True) as parquet:
        write_parquet(full, parquet)
    with whole_file(root / RESULTS_TEXT, sole_writer=True) as text:
        write_table(text, full, ".csv", columns=columns, as_text=False)


def _draw(study: Study, rows: list[dict[str, Any]], root: Path) -> tuple[list[Path], list[str]]:
    from hf_sqa.studies import figures
    from hf_sqa.studies.tables import write_tables

    drawn, remarks = write_tables(rows, study.tables, root)
    for entry in study.figures:
        options = {name: value for name, value in entry.items() if name not in ("kind", "file")}
        path = root / entry.get("file", f"{entry.get('kind')}.png")
        try:
            figures.draw(str(entry.get("kind")), rows, path, **options)
            drawn.append(path)
        except (ValueError, TypeError) as error:
            remarks.append(f"{path.name}: {error}")
    return drawn, remarks


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def clip_weighted_means(rows: Iterable[Mapping[str, Any]], test_sets: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Average every metric over test sets, weighted by their clips, as Figure 3 of the paper on distillation does for LCC.

    Returns a row for each model, seed, score, level and metric that all of these test sets have. Number of weights and CPU time are
    averaged in the same way; there is no interval.
    """
    kept = [dict(row) for row in rows if test_sets is None or row["test_set"] in test_sets]
    wanted = {row["test_set"] for row in kept}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in kept:
        groups.setdefault(tuple(row.get(name) for name in ("model", "seed", "score", "level", "metric")), []).append(row)
    means = []
    for members in groups.values():
        if {row["test_set"] for row in members} != wanted:
            continue
        clips = np.array([row["num_clips"] for row in members], dtype=np.float64)
        mean = dict(members[0]) | {"test_set": f"{len(wanted)} test sets, weighted by clips", "num_clips": int(clips.sum())}
        for name in ("value", "num_parameters", "cpu_seconds_per_second"):
            if members[0].get(name) is not None:
                mean[name] = float(np.average([float(row[name]) for row in members], weights=clips))
        means.append(mean | {"low": math.nan, "high": math.nan})
    return means
