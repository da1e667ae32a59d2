"""Tables in the layout of a paper: which number stands where, in every form."""

import csv
import io

import pytest

from hf_sqa.studies.study_file import TableSpec
from hf_sqa.studies.tables import paper_table, write_tables

VALUES = {
    ("scratch", "s_mos"): (0.5, 0.4),
    ("MPL", "s_mos"): (0.9, 0.1),
    ("scratch", "n_mos"): (0.8, 0.2),
    ("MPL", "n_mos"): (0.7, 0.3),
    ("linear-s_mos", "s_mos"): (0.6, 0.35),
    ("linear-n_mos", "n_mos"): (0.95, 0.05),
}


def row(model, score, metric, value, **columns):
    base = {"model": model, "seed": 0, "test_set": "TMHINT", "score": score, "level": "utt", "metric": metric, "value": value}
    return {**base, "low": value - 0.05, "high": value + 0.02, "num_clips": 50, "overlap": None, "series": None, **columns}


@pytest.fixture
def rows():
    """Two models that predict two scores, and a linear model for each score; LCC and MSE."""
    return [row(*key, metric, values[at]) for key, values in VALUES.items() for at, metric in enumerate(("lcc", "mse"))]


@pytest.fixture
def spec():
    return TableSpec(
        file="table1",
        title="Table 1: LCC & MSE",
        heads=["Systems", "Method"],
        sections={"score": {"s_mos": "S-MOS Score Prediction", "n_mos": "N-MOS Score Prediction"}},
        rows={"model": {"scratch": ["MTQ-Net", "From Scratch"], "MPL": ["MTQ-Net", "MPL"], "linear-{score}": "MOS-SSL"}},
        columns={"metric": ["lcc", "mse"]},
    )


def test_every_number_stands_in_its_section_row_and_column(rows, spec):
    text = paper_table(rows, spec).to_markdown()

    assert text.splitlines() == [
        "**Table 1: LCC & MSE**",
        "",
        "| Systems | Method | LCC | MSE |",
        "|---|---|---|---|",
        "| **S-MOS Score Prediction** |  |  |  |",
        "| MTQ-Net | From Scratch | 0.500 | 0.400 |",
        "| MTQ-Net | MPL | **0.900** | **0.100** |",
        "| MOS-SSL |  | 0.600 | 0.350 |",
        "| **N-MOS Score Prediction** |  |  |  |",
        "| MTQ-Net | From Scratch | 0.800 | 0.200 |",
        "| MTQ-Net | MPL | 0.700 | 0.300 |",
        "| MOS-SSL |  | **0.950** | **0.050** |",
    ]


def test_latex_has_the_same_numbers_and_its_signs_are_escaped(rows, spec):
    text = paper_table(rows, spec).to_latex()

    assert r"\caption{Table 1: LCC \& MSE}" in text and r"\begin{tabular}{llcc}" in text
    assert r"\multicolumn{4}{c}{N-MOS Score Prediction} \\" in text
    assert r"MTQ-Net & MPL & \textbf{0.900} & \textbf{0.100} \\" in text


def test_seeds_are_averaged_and_overlap_is_marked(rows, spec):
    second = [{**entry, "seed": 1, "value": entry["value"] + 0.02, "overlap": "talkers"} for entry in rows]
    rows = [{**entry, "overlap": "talkers"} for entry in rows] + second
    table = paper_table(rows, spec)

    assert "| MTQ-Net | From Scratch | 0.510 ± 0.014 § |" in table.to_markdown()
    assert table.to_markdown().endswith("mean ± standard deviation of 2 seeds; § trained on other speech of the same talkers\n")
    assert r"0.510 $\pm$ 0.014 $^\S$" in table.to_latex()


def test_the_numbers_are_in_a_csv_unrounded(rows, spec):
    lines = list(csv.DictReader(io.StringIO(paper_table(rows, spec).to_csv())))

    assert (lines[1]["section"], lines[1]["Method"], float(lines[1]["LCC"])) == ("S-MOS Score Prediction", "MPL", 0.9)
    assert lines[1]["LCC standard deviation"] == lines[1]["LCC overlap"] == ""


def test_what_is_not_done_yet_is_a_dash(rows, spec):
    rows = [entry for entry in rows if entry["model"] != "MPL"]

    assert "| MTQ-Net | MPL | - | - |" in paper_table(rows, spec).to_markdown()


def test_test_sets_can_be_columns_and_metrics_sections(rows):
    spec = TableSpec(
        file="t", rows={"model": ["scratch", "MPL"]}, columns={"test_set": ["TMHINT"]}, sections={"metric": ["lcc", "mse"]}
    )

    text = paper_table(rows, spec).to_markdown()

    assert "| **MSE** |  |\n| scratch | 0.400 |\n| MPL | **0.100** |" in text


def test_a_table_without_results_is_a_remark_and_no_file(rows, spec, tmp_path):
    others = [row("a", "mos", "ktau", 0.5)]

    written, remarks = write_tables(others, [spec], tmp_path)

    assert written == [] and remarks == ["table1: Expected results for the table 'table1', got none of what it shows."]
    assert list(tmp_path.iterdir()) == []


def test_an_axis_may_not_be_rows_and_columns():
    with pytest.raises(ValueError, match="no axis twice, got model, model"):
        TableSpec(file="t", rows={"model": ["a"]}, columns={"model": ["b"]})
