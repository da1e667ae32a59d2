"""`pipeline("audio-quality")`: what goes in, what comes out, and that nothing is lost or invented on the way."""

import functools
import http.server
import io
import itertools
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_sqa
from hf_sqa.audio import AudioError

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six recordings of different lengths, the second in FLAC and the fourth at 48 kHz, and four that cannot be scored."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(3)
    for index, (seconds, suffix, rate) in enumerate(
        [(0.6, "wav", RATE), (1.5, "flac", RATE), (0.64, "wav", RATE), (2.0, "wav", 48_000), (1.1, "ogg", RATE), (3.0, "wav", RATE)]
    ):
        time = np.arange(round(seconds * rate)) / rate
        noise = rng.standard_normal(len(time)) * (0.05 + 0.05 * np.sin(2 * np.pi * (index + 1) * time))
        soundfile.write(folder / f"{index}.{suffix}", 0.3 * np.sin(2 * np.pi * 150 * (index + 1) * time) + noise, rate)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "short.wav", rng.standard_normal(1600) / 10, RATE)
    (folder / "garbage.wav").write_bytes(b"no audio at all " * 100)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return [str(file) for file in sorted(folder.glob("[0-5].*"))]


@pytest.fixture(scope="module")
def alone(files, tiny_scorer):
    """The score of every recording scored alone."""
    return [tiny_scorer(file)["mos"] for file in files]


def scores(results):
    return [result["mos"] for result in results]


def test_the_scores_to_be_told_apart_differ(alone):
    assert min(np.diff(sorted(alone))) > 1e-3


