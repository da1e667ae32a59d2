"""Tables of a study in the layout of a paper, from the rows of the results table alone: Markdown, LaTeX and CSV.

A table has rows, columns and sections, one below the other; each is an axis of the results: models, test sets, scores or metrics.
Cells are means over seeds with their standard deviation. The best of a column and section is bold; overlap is marked.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sqa.evaluation.suite import Point, legend
from hf_sqa.metrics import GREATER_IS_BETTER
from hf_sqa.runs import write_whole
from hf_sqa.studies.plotting import NAMES, ResultTable, best_of
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
    """A row of a section: its words, and for every column the point (None if there is no result) and whether it is the best."""

    words: list[str]
    points: list[Point | None]
    is_best: list[bool]


@dataclass(frozen=True)
class PaperTable:
    """A table with its numbers, to be written in several formats."""

    title: str  # title above the table
    head: list[str]  # heads of the words and of the columns
    sections: dict[str, list[Line]]  # rows by section; one section without a name if the table is not divided

    @property
    def legend(self) -> str:
        """Explanation of the signs in the cells."""
        points = [point for lines in self.sections.values() for line in lines for point in line.points if point]
        seeds = max((len(point.seeds) for point in points), default=1)
        notes = [f"mean ± standard deviation of {seeds} seeds"] if seeds > 1 else []
        return "; ".join([*notes, *legend(points)])

    def to_markdown(self) -> str:
        """Return the table in Markdown, with its title above and the legend below."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [_markdown_row(self.head), "|" + "---|" * len(self.head)]
        for section, rows in self.sections.items():
            if section:
                lines.append(_markdown_row([f"**{section}**"] + [""] * (len(self.head) - 1)))
            lines += [_markdown_row([*row.words, *_cells(row, "**{:.3f}**")]) for row in rows]
        return "\n".join([*lines, *(["", self.legend] if self.legend else [])]) + "\n"

    def to_latex(self) -> str:
        """Return the table as a LaTeX `table` for the package booktabs."""
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
                marked = (_latex(cell) for cell in _cells(row, "\x02{:.3f}\x03"))
                cells = [cell.replace("\x02", r"\textbf{").replace("\x03", "}") for cell in marked]
                lines.append(" & ".join([*map(_latex, row.words), *cells]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\smallskip\footnotesize {_latex(self.legend)}"] if self.legend else []
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def to_csv(self) -> str:
        """Return the unrounded numbers of the table as CSV: mean, standard deviation over seeds and overlap of every cell."""
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
                    cells += ["", "", ""] if point is None else [point.value, point.deviation, point.overlap]
                writer.writerow([section, *row.words, *cells])
        return text.getvalue()


def paper_table(rows: Iterable[Mapping[str, Any]], spec: TableSpec) -> PaperTable:
    """Make a table that a study asks for, from the rows of a results table that are about clips.

    Raises:
        ValueError: If the results contain nothing that the table shows.
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
    section_axis, section_words = _axis(spec.sections) if spec.sections else ("section", {"": [""]})
    sections: dict[str, list[Line]] = {}
    for section, title in section_words.items():
        chosen = {column: fixed | {section_axis: section, column_axis: column} for column in column_words}
        grid = {name: [point_at(cell | {row_axis: name}) for cell in chosen.values()] for name in row_words}
        # Bold compares models within a column, so nothing is bold if the models are the columns.
        metrics = [cell["metric"] if row_axis == "model" else "" for cell in chosen.values()]
        best = [_best(points, metric) for points, metric in zip(zip(*grid.values(), strict=True), metrics, strict=True)]
        sections[" ".join(title)] = [
            Line(
                [*row_words[name], *[""] * (len(spec.heads) - len(row_words[name]))],
                line,
                [point is not None and round(point.value, 3) == value for point, value in zip(line, best, strict=True)],
            )
            for name, line in grid.items()
        ]
    if not any(point for lines in sections.values() for line in lines for point in line.points):
        raise ValueError(f"Expected results for the table {spec.file!r}, got none of what it shows.")
    return PaperTable(spec.title, [*spec.heads, *(" ".join(words) for words in column_words.values())], sections)


def write_tables(rows: Iterable[Mapping[str, Any]], specs: Sequence[TableSpec], folder: Path) -> tuple[list[Path], list[str]]:
    """Write every table as `.md`, `.tex` and `.csv`. Return the files, and why some tables could not be made."""
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
    """Return the axis of rows, columns or sections, and the words for each of its values."""
    axis, values = next(iter(part.items()))
    named = values if isinstance(values, Mapping) else {name: NAMES.get(name, name) for name in values}
    return axis, {str(name): [words] if isinstance(words, str) else list(words) for name, words in named.items()}


def _best(points: Sequence[Point | None], metric: str) -> float | None:
    """Return the best value, rounded; `None` if there is nothing to compare."""
    values = dict(enumerate(point.value for point in points if point))
    if len(values) < 2 or metric not in GREATER_IS_BETTER:
        return None
    return round(values[best_of(values, metric)], 3)


def _cells(line: Line, bold: str) -> list[str]:
    found = zip(line.points, line.is_best, strict=True)
    return [point.text(bold if is_best else "{:.3f}") + point.mark if point else "-" for point, is_best in found]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
