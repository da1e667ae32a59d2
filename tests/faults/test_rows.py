"""One bad row is one bad row: it is there, named, with its reason; its neighbours are scored; and nothing is done twice."""

import contextlib
import io
import json
import os
import re
import struct
import tarfile

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from typer.testing import CliRunner

from hf_sqa.cells import csv_cell, visible
from hf_sqa.cli import app
from hf_sqa.scoring import open_source, score_corpus
from tests import processes

RATE = 16_000


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The path of a recording of half a second."""
    path = tmp_path_factory.mktemp("good") / "good.wav"
    time = np.arange(RATE // 2) / RATE
    noise = np.random.default_rng(1).standard_normal(len(time))
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 3 * time) + 0.02 * noise, RATE)
    return path


@pytest.fixture
def score(tiny_scorer, tmp_path):
    """`score(source)`: rows of a corpus scored in this process, after a second run that found nothing to do."""

    def run(source, **options):
        options = {"scorer": tiny_scorer, "num_workers": 0, "rows_per_shard": 2, **options}
        first = score_corpus(source, tmp_path / "out", **options)
        again = score_corpus(source, tmp_path / "out", **options)
        assert (again.rows, again.kept) == (0, first.rows) and first.complete
        shards = sorted((tmp_path / "out" / "shards").glob("*.parquet"))
        return pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in shards).to_pylist()

    return run


def nested(depth):
    return "[" * depth + "]" * depth


CUT = {"id": "c", "type": "MonoCut", "start": 0, "duration": 0.5, "channel": 0}
SOURCE = {"type": "file", "channels": [0], "source": "good.wav"}


def cut(recording=None, **changes):
    return json.dumps({**CUT, "recording": {"sources": [SOURCE], "duration": 0.5} if recording is None else recording, **changes})


BAD_LINES = {
    "not JSON": '{"audio_filepath": ',
    "a number": "5",
    "a list": '["good.wav"]',
    "null": "null",
    "no fields": "{}",
    "no field of audio": '{"text": "hello"}',
    "an empty path": '{"audio_filepath": ""}',
    "a null path": '{"audio_filepath": null}',
    "a number for a path": '{"audio_filepath": 7}',
    "true for a path": '{"audio_filepath": true}',
    "a list for a path": '{"audio_filepath": ["good.wav"]}',
    "a struct without path and bytes": '{"audio": {}}',
    "a struct with a null path": '{"audio": {"path": null}}',
    "a struct with two nulls": '{"audio": {"bytes": null, "path": null}}',
    "a struct with a number as path": '{"audio": {"path": 3}}',
    "a struct with a text as bytes": '{"audio": {"bytes": "RIFF", "path": "a.wav"}}',
    "a struct with nested bytes": '{"audio": {"bytes": [["x"]]}}',
    "a row nested deeply": nested(100_000),
    "a row nested to the limit of Python": nested(900),
    "a field nested deeply": '{"audio_filepath": "good.wav", "x": ' + nested(50_000) + "}",
    "a field nested where JSON can be read and not written": '{"audio_filepath": "good.wav", "x": ' + nested(300) + "}",
    "an audio nested deeply": '{"audio": {"path": ' + nested(200) + "}}",
    "an offset of 400 digits": '{"audio_filepath": "good.wav", "offset": ' + "9" * 400 + "}",
    "an offset of 5000 digits": '{"audio_filepath": "good.wav", "offset": ' + "9" * 5000 + "}",
    "an offset of 400 digits as text": '{"audio_filepath": "good.wav", "offset": "' + "9" * 400 + '"}',
    "an offset of 1e300": '{"audio_filepath": "good.wav", "offset": 1e300}',
    "an offset that is NaN": '{"audio_filepath": "good.wav", "offset": NaN}',
    "an infinite offset": '{"audio_filepath": "good.wav", "offset": Infinity}',
    "a negative offset": '{"audio_filepath": "good.wav", "offset": -1}',
    "an offset that is a list": '{"audio_filepath": "good.wav", "offset": []}',
    "an offset that is text": '{"audio_filepath": "good.wav", "offset": "soon"}',
    "a duration that is an object": '{"audio_filepath": "good.wav", "offset": 0, "duration": {}}',
    "a cut without a recording": '{"id": "c", "recording": null}',
    "a cut whose recording is text": '{"recording": "good.wav"}',
    "a cut whose sources are text": '{"recording": {"sources": "x"}}',
    "a cut whose sources are an object": '{"recording": {"sources": {"0": 1}}}',
    "a cut whose source is text": '{"recording": {"sources": ["good.wav"]}}',
    "a cut whose source is null": '{"recording": {"sources": [null]}}',
    "a cut without sources": '{"recording": {"sources": []}}',
    "a cut of a command": cut({"sources": [{**SOURCE, "type": "command"}]}),
    "a cut whose source is a number": cut({"sources": [{**SOURCE, "source": 4}]}),
    "a mixture": '{"type": "MixedCut", "tracks": []}',
    "a cut to be transformed": cut({"sources": [SOURCE], "transforms": [{"name": "Speed"}]}),
    "a cut with a channel in words": cut(channel="left"),
    "a cut with half a channel": cut(channel=0.5),
    "a cut with a channel that is true": cut(channel=True),
    "a cut with channels of another recording": cut(channel=[0, 7]),
    "a cut that begins in text": cut(start="soon"),
    "a cut that begins before the recording": cut(start=-1),
    "a cut of endless duration": cut(duration=1e300),
    "a cut with a duration that is a list": cut(duration=[1]),
    "sources that are text": '{"sources": "x", "id": "r"}',
    "sources that hold a number": '{"sources": [3], "id": "r"}',
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_of_a_manifest_that_cannot_be_understood_is_a_bad_row(line, score, good):
    manifest = good.parent / "manifest.jsonl"
    manifest.write_text("\n".join(['{"audio_filepath": "good.wav"}', line, '{"audio_filepath": "good.wav", "id": "last"}']))

    first, bad, last = score(manifest)

    assert (first["status"], last["status"], last["key"]) == ("ok", "ok", "last")
    assert (bad["status"], bad["code"]) == ("failed", "bad_row") and bad["key"] and 10 < len(bad["reason"]) < 1000
    assert "Traceback" not in bad["reason"]


#: Bytes of a line, and the code of its row: what is read has its own reason, whatever it is called.
ODD_LINES = {
    "bytes that are not UTF-8": (b'{"audio_filepath": "\xff.wav"}', "bad_row"),
    "half of a pair": (rb'{"audio_filepath": "\ud800.wav"}', "missing"),
    "a name with a NUL": (rb'{"audio_filepath": "a\u0000.wav"}', "missing"),
    "a name that is far too long": (b'{"audio_filepath": "' + b"a" * 5000 + b'.wav"}', "missing"),
    "a folder": (b'{"audio_filepath": "."}', "is_directory"),
    "a channel that is not there": (cut(channel=3).encode(), "no_such_channel"),
    "a stretch beyond the end": (b'{"audio_filepath": "good.wav", "offset": 100, "duration": 1}', "truncated"),
    "an unknown kind of URL": (b'{"audio_filepath": "gopher://a/b.wav"}', "unsupported"),
}


@pytest.mark.parametrize("line, code", ODD_LINES.values(), ids=ODD_LINES)
def test_a_line_whose_recording_cannot_be_read_is_a_row_with_the_reason(line, code, score, good):
    manifest = good.parent / "odd.jsonl"
    manifest.write_bytes(b'{"audio_filepath": "good.wav"}\n' + line + b'\n{"audio_filepath": "good.wav"}\n')

    rows = score(manifest)

    assert [row["status"] for row in rows] == ["ok", "failed", "ok"] and rows[1]["code"] == code, rows[1]


BAD_CELLS = {
    "a null": None,
    "two nulls": {"bytes": None, "path": None},
    "an empty path": {"bytes": None, "path": ""},
}


@pytest.mark.parametrize("cell", BAD_CELLS.values(), ids=BAD_CELLS)
@pytest.mark.parametrize("kind", ["parquet", "saved data set"])
def test_a_cell_without_a_recording_is_a_bad_row(cell, kind, score, good, tmp_path):
    import datasets

    cells = [{"bytes": good.read_bytes(), "path": None}, cell, {"bytes": good.read_bytes(), "path": "last.wav"}]
    type_of_cell = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"audio": pyarrow.array(cells, type_of_cell), "language": ["de", "fr", "nl"]})
    if kind == "parquet":
        pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=1)
        source = tmp_path / "in.parquet"
    else:
        source = tmp_path / "saved"
        datasets.Dataset(table).save_to_disk(source)

    first, bad, last = score(source)

    assert (first["status"], last["status"], last["language"]) == ("ok", "ok", "nl")
    assert (bad["status"], bad["code"], bad["language"]) == ("failed", "bad_row", "fr") and "'audio'" in bad["reason"]


@pytest.mark.parametrize("cell", [None, b"", b"RIFF"])
def test_a_cell_of_bytes_that_hold_no_recording_is_a_row(cell, score, good, tmp_path):
    cells = pyarrow.array([good.read_bytes(), cell, good.read_bytes()], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"audio": cells}), tmp_path / "in.parquet")

    assert [row["status"] for row in score(tmp_path / "in.parquet")] == ["ok", "failed", "ok"]


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


BAD_JSON = {
    "nested deeply": nested(100_000).encode(),
    "a field nested deeply": b'{"x": ' + nested(200).encode() + b"}",
    "not JSON": b"{",
    "a list": b"[]",
    "a number": b"3",
    "not UTF-8": b'{"a": "\xff"}',
    "empty": b"",
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_json_of_a_tar_that_cannot_be_understood_is_a_bad_row(content, suffix, score, good, tmp_path):
    recording = good.read_bytes()
    members = [
        ("a.wav", recording),
        ("b.wav", recording),
        ("b.json", content),
        ("c.wav", recording),
        ("c.json", b'{"language": "de"}'),
    ]
    write_tar(tmp_path / f"in{suffix}", members, "w:gz" if suffix.endswith("gz") else "w")

    first, bad, last = score(tmp_path / f"in{suffix}")

    assert (first["status"], last["status"]) == ("ok", "ok")
    assert (bad["status"], bad["code"], bad["key"]) == ("failed", "bad_row", "b") and "b.json" in bad["reason"]


def with_size(header, size):
    """A header of a tar that tells another size, with the checksum that belongs to it."""
    field = b"%011o\0" % size if 0 <= size < 8**11 else struct.pack(">BxxxQ", 0xFF if size < 0 else 0x80, size & (1 << 64) - 1)
    header = header[:124] + field + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


@pytest.mark.parametrize("size", [-1, -512, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_that_lies_about_a_size_is_scored_up_to_there(size, suffix, score, good, tmp_path):
    import gzip

    write_tar(tmp_path / "in.tar", [("a.wav", good.read_bytes()), ("b.wav", good.read_bytes())])
    content = (tmp_path / "in.tar").read_bytes()
    second = 512 + -(-len(good.read_bytes()) // 512) * 512
    content = content[:second] + with_size(content[second : second + 512], size) + content[second + 512 :]
    (tmp_path / "in.tar").unlink()
    (tmp_path / f"in{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)

    first, *rest = score(tmp_path / f"in{suffix}")

    assert first["status"] == "ok"
    assert rest and {row["status"] for row in rest} == {"failed"} and {row["code"] for row in rest} <= {"truncated", "bad_row"}


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz"])
def test_a_compressed_list_that_is_damaged_ends_the_run_with_its_name_and_keeps_what_was_read(
    damage, suffix, tiny_scorer, good, tmp_path
):
    import gzip

    lines = ["path,id"] if "csv" in suffix else []
    lines += [f"{good},{i}" if lines else json.dumps({"path": str(good), "id": str(i)}) for i in range(3000)]
    content = bytearray(gzip.compress("\n".join(lines).encode(), 0))
    if damage == "cut":
        del content[-2000:]
    else:
        content[-2000] ^= 255  # the checksum tells
    (tmp_path / f"in{suffix}").write_bytes(content)

    with pytest.raises(OSError, match=f"in{suffix}"):
        list(open_source(tmp_path / f"in{suffix}").items())


class Raising:
    """Audio that raises an error of any kind when it is opened, as decoders do."""

    def __init__(self, error):
        self.error = error

    def get_all_samples(self):
        raise self.error


class Dying:
    """Audio whose decoder ends its process, as libraries with a fault do."""

    def get_all_samples(self):
        os._exit(11)


class Unmovable(Raising):
    """Audio that cannot be sent to another process."""

    def __reduce__(self):
        raise TypeError("it stays here")


ERRORS = [ValueError("a"), TypeError("b"), KeyError(1), IndexError("c"), AttributeError("d"), RuntimeError("e"), OSError("f")]
ERRORS += [EOFError("g"), struct.error("h"), AssertionError("i"), RecursionError("j"), OverflowError("k"), NotImplementedError("l")]
ERRORS += [
    ZeroDivisionError("m"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "n"),
    StopIteration("o"),
    soundfile.LibsndfileError(1),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises_is_a_row(error, good, tiny_scorer):
    rows = tiny_scorer([str(good), Raising(error), str(good)], on_error="row", return_details=True, return_segments=True)

    assert [row["code"] for row in rows] == [None, "undecodable", None]
    assert type(error).__name__ in rows[1]["reason"]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_recording_that_does_not_fit_into_memory_is_a_row(good, tiny_scorer):
    rows = tiny_scorer([Raising(MemoryError()), str(good)], on_error="row")

    assert [row["code"] for row in rows] == ["out_of_memory", None]


def test_a_decoder_that_dies_costs_its_recording_only(good, tiny_scorer):
    rows = list(tiny_scorer([str(good), Dying(), Unmovable(KeyError(2)), str(good)], on_error="row", num_workers=1))

    assert [row["code"] for row in rows] == [None, "decoder_died", "undecodable", None]
    assert "the decoding process died twice" in rows[1]["reason"]


def test_a_wrong_option_is_no_bad_recording(good, tiny_scorer):
    for channel in ("left", True, 0.5):
        with pytest.raises(TypeError, match="Expected `channel` to be 'mean' or a channel number"):
            tiny_scorer([str(good)], on_error="row", channel=channel)


HEADERLESS = [".raw", ".pcm", ".wav", ".flac", ".ogg", ".mp3"]


@pytest.fixture
def command(tiny_folder, monkeypatch, tmp_path):
    """`command(*arguments)`: `hf-sqa score` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        options = ["--model", str(tiny_folder), "--device", "cpu", "--num-workers", "0"]
        return CliRunner().invoke(app, ["score", *options, *map(str, arguments)])

    return run