class TestInputs:
    @pytest.fixture(scope="class")
    @classmethod
    def file(cls, files):
        return files[5]

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, file, tiny_scorer):
        return pytest.approx(tiny_scorer(file), abs=1e-5)

    def test_one_recording_gives_one_dict(self, file, tiny_scorer):
        result = tiny_scorer(file)

        assert list(result) == ["mos"]
        assert isinstance(result["mos"], float)

    @pytest.mark.parametrize(
        "source",
        [
            lambda file: Path(file).read_bytes(),
            lambda file: io.BytesIO(Path(file).read_bytes()),
            lambda file: {"path": file},
            lambda file: {"bytes": Path(file).read_bytes(), "path": "gone.wav"},
            lambda file: {"audio": {"path": file}},
            lambda file: {"array": soundfile.read(file, dtype="float32")[0], "sampling_rate": RATE},
            lambda file: {"raw": soundfile.read(file, dtype="int16")[0], "sampling_rate": RATE},
        ],
        ids=["bytes", "file object", "dict of path", "dict of bytes", "row", "dict of array", "dict of raw"],
    )
    def test_one_recording_of_any_kind_gives_the_same_dict(self, source, file, expected, tiny_scorer):
        assert tiny_scorer(source(file)) == expected

    @pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
    def test_arrays_and_tensors_take_their_rate_from_the_call(self, kind, file, expected, tiny_scorer):
        assert tiny_scorer(kind(soundfile.read(file, dtype="float32")[0]), sampling_rate=RATE) == expected

    def test_a_url_gives_the_same_dict(self, file, folder, expected, tiny_scorer):
        handler = functools.partial(QuietHandler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            result = tiny_scorer(f"http://127.0.0.1:{server.server_address[1]}/{file.rsplit('/', 1)[1]}")
            server.shutdown()

        assert result == expected

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_lists_and_tuples_give_a_list(self, kind, files, alone, tiny_scorer):
        results = tiny_scorer(kind(files))

        assert isinstance(results, list)
        assert scores(results) == pytest.approx(alone, abs=1e-5)

    def test_a_list_may_mix_kinds(self, files, alone, tiny_scorer):
        mixed = [files[0], io.BytesIO(Path(files[1]).read_bytes()), {"path": files[2]}, Path(files[3]).read_bytes()]

        assert scores(tiny_scorer(mixed)) == pytest.approx(alone[:4], abs=1e-5)

    def test_an_empty_list_gives_an_empty_list(self, tiny_scorer):
        assert tiny_scorer([]) == []

    def test_a_generator_is_scored_as_it_is_consumed(self, files, alone, tiny_scorer):
        taken = []

        def generate():
            for file in files:
                taken.append(file)
                yield file

        results = tiny_scorer(generate())

        assert taken == []
        assert next(results)["mos"] == pytest.approx(alone[0], abs=1e-5)
        assert len(taken) <= 2
        assert scores(results) == pytest.approx(alone[1:], abs=1e-5)

    def test_a_generator_does_not_know_its_length(self, files, tiny_scorer):
        with pytest.raises(TypeError, match="how many results there will be is not known"):
            len(tiny_scorer(file for file in files))

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls, files):
        plain = datasets.Dataset.from_dict({"audio": files, "text": ["hello"] * len(files)})
        return plain.cast_column("audio", datasets.Audio(decode=False))

    def test_rows_of_a_dataset_are_scored(self, dataset, alone, tiny_scorer):
        results = tiny_scorer(dataset)

        assert len(results) == len(alone)
        assert scores(results) == pytest.approx(alone, abs=1e-5)

    def test_a_column_of_a_dataset_gives_a_list(self, dataset, alone, tiny_scorer):
        results = tiny_scorer(dataset["audio"])

        assert isinstance(results, list)
        assert scores(results) == pytest.approx(alone, abs=1e-5)

    def test_a_key_dataset_is_scored(self, dataset, alone, tiny_scorer):
        assert scores(tiny_scorer(KeyDataset(dataset, "audio"))) == pytest.approx(alone, abs=1e-5)

    def test_a_column_that_carries_the_bytes_gives_the_same(self, files, alone, tiny_scorer):
        rows = {"audio": [{"bytes": Path(file).read_bytes(), "path": None} for file in files]}
        features = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})

        assert scores(tiny_scorer(datasets.Dataset.from_dict(rows, features=features)["audio"])) == pytest.approx(alone, abs=1e-5)

    def test_decoded_columns_of_a_dataset_are_scored(self, dataset, alone, tiny_scorer):
        try:
            import torchcodec  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            pytest.skip(f"needs torchcodec with its FFmpeg libraries: {error}")

        results = tiny_scorer(dataset.cast_column("audio", datasets.Audio())["audio"])

        assert scores(results) == pytest.approx(alone, abs=1e-4)

    @pytest.mark.parametrize("nonsense", [None, 3, 2.5])
    def test_what_is_no_audio_is_refused_in_words(self, nonsense, tiny_scorer):
        with pytest.raises(AudioError, match="expected a path, a URL, bytes"):
            tiny_scorer(nonsense)

    def test_an_array_without_its_rate_is_refused_with_the_remedy(self, tiny_scorer):
        with pytest.raises(AudioError, match=r"pass `sampling_rate=\.\.\.`"):
            tiny_scorer(np.zeros(RATE))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class TestAScoreBelongsToARecording:
    @pytest.mark.parametrize("mode", ["published", "fast"])
    @pytest.mark.parametrize("batch_size", [2, 4, 6, 100])
    def test_the_batch_does_not_change_it(self, batch_size, mode, files, tiny_scorer):
        alone = [tiny_scorer(file, mode=mode)["mos"] for file in files]

        assert scores(tiny_scorer(files, batch_size=batch_size, mode=mode)) == pytest.approx(alone, abs=1e-5)

    def test_the_order_does_not_change_it(self, files, alone, tiny_scorer):
        assert scores(tiny_scorer(files[::-1], batch_size=3)) == pytest.approx(alone[::-1], abs=1e-5)

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_worker_processes_do_not_change_it(self, num_workers, files, alone, tiny_scorer):
        assert scores(tiny_scorer(files, num_workers=num_workers, batch_size=2)) == pytest.approx(alone, abs=1e-5)

    def test_worker_processes_do_not_repeat_a_generator(self, files, alone, tiny_scorer):
        results = list(tiny_scorer((file for file in files), num_workers=2))

        assert scores(results) == pytest.approx(alone, abs=1e-5)

    def test_windows_scored_many_at_a_time_score_the_same(self, files, alone, tiny_scorer, monkeypatch):
        from hf_sqa.models.distilled_sqa import modeling_distilled_sqa

        monkeypatch.setitem(modeling_distilled_sqa.WINDOWS_PER_CALL, "cpu", 5)

        assert scores(tiny_scorer(files, batch_size=6)) == pytest.approx(alone, abs=1e-5)

    def test_wav_and_flac_score_the_same_with_published_weights(self, default_scorer, speech_like, tmp_path):
        samples = np.round(32767 * speech_like(2.0)).astype(np.int16)
        for name in ("a.wav", "a.flac"):
            soundfile.write(tmp_path / name, samples, RATE)

        wav, flac = (default_scorer(str(tmp_path / name))["mos"] for name in ("a.wav", "a.flac"))

        assert wav == flac

    def test_batch_and_workers_do_not_change_it_with_published_weights(self, default_scorer, files):
        alone = [default_scorer(file)["mos"] for file in files]

        assert scores(default_scorer(files[::-1], batch_size=4, num_workers=2)) == pytest.approx(alone[::-1], abs=1e-5)


