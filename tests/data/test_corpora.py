"""Every loader passes a miniature of the official download, and the check finds each fault planted in it."""

import math
import shutil
import sys
from pathlib import Path

import miniature
import pytest
import soundfile

from hf_sqa.data import CORPORA, check_corpus, load_corpus, schema_features
from hf_sqa.data.corpora.corpus import Corpus
from hf_sqa.hub.doc_tables import corpora_table, updated

#: Name, tree, and the rows that its miniature holds.
TREES = {
    "nisqa": (miniature.nisqa, 6),
    "pstn": (miniature.pstn, 3),
    "tencent": (miniature.tencent, 4),
    "iub": (miniature.iub, 6),
    "bvcc": (miniature.bvcc, 6),
    "tmhint-qi": (miniature.tmhint_qi, 2),
    "somos": (miniature.somos, 3),
    "tcd-voip": (miniature.tcd_voip, 4),
    "singmos": (miniature.singmos, 3),
    "vmc2023": (miniature.vmc2023, 4),
    "vmc2024": (miniature.vmc2024, 2),
}


@pytest.fixture
def tree(tmp_path):
    """`tree(name, **options)`: the root folder of a miniature."""
    return lambda name, **options: TREES[name][0](tmp_path / name, **options)


def rows(dataset):
    return {row["utterance_id"]: row for row in dataset}


@pytest.mark.parametrize("name", TREES)
def test_every_corpus_loads_in_the_schema_and_its_audio_exists(name, tree):
    dataset = load_corpus(name, tree(name))

    assert dataset.features == schema_features()
    assert len(dataset) == TREES[name][1]
    assert all(soundfile.info(one["path"]).frames and one["bytes"] is None for one in dataset["audio"])
    assert all(1 <= mos <= 5 for mos in dataset["mos"])
    assert {one.partition("/")[0] for one in dataset["corpus"]} == {name}
    assert dataset.info.description.endswith("dropped 0, whose audio is missing")
    assert "torchcodec" not in sys.modules


@pytest.mark.parametrize("name", TREES)
def test_a_folder_above_the_corpus_serves_as_well(name, tree):
    assert len(load_corpus(name, tree(name).parent)) == TREES[name][1]


@pytest.mark.parametrize("name", TREES)
def test_an_empty_folder_says_what_was_looked_for_and_found(name, tmp_path):
    (tmp_path / "holiday.jpg").touch()

    with pytest.raises(FileNotFoundError, match=r"looked in .* for .*; found holiday\.jpg"):
        load_corpus(name, tmp_path)


@pytest.mark.parametrize("name", TREES)
def test_a_corpus_without_its_audio_says_which_is_missing(name, tree):
    root = tree(name)
    for path in root.rglob("*.wav"):
        path.unlink()

    with pytest.raises(FileNotFoundError, match=rf"{TREES[name][1]} of {TREES[name][1]} recordings of {name} are missing: "):
        load_corpus(name, root)


def test_nisqa_has_five_scores_conditions_intervals_and_a_german_database(tree):
    dataset = load_corpus("nisqa", tree("nisqa"))
    first, last = dataset[0], dataset[5]

    assert [first[name] for name in ("mos", "noisiness", "coloration", "discontinuity", "loudness")] == [1.5, 2, 3.1, 4.1, 1]
    assert (first["num_ratings"], first["mos_std"]) == (24, 0.5)
    assert first["mos_ci95"] == pytest.approx(2.0687 * 0.5 / math.sqrt(24), abs=1e-4)  # Student's t, 23 degrees of freedom
    assert (first["condition_id"], first["split"], first["language"]) == ("TEST_FOR/1", "test", "en")
    assert Path(first["reference_audio"]["path"]).is_file()
    assert (last["corpus"], last["language"], last["reference_audio"]) == ("nisqa/TEST_LIVETALK", "de", None)
    assert math.isnan(first["pesq"])


def test_one_database_of_nisqa_is_a_part_and_needs_only_its_own_label_file(tree):
    root = tree("nisqa")
    (root / "NISQA_corpus_file.csv").unlink()
    shutil.rmtree(root / "NISQA_TEST_LIVETALK")

    assert set(load_corpus("nisqa/test_for", root)["corpus"]) == {"nisqa/TEST_FOR"}
    assert len(load_corpus("nisqa", root)) == 3
    with pytest.raises(ValueError, match="got 'TEST_NSC'; its parts are nisqa/TRAIN_SIM"):
        load_corpus("nisqa/TEST_NSC", root)


