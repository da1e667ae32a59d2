"""The schema: tables of one's own, the Hub's, scales, ratings, and a hundred thousand rows in seconds."""

import json
import math
import subprocess
import sys

import miniature
import pytest
import soundfile

from hf_sqa.data import check_corpus, load_corpus, rescale_mos, schema_features


@pytest.fixture
def clips(tmp_path):
    """Three recordings, `a.wav`, `b.wav` and `deep/c.flac`, and their folder."""
    for name in ("a.wav", "b.wav", "deep/c.flac"):
        miniature.recording(tmp_path / name)
    return tmp_path


def test_columns_are_found_by_their_usual_names(clips):
    table = miniature.text(clips / "my_test.csv", "FileName;Mean Score;System;votes", "a.wav;2.5;x;8", "b.wav;4;y;8")

    dataset = load_corpus(str(table), language="de")

    assert dataset.features == schema_features()
    assert (dataset["mos"][:], dataset["system_id"][:], dataset["num_ratings"][:]) == ([2.5, 4.0], ["x", "y"], [8, 8])
    assert (set(dataset["corpus"]), set(dataset["language"])) == ({"my_test"}, {"de"})
    assert "columns audio=FileName, mos=Mean Score" in dataset.info.description


def test_columns_can_be_named_and_other_names_are_further_scores(clips):
    table = miniature.text(clips / "t.csv", "stimulus,opinion,warmth", "a.wav,2.5,7", "b.wav,4,")

    dataset = load_corpus(table, columns={"audio": "stimulus", "mos": "opinion", "warmth": "warmth"})

    assert dataset["mos"][:] == [2.5, 4.0]
    assert dataset["warmth"][0] == 7.0
    assert math.isnan(dataset["warmth"][1])


def test_a_table_without_a_known_column_says_how_to_name_it(clips):
    table = miniature.text(clips / "t.csv", "file,opinion", "a.wav,2.5")

    with pytest.raises(ValueError, match=r"column of scores in .*got the columns file, opinion\. Name it with `columns={'mos'"):
        load_corpus(table)
    with pytest.raises(ValueError, match=r"Expected a column 'view' for mos in .*, got the columns file, opinion"):
        load_corpus(table, columns={"mos": "view"})


def test_a_byte_order_mark_a_leading_dot_and_a_missing_suffix_do_no_harm(clips):
    table = miniature.text(clips / "t.csv", "file,mos", "./a,2.5", "deep/c,3", encoding="utf-8-sig")

    dataset = load_corpus(table)

    assert [soundfile.info(one["path"]).format for one in dataset["audio"]] == ["WAV", "FLAC"]
    assert dataset["utterance_id"][:] == ["a", "c"]


def test_paths_are_absolute_so_that_a_data_set_outlives_the_working_folder(clips, monkeypatch):
    miniature.text(clips / "t.csv", "file,mos,sig,bak", "a.wav,2.5,3,2")
    monkeypatch.chdir(clips)

    row = load_corpus("t.csv")[0]

    assert row["audio"]["path"] == str(clips / "a.wav")
    assert (row["s_mos"], row["n_mos"]) == (3.0, 2.0)


def test_paths_begin_in_the_root_where_one_is_given(clips, tmp_path_factory):
    table = miniature.text(tmp_path_factory.mktemp("labels") / "t.csv", "file,mos", "a.wav,2.5")

    assert len(load_corpus(table, clips)) == 1
    with pytest.raises(FileNotFoundError, match="1 of 1 recordings"):
        load_corpus(table)


def test_scores_leave_on_five_points_and_keep_the_scale_they_came_from(clips):
    table = miniature.text(clips / "t.csv", "file,mos,std,votes", "a.wav,0,20,5", "b.wav,75,10,5")

    dataset = load_corpus(table, scale=(0, 100))

    assert dataset["mos"][:] == [1.0, 4.0]
    assert dataset["mos_std"][:] == pytest.approx([0.8, 0.4])
    assert dataset["mos_ci95"][0] == pytest.approx(2.7764 * 0.8 / math.sqrt(5), abs=1e-4)
    assert (dataset[0]["scale_min"], dataset[0]["scale_max"]) == (0.0, 100.0)
    assert rescale_mos(3.3, (1, 5)) == 3.3


def test_scores_outside_the_assumed_scale_are_refused(clips):
    table = miniature.text(clips / "t.csv", "file,mos", "a.wav,0", "b.wav,75")

    message = r"mos 0 outside 1-5 \(t.csv line 2\), mos 75 .*such as `scale=\(0, 100\)` \(`--scale 0 100`\); nothing is"
    with pytest.raises(ValueError, match=message):
        load_corpus(table)