class TestBadRecordings:
    @pytest.fixture(scope="class")
    @classmethod
    def mixed(cls, files, folder):
        bad = [str(folder / name) for name in ("silent.wav", "garbage.wav", "short.wav", "absent.wav")]
        return [files[0], bad[0], files[1], bad[1], bad[2], files[2], bad[3], files[3]]

    def test_raise_raises_and_names_the_file(self, mixed, tiny_scorer):
        with pytest.raises(AudioError, match=r"silent\.wav: all 16,000 samples are digital silence"):
            tiny_scorer(mixed)

    @pytest.mark.parametrize("batch_size", [1, 3, 8])
    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_rows_lose_nothing_and_keep_their_order(self, batch_size, num_workers, mixed, alone, tiny_scorer):
        rows = tiny_scorer(mixed, on_error="row", batch_size=batch_size, num_workers=num_workers)

        assert [row["code"] for row in rows] == [None, "silent", None, "undecodable", "too_short", None, "missing", None]
        assert [row["status"] for row in rows] == ["ok", "abstained", "ok", "failed", "abstained", "ok", "failed", "ok"]
        assert scores([row for row in rows if row["status"] == "ok"]) == pytest.approx(alone[:4], abs=1e-5)
        assert all(row["mos"] is None for row in rows if row["status"] != "ok")

    def test_a_row_has_score_status_code_and_reason(self, mixed, tiny_scorer):
        good, bad = tiny_scorer(mixed[:2], on_error="row")

        assert list(good) == list(bad) == ["mos", "status", "code", "reason"]
        assert good["reason"] is None
        assert "digital silence" in bad["reason"]

    def test_one_bad_recording_gives_a_row_too(self, mixed, tiny_scorer):
        assert tiny_scorer(mixed[1], on_error="row", return_segments=True, return_details=True)["segments"] == []

    def test_good_and_bad_rows_have_the_same_keys_with_all_details(self, mixed, tiny_scorer):
        rows = tiny_scorer(mixed, on_error="row", return_segments=True, return_details=True)

        assert {tuple(row) for row in rows} == {tuple(rows[0])}

    @pytest.mark.parametrize(("mean", "found"), [(-0.43, True), (0.95, False), (3.0, False), (5.05, False), (5.5, True)])
    def test_a_score_outside_the_scale_of_the_model_is_left_as_it_is_with_a_warning(self, mean, found, files):
        model = hf_sqa.Wav2Vec2ForMOS(hf_sqa.Wav2Vec2ForMOSConfig.tiny()).eval()
        with torch.no_grad():
            model.score_head.weight.zero_()
            model.score_head.bias.fill_(mean)
        scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")

        row = scorer([files[5]], return_details=True)[0]

        assert row["mos"] == pytest.approx(mean, abs=1e-5)
        assert ("out_of_scale" in [warning["code"] for warning in row["warnings"]]) == found

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_model_that_returns_no_number_gives_an_error_never_a_score(self, value, make_tiny, files):
        model = make_tiny()
        with torch.no_grad():
            model.transformer.pooling.score_head.bias.fill_(value)
            model.transformer.pooling.attention_score.bias.fill_(value)
        scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")

        row = scorer([files[0]], on_error="row")[0]

        assert (row["status"], row["code"]) == ("failed", "score_not_finite")
        assert row["mos"] is None
        with pytest.raises(AudioError, match=r"the model returned \[nan\]; load it with dtype=float32"):
            scorer(files[0])

    def test_on_error_must_be_known(self, files, tiny_scorer):
        with pytest.raises(ValueError, match="Expected `on_error` to be 'raise' or 'row', got 'skip'"):
            tiny_scorer(files[0], on_error="skip")


