"""Tables as people have them: what is written is read, what cannot be understood is said with its line, and nothing is lost."""

import datetime
import io
import math
import sys
import zipfile

import miniature
import pytest

from hf_sqa.data import load_corpus
from hf_sqa.data.tables import delimited_cells, json_records, read_delimited, read_number, read_table, sheet_cells

EXPECTED = [{"file": "a.wav", "mos": "3.5"}, {"file": "b.wav", "mos": "4"}]


def rows_of(content):
    """Rows by column of delimited text, and the lines of those that cannot be read."""
    content = content if isinstance(content, bytes) else content.encode()
    _, records = read_delimited(io.BytesIO(content), "t.csv")
    records = list(records)
    bad = [line for record, line in records if isinstance(record, ValueError)]
    return [record for record, _ in records if isinstance(record, dict)], bad


TEXTS = {
    "commas": "file,mos\na.wav,3.5\nb.wav,4\n",
    "semicolons": "file;mos\na.wav;3.5\nb.wav;4\n",
    "tabs": "file\tmos\na.wav\t3.5\nb.wav\t4\n",
    "bars": "file|mos\na.wav|3.5\nb.wav|4\n",
    "no end": "file,mos\na.wav,3.5\nb.wav,4",
    "ends of Windows": "file,mos\r\na.wav,3.5\r\nb.wav,4\r\n",
    "ends of old Macs": "file,mos\ra.wav,3.5\rb.wav,4\r",
    "sep": "sep=;\nfile;mos\na.wav;3.5\nb.wav;4\n",
    "sep in quotes, a tab": '"sep=\t"\r\nfile\tmos\r\na.wav\t3.5\r\nb.wav\t4\r\n',
    "a byte order mark": "\ufefffile,mos\na.wav,3.5\nb.wav,4\n",
    "UTF-16": "file\tmos\na.wav\t3.5\nb.wav\t4\n".encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + "file\tmos\na.wav\t3.5\nb.wav\t4\n".encode("utf-16-be"),
    "blank rows": "\n\nfile,mos\n\na.wav,3.5\n,\n  \nb.wav,4\n,,\n\n",
    "spaces around cells": " file , mos\na.wav ,\t3.5\n b.wav, 4 \n",
    "quoted cells": '"file","mos"\n"a.wav","3.5"\n"b.wav","4"\n',
    "commas at the end of every row": "file,mos,,\na.wav,3.5,,\nb.wav,4,,\n",
    "commas at the end of some rows": "file,mos\na.wav,3.5,\nb.wav,4\n",
    "an index of pandas": ",file,mos\n0,a.wav,3.5\n1,b.wav,4\n",
    "a remark beside the table": "file,mos,,,\na.wav,3.5,,,\nb.wav,4,,,see mail\n",
    "a remark below the table, under no name": "file,mos,,\na.wav,3.5,,\nb.wav,4,,\n,,,checked\n",
    "an empty column in the middle": "file,,mos\na.wav,,3.5\nb.wav,,4\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_delimited_text_of_any_program_gives_the_same_rows(kind):
    assert rows_of(TEXTS[kind]) == (EXPECTED, [])


def test_a_delimiter_within_quotes_is_none():
    assert rows_of('"file, as sent";"mos, mean, of 5"\na.wav;3\n') == ([{"file, as sent": "a.wav", "mos, mean, of 5": "3"}], [])
    assert rows_of('file,mos\n"a, b.wav",3\n') == ([{"file": "a, b.wav", "mos": "3"}], [])


def test_a_line_end_within_quotes_belongs_to_its_cell():
    assert rows_of('file,text\na.wav,"two\nlines"\nb.wav,one\n')[0][0] == {"file": "a.wav", "text": "two\nlines"}


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("file,mos,lang\na.wav,3,en\nb.wav,4\nc.wav,5,en\n", [3]),
        ("file,mos,lang\na.wav,3,en\nb.wav,4,en,de\nc.wav,5,en\n", [3]),
        ("file,mos,lang\na.wav,3,en\nb,x.wav,4,en\nc.wav,5,en\n", [3]),
        ('file,mos,lang\na.wav,3,en\n"b.wav,4,en\nc.wav,5,en\n', [3]),
        ('file,mos,lang\na.wav,3,en\nb.wav,"4,en\nc.wav,5,en\n', [3]),
        ('file,mos,lang\na.wav,3,en\nc.wav,5,en\n"b.wav,4,en\n', [4]),
    ],
    ids=[
        "a cell is missing",
        "a cell too many",
        "a comma without quotes",
        "an open quote first",
        "an open quote later",
        "an open quote at the end",
    ],
)
def test_a_row_that_cannot_be_read_costs_itself_alone(text, bad):
    rows, lines = rows_of(text)

    assert lines == bad
    assert [row["file"] for row in rows] == ["a.wav", "c.wav"]


