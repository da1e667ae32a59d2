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


@pytest.mark.parametrize("column, later", [("reason", "silent"), ("warnings", ["short"])])
def test_a_column_that_is_empty_in_the_first_piece_of_parquet_is_one_of_text(column, later, tmp_path, monkeypatch):
    monkeypatch.setattr(row_tables, "ROWS_AT_A_TIME", 2)
    rows = [ROWS[0], ROWS[0], ROWS[0] | {column: later}]

    write_table(tmp_path / "rows.parquet", rows)

    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows


def test_rows_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    writer = RowWriter(tmp_path / "rows.csv")
    writer.write(ROWS[0])

    assert (tmp_path / "rows.csv").read_text().splitlines() == ["file,mos,reason,warnings", "a.wav,3.5,,"]
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(FileNotFoundError, match="it was removed while it was written"):
        writer.close()