class TestDetails:
    @pytest.fixture(scope="class")
    @classmethod
    def detailed(cls, files, tiny_scorer):
        return tiny_scorer(files[5], return_segments=True, return_details=True)

    def test_segments_cover_the_recording_in_seconds(self, detailed):
        segments = detailed["segments"]

        assert segments[0]["start"] == 0.0
        assert segments[-1]["end"] == 3.0
        assert all(segment["end"] - segment["start"] == pytest.approx(0.64, abs=1e-4) for segment in segments)
        assert all(one["end"] > following["start"] for one, following in itertools.pairwise(segments))

    def test_segments_number_as_many_as_the_hop_asks_for(self, detailed):
        """(3.0 - 0.64) / 0.2, rounded up, and one."""
        assert len(detailed["segments"]) == detailed["num_segments"] == 13

    def test_the_score_is_the_mean_of_the_segments(self, detailed):
        assert detailed["mos"] == pytest.approx(np.mean([segment["mos"] for segment in detailed["segments"]]), abs=2e-6)

    def test_a_short_recording_has_one_segment_that_ends_with_it(self, files, tiny_scorer):
        segments = tiny_scorer(files[0], return_segments=True)["segments"]

        assert [(segment["start"], segment["end"]) for segment in segments] == [(0.0, 0.6)]

    def test_segments_of_a_48_khz_recording_are_in_its_own_time(self, files, tiny_scorer):
        assert tiny_scorer(files[3], return_segments=True)["segments"][-1]["end"] == 2.0

    def test_details_describe_the_recording(self, files, tiny_scorer):
        details = tiny_scorer(files[3], return_details=True)

        assert details["duration_seconds"] == 2.0
        assert details["sampling_rate"] == 48_000
        assert details["num_channels"] == 1
        assert details["warnings"] == []
        assert details["mode"] == "published"
        assert details["hop_seconds"] is None

    def test_warnings_come_with_code_and_message(self, files, tiny_scorer):
        warnings = tiny_scorer(files[0], return_details=True)["warnings"]

        assert warnings == [{"code": "short", "message": "under one second: the model saw mostly padding"}]

    def test_the_identity_is_the_same_between_two_loads(self, detailed, files, tiny_folder):
        again = hf_sqa.pipeline(str(tiny_folder), device="cpu")(files[5], return_details=True)

        assert again["model"] == detailed["model"]
        assert set(detailed["model"]) == {"id", "revision", "weights", "preprocessing"}

    def test_the_identity_differs_in_bfloat16(self, detailed, files, tiny_folder):
        narrow = hf_sqa.pipeline(str(tiny_folder), device="cpu", dtype=torch.bfloat16)(files[5], return_details=True)

        assert narrow["model"]["weights"] != detailed["model"]["weights"]
        assert narrow["model"]["preprocessing"] == detailed["model"]["preprocessing"]

    @pytest.mark.parametrize("options", [{"mode": "fast"}, {"hop_seconds": 0.4}], ids=str)
    def test_the_identity_differs_with_the_way_of_scoring(self, options, detailed, files, tiny_scorer):
        other = tiny_scorer(files[5], return_details=True, **options)["model"]

        assert other["preprocessing"] != detailed["model"]["preprocessing"]
        assert other["weights"] == detailed["model"]["weights"]

    def test_the_identity_does_not_tell_where_the_model_lay(self, detailed, tiny_folder):
        assert detailed["model"]["id"] == tiny_folder.name

    def test_the_identity_does_not_tell_where_the_model_lay_once_it_is_gone(self, files, make_tiny, tmp_path):
        model = make_tiny()
        model.save_pretrained(tmp_path / "mine")
        model.make_feature_extractor().save_pretrained(tmp_path / "mine")
        scorer = hf_sqa.pipeline(str(tmp_path / "mine"), device="cpu")
        (tmp_path / "mine").rename(tmp_path / "moved")

        assert scorer(files[0], return_details=True)["model"]["id"] == "mine"

    def test_the_default_model_is_named(self, default_scorer, files):
        assert default_scorer(files[0], return_details=True)["model"]["id"] == "distill-mos-v7"