def test_an_open_quote_does_not_eat_ten_thousand_rows():
    rows, bad = rows_of('file,mos\n"a.wav,3\n' + "".join(f"{number}.wav,3\n" for number in range(10_000)))

    assert (len(rows), bad) == (10_000, [2])


def test_a_cell_longer_than_any_name_is_a_row_that_cannot_be_read():
    rows, bad = rows_of("file,mos\na.wav,3\n" + "x" * 200_000 + ",3\nb.wav,3\n")

    assert ([row["file"] for row in rows], bad) == (["a.wav", "b.wav"], [3])


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"Expected columns of different names in t.csv, got file, mos, mos"):
        rows_of("file,mos,mos\na.wav,3,4\n")


@pytest.mark.parametrize("content", ["", "\n\n", ",,\n", "\ufeff"])
def test_an_empty_table_has_neither_columns_nor_rows(content):
    header, records = read_delimited(io.BytesIO(content.encode()), "t.csv")

    assert (header, list(records)) == ([], [])


def test_a_byte_that_is_not_utf8_stays_in_its_cell():
    rows, _ = rows_of(b"file,mos\nM\xfcller.wav,3\nb.wav,4\n")

    assert [row["file"] for row in rows] == ["M\udcfcller.wav", "b.wav"]


def test_a_nul_stays_in_its_cell():
    rows, _ = rows_of(b"file,mos\na\0b.wav,3\nc.wav,4\n")

    assert [row["file"] for row in rows] == ["a\N{REPLACEMENT CHARACTER}b.wav", "c.wav"]


def test_text_without_a_header_may_be_ragged():
    assert list(delimited_cells(["s,a,3\n", "\n", "s,b\n"], has_header=False)) == [(["s", "a", "3"], 1), (["s", "b"], 3)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3.5", 3.5),
        ("3,5", 3.5),
        (" 3.5 ", 3.5),
        ("-0,25", -0.25),
        ("4", 4.0),
        ("1,5e1", 15.0),
        ("1e2", 100.0),
        (3, 3.0),
        (2.5, 2.5),
        ("nan", math.nan),
    ],
)
def test_numbers_are_read_as_people_write_them(text, number):
    assert read_number(text) == pytest.approx(number, nan_ok=True)


@pytest.mark.parametrize(
    "text", ["", "four", "1,234.5", "1.234,5", "3,5,1", "1_0", "3 5", True, False, None, [3], 10**400, "3;5", "0x3", "#DIV/0!"]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="expected a number, got"):
        read_number(text)


def test_json_lines_give_objects_or_what_is_wrong():
    lines = ['{"a": 1}\n', "\n", "[1]\n", "{\n", "[" * 100_000 + "\n", '{"a": ' + "9" * 5000 + "}\n", '{"b": 2}']

    found = list(json_records(lines))

    assert [line for _, line in found] == [1, 3, 4, 5, 6, 7]
    assert [record if isinstance(record, dict) else "bad" for record, _ in found] == [
        {"a": 1},
        "bad",
        "bad",
        "bad",
        "bad",
        {"b": 2},
    ]


