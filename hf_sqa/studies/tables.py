"""Tables of a study in the layout of a paper, from the rows of the results table alone: Markdown, LaTeX and CSV.

A table has rows, columns and, one below the other, sections; each is an axis of the results: models, test sets, scores or metrics.
Cells are means over seeds with their standard deviation; the best of a column and section is bold, overlap is marked.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.evaluation.suite import OVERLAP_MARKS
from hf_sqa.metrics import GREATER_IS_BETTER
from hf_sqa.runs import write_whole
from hf_sqa.studies.plotting import NAMES, Point, ResultTable, best_of
from hf_sqa.studies.study_file import TABLE_AXES, TableSpec

LATEX_SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"$^\S$",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Line:
    """A row of a section: its words, and for every column the point there (None where nothing is done) and whether it is best."""

    words: list[str]
    points: list[Point | None]
    is_best: list[bool]


@dataclass(frozen=True)
class PaperTable:
    """A table with its numbers, to be written in several forms."""

    title: str  # what stands above
    head: list[str]  # heads of the words and of the columns
    sections: dict[str, list[Line]]  # rows by section; one section without a name if the table is not divided

    @property
    def legend(self) -> str:
        """What the signs in the cells mean."""
        points = [point for lines in self.sections.values() for line in lines for point in line.points if point]
        kinds = {point.overlap for point in points}
        seeds = max((len(point.seeds) for point in points), default=1)
        notes = [f"mean ± standard deviation of {seeds} seeds"] if seeds > 1 else []
        return "; ".join(notes + [f"{mark} {words}" for kind, (mark, words) in OVERLAP_MARKS.items() if kind in kinds])

    def to_markdown(self) -> str:
        """The table in Markdown, with its title above and the legend below."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [_markdown_row(self.head), "|" + "---|" * len(self.head)]
        for section, rows in self.sections.items():
            if section:
                lines.append(_markdown_row([f"**{section}**"] + [""] * (len(self.head) - 1)))
            lines += [_markdown_row([*row.words, *_cells(row, "**{}**")]) for row in rows]
        return "\n".join([*lines, *(["", self.legend] if self.legend else [])]) + "\n"

    def to_latex(self) -> str:
        """The table as a LaTeX `table` for the package booktabs."""
        num_words = len(self.head) - len(next(iter(self.sections.values()))[0].points)
        lines = [r"\begin{table}", r"\centering"]
        lines += [rf"\caption{{{_latex(self.title)}}}"] if self.title else []
        lines += [rf"\begin{{tabular}}{{{'l' * num_words}{'c' * (len(self.head) - num_words)}}}", r"\toprule"]
        lines.append(" & ".join(map(_latex, self.head)) + r" \\")
        for section, rows in self.sections.items():
            lines.append(r"\midrule")
            if section:
                lines += [rf"\multicolumn{{{len(self.head)}}}{{c}}{{{_latex(section)}}} \\", r"\midrule"]
            for row in rows:
                marked = (_latex(cell) for cell in _cells(row, "\x02{}\x03"))
                cells = [cell.replace("\x02", r"\textbf{").replace("\x03", "}") for cell in marked]
                lines.append(" & ".join([*map(_latex, row.words), *cells]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\smallskip\footnotesize {_latex(self.legend)}"] if self.legend else []
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def to_csv(self) -> str:
        """The numbers of the table, unrounded: mean, standard deviation over seeds and overlap of every cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        first = next(iter(self.sections.values()))[0]
        words, columns = self.head[: len(first.words)], self.head[len(first.words) :]
        numbers = [f"{column}{part}" for column in columns for part in ("", " standard deviation", " overlap")]
        writer.writerow(["section", *words, *numbers])
        for section, rows in self.sections.items():
            for row in rows:
                cells: list[Any] = []
                for point in row.points:
                    cells += ["", "", ""] if point is None else [point.value, _deviation(point), point.overlap]
                writer.writerow([section, *row.words, *cells])
        return text.getvalue()


def paper_table(rows: Iterable[Mapping[str, Any]], spec: TableSpec) -> PaperTable:
    """The table that a study asks for, from the rows of a results table that are about clips.

    Raises:
        ValueError: If the results have nothing of what the table shows.
    """
    rows = [dict(row) for row in rows if row["level"] == "utt"]
    there = {axis: list(dict.fromkeys(str(row[axis]) for row in rows)) for axis in TABLE_AXES}
    tables = {score: ResultTable(rows, score, "utt") for score in there["score"]}
    fixed = {axis: values[0] for axis, values in there.items() if values} | dict(spec.only)

    def point_at(chosen: Mapping[str, str]) -> Point | None:
        model = chosen["model"]
        for axis, value in chosen.items():
            model = model.replace(f"{{{axis}}}", value)
        table = tables.get(chosen["score"])
        return None if table is None else table.point(model, chosen["test_set"], chosen["metric"])

    row_axis, row_words = _axis(spec.rows)
    column_axis, column_words = _axis(spec.columns)
    section_axis, section_words = _axis(spec.sections) if spec.sections else ("", {"": [""]})
    sections: dict[str, list[Line]] = {}
    for section, title in section_words.items():
        grid: dict[str, list[Point | None]] = {}
        for name in row_words:
            chosen = fixed | ({section_axis: section} if section_axis else {}) | {row_axis: name}
            grid[name] = [point_at(chosen | {column_axis: column}) for column in column_words]
        # Bold compares models, so there is none where the models are the columns.
        best = [
            _best([line[place] for line in grid.values()], {**fixed, section_axis: section, column_axis: column}["metric"])
            if row_axis == "model"
            else set()
            for place, column in enumerate(column_words)
        ]
        sections[" ".join(title)] = [
            Line(
                [*row_words[name], *[""] * (len(spec.heads) - len(row_words[name]))],
                line,
                [at in best[place] for place in range(len(line))],
            )
            for at, (name, line) in enumerate(grid.items())
        ]
    if not any(point for lines in sections.values() for line in lines for point in line.points):
        raise ValueError(f"Expected results for the table {spec.file!r}, got none of what it shows.")
    return PaperTable(spec.title, [*spec.heads, *(" ".join(words) for words in column_words.values())], sections)


def write_tables(rows: Iterable[Mapping[str, Any]], specs: Sequence[TableSpec], folder: Path) -> tuple[list[Path], list[str]]:
    """Write every table as `.md`, `.tex` and `.csv`; gives the files, and why some tables could not be made."""
    rows, written, remarks = list(rows), [], []
    for spec in specs:
        try:
            table = paper_table(rows, spec)
        except ValueError as error:
            remarks.append(f"{spec.file}: {error}")
            continue
        for suffix, text in ((".md", table.to_markdown()), (".tex", table.to_latex()), (".csv", table.to_csv())):
            write_whole(folder / f"{spec.file}{suffix}", text)
            written.append(folder / f"{spec.file}{suffix}")
    return written, remarks


def _axis(part: Mapping[str, Any]) -> tuple[str, dict[str, list[str]]]:
    """The axis of rows, columns or sections, and the words for each of its values."""
    axis, values = next(iter(part.items()))
    named = values if isinstance(values, Mapping) else {name: NAMES.get(name, name) for name in values}
    return axis, {str(name): [words] if isinstance(words, str) else list(words) for name, words in named.items()}


def _best(points: Sequence[Point | None], metric: str) -> set[int]:
    """Places of the best value; empty where there is nothing to compare."""
    values = {place: point.value for place, point in enumerate(points) if point is not None}
    if len(values) < 2 or metric not in GREATER_IS_BETTER:
        return set()
    best = values[best_of(values, metric)]
    return {place for place, value in values.items() if round(value, 3) == round(best, 3)}


def _cells(line: Line, bold: str) -> list[str]:
    cells = []
    for point, is_best in zip(line.points, line.is_best, strict=True):
        if point is None:
            cells.append("-")
            continue
        value = bold.format(f"{point.value:.3f}") if is_best else f"{point.value:.3f}"
        deviation = _deviation(point)
        spread = "" if deviation is None else f" ± {deviation:.3f}"
        cells.append(f"{value}{spread}" + (f" {OVERLAP_MARKS[point.overlap][0]}" if point.overlap else ""))
    return cells


def _deviation(point: Point) -> float | None:
    return float(np.std(list(point.seeds.values()), ddof=1)) if len(point.seeds) > 1 else None


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
