"""Every kind of source yields the same recordings in a stable order, and a broken row is a row."""

import csv
import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from hf_sqa.scoring.decoding import Decoding, load
from hf_sqa.scoring.items import Excerpt, Refusal, TarMember
from hf_sqa.scoring.sources import open_source

RATE = 16_000


def decoded(items):
    """Waveform of every item, or its refusal."""
    results = []
    for item in items:
        result = item.refusal or load(item, Decoding(RATE))
        results.append(result if isinstance(result, Refusal) else result.waveform)
    return results


def is_whole(source, clips, names=None):
    """Whether a source yields the twelve clips."""
    expected = [soundfile.read(path, dtype="float32")[0] for path in sorted(clips.glob("*.wav"))]
    got = decoded(source.items())
    return len(got) == 12 and all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))


def write_tar(path, clips, mode="w", with_json=False):
    with tarfile.open(path, mode) as archive:
        for clip in sorted(clips.glob("*.wav")):
            if with_json:
                content = json.dumps({"language": "de", "n": int(clip.stem)}).encode()
                header = tarfile.TarInfo(f"{clip.stem}.json")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
            archive.add(clip, clip.name)


def test_a_folder_is_searched_in_depth_in_order_of_names(clips):
    source = open_source(clips)

    assert source.total == 12
    assert is_whole(source, clips)
    assert [item.position for item in source.items()] == list(range(12))


def test_a_glob_takes_what_matches(clips):
    assert [item.key[-6:] for item in open_source(f"{clips}/0[0-3].wav").items()] == ["00.wav", "01.wav", "02.wav", "03.wav"]


def test_a_nemo_manifest_is_read_from_where_it_lies(clips, tmp_path):
    manifest = clips.parent / "nemo.json"
    lines = [json.dumps({"audio_filepath": f"{clips.name}/{i:02d}.wav", "duration": 1.0, "text": "ü"}) for i in range(12)]
    manifest.write_text("\n".join(lines), encoding="utf-8")

    source = open_source(manifest)

    assert is_whole(source, clips)
    assert next(iter(source.items())).columns == {"duration": 1.0, "text": "ü"}


def test_offset_and_duration_of_nemo_cut_an_excerpt(clips, tmp_path):
    manifest = tmp_path / "cuts.jsonl"
    record = {"audio_filepath": str(clips / "05.wav"), "offset": 0.25, "duration": 0.4}
    manifest.write_text(json.dumps(record) + "\n" + json.dumps({**record, "offset": 0.3}), encoding="utf-8")

    first, second = open_source(manifest).items()

    whole = soundfile.read(clips / "05.wav", dtype="float32")[0]
    assert np.array_equal(decoded([first])[0], whole[4000:10400])
    assert first.key != second.key


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_an_excerpt_has_the_samples_that_reading_through_gives(suffix, clips, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / f"a.{suffix}", 0.1 * rng.standard_normal((9 * RATE, 2)), RATE)
    (tmp_path / "cuts.jsonl").write_text(
        json.dumps({"audio_filepath": f"a.{suffix}", "offset": 5.0, "duration": 1.5}), encoding="utf-8"
    )

    waveform = decoded(open_source(tmp_path / "cuts.jsonl").items())[0]

    whole = soundfile.read(tmp_path / f"a.{suffix}", dtype="float32")[0].mean(axis=1, dtype=np.float32)
    assert np.array_equal(waveform, whole[5 * RATE : round(6.5 * RATE)])


def test_an_excerpt_beyond_the_end_is_refused(clips, tmp_path):
    manifest = tmp_path / "cuts.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(clips / "00.wav"), "offset": 0.3, "duration": 9}), encoding="utf-8")

    assert decoded(open_source(manifest).items())[0].code == "truncated"