@pytest.mark.parametrize("suffix", HEADERLESS)
def test_the_score_of_a_file_survives_a_headerless_one_beside_it(suffix, command, good, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes())

    result = command(good, f"x{suffix}", "--output", "-")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1, result.output
    assert [row["status"] for row in rows] == ["ok", "failed"] and rows[1]["code"] == "undecodable"


@pytest.mark.parametrize("name", ["=1+1.wav", "+cmd.wav", "-x.wav", "@sum.wav", "=HYPERLINK(a).wav"])
def test_a_name_that_a_spreadsheet_would_compute_is_text_in_csv(name, command, score, good, tmp_path):
    (tmp_path / name).write_bytes(good.read_bytes())

    assert command(f"./{name}", "--output", "rows.csv").exit_code == 0
    assert command("--output", "bare.csv", "--", name).exit_code == 0
    score(tmp_path / "[=+@-]*.wav")
    from hf_sqa.scoring.sinks import export

    export(tmp_path / "out", "csv")
    export(tmp_path / "out", "jsonl")

    assert pandas.read_csv("rows.csv")["file"][0] == f"./{name}"
    assert pandas.read_csv("bare.csv")["file"][0] == f"'{name}"
    assert json.loads((tmp_path / "out" / "scores.jsonl").read_text())["key"].endswith(name)