def test_pstn_groups_clips_by_their_original(tree):
    dataset = load_corpus("pstn", tree("pstn"))

    assert dataset["source_id"][:] == ["0001", "0001", "0002"]
    assert (dataset[0]["mos_ci95"], dataset[0]["split"], dataset[0]["system_id"]) == (0.7, None, None)


def test_tencent_is_told_apart_by_reverberation(tree):
    dataset = load_corpus("tencent", tree("tencent"))

    assert set(dataset["corpus"]) == {"tencent/without_reverberation", "tencent/with_reverberation"}
    assert not any("./" in one["path"] for one in dataset["audio"])


@pytest.mark.parametrize("factor", [1, 10])
def test_iu_bloomington_is_brought_to_the_five_point_scale_from_either_of_its_scales(factor, tree):
    dataset = load_corpus("iub/cosine", tree("iub", factor=factor))

    assert dataset["mos"][:] == [1.0, 2.0, 5.0]  # 1 + 4 * 2.5 / 10 = 2
    assert set(dataset["scale_max"]) == {10.0 * factor}


def test_iu_bloomington_asks_for_the_scale_where_the_scores_leave_it_open(tmp_path):
    miniature.recording(tmp_path / "cosine" / "1.wav")
    miniature.text(tmp_path / "ratings.csv", "filename,mos", "cosine/1.wav,3")

    with pytest.raises(ValueError, match=r"lie within 3-3: that is 0-10, or 1-5 after a rescaling.*scale=\(0, 10\)"):
        load_corpus("iub", tmp_path)
    assert load_corpus("iub", tmp_path, scale=(0, 10))["mos"][:] == [2.2]
    assert load_corpus("iub", tmp_path, scale=(1, 5))["mos"][:] == [3.0]


def test_bvcc_averages_the_ratings_of_a_recording(tree):
    found = load_corpus("bvcc/main", tree("bvcc"))
    first = rows(found)["sysa-utttrai"]

    assert (first["mos"], first["num_ratings"], first["system_id"], first["listener_id"]) == (3.5, 4, "sysa", None)
    assert first["mos_std"] == pytest.approx(math.sqrt(5 / 3))  # squares 2.25 + 0.25 + 0.25 + 2.25, over 4 - 1
    assert found["split"][:] == ["validation", "test", "train"]


def test_bvcc_can_keep_a_row_a_rating(tree):
    dataset = load_corpus("bvcc/ood", tree("bvcc"), ratings="each")

    assert len(dataset) == 12
    assert dataset[8]["listener_id"] == "listener0"
    assert set(dataset["num_ratings"]) == {1}
    assert set(dataset["language"]) == {"zh"}


def test_bvcc_falls_back_on_lists_of_means(tmp_path):
    miniature.recording(tmp_path / "main" / "DATA" / "wav" / "sysa-utt1.wav")
    miniature.text(tmp_path / "main" / "DATA" / "sets" / "val_mos_list.txt", "sysa-utt1.wav,3.125")

    (row,) = load_corpus("bvcc", tmp_path)

    assert (row["mos"], row["system_id"], row["split"]) == (3.125, "sysa", "validation")


def test_tmhint_qi_averages_what_is_rated_and_finds_the_split_by_the_folder(tree):
    found = rows(load_corpus("tmhint-qi", tree("tmhint-qi")))
    row = found["FCN_snr-2_babble_TMHINT_b2_21_02"]

    assert (row["mos"], row["num_ratings"], row["intelligibility"]) == (3.0, 2, 7.0)  # 2, 4 and an empty one
    assert (row["system_id"], row["split"]) == ("FCN--2-babble", "train")
    assert found["KLT_snr5_pink_TMHINT_g1_03_07"]["split"] == "test"


def test_3quest_labels_are_joined_by_file_name(tree, tmp_path):
    table = miniature.text(
        tmp_path / "3quest.csv", "file,S-MOS,N-MOS,G-MOS", "somewhere/FCN_snr-2_babble_TMHINT_b2_21_02.wav,2.5,3.5,2.75"
    )

    dataset = load_corpus("tmhint-qi", tree("tmhint-qi"), join=table)

    row = rows(dataset)["FCN_snr-2_babble_TMHINT_b2_21_02"]
    assert [row[name] for name in ("s_mos", "n_mos", "g_mos")] == [2.5, 3.5, 2.75]
    assert math.isnan(rows(dataset)["KLT_snr5_pink_TMHINT_g1_03_07"]["s_mos"])
    assert "s_mos, n_mos, g_mos joined for 1 of 2 recordings" in dataset.info.description


