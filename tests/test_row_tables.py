"""Tables of rows, in every kind of file."""

import csv
import json

import pyarrow.parquet
import pytest

from hf_sqa import row_tables
from hf_sqa.row_tables import RowWriter, write_table

ROWS = [
    {"file": "a.wav", "mos": 3.5, "reason": None, "warnings": []},
    {"file": "=b.wav", "mos": float("nan"), "reason": "silent; check it", "warnings": ["short", "quiet"]},
]


def test_rows_come_back_from_every_kind_of_file(tmp_path):
    for kind in (".jsonl", ".csv", ".tsv", ".parquet"):
        write_table(tmp_path / f"rows{kind}", ROWS)

    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["mos"] for line in lines] == [3.5, None]
    for kind, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"rows{kind}").open(newline="") as file:
            assert list(csv.reader(file, delimiter=delimiter)) == [
                ["file", "mos", "reason", "warnings"],
                ["a.wav", "3.5", "", ""],
                ["'=b.wav", "", "silent; check it", "short;quiet"],  # no formula of a spreadsheet
            ]
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()[0] == ROWS[0]


@pytest.mark.parametrize(
    "values",
    [
        [None, None, "silent"],
        [[], [], ["short"]],
        [None, None, 3.5],
        [None, None, None, None, True],
        [[], [], [1.5]],
        [1, 2, 3.5],
        [None, 2, None, None, 3.5, None],
        [None, None, None],
    ],
    ids=str,
)
def test_values_of_a_later_piece_of_parquet_are_kept_whatever_came_before(values, tmp_path, monkeypatch):
    monkeypatch.setattr(row_tables, "ROWS_AT_A_TIME", 2)
    rows = [{"file": str(number), "value": value} for number, value in enumerate(values)]

    write_table(tmp_path / "rows.parquet", rows)

    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows


def test_a_column_that_only_later_rows_have_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(row_tables, "ROWS_AT_A_TIME", 2)

    write_table(tmp_path / "rows.parquet", [{"file": "a"}, {"file": "b", "mos": 3.5}, {"file": "c", "snr_db": 20.0}])

    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == [
        {"file": "a", "mos": None, "snr_db": None},
        {"file": "b", "mos": 3.5, "snr_db": None},
        {"file": "c", "mos": None, "snr_db": 20.0},
    ]


@pytest.mark.parametrize("values", [[1, 2, "loud"], ["loud", "quiet", 3], [1, "loud"]], ids=str)
def test_numbers_and_text_in_one_column_of_parquet_are_refused(values, tmp_path, monkeypatch):
    monkeypatch.setattr(row_tables, "ROWS_AT_A_TIME", 2)

    with pytest.raises(ValueError, match=r"holds values of several kinds .* write \.csv or \.jsonl"):
        write_table(tmp_path / "rows.parquet", [{"value": value} for value in values])


def test_rows_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    writer = RowWriter(tmp_path / "rows.csv")
    writer.write(ROWS[0])

    assert (tmp_path / "rows.csv").read_text().splitlines() == ["file,mos,reason,warnings", "a.wav,3.5,,"]
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(FileNotFoundError, match="it was removed while it was written"):
        writer.close()