def test_lhotse_cuts_name_recording_stretch_channel_and_language(tmp_path):
    left, right = 0.1 * np.random.default_rng(0).standard_normal((2, 2 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), RATE, "FLOAT")
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0, 1], "source": "two.wav"}], "duration": 2.0}
    cut = {"id": "cut-1", "start": 0.5, "duration": 1.0, "channel": 1, "type": "MonoCut", "recording": recording}
    cut["supervisions"] = [{"id": "s", "language": "fr", "text": "oui"}]
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.write(json.dumps(cut) + "\n" + json.dumps(recording) + "\n" + json.dumps({"id": "m", "type": "MixedCut"}))

    items = list(open_source(tmp_path / "cuts.jsonl.gz").items())

    assert np.array_equal(decoded(items[:1])[0], right[RATE // 2 : 3 * RATE // 2])
    assert (items[0].key, items[0].columns["language"]) == ("cut-1", "fr")
    assert np.allclose(decoded(items[1:2])[0], (left + right) / 2, atol=1e-7)
    assert items[2].refusal.code == "bad_row"


def test_an_urgent_manifest_takes_its_sample_id_for_the_key(clips, tmp_path):
    manifest = tmp_path / "urgent.jsonl"
    manifest.write_text(
        json.dumps({"sample_id": "fileid_7", "audio_path": str(clips / "07.wav"), "system_id": "T03", "metrics": {"mos": 3.2}}),
        encoding="utf-8",
    )

    (item,) = open_source(manifest).items()

    assert item.key == "fileid_7"
    assert item.columns["system_id"] == "T03"


@pytest.mark.parametrize(
    "bad", ['{"audio_filepath": "x.wa', "[1, 2]", '{"text": "no audio"}', b"\xff\xfe{}", '{"audio_filepath": 5}']
)
def test_a_broken_line_in_the_middle_is_a_row_of_its_own(bad, clips, tmp_path):
    manifest = tmp_path / "m.jsonl"
    good = [json.dumps({"audio_filepath": str(clips / f"{i:02d}.wav")}).encode() for i in range(2)]
    manifest.write_bytes(b"\n".join([good[0], bad if isinstance(bad, bytes) else bad.encode(), b"", good[1]]))

    items = list(open_source(manifest).items())

    assert [item.position for item in items] == [0, 1, 2]
    assert [item.refusal and item.refusal.code for item in items] == [None, "bad_row", None]
    assert items[1].key == "m.jsonl:2"


def test_half_a_character_in_a_name_is_a_row_of_its_own(clips, tmp_path):
    lhotse = {"id": "b\ud83d", "recording": {"sources": [{"type": "file", "source": "\ud83d.wav"}]}}
    lines = [json.dumps({"id": "a\ud83d", "path": "\ud83d.wav"}), json.dumps(lhotse)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))

    items = list(open_source(tmp_path / "m.jsonl").items())

    assert [item.key for item in items] == ["a\\ud83d", "b\\ud83d"]
    assert [result.code for result in decoded(items)] == ["missing", "missing"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_a_short_row_in_the_middle(delimiter, clips, tmp_path):
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["id", "path", "system"], ["a", clips / "00.wav", "x"], ["b"], ["c", clips / "01.wav", "y"]])

    items = list(open_source(table).items())

    assert [item.key for item in items] == ["a", "t.csv:3", "c"]
    assert items[1].refusal.code == "bad_row"
    assert items[2].columns == {"id": "c", "system": "y"}


def test_a_list_holds_a_path_a_line(clips):
    (clips.parent / "list.txt").write_text("# ours\n" + "\n".join(f"{clips.name}/{i:02d}.wav" for i in range(12)), encoding="utf-8")

    assert is_whole(open_source(clips.parent / "list.txt"), clips)


@pytest.mark.parametrize("mode, name", [("w", "a.tar"), ("w:gz", "a.tar.gz")])
def test_a_tar_gives_the_recordings_and_the_columns_beside_them(mode, name, clips, tmp_path):
    write_tar(tmp_path / name, clips, mode, with_json=True)

    source = open_source(tmp_path / name)

    assert is_whole(source, clips)
    items = list(source.items())
    assert [item.key for item in items] == [f"{i:02d}" for i in range(12)]
    assert [item.columns["n"] for item in items] == list(range(12))


def test_members_of_a_local_tar_are_read_where_they_are_decoded(clips, tmp_path):
    write_tar(tmp_path / "a.tar", clips)

    assert all(isinstance(item.audio, TarMember) for item in open_source(tmp_path / "a.tar").items())


def test_numbered_tars_are_named_with_braces(clips, tmp_path):
    for number in range(8, 11):
        write_tar(tmp_path / f"{number:03d}.tar", clips)

    assert sum(1 for _ in open_source(f"{tmp_path}/{{008..010}}.tar").items()) == 36


@pytest.mark.parametrize("mode, name", [("w", "a.tar"), ("w:gz", "a.tar.gz")])
def test_a_tar_cut_short_gives_what_is_there_and_a_row_for_the_rest(mode, name, clips, tmp_path):
    write_tar(tmp_path / "whole.tar", clips, mode)
    content = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])

    items = list(open_source(tmp_path / name).items())

    good = [item for item in items if item.refusal is None]
    assert 3 <= len(good) <= 9
    assert not [result for result in decoded(good) if isinstance(result, Refusal)]
    assert [item.refusal.code for item in items if item.refusal] == ["truncated"]
    assert items[-1].refusal is not None