def test_joining_a_table_of_other_recordings_is_refused(tree, tmp_path):
    table = miniature.text(tmp_path / "other.csv", "file,G-MOS", "dog.wav,2.5")

    with pytest.raises(ValueError, match=r"None of the 1 recordings .* \(dog, ...\) is of this corpus"):
        load_corpus("tmhint-qi", tree("tmhint-qi"), join=table)


def test_somos_means_its_full_part_and_shares_sentences_between_systems(tree):
    dataset = load_corpus("somos", tree("somos"))

    assert set(dataset["corpus"]) == {"somos/full"}
    assert set(dataset["source_id"]) == {"novel_2007_0098"}


@pytest.mark.parametrize("as_csv", [False, True], ids=["xlsx", "csv with a byte order mark"])
def test_tcd_voip_reads_the_excel_sheet_and_its_csv_form(as_csv, tree):
    row = rows(load_corpus("tcd-voip", tree("tcd-voip", as_csv=as_csv)))["C_01_NOISE_ML"]

    assert (row["mos"], row["condition_id"], row["talker_id"], row["num_ratings"]) == (3.5, "21", "ML", 24)
    assert Path(row["reference_audio"]["path"]).name == "R_01_NOISE_ML.wav"


def test_originals_beside_the_rated_recordings_are_not_counted_as_unlabelled(tree):
    assert check_corpus("tcd-voip", tree("tcd-voip")).unlabelled == 0


def test_vmc2023_tells_tracks_and_tasks_by_name_and_leaves_clean_originals_out(tree):
    found = load_corpus("vmc2023", tree("vmc2023"))

    assert sorted(found["corpus"]) == ["vmc2023/track1a", "vmc2023/track1b", "vmc2023/track2", "vmc2023/track3"]
    assert sorted(found["system_id"]) == ["A", "B", "CMGAN_snr-2_babble", "T01"]


def test_vmc2024_reads_the_three_scores_of_p835(tree):
    row = load_corpus("vmc2024", tree("vmc2024"))[0]

    assert (row["mos"], row["s_mos"], row["n_mos"]) == (2.8, 3.5, 2.5)


def test_the_label_file_of_another_corpus_is_refused(tree):
    root = tree("pstn")
    miniature.text(root / "pstn_train" / "pstn_train.csv", "deg_wav,mos", "./a.wav,3")

    with pytest.raises(ValueError, match=r"label file of PSTN with the columns filename, MOS.*with deg_wav, mos; missing: "):
        load_corpus("pstn", root)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'nisqa'"):
        load_corpus("niska", "somewhere")


def test_missing_audio_is_dropped_on_request_and_counted(tree):
    root = tree("nisqa")
    (root / "NISQA_TEST_FOR" / "deg" / "c00002_clip_m_0103_01.wav").unlink()

    with pytest.raises(FileNotFoundError, match=r"1 of 6 recordings of nisqa are missing: .*c00002_clip.*on_missing='drop'"):
        load_corpus("nisqa", root)
    dataset = load_corpus("nisqa", root, on_missing="drop")

    assert len(dataset) == 5
    assert dataset.info.description.endswith("dropped 1, whose audio is missing")


