"""Windows and teachers' labels: the same in every run, made once, and refused where they are of something else."""

import json
import os
import signal
from collections import Counter

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.speech import SpeechPool, folder_speech, joined_speech
from hf_sqa.data.windows import Shard, WindowCache
from hf_sqa.distillation.labels import label_shard, label_windows, plan_shards
from hf_sqa.distillation.teacher import Teacher
from tests.made_speech import RATE, WINDOW, write_talker
from tests.processes import wait_until


class CountingTeacher(Teacher):
    """Counts what it is asked."""

    asked = 0

    def label(self, recordings, frames=None):
        self.asked += len(recordings)
        return super().label(recordings, frames)


class SilentTeacher(Teacher):
    """Gives no score to every second recording."""

    def label(self, recordings, frames=None):
        self.turn = not getattr(self, "turn", False)
        scores, features = super().label(recordings)
        return (scores * np.nan if self.turn else scores), features


def counting(teacher):
    return CountingTeacher(teacher.model, teacher.feature_extractor)


def test_a_window_follows_from_the_seed_its_split_and_its_number(make_maker):
    degradations = {"distillation": 1}
    one, again, other = make_maker(degradations=degradations), make_maker(degradations=degradations), make_maker(seed=1)
    again.make("train", 3)  # what was made before does not matter

    for number in (0, 7):
        waveform, row = one.make("train", number)
        assert np.array_equal(waveform, again.make("train", number)[0])
        assert row["degradations"] == again.make("train", number)[1]["degradations"]
    assert not np.array_equal(one.make("train", 0)[0], other.make("train", 0)[0])
    assert not np.array_equal(one.make("train", 0)[0], one.make("validation", 0)[0])


def test_windows_are_full_or_shorter_and_never_longer(make_maker):
    maker = make_maker()
    lengths = [len(maker.make("train", number)[0]) for number in range(40)]

    assert max(lengths) == WINDOW
    assert 0.5 < np.mean([length == WINDOW for length in lengths]) < 0.95
    assert min(lengths) >= WINDOW // 2


def test_a_talker_is_in_one_split_and_stays_there_when_files_are_added(tmp_path):
    for talker in range(20):
        write_talker(tmp_path / f"t{talker}" / "a.wav", talker, seconds=0.5)
    before = {clip.talker: clip.split for clip in folder_speech(tmp_path, 0.3)}
    for talker in range(10, 30):
        write_talker(tmp_path / f"t{talker}" / "b.wav", talker, seconds=0.5)
    after = folder_speech(tmp_path, 0.3)

    assert set(before.values()) == {"train", "validation"}
    assert all(before.get(clip.talker, clip.split) == clip.split for clip in after)
    assert len({(clip.talker, clip.split) for clip in after}) == 30