@pytest.mark.parametrize("with_bytes", [True, False])
def test_parquet_with_bytes_or_paths(with_bytes, clips, tmp_path):
    import pyarrow
    import pyarrow.parquet

    paths = sorted(clips.glob("*.wav"))
    audio = [{"bytes": path.read_bytes(), "path": path.name} if with_bytes else str(path) for path in paths]
    table = pyarrow.table({"audio": audio, "language": ["de"] * 12, "id": [f"k{i}" for i in range(12)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)

    source = open_source(tmp_path / "a.parquet")

    assert source.total == 12
    assert is_whole(source, clips)
    assert next(iter(source.items())).key == "k0"
    unread = list(source.items(lambda position: position >= 10))
    assert [item.audio is None for item in unread[:5]] == [True] * 5
    assert unread[0].name == (paths[0].name if with_bytes else str(paths[0]))


@pytest.mark.parametrize("kind", ["saved", "streamed"])
def test_datasets_on_disk_and_streamed(kind, clips, tmp_path):
    import datasets
    import pyarrow

    rows = [{"audio": {"bytes": path.read_bytes(), "path": path.name}, "language": "nl"} for path in sorted(clips.glob("*.wav"))]
    dataset = datasets.Dataset(pyarrow.Table.from_pylist(rows)).cast_column("audio", datasets.Audio(decode=False))
    if kind == "saved":
        dataset.save_to_disk(tmp_path / "d")
        source = open_source(tmp_path / "d")
    else:
        (tmp_path / "d").mkdir()
        dataset.to_parquet(tmp_path / "d" / "train.parquet")
        source = open_source(f"hub:{tmp_path / 'd'}")

    assert is_whole(source, clips)
    assert next(iter(source.items())).columns == {"language": "nl"}


def test_a_file_system_behind_a_url(clips, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in clips.glob("*.wav"):
        memory.pipe(f"/corpus/{path.name}", path.read_bytes())
    memory.pipe("/corpus/m.jsonl", b"\n".join(b'{"audio_filepath": "%02d.wav"}' % i for i in range(12)))

    assert is_whole(open_source("memory://corpus/m.jsonl"), clips)
    assert is_whole(open_source("memory://corpus/*.wav"), clips)


def test_a_path_beside_a_manifest_behind_a_url_may_go_up(clips):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/up/clips/0.wav", (clips / "00.wav").read_bytes())
    memory.pipe("/up/lists/m.txt", b"../clips/0.wav\nmemory://up/clips/0.wav\n")

    first, second = open_source("memory://up/lists/m.txt").items()

    assert first.audio == second.audio == "memory://up/clips/0.wav"
    assert np.array_equal(*decoded([first, second]))


def test_excerpts_are_what_a_manifest_asks_for_and_whole_files_are_not(clips, tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav"}) + "\n" + json.dumps({"audio_filepath": "a.wav", "offset": 0}))

    whole, cut = open_source(manifest).items()

    assert isinstance(whole.audio, str) and isinstance(cut.audio, Excerpt)


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent.jsonl", "there is no file"),
        ("empty", "there are none"),
        ("notes.docx", "Expected a folder, a recording, or a list ending in .jsonl"),
        ("*.wav", "no file matches"),
        ("both", "got 1 audio, 1 tar; name one kind with a glob"),
        ("names.csv", "Expected a column of recordings"),
    ],
)
def test_what_is_no_corpus_is_refused_with_a_reason(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.wav").write_bytes(b"1")
    (tmp_path / "both" / "a.tar").write_bytes(b"1")
    (tmp_path / "notes.docx").write_text("x")
    (tmp_path / "names.csv").write_text("who,what\na,b\n")

    with pytest.raises((FileNotFoundError, ValueError), match=r".*") as caught:
        list(open_source(tmp_path / name).items())

    assert message in str(caught.value)


def test_the_number_of_rows_is_known_before_they_are_read(clips, tmp_path):
    write_tar(tmp_path / "a.tar", clips)
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav"}\n\n{broken\n  \n{"path": "b.wav"}')
    (tmp_path / "m.csv").write_text('path,text\na.wav,"two\nlines"\n\nb.wav\n')
    (tmp_path / "m.txt").write_text("# list\na.wav\n\nb.wav\n")

    for name, total in (("m.jsonl", 3), ("m.csv", 2), ("m.txt", 2), ("a.tar", None)):
        source = open_source(tmp_path / name)
        assert source.total == total
        assert total is None or sum(1 for _ in source.items()) == total


def test_a_name_that_is_not_utf8_is_found_and_shown(clips, tmp_path):
    name = b"caf\xe9.wav"
    (tmp_path / "x").mkdir()
    with open(bytes(tmp_path / "x") + b"/" + name, "wb") as file:
        file.write((clips / "00.wav").read_bytes())
    (tmp_path / "x" / "m.csv").write_bytes(b"path,who\n" + name + b",a\n")

    for source in (open_source(tmp_path / "x" / "*.wav"), open_source(tmp_path / "x" / "m.csv")):
        (item,) = source.items()
        assert item.key.endswith("caf\\xe9.wav")
        assert not isinstance(decoded([item])[0], Refusal)
