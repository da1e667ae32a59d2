"""Tables and archives that unpack to more than they are, or lie about their sizes: a row or a message, in bounded memory."""

import gzip
import io
import json
import resource
import tarfile
import zipfile

import pytest
from typer.testing import CliRunner

from hf_sqa.cli import app
from hf_sqa.data import tables
from hf_sqa.data.tables import MAX_LINE, read_table
from hf_sqa.scoring import score_corpus
from hf_sqa.scoring.shards import iterate_rows, read_run
from hf_sqa.scoring.sources import open_source
from tests.faults.test_rows import good, score  # noqa: F401  # fixtures

openpyxl = pytest.importorskip("openpyxl")

#: What a test may add to the memory of this process, in bytes; the bombs below unpack to a hundred times as much or more.
ALLOWED_BYTES = 400 << 20


@pytest.fixture
def bounded():
    """Fails a test that needed much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < ALLOWED_BYTES


def packed(pieces):
    """Gzip of many pieces, fast."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as archive:
        for piece in pieces:
            archive.write(piece)
    return file.getvalue()


# --- Lists of text


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz"])
def test_a_line_without_end_is_one_bad_row(suffix, score, good, bounded):  # noqa: F811
    is_table = ".csv" in suffix
    row = b"%s\n" % (good.name.encode() if is_table else json.dumps({"path": good.name}).encode())
    pieces = [b"path\n" if is_table else b"", row, *[b"a" * (1 << 20)] * 18, b"\n", row]
    file = good.parent / f"in{suffix}"
    file.write_bytes(packed(pieces) if suffix.endswith("gz") else b"".join(pieces))

    first, bad, last = score(file)

    assert (first["status"], last["status"]) == ("ok", "ok")
    assert bad["code"] == "bad_row" and ("longer than" in bad["reason"] or "larger than" in bad["reason"]), bad


def test_the_lines_around_the_bound_are_whole(good):  # noqa: F811
    short, long = "a" * (MAX_LINE - 1), "b" * MAX_LINE

    lines = list(tables.bounded_lines(io.StringIO(f"{short}\n{long}\nc\n\nd")))

    assert [len(line) for line in lines] == [MAX_LINE, MAX_LINE, 2, 1, 1] and lines[2:] == ["c\n", "\n", "d"]


# --- Excel