class TestExcel:
    @pytest.fixture
    def book(self, tmp_path):
        return lambda *rows: miniature.xlsx(tmp_path / "t.xlsx", {"Tabelle1": rows})

    def rows(self, path, sheet=None):
        _, records = read_table(path, sheet)
        return [record if isinstance(record, dict) else line for record, line in records]

    def test_numbers_dates_and_truth_are_shown_as_in_excel(self, book):
        path = book(
            ("file", "mos", "day", "time", "native", "votes", "long"),
            ("a.wav", 3.25, datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 12, 30), True, 24.0, 0.1 + 0.2),
        )

        assert self.rows(path) == [
            {
                "file": "a.wav",
                "mos": "3.25",
                "day": "2024-05-01",
                "time": "2024-05-01 12:30:00",
                "native": "TRUE",
                "votes": "24",
                "long": "0.3",
            }
        ]

    def test_blank_rows_and_columns_and_stray_cells_are_left_out(self, book):
        path = book(
            (None,),
            ("file", "mos", None),
            (None, None, None),
            (" a.wav ", 3),
            ("b.wav", 4, None, None, None, "see mail"),
            (None,) * 12 + ("x",),
        )

        assert self.rows(path) == [{"file": "a.wav", "mos": "3"}, {"file": "b.wav", "mos": "4"}]

    def test_lines_are_those_that_excel_shows(self, book):
        path = book(("file", "mos"), (None, None), ("a.wav", 3))

        assert [line for _, line in sheet_cells(path)] == [1, 3]

    @pytest.mark.parametrize("shared", [False, True], ids=["in the cell", "in the list of strings"])
    def test_the_reading_of_japanese_is_no_part_of_a_name(self, shared, book):
        """Excel keeps furigana beside the text it belongs to."""
        text = "\u6771\u4eac.wav"
        string = f'<t>{text}</t><rPh sb="0" eb="2"><t>\u30c8\u30a6\u30ad\u30e7\u30a6</t></rPh><phoneticPr fontId="1"/>'
        path = book(("file", "mos"), (text, 3))
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name).decode() for name in archive.namelist()}
        sheet, types = "xl/worksheets/sheet1.xml", "[Content_Types].xml"
        cell = f't="inlineStr"><is><t>{text}</t></is>'
        assert cell in parts[sheet]
        if shared:
            parts[sheet] = parts[sheet].replace(cell, 't="s"><v>0</v>')
            main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
            parts["xl/sharedStrings.xml"] = f'<sst xmlns="{main}" count="1" uniqueCount="1"><si>{string}</si></sst>'
            kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
            named = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
            parts[types] = parts[types].replace("</Types>", named)
        else:
            parts[sheet] = parts[sheet].replace(f"<is><t>{text}</t></is>", f"<is>{string}</is>")
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)

        assert self.rows(path) == [{"file": text, "mos": "3"}]

    def test_a_formula_that_was_never_computed_is_no_missing_score(self, book):
        path = book(("file", "mos"), ("a.wav", "=AVERAGE(3,4)"), ("b.wav", 4))

        assert self.rows(path) == [2, {"file": "b.wav", "mos": "4"}]

    def test_what_the_file_says_of_its_size_is_not_believed(self, book):
        path = book(("file", "mos"), ("a.wav", 3))
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        sheet = parts["xl/worksheets/sheet1.xml"]
        assert b'ref="A1:B2"' in sheet
        for claimed in (b'ref="A1"', b'ref="A1:XFD1048576"'):
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in parts.items():
                    archive.writestr(name, content.replace(b'ref="A1:B2"', claimed))

            assert self.rows(path) == [{"file": "a.wav", "mos": "3"}]

    def test_a_sheet_is_found_by_name_and_the_first_is_taken_otherwise(self, tmp_path):
        path = miniature.xlsx(tmp_path / "t.xlsx", {"one": [("a",), (1,)], "two": [("a",), (2,)]})

        assert (self.rows(path), self.rows(path, "two"), self.rows(path, "three")) == ([{"a": "1"}], [{"a": "2"}], [{"a": "1"}])

    @pytest.mark.parametrize("content", [b"", b"file,mos\n", b"PK\x03\x04" + bytes(100)], ids=["empty", "text", "a torn archive"])
    def test_what_is_no_excel_table_is_refused(self, content, tmp_path):
        path = tmp_path / "t.xlsx"
        path.write_bytes(content)

        with pytest.raises(ValueError, match=r"Expected an Excel table \(.xlsx\), got .*Save it as CSV"):
            self.rows(path)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    def test_a_torn_table_is_refused(self, share, book):
        path = book(("file", "mos"), *((f"{number}.wav", number % 5) for number in range(200)))
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

        with pytest.raises(ValueError, match=r"Expected an Excel table"):
            self.rows(path)

    def test_without_openpyxl_the_extra_is_named(self, book, monkeypatch):
        path = book(("file", "mos"))
        monkeypatch.setitem(sys.modules, "openpyxl", None)

        with pytest.raises(ImportError, match=r"pip install 'hf-sqa\[xlsx\]'`; or save it as CSV"):
            self.rows(path)