CELLS = [("=1", "'=1"), ("-1.5", "-1.5"), ("+49", "+49"), (-1.5, -1.5), ("-", "'-"), (["=a", "b"], "'=a;b"), (float("nan"), "")]
CELLS += [(None, ""), ("\ta", "'\ta"), ("a=b", "a=b"), ({"a": 1}, '{"a": 1}')]


@pytest.mark.parametrize("value, cell", CELLS)
def test_cells_of_csv(value, cell):
    assert csv_cell(value) == cell


@pytest.mark.parametrize("name", ["\x1b[2Jx.wav", "a\rb.wav", "\x07.wav", "\x9b31m.wav", "\u202egnp.wav", "\u200bx.wav"])
def test_what_moves_the_cursor_is_shown_as_an_escape(name, command, good, tmp_path):
    (tmp_path / name).write_bytes(good.read_bytes())

    for output in (command(name).output, command(f"gone{name}").output, command(f"@gone{name}").output):
        assert output and all(sign.isprintable() or sign in "\n\t" for sign in output)
    assert visible(name) in command(name).stdout


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_rows_that_do_not_fit_on_the_disk_are_printed_and_the_exit_code_is_2(suffix, command, good, tmp_path):
    (tmp_path / f"rows{suffix}").symlink_to("/dev/full")

    result = command(good, "--output", f"rows{suffix}")

    assert result.exit_code == 2, result.output
    assert re.search(r"cannot be written to its end \(.*No space left on device\)", " ".join(result.stderr.split()))
    assert "good.wav" in result.stdout


def test_an_output_that_is_removed_meanwhile_is_missed(tiny_scorer, good, tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join([json.dumps({"path": str(good)})] * 8))
    out = tmp_path / "out"

    def remove(progress):
        if progress.rows == 5:
            for shard in (out / "shards").iterdir():
                shard.unlink()

    options = {"scorer": tiny_scorer, "num_workers": 0, "rows_per_shard": 2}
    with contextlib.suppress(OSError):
        assert not score_corpus(manifest, out, on_progress=remove, **options).complete
    progress = score_corpus(manifest, out, **options)
    assert progress.complete and len(list((out / "shards").iterdir())) == 4


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--help"]], ids=["table", "help"])
def test_a_standard_output_that_is_full_is_one_line_and_exit_code_2(options, good, tiny_folder, nursery):
    full = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"

    result = nursery.start(full + processes.command("score", good, "--model", tiny_folder, "--num-workers", 0, *options))
    result.communicate()

    assert result.returncode == 2, result.stderr
    assert "No space left on device" in result.stderr and len(result.stderr.strip().splitlines()) == 1