class TestOptions:
    @pytest.mark.parametrize("hop_seconds", [0, -1.0, 0.65, 7.69, float("nan"), float("inf")])
    def test_a_hop_that_cannot_be_is_refused_at_the_call(self, hop_seconds, files, tiny_scorer):
        with pytest.raises(ValueError, match=r"Expected `hop_seconds` between 0\.05 and 0\.64"):
            tiny_scorer(files[5], hop_seconds=hop_seconds)

    def test_a_hop_that_cannot_be_is_refused_at_construction(self, tiny_folder):
        with pytest.raises(ValueError, match=r"Expected `hop_seconds` between 0\.05 and 0\.64"):
            hf_sqa.pipeline(str(tiny_folder), device="cpu", hop_seconds=8.0)

    @pytest.mark.parametrize("hop_seconds", ["1.0", [1.0]], ids=str)
    def test_a_hop_that_is_no_number_is_refused_in_words(self, hop_seconds, files, tiny_scorer):
        with pytest.raises(ValueError, match="Expected `hop_seconds`"):
            tiny_scorer(files[5], hop_seconds=hop_seconds)

    @pytest.mark.parametrize(("hop_seconds", "num_windows"), [(0.05, 49), (0.5, 6), (0.64, 5)])
    def test_the_hop_decides_the_number_of_windows(self, hop_seconds, num_windows, files, tiny_scorer):
        """(3.0 - 0.64) / hop, rounded up, and one."""
        result = tiny_scorer(files[5], hop_seconds=hop_seconds, return_details=True)

        assert result["num_segments"] == num_windows

    def test_options_given_at_construction_hold_and_can_be_overruled(self, tiny_folder, files):
        scorer = hf_sqa.pipeline(str(tiny_folder), device="cpu", hop_seconds=0.64, return_details=True, batch_size=2)

        assert scorer(files[5])["num_segments"] == 5
        assert scorer(files[5], hop_seconds=0.5)["num_segments"] == 6
        assert scorer(files[5])["num_segments"] == 5

    @pytest.mark.parametrize("mode", ["publish", "FAST", ""])
    def test_a_misspelled_mode_is_refused_with_the_modes_there_are(self, mode, files, tiny_scorer):
        with pytest.raises(ValueError, match="Expected `mode` to be one of published, fast"):
            tiny_scorer(files[0], mode=mode)

    def test_a_misspelled_mode_is_refused_at_construction(self, tiny_folder):
        with pytest.raises(ValueError, match="Expected `mode` to be one of published, fast for DistilledSQA, got 'fats'"):
            hf_sqa.pipeline(str(tiny_folder), device="cpu", mode="fats")

    def test_a_misspelled_option_is_refused_at_the_call(self, files, tiny_scorer):
        with pytest.raises(TypeError, match=r"Unknown option 'hop_second' .*did you mean 'hop_seconds'\?"):
            tiny_scorer(files[0], hop_second=2.0)

    def test_a_misspelled_option_is_refused_at_construction(self, tiny_folder):
        with pytest.raises(TypeError, match=r"Unknown option 'hop_second' .*did you mean 'hop_seconds'\?"):
            hf_sqa.pipeline(str(tiny_folder), device="cpu", hop_second=2.0)

    def test_an_option_of_other_pipelines_is_refused_with_those_there_are(self, files, tiny_scorer):
        with pytest.raises(TypeError, match=r"Unknown option 'top_k' .*expected one of sampling_rate, channel, mode"):
            tiny_scorer(files[0], top_k=3)

    def test_a_channel_is_chosen(self, tiny_scorer, speech_like):
        left, right = speech_like(1.2), np.random.default_rng(5).standard_normal(19_200).astype(np.float32) / 10
        stereo = {"array": np.stack([left, right]), "sampling_rate": RATE}

        chosen = [tiny_scorer(stereo, channel=channel)["mos"] for channel in (0, 1)]

        assert chosen == pytest.approx([tiny_scorer(one, sampling_rate=RATE)["mos"] for one in (left, right)], abs=1e-5)


def test_a_doubtful_recording_scored_alone_logs_a_warning(files, tiny_scorer, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("hf_sqa"), "propagate", True)
    with caplog.at_level("WARNING"):
        tiny_scorer(files[0])

    assert "under one second: the model saw mostly padding [short]; the score is doubtful." in caplog.text


def test_the_task_is_known_to_transformers_and_needs_no_model(default_scorer, files):
    scorer = pipeline("audio-quality", device="cpu")

    assert type(scorer) is hf_sqa.AudioQualityPipeline
    assert scorer(files[5]) == pytest.approx(default_scorer(files[5]), abs=1e-5)


def test_a_model_that_does_not_exist_is_an_error_offline():
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        hf_sqa.pipeline("no-one/no-such-model", device="cpu")