def test_what_is_no_speech_is_left_out_with_a_reason(tmp_path, make_maker):
    time_axis = np.arange(2 * RATE) / RATE
    for talker in range(6):
        write_talker(tmp_path / f"t{talker}" / "a.wav", talker)
    soundfile.write(tmp_path / "t0" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "t0" / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * time_axis), RATE)
    soundfile.write(tmp_path / "t0" / "hiss.wav", 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    (tmp_path / "t0" / "corrupt.wav").write_bytes(b"RIFF1234WAVE")
    pool = SpeechPool(folder_speech(tmp_path), RATE)
    for clip in pool.clips:
        pool._waveform(clip)

    reasons = pool.excluded
    assert sorted(reasons) == ["t0/corrupt.wav", "t0/hiss.wav", "t0/silent.wav", "t0/tone.wav"]
    assert {name: reasons[name].code for name in ("t0/silent.wav", "t0/tone.wav", "t0/hiss.wav")} == {
        "t0/silent.wav": "silent",
        "t0/tone.wav": "no_speech",
        "t0/hiss.wav": "no_speech",
    }
    assert "a tone or steady noise" in reasons["t0/tone.wav"].message


def test_a_folder_without_a_usable_recording_is_refused_with_the_reasons(tmp_path, make_maker):
    for talker in range(8):
        (tmp_path / f"t{talker}").mkdir()
        soundfile.write(tmp_path / f"t{talker}" / "silent.wav", np.zeros(RATE), RATE)

    with pytest.raises(ValueError, match=r"got none that can be used: .*digital silence"):
        make_maker(tmp_path).make("train", 0)


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected recordings"):
        folder_speech(tmp_path)
    with pytest.raises(ValueError, match="which is not a folder"):
        folder_speech(tmp_path / "nowhere")


def test_shares_of_the_splits_are_right_wherever_labelling_stops():
    splits = ["train", "validation", "test"]

    for shards in (20, 60, 100):
        counts = Counter(split for split, _ in plan_shards(splits, shards * 64))
        assert counts["train"] == 0.9 * shards and counts["validation"] == 0.05 * shards
    assert {split for split, _ in plan_shards(splits, 64 * 8)} == set(splits)
    assert plan_shards(splits, 64 * 30)[:10] == plan_shards(splits, 64 * 10)
    assert {split for split, _ in plan_shards(["train", "validation"], 640)} == {"train", "validation"}


def test_further_recordings_are_for_training_and_get_their_share(tmp_path):
    for talker in range(12):
        write_talker(tmp_path / "own" / f"t{talker}" / "a.wav", talker)
    for talker in range(3):
        for number in range(4):
            write_talker(tmp_path / "more" / f"further{talker}" / f"{number}.wav", 50 + 4 * talker + number)
    own, further = folder_speech(tmp_path / "own", 0.3), folder_speech(tmp_path / "more", 0.3)
    pool = SpeechPool(joined_speech(own, further, 0.4), RATE)
    rng = np.random.default_rng(0)

    drawn = [pool.draw("train", rng, 1000)[1][0].talker.startswith("further") for _ in range(600)]
    assert np.mean(drawn) == pytest.approx(0.4, abs=0.06)
    assert not any(pool.draw("validation", rng, 1000)[1][0].talker.startswith("further") for _ in range(50))
    assert pool.digest != SpeechPool(own, RATE).digest != SpeechPool(joined_speech(own, further, 0.5), RATE).digest


def test_what_is_labelled_is_not_labelled_again(make_maker, make_teacher, tmp_path):
    first, second = counting(make_teacher()), counting(make_teacher())
    rows = list(label_windows(WindowCache(tmp_path, make_maker()), [first], 128))
    again = list(label_windows(WindowCache(tmp_path, make_maker()), [second], 192))

    assert [row["num_labelled"] for row in rows] == [64, 64]
    assert first.asked == 128
    assert second.asked == 64
    assert again[:2] == rows


@pytest.mark.slow
def test_windows_made_in_processes_are_the_same(make_maker, make_teacher, tmp_path):
    teacher = make_teacher()
    alone = list(label_windows(WindowCache(tmp_path / "a", make_maker()), [teacher], 192))
    together = list(label_windows(WindowCache(tmp_path / "b", make_maker()), [teacher], 192, num_workers=1))

    assert together == alone
    for path in sorted((tmp_path / "a").rglob("*.safetensors")):
        ours, theirs = load_file(tmp_path / "b" / path.relative_to(tmp_path / "a")), load_file(path)
        for name, tensor in theirs.items():  # features are stored in float16
            np.testing.assert_allclose(ours[name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)


def test_labels_are_the_teachers_scores_and_features_of_the_windows_as_stored(make_maker, make_teacher, tmp_path):
    teacher = make_teacher()
    cache = WindowCache(tmp_path, make_maker())
    list(label_windows(cache, [teacher], 64))
    shard = Shard.read(cache.shards("train")[0])
    labels = load_file(tmp_path / "labels" / teacher.digest / "train-00000.safetensors")

    for place in (0, 13, 63):
        recording = load_recording({"array": shard.waveform(place), "sampling_rate": RATE})
        scores, features = teacher.label([recording])
        assert labels["scores"][place] == pytest.approx(scores[0], abs=1e-5)
        assert labels["features"][place] == pytest.approx(features[0], abs=1e-3)
    assert np.ptp(labels["scores"]) > 0.05


def test_a_window_without_a_score_is_a_row_without_a_label(make_maker, make_teacher, tmp_path):
    teacher = make_teacher()
    rows = list(label_windows(WindowCache(tmp_path, make_maker()), [SilentTeacher(teacher.model, teacher.feature_extractor)], 64))

    assert rows[0]["num_labelled"] == rows[0]["num_skipped"] == 32


def test_windows_of_other_speech_or_degradations_are_refused(make_maker, tmp_path):
    WindowCache(tmp_path, make_maker())

    with pytest.raises(ValueError, match=r"holds another run .seed was 0, is 1"):
        WindowCache(tmp_path, make_maker(seed=1))
    with pytest.raises(ValueError, match=r"holds another run .degradations.none was 1, is None; .*chains was"):
        WindowCache(tmp_path, make_maker(degradations={"distillation": 1}))


def test_labels_of_other_windows_are_refused(make_maker, make_teacher, tmp_path):
    teacher = make_teacher()
    cache = WindowCache(tmp_path / "a", make_maker())
    list(label_windows(cache, [teacher], 64))
    other = WindowCache(tmp_path / "b", make_maker(seed=1))
    path = other.ensure_shard("train", 0)
    (tmp_path / "b" / "labels").mkdir()
    os.rename(tmp_path / "a" / "labels" / teacher.digest, tmp_path / "b" / "labels" / teacher.digest)

    with pytest.raises(ValueError, match="are of other windows"):
        label_shard(other, teacher, path)


def test_another_teacher_has_labels_of_its_own(make_maker, make_teacher, tmp_path):
    cache = WindowCache(tmp_path, make_maker())
    one, other = make_teacher(0), make_teacher(1)
    list(label_windows(cache, [one, other], 64))

    folders = {path.parent.name: json.loads(path.read_text())["identity"] for path in tmp_path.glob("labels/*/teacher.json")}
    assert set(folders) == {one.digest, other.digest}
    assert folders[one.digest]["weights"] != folders[other.digest]["weights"]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_whole_files_only_and_goes_on(speech, nursery, make_maker, make_teacher, tmp_path):
    make_teacher().model.save_pretrained(tmp_path / "teacher")
    code = f"""
from hf_sqa.data.speech import SpeechPool, folder_speech
from hf_sqa.data.windows import WindowCache, WindowMaker
from hf_sqa.distillation.labels import label_windows
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.models.distilled_sqa import DistilledSQA
model = DistilledSQA.from_pretrained({str(tmp_path / "teacher")!r}).eval()
pool = SpeechPool(folder_speech({str(speech)!r}, validation_share=0.3), {RATE})
cache = WindowCache({str(tmp_path / "cache")!r}, WindowMaker(pool, {{"none": 1}}, {WINDOW}))
for row in label_windows(cache, [Teacher(model, model.make_feature_extractor())], 64 * 400):
    pass
"""
    process = nursery.start(code)
    wait_until(lambda: len(list(tmp_path.glob("cache/labels/*/*.safetensors"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    teacher = counting(make_teacher())
    done = len(list(tmp_path.glob(f"cache/labels/{teacher.digest}/*.safetensors")))
    rows = list(label_windows(WindowCache(tmp_path / "cache", make_maker()), [teacher], 64 * (done + 1)))

    assert done >= 2
    assert sum(row["num_labelled"] for row in rows) == 64 * (done + 1)
    assert teacher.asked == 64


def test_a_teacher_that_refuses_one_recording_still_labels_the_others(make_teacher, speech_like, monkeypatch):
    teacher = make_teacher()
    score = teacher.model.score_recordings

    def refuse_the_quiet(recordings, extractor):
        if any(np.abs(one.waveform).max() < 0.01 for one in recordings):
            raise AudioError("quiet", "silent", "nothing to hear")
        return score(recordings, extractor)

    monkeypatch.setattr(teacher.model, "score_recordings", refuse_the_quiet)
    waveforms = [speech_like(0.6), 1e-3 * speech_like(0.6), speech_like(0.5)]
    recordings = [load_recording({"array": one, "sampling_rate": RATE}) for one in waveforms]

    scores, _ = teacher.label(recordings)

    assert np.isfinite(scores[:, 0]).tolist() == [True, False, True]