class TestCheck:
    @pytest.fixture
    def published(self, monkeypatch):
        """The miniature as if it were the whole corpus: published counts are those of the tree."""

        def publish(name, **clips):
            corpus = CORPORA[name]
            monkeypatch.setitem(CORPORA, name, Corpus(**{**vars(corpus), "clips": clips}))

        return publish

    @pytest.fixture
    def root(self, tree, published):
        published("nisqa", TEST_FOR={"test": 3}, TEST_LIVETALK={"test": 3})
        return tree("nisqa")

    def edit(self, root, old, new):
        path = root / "NISQA_corpus_file.csv"
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new, 1), encoding="utf-8")

    def test_a_whole_corpus_has_no_fault(self, root):
        report = check_corpus("nisqa", root)

        assert report.faults == {}
        assert report.sampling_rates == {48_000: 6}
        assert report.seconds == pytest.approx(0.6)
        assert [row["present"] for row in report.present] == [3, 3]

    def test_a_count_that_differs_from_the_published_one(self, root, published):
        published("nisqa", TEST_FOR={"test": 240}, TEST_LIVETALK={"test": 3}, TRAIN_SIM={"train": 10_000})

        report = check_corpus("nisqa", root)

        assert report.faults["count"] == ["TEST_FOR test has 3 of 240"]
        assert report.absent == ["nisqa/TRAIN_SIM"]

    def test_a_missing_recording_and_a_missing_reference(self, root):
        (root / "NISQA_TEST_FOR" / "deg" / "c00001_clip_m_0103_01.wav").unlink()
        (root / "NISQA_TEST_FOR" / "ref" / "clip_m_0103.wav").unlink()

        faults = check_corpus("nisqa", root).faults

        assert [Path(one).name for one in faults["missing"]] == ["c00001_clip_m_0103_01.wav"]
        assert len(faults["missing_reference"]) == 3

    def test_an_odd_rate_and_garbage(self, root):
        miniature.recording(root / "NISQA_TEST_FOR" / "deg" / "c00001_clip_m_0103_01.wav", 44_100)
        (root / "NISQA_TEST_FOR" / "deg" / "c00002_clip_m_0103_01.wav").write_bytes(b"garbage")

        faults = check_corpus("nisqa", root).faults

        assert "c00001_clip_m_0103_01.wav 44100 Hz instead of 48000" in faults["rate"][0]
        assert "c00002_clip_m_0103_01.wav" in faults["unreadable"][0]

    def test_a_score_outside_the_scale(self, root):
        self.edit(root, ",24,4.5,", ",24,45,")

        assert check_corpus("nisqa", root).faults["scale"] == ["mos 45 outside 1-5 (NISQA_corpus_file.csv line 4)"]
        with pytest.raises(ValueError, match="lie outside their scale: mos 45 outside 1-5"):
            load_corpus("nisqa", root)

    def test_text_where_a_score_should_be(self, root):
        self.edit(root, ",24,4.5,", ",24,good,")

        assert check_corpus("nisqa", root).faults["text"] == ["mos 'good' (NISQA_corpus_file.csv line 4)"]
        with pytest.raises(ValueError, match="Expected numbers in the score columns of nisqa, got text: mos 'good'"):
            load_corpus("nisqa", root)

    def test_a_constant_column(self, root):
        for number in (1, 2, 3, 1, 2, 3):
            self.edit(root, f",{number},1,1,1,1,0.5,", ",2,1,1,1,1,0.5 ,")

        assert check_corpus("nisqa", root).faults["constant"] == ["loudness is 2 in every row"]
        with pytest.warns(UserWarning, match="loudness is 2 in every row; a correlation with a constant is undefined"):
            load_corpus("nisqa", root)

    def test_a_recording_listed_twice(self, root):
        line = (root / "NISQA_corpus_file.csv").read_text(encoding="utf-8").splitlines()[1]
        self.edit(root, line, f"{line}\n{line}")

        assert "(2 rows)" in check_corpus("nisqa", root).faults["duplicate"][0]
        with pytest.raises(ValueError, match="Expected one row a recording in nisqa, got several"):
            load_corpus("nisqa", root)

    def test_a_rating_given_twice(self, tree):
        root = tree("bvcc")
        path = root / "main" / "DATA" / "sets" / "TRAINSET"
        path.write_text(
            path.read_text(encoding="utf-8") + path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8"
        )

        assert "by listener listener0 (2 times)" in check_corpus("bvcc", root).faults["repeated_rating"][0]

    def test_audio_that_no_label_names_is_counted(self, root):
        miniature.recording(root / "NISQA_TEST_FOR" / "deg" / "extra.wav", 48_000)

        assert check_corpus("nisqa", root).unlabelled == 1


def test_the_table_of_the_readme_has_a_row_a_corpus():
    table = corpora_table()

    assert len(table.splitlines()) == 2 + len(CORPORA)
    begin, end = "<!-- corpora:begin -->", "<!-- corpora:end -->"
    assert updated(f"a\n{begin}\nold\n{end}\nb\n", "corpora") == f"a\n{begin}\n{table}\n{end}\nb\n"