def workbook(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def changed_sheet(path, change, name="xl/worksheets/sheet1.xml"):
    """The table with other XML."""
    with zipfile.ZipFile(path) as archive:
        content = {member: archive.read(member) for member in archive.namelist()}
    content[name] = change(content[name].decode()).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return path


def test_an_excel_table_is_a_corpus(score, good):  # noqa: F811
    rows = [["id", "filename", "", "mos"], ["a", good.name, None, 3.5], [None] * 4, ["b", f" {good.stem} ", "stray", None]]
    rows += [["c", "gone.wav", None, 1], ["d", "=A1", None, 1], ["e", None, None, 2]]

    scored = score(workbook(good.parent / "list.xlsx", rows))

    assert [(row["key"], row["status"], row["code"]) for row in scored[:3]] == [
        ("a", "ok", None),
        ("b", "ok", None),
        ("c", "failed", "missing"),
    ]
    assert [row["code"] for row in scored[3:]] == ["bad_row", "bad_row"] and "formula =A1" in scored[3]["reason"]


def test_an_excel_table_and_the_same_as_text_are_one_corpus(tiny_scorer, good, tmp_path):  # noqa: F811
    workbook(tmp_path / "list.xlsx", [["path", "n"], [str(good), 1], [str(good), 2]])
    (tmp_path / "list.csv").write_text(f"path,n\n{good},1\n{good},2\n")
    outputs = [tmp_path / f"out {name}" for name in ("list.xlsx", "list.csv")]
    for out in outputs:
        assert score_corpus(tmp_path / out.name[4:], out, scorer=tiny_scorer, num_workers=0).complete

    first, second = (list(iterate_rows(out, read_run(out))) for out in outputs)

    assert [{**row, "key": ""} for row in first] == [{**row, "key": ""} for row in second] and len(first) == 2
    assert open_source(tmp_path / "list.xlsx").total == 2


@pytest.mark.parametrize("name", ["list.xlsx", "list.csv", "rows.jsonl", "in.tar"])
def test_a_list_that_is_scored_like_a_recording_is_told_apart(name, tmp_path):
    (tmp_path / name).write_bytes(b"path\n")

    result = CliRunner().invoke(app, ["score", str(tmp_path / name)])

    assert result.exit_code == 2 and "is a list of recordings" in result.stderr and "--output out/" in result.stderr


def test_a_table_that_unpacks_to_gigabytes_is_refused_before_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_SHEET_BYTES", 10_000_000)
    path = workbook(tmp_path / "in.xlsx", [["path"], ["a.wav"]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/more.xml", "w", force_zip64=True) as member:
        for _ in range(64):
            member.write(bytes(1 << 18))

    with pytest.raises(ValueError, match=r"it unpacks to 16,\d+,\d+ bytes, more than 10,000,000"):
        list(read_table(path)[1])


def test_a_table_that_lies_about_its_size_is_no_table(tmp_path, bounded):
    path = workbook(tmp_path / "in.xlsx", [["path"], ["a" * 100_000]])
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size
    path.write_bytes(content.replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    assert path.read_bytes() != content

    with pytest.raises(ValueError, match="Expected an Excel table"):
        list(read_table(path)[1])


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
XML = {
    "entities of entities": f'<!DOCTYPE x [<!ENTITY e0 "aaaaaaaaaa">{ENTITIES}]>',
    "a file of this machine": '<!DOCTYPE x [<!ENTITY e9 SYSTEM "file:///etc/hostname">]>',
    "a definition elsewhere": '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd" [<!ENTITY e9 "x">]>',
}


@pytest.mark.parametrize("kind", XML)
def test_entities_of_xml_are_not_followed(kind, tmp_path, bounded):
    path = workbook(tmp_path / "in.xlsx", [["path", "n"], ["a.wav", 1]])

    def attack(sheet):
        declaration, _, rest = sheet.rpartition("<worksheet")
        cell = '<c r="A2" t="inlineStr"><is><t>&e9;</t></is></c>'
        return f"{declaration}{XML[kind]}<worksheet{rest}".replace("</row></sheetData>", f"{cell}</row></sheetData>")

    changed_sheet(path, attack)

    try:
        cells = [record for record, _ in read_table(path)[1]]
    except ValueError as error:
        assert "Expected an Excel table" in str(error)
    else:
        assert len(repr(cells)) < 10_000 and "aaaa" not in repr(cells)


def test_rows_beyond_those_of_a_sheet_are_not_waited_for(tmp_path):
    path = workbook(tmp_path / "in.xlsx", [["path"], ["a.wav"]])
    changed_sheet(path, lambda sheet: sheet.replace('r="2"', 'r="4000000000"').replace('"A2"', '"A4000000000"'))

    with pytest.raises(ValueError, match="Expected an Excel table"):
        list(read_table(path)[1])


# --- Tars


def header(name, size=0, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def member_of(name, content):
    return header(name, len(content)) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_a_tar_is_not_read_for_ever(kind, suffix, score, good, tmp_path, bounded):  # noqa: F811
    pieces = [member_of("a.wav", good.read_bytes()), header("x", 1 << 30, kind), *[bytes(1 << 20)] * 64]
    file = tmp_path / f"in{suffix}"
    file.write_bytes(packed(pieces) if suffix.endswith("gz") else b"".join(pieces))

    first, rest = score(file)

    assert first["status"] == "ok" and rest["code"] == "truncated" and "a header states 1,073,741,824 bytes" in rest["reason"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_damaged_header_within_a_tar_is_not_its_end(suffix, score, good, tmp_path):  # noqa: F811
    members = [member_of(name, good.read_bytes()) for name in ("a.wav", "b.wav", "c.wav")]
    members[1] = b"X" + members[1][1:]
    file = tmp_path / f"in{suffix}"
    file.write_bytes(packed([*members, bytes(1024)]) if suffix.endswith("gz") else b"".join([*members, bytes(1024)]))

    first, rest = score(file)

    assert first["status"] == "ok" and (rest["status"], rest["code"]) == ("failed", "truncated"), rest


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_member_with_holes_is_not_filled(suffix, score, good, tmp_path, bounded):  # noqa: F811
    hole = bytearray(header("b.wav", 512, tarfile.GNUTYPE_SPARSE))
    hole[386:398] = hole[398:410] = b"00000000000\0"
    hole[398:410] = b"%011o\0" % 512
    hole[483:495] = b"%011o\0" % (1 << 32)
    hole[148:156] = b" " * 8
    hole[148:156] = b"%06o\0 " % sum(hole)
    content = member_of("a.wav", good.read_bytes()) + bytes(hole) + b"a" * 512 + member_of("c.wav", good.read_bytes()) + bytes(1024)
    (tmp_path / f"in{suffix}").write_bytes(packed([content]) if suffix.endswith("gz") else content)

    first, bad, last = score(tmp_path / f"in{suffix}")

    assert (first["status"], last["status"]) == ("ok", "ok") and "holes" in bad["reason"]


def test_a_member_that_unpacks_to_gigabytes_is_one_refused_row(score, good, tmp_path, monkeypatch, bounded):  # noqa: F811
    from hf_sqa.scoring.sources import tars

    monkeypatch.setattr(tars, "MAX_MEMBER_BYTES", 1 << 25)
    pieces = [member_of("a.wav", good.read_bytes()), header("b.wav", 1 << 26), *[bytes(1 << 20)] * 64, bytes(1024)]
    (tmp_path / "in.tar.gz").write_bytes(packed(pieces))

    first, rest = score(tmp_path / "in.tar.gz")

    assert first["status"] == "ok" and rest["code"] == "truncated" and "67,108,864 bytes" in rest["reason"]


@pytest.mark.parametrize("name", ["../../outside.wav", "/tmp/outside.wav", "a/../../b.wav"])
def test_names_of_members_lead_nowhere(name, score, good, tmp_path):  # noqa: F811
    (tmp_path / "in.tar").write_bytes(member_of(name, good.read_bytes()) + bytes(1024))
    before = sorted(tmp_path.parent.rglob("*outside*"))

    (row,) = score(tmp_path / "in.tar")

    assert row["status"] == "ok" and sorted(tmp_path.parent.rglob("*outside*")) == before


def test_links_of_a_tar_are_not_followed(score, good, tmp_path):  # noqa: F811
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"{number}.wav")
            member.type, member.linkname = kind, str(good)
            archive.addfile(member)
        archive.add(good, "last.wav")

    (row,) = score(tmp_path / "in.tar")

    assert (row["status"], row["key"]) == ("ok", "last")