def test_ratings_are_averaged_where_listeners_are_named_and_else_refused(clips):
    named = miniature.text(clips / "t.csv", "wav_path,system_id,sample_id,score,listener_id", "a.wav,s,1,2,x", "a.wav,s,1,4,y")
    unnamed = miniature.text(clips / "u.csv", "wav_path,score", "a.wav,2", "a.wav,4")

    assert [(row["mos"], row["num_ratings"]) for row in load_corpus(named)] == [(3.0, 2)]
    assert load_corpus(named, ratings="each")["listener_id"][:] == ["x", "y"]
    with pytest.raises(ValueError, match=r"Expected one row a recording .* got several: .*a.wav \(2 rows\).*ratings='mean'"):
        load_corpus(unnamed)
    assert load_corpus(unnamed, ratings="mean")["mos"][:] == [3.0]


def test_urgent_json_lines_are_read_as_they_are(clips):
    lines = [
        {"audio_path": str(clips / name), "system_id": "s", "sample_id": "1", "duration": 1, "sr": 16000, "metrics": {"mos": mos}}
        for name, mos in (("a.wav", 2.5), ("b.wav", 3.5))
    ]
    table = miniature.text(clips / "t.jsonl", *map(json.dumps, lines))

    assert load_corpus(table)["mos"][:] == [2.5, 3.5]


def test_an_unrated_recording_is_nan_and_counted(clips):
    table = miniature.text(clips / "t.csv", "file,mos", "a.wav,NA", "b.wav,3")

    dataset = load_corpus(table)

    assert math.isnan(dataset["mos"][0])
    assert "1 label rows carry no score" in dataset.info.description


def test_many_missing_files_are_counted_and_only_a_few_named(clips):
    table = miniature.text(clips / "t.csv", "file,mos", *(f"x{number}.wav,3.{number}" for number in range(9)))

    with pytest.raises(FileNotFoundError, match=r"9 of 9 recordings of .*x4\.wav, and 4 more\. Name the folder"):
        load_corpus(table)
    with pytest.raises(ValueError, match="has no rows: all its audio is missing"):
        load_corpus(table, on_missing="drop")


def test_a_data_set_of_the_hub_keeps_its_bytes_undecoded(clips, tmp_path):
    """A local folder stands for the repository; `load_dataset` reads both alike."""
    import datasets

    audio = [{"bytes": (clips / name).read_bytes(), "path": None} for name in ("a.wav", "b.wav")]
    table = datasets.Dataset.from_dict({"id": ["one", "two"], "audio": audio, "mos": [2.5, 3.5]})
    table = table.cast_column("audio", datasets.Audio())
    (tmp_path / "repo" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "repo" / "data" / "test-00000-of-00001.parquet")

    dataset = load_corpus(f"hub:{tmp_path / 'repo'}")

    assert dataset.features == schema_features()
    assert dataset[0]["audio"] == audio[0]
    assert (dataset["utterance_id"][:], dataset["mos"][:], dataset["split"][:]) == (["one", "two"], [2.5, 3.5], ["test", "test"])
    assert "dropped 0" in dataset.info.description
    assert len(load_corpus("urgent2024-mos", tmp_path / "repo")) == 2
    report = check_corpus("urgent2024-mos", tmp_path / "repo")
    assert (report.sampling_rates, report.faults) == ({16_000: 2}, {"count": ["test has 2 of 6,900"]})


def test_ratings_of_the_hub_are_averaged_and_keep_their_audio(clips, tmp_path):
    import datasets

    audio = [{"bytes": (clips / name).read_bytes(), "path": name} for name in ("a.wav", "a.wav", "b.wav")]
    table = datasets.Dataset.from_dict({"audio": audio, "rating": [2, 3, 4], "listener": ["x", "y", "x"]})
    (tmp_path / "repo" / "data").mkdir(parents=True)
    table.cast_column("audio", datasets.Audio()).to_parquet(tmp_path / "repo" / "data" / "train-00000-of-00001.parquet")

    dataset = load_corpus(f"hub:{tmp_path / 'repo'}")

    assert (dataset["mos"][:], dataset["num_ratings"][:], dataset["split"][0]) == ([2.5, 4.0], [2, 1], "train")
    assert list(dataset["audio"]) == [audio[0], audio[2]]


def test_importing_the_data_package_loads_nothing_heavy():
    code = (
        "import sys; import hf_sqa.data; "
        "print([name for name in ('datasets', 'pandas', 'torch', 'pyarrow', 'soundfile') if name in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_without_datasets_the_extra_is_named(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(ImportError, match=r"pip install 'hf-sqa\[train\]'"):
        load_corpus(clips / "t.csv")
