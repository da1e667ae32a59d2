"""How sure a score is: calibrated on rated clips, the same whichever way a recording is scored, and never made up."""

import csv
import errno
import json
import os

import numpy as np
import pytest
import soundfile
from huggingface_hub.errors import StrictDataclassClassValidationError
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.blocks.score_intervals import fit_score_interval, half_widths, measured_coverage
from hf_sqa.cli import app
from hf_sqa.data import load_corpus
from hf_sqa.finetune.intervals import calibrate
from hf_sqa.modeling import weights_digest
from hf_sqa.scoring import score_batch, score_corpus

RATE = 16_000
CALIBRATION = {"coverages": [0.5, 0.9], "quantiles": [1.0, 2.0], "levels": [1.0, 3.0], "scales": [0.2, 0.4], "num_clips": 30}


def _rated(rng, count, spread=lambda score: 0.3 + 0 * score):
    scores = rng.uniform(1.5, 4.5, count)
    return scores, scores + spread(scores) * rng.standard_normal(count)


def test_the_interval_holds_as_many_new_ratings_as_asked_for():
    rng = np.random.default_rng(0)
    inside = {0.8: [], 0.9: [], 0.95: []}
    for _ in range(40):
        calibration = fit_score_interval(*_rated(rng, 150))
        scores, labels = _rated(rng, 400)
        for coverage, shares in inside.items():
            shares.append(np.mean(np.abs(labels - scores) <= half_widths(scores, calibration, coverage)))

    for coverage, shares in inside.items():
        assert np.mean(shares) == pytest.approx(coverage, abs=0.02)


def test_errors_that_depend_on_the_level_give_intervals_that_do():
    rng = np.random.default_rng(1)
    calibration = fit_score_interval(*_rated(rng, 500, lambda score: 0.1 * score))
    low, high = half_widths([1.8, 4.2], calibration, 0.9)

    assert 1.5 < high / low < 3
    assert len(calibration["levels"]) == 5 and len(fit_score_interval(*_rated(rng, 60))["levels"]) == 1


def test_coverage_is_measured_on_groups_that_did_not_calibrate():
    """One talker of ten is misjudged: an interval that has seen it holds for it, one that has not does not."""
    rng = np.random.default_rng(2)
    talkers = np.repeat(np.arange(10), 20)
    scores = rng.uniform(1.5, 4.5, 200)
    labels = scores + (talkers == 3) + 0.1 * rng.standard_normal(200)

    measured = measured_coverage(scores, labels, talkers.tolist(), 0.9)

    widths = half_widths(scores, fit_score_interval(scores, labels, talkers.tolist()), 0.95)
    assert np.mean((np.abs(labels - scores) <= widths)[talkers == 3]) > 0.5
    assert measured["lowest"] == 0 and measured["coverage"] <= 0.9
    assert (measured["num_clips"], measured["num_groups"], measured["asked"]) == (200, 10, 0.9)


def test_no_more_is_promised_than_the_clips_can_tell():
    rng = np.random.default_rng(3)
    calibration = fit_score_interval(*_rated(rng, 20))

    assert calibration["coverages"][-1] == 0.95
    with pytest.raises(ValueError, match=r"Expected `interval` from 0\.5 to 0\.95, got 0\.98"):
        half_widths(3.0, calibration, 0.98)
    with pytest.raises(ValueError, match="Expected 20 rated and scored clips or more to calibrate an interval, got 19"):
        fit_score_interval(*_rated(rng, 19))


def test_a_clip_without_score_or_rating_does_not_calibrate():
    rng = np.random.default_rng(4)
    scores, labels = _rated(rng, 30)
    more = fit_score_interval([*scores, np.nan, 3.0], [*labels, 4.0, np.nan])

    assert more == fit_score_interval(scores, labels)


def test_between_its_levels_an_interval_is_interpolated_by_hand():
    assert half_widths([0.0, 1.0, 2.0, 5.0], CALIBRATION, 0.9) == pytest.approx([0.4, 0.4, 0.6, 0.8])
    assert half_widths(2.0, CALIBRATION, 0.7) == pytest.approx(1.5 * 0.3)