class TestOwnTable:
    """The reader under `load_corpus`, with recordings beside it."""

    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("sub/a.wav", "sub/Gr\u00fc\u00dfe.wav", "c.1.wav"):
            miniature.recording(tmp_path / name)
        return tmp_path

    def load(self, folder, *lines, name="t.csv", encoding="utf-8"):
        dataset = load_corpus(miniature.text(folder / name, *lines, encoding=encoding))
        return [(row["audio"]["path"].removeprefix(f"{folder}/"), round(row["mos"], 3)) for row in dataset]

    @pytest.mark.parametrize("named", ["sub/a.wav", "sub\\a.wav", ".\\sub\\a.wav", "./sub/a.wav", " sub/a.wav ", "sub/a", "sub\\a"])
    def test_a_recording_is_found_as_people_write_its_name(self, named, folder):
        assert self.load(folder, "file,mos", f"{named},3.5", "c.1,2") == [("sub/a.wav", 3.5), ("c.1.wav", 2.0)]

    def test_an_accent_may_be_written_in_two_pieces(self, folder):
        assert self.load(folder, "file,mos", "sub/Gr\u0075\u0308\u00dfe.wav,3.5") == [("sub/Gr\u00fc\u00dfe.wav", 3.5)]

    def test_a_table_of_a_german_excel(self, folder):
        lines = ("sep=;", "file;mos;;", "", "sub\\a.wav;3,25;;", "c.1.wav;4;;gut", ";;;")

        assert self.load(folder, *lines, encoding="utf-16") == [("sub/a.wav", 3.25), ("c.1.wav", 4.0)]

    def test_a_decimal_comma_is_read(self, folder):
        assert self.load(folder, "file;mos;votes", "sub/a.wav;3,25;24", "c.1.wav;4;24") == [("sub/a.wav", 3.25), ("c.1.wav", 4.0)]

    def test_a_comma_that_could_be_either_is_named(self, folder):
        with pytest.raises(ValueError, match=r"got text: mos '3,25,1'"):
            self.load(folder, "file;mos", "sub/a.wav;3,25,1")

    def test_true_is_no_score(self, folder):
        miniature.xlsx(folder / "t.xlsx", {"s": [("file", "mos"), ("sub/a.wav", True)]})

        with pytest.raises(ValueError, match="got text: mos 'TRUE'"):
            load_corpus(folder / "t.xlsx")

    def test_a_row_that_cannot_be_read_is_named(self, folder):
        with pytest.raises(ValueError, match=r"t.csv line 3, got something else: expected 2 cells, got 1"):
            self.load(folder, "file,mos", "sub/a.wav,3", "c.1.wav")