@pytest.fixture(scope="module")
def calibrated(make_tiny, tmp_path_factory):
    """Folder of the tiny model with a calibration for its weights."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    model = make_tiny()
    model.config.score_intervals = {"mos": {**CALIBRATION, "weights": weights_digest(model)}}
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index, seconds in enumerate((0.6, 1.5, 2.0)):
        time = np.arange(round(seconds * RATE)) / RATE
        tone = np.sin(2 * np.pi * 200 * (index + 1) * time) * np.sin(np.pi * 4 * time) ** 2
        soundfile.write(folder / f"{index}.wav", 0.3 * tone + 0.02 * np.random.default_rng(index).standard_normal(len(time)), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    return folder


def test_a_row_has_the_ends_of_its_interval_on_the_scale(calibrated, recordings):
    scorer = hf_sqa.pipeline(str(calibrated), device="cpu")
    row = scorer(str(recordings / "1.wav"), interval=0.9)
    half = half_widths(row["mos"], CALIBRATION, 0.9)

    assert list(row) == ["mos", "mos_low", "mos_high"]
    assert (row["mos_low"], row["mos_high"]) == pytest.approx((max(1, row["mos"] - half), min(5, row["mos"] + half)), abs=1e-5)
    assert list(scorer(str(recordings / "1.wav"))) == ["mos"]


def test_every_way_of_scoring_gives_the_same_interval(calibrated, recordings, tmp_path):
    scorer = hf_sqa.pipeline(str(calibrated), device="cpu", interval=0.8)
    files = sorted(map(str, recordings.iterdir()))
    alone = [scorer(file, on_error="row") for file in files]
    batched = scorer(files, batch_size=3, on_error="row")
    score_corpus(recordings, tmp_path / "out", model=str(calibrated), interval=0.8, suffix="", device="cpu", num_workers=0)
    import pandas

    corpus = pandas.concat(map(pandas.read_parquet, sorted((tmp_path / "out" / "shards").iterdir()))).to_dict("list")
    batch = score_batch({"audio": files}, model=str(calibrated), interval=0.8, suffix="", device="cpu")
    command = CliRunner().invoke(
        app, ["score", str(recordings), "--model", str(calibrated), "--interval", "0.8", "--output", "-", "--num-workers", "0"]
    )
    printed = [json.loads(line) for line in command.stdout.splitlines()]

    for column in ("mos", "mos_low", "mos_high"):
        expected = [np.nan if row[column] is None else row[column] for row in alone]
        assert np.isfinite(expected).sum() == 3
        for found in ([row[column] for row in batched], corpus[column], batch[column], [row[column] for row in printed]):
            np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=1e-4)


def test_windows_of_a_long_recording_have_scores_and_the_whole_has_the_interval(calibrated, recordings):
    row = hf_sqa.pipeline(str(calibrated), device="cpu")(str(recordings / "2.wav"), interval=0.9, return_segments=True)

    assert len(row["segments"]) > 1 and "mos_low" in row and "mos_low" not in row["segments"][0]


def test_the_table_shows_an_interval_beside_windows_and_timeline(calibrated, recordings):
    arguments = ["score", str(recordings / "2.wav"), "--model", str(calibrated), "--interval", "0.9", "--segments", "--timeline"]
    result = CliRunner().invoke(app, [*arguments, "--num-workers", "0"], env={"COLUMNS": "200"})

    assert result.exit_code == 0, result.output
    assert "mos_low  mos_high" in result.stdout


def test_a_graph_gives_the_same_interval(calibrated, recordings, tmp_path):
    pytest.importorskip("onnxruntime")
    from hf_sqa.export.onnx import export_onnx

    scorer = hf_sqa.pipeline(str(calibrated), device="cpu")
    export_onnx(scorer.model, tmp_path / "graph")
    row, of_graph = (
        each(str(recordings / "1.wav"), interval=0.9) for each in (scorer, hf_sqa.pipeline(str(tmp_path / "graph"), backend="onnx"))
    )

    assert of_graph == pytest.approx(row, abs=1e-3)


def test_without_a_calibration_there_is_no_interval_but_a_way_to_one(tiny_scorer, tiny_folder, recordings):
    with pytest.raises(ValueError, match=r"Expected a checkpoint with calibrated intervals .* `hf-sqa calibrate <model>"):
        tiny_scorer(str(recordings / "1.wav"), interval=0.9)
    result = CliRunner().invoke(app, ["score", str(recordings), "--model", str(tiny_folder), "--interval", "0.9"])

    assert result.exit_code == 2 and "hf-sqa calibrate" in result.stderr and "mos_low" not in result.stdout


def test_the_command_says_of_an_interval_that_is_too_sure_that_the_value_is_wrong(calibrated, recordings):
    result = CliRunner().invoke(app, ["score", str(recordings), "--model", str(calibrated), "--interval", "0.999"])

    assert result.exit_code == 2
    assert result.stderr.startswith("hf-sqa: Expected `interval` from 0.5 to 0.9, got 0.999"), result.stderr


def test_a_calibration_of_other_weights_gives_no_interval(calibrated, make_tiny, recordings, tmp_path):
    other = make_tiny(seed=5)
    other.config.score_intervals = json.loads((calibrated / "config.json").read_text())["score_intervals"]
    other.save_pretrained(tmp_path)
    other.make_feature_extractor().save_pretrained(tmp_path)

    with pytest.raises(ValueError, match="calibrated for other weights"):
        hf_sqa.pipeline(str(tmp_path), device="cpu", interval=0.9)


@pytest.mark.parametrize(
    "change",
    [{"quantiles": [2.0, 1.0]}, {"levels": [1.0]}, {"scales": [0.0, 0.4]}, {"coverages": [0.5, float("nan")]}, {"num_clips": 3}],
)
def test_a_damaged_calibration_is_refused(change, make_tiny):
    config = make_tiny().config

    with pytest.raises(StrictDataclassClassValidationError, match="interval calibration of 'mos'"):
        type(config)(**config.changed_options(), score_intervals={"mos": {**CALIBRATION, **change}})


def test_a_copy_for_other_weights_carries_no_calibration(calibrated):
    model = hf_sqa.AutoModelForAudioQuality.from_pretrained(calibrated)

    assert model.config.score_intervals and "score_intervals" not in model.config.changed_options()


@pytest.fixture
def rated(tmp_path, tiny_scorer):
    """A table of 24 clips of six talkers, rated near what the tiny model says."""
    rng = np.random.default_rng(6)
    with (tmp_path / "rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "mos", "talker"])
        for index in range(24):
            time = np.arange(RATE // 2) / RATE
            tone = 0.3 * np.sin(2 * np.pi * (150 + 40 * index) * time) * np.sin(np.pi * 6 * time) ** 2
            soundfile.write(tmp_path / f"{index}.wav", tone + 0.002 * index * rng.standard_normal(len(time)), RATE)
            mos = float(np.clip(tiny_scorer(str(tmp_path / f"{index}.wav"))["mos"] + 0.3 * rng.standard_normal(), 1, 5))
            writer.writerow([f"{index}.wav", f"{mos:.4f}", f"t{index % 6}"])
    return tmp_path / "rated.csv"


def test_the_command_writes_a_checkpoint_that_gives_intervals(rated, tiny_folder, tiny_scorer, tmp_path):
    arguments = ["calibrate", str(tiny_folder), str(rated), "--output", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    again = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.output
    scorer = hf_sqa.pipeline(str(tmp_path / "out"), device="cpu", interval=0.9)
    row = scorer(str(tmp_path / "3.wav"))
    calibration = scorer.model.config.score_intervals["mos"]
    assert row["mos"] == pytest.approx(tiny_scorer(str(tmp_path / "3.wav"))["mos"], abs=1e-5) and row["mos_low"] < row["mos_high"]
    assert (calibration["num_clips"], calibration["num_groups"], calibration["grouped_by"]) == (24, 6, "talker_id")
    assert calibration["measured"][0]["set"] == "rated.csv"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "calibrated on rated.csv (24 clips)" in card and "left out by talker_id in turn" in card
    assert again.exit_code == 2 and "Expected an empty or new folder" in again.stderr


def test_a_calibration_that_was_cut_while_it_was_written_leaves_nothing(rated, tiny_folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("transformers.Wav2Vec2FeatureExtractor.save_pretrained", full)
    before = sorted(tmp_path.iterdir())

    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
        calibrate(str(tiny_folder), load_corpus(rated), tmp_path / "out", device="cpu")
    assert sorted(tmp_path.iterdir()) == before


def test_too_few_clips_write_nothing(rated, tiny_folder, tmp_path):
    short = tmp_path / "short.csv"
    short.write_text("\n".join(rated.read_text().splitlines()[:16]))
    result = CliRunner().invoke(app, ["calibrate", str(tiny_folder), str(short), "--output", str(tmp_path / "out")])

    assert result.exit_code == 2 and "Expected 20 rated and readable clips or more" in result.stderr
    assert not (tmp_path / "out").exists()


def test_calibrate_names_its_own_option_where_the_labels_are_text(rated, tiny_folder, tmp_path):
    rated.write_text(rated.read_text().replace("\n0.wav,", "\n0.wav,good"))
    result = CliRunner().invoke(app, ["calibrate", str(tiny_folder), str(rated), "--output", str(tmp_path / "out")])

    assert result.exit_code == 2 and "`--column mos=<column>`" in result.stderr
