"""The metrics in the library evaluate: a folder to load, a class to import, and an evaluator for the task audio-quality."""

import math
import subprocess
import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import soundfile
import torch

import hf_sqa.metrics
from hf_sqa.evaluation.evaluator import AudioQualityEvaluator
from hf_sqa.metrics import agreement, bootstrap_agreement
from hf_sqa.metrics.hub.speech_quality_agreement import SpeechQualityAgreement
from hf_sqa.models import DistilledSQA, DistilledSQAConfig
from tests.processes import PATIENCE

FOLDER = Path(hf_sqa.metrics.__file__).parent / "hub" / "speech_quality_agreement"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DistilledSQA(DistilledSQAConfig.tiny()).eval()


@pytest.fixture
def rated(rng):
    """Eight recordings of four systems; the last is silence, which no model may judge."""
    recordings = []
    for number in range(8):
        noise = 0.2 * rng.standard_normal(16_000 + 800 * number) * np.linspace(0, 1, 16_000 + 800 * number) ** number
        recordings.append({"array": noise.astype(np.float32) * (number < 7), "sampling_rate": 16_000})
    return datasets.Dataset.from_dict(
        {
            "audio": recordings,
            "mos": [1.5, 2.0, 2.5, 3.0, 3.5, None, 4.5, 5.0],
            "mos_ci95": [0.2] * 8,
            "system_id": list("aabbccdd"),
        }
    )


def test_the_folder_loads_offline_and_computes_what_agreement_computes():
    metric = evaluate.load(str(FOLDER))
    given = [1.0, 3.0, 2.0, float("nan")], [1.5, 2.0, 4.0, 5.0]
    options = {"systems": ["a", "b", "c", "c"], "conditions": list("xxyy"), "ci95": [0.1] * 4, "mapping": "first"}
    computed = metric.compute(predictions=given[0], references=given[1], **options)
    expected = agreement(*given, **options)
    assert computed == pytest.approx(expected, nan_ok=True)
    assert computed["num_failed"] == 1


def test_the_class_takes_batches_and_missing_scores():
    metric = SpeechQualityAgreement()
    metric.add_batch(predictions=[1.0, 2.0], references=[2.0, 1.0])
    metric.add_batch(predictions=[None, 4.0], references=[3.0, float("nan")])
    result = metric.compute()
    assert (result["utt_lcc"], result["num_scored"], result["num_failed"], result["num_unrated"]) == (-1.0, 2, 1, 1)


def test_the_evaluator_scores_a_data_set_and_reports_agreement(model, rated):
    import hf_sqa.evaluation.evaluator  # registers the task

    result = evaluate.evaluator("audio-quality").compute(model, rated, system_column="system_id", device=-1)
    pipe = hf_sqa.pipelines.AudioQualityPipeline(model=model, feature_extractor=model.make_feature_extractor(), device="cpu")
    predictions = [row["mos"] for row in pipe(list(rated["audio"]), on_error="row")]
    expected = agreement(predictions, list(rated["mos"]), systems=rated["system_id"])
    assert {key: result[key] for key in expected} == pytest.approx(expected, nan_ok=True)
    assert (result["num_scored"], result["num_failed"], result["num_unrated"]) == (6, 1, 1)
    assert result["samples_per_second"] > 0


def test_bootstrap_intervals_of_the_evaluator_are_clustered_by_system(model, rated):
    pipe = AudioQualityEvaluator().prepare_pipeline(model, device=-1)
    result = AudioQualityEvaluator().compute(
        pipe, rated, strategy="bootstrap", system_column="system_id", n_resamples=200, random_state=3
    )
    predictions = [row["mos"] for row in pipe(list(rated["audio"]), on_error="row")]
    metrics = [f"{level}_{name}" for level in ("utt", "sys") for name in ("lcc", "srcc", "mse", "rmse", "mae")]
    expected = bootstrap_agreement(
        predictions, list(rated["mos"]), metrics=metrics, systems=list(rated["system_id"]), num_draws=200, rng=3
    )
    for metric, interval in expected.items():
        assert result[metric]["confidence_interval"] == pytest.approx((interval.low, interval.high), nan_ok=True)
        assert result[metric]["score"] == pytest.approx(interval.value, nan_ok=True)
        assert result[metric]["standard_error"] >= 0
    assert isinstance(result["num_failed"], int)


def test_an_audio_column_needs_no_decoder_of_datasets(model, tmp_path, rng):
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for file in files:
        soundfile.write(file, 0.1 * rng.standard_normal(16_000), 16_000)
    data = datasets.Dataset.from_dict({"audio": [str(file) for file in files], "mos": [1.0, 2.0, 3.0], "ci": [0.1] * 3})
    data = data.cast_column("audio", datasets.Audio())
    result = AudioQualityEvaluator().compute(model, data, device=-1, ci95_column="ci", mapping="first")
    assert result["num_scored"] == 3
    assert not math.isnan(result["utt_rmse_star"])


def test_any_callable_that_scores_recordings_can_be_evaluated(rated):
    def scorer(recordings):
        return [{"mos": float(np.std(recording["array"]))} for recording in recordings]

    result = AudioQualityEvaluator().compute(scorer, rated)
    assert result["num_scored"] == 7


def test_wrong_columns_scores_and_strategies_are_refused(model, rated):
    evaluator = AudioQualityEvaluator()
    with pytest.raises(ValueError, match="`label_column` score"):
        evaluator.compute(model, rated, label_column="score", device=-1)
    with pytest.raises(ValueError, match="`systems` method"):
        evaluator.compute(model, rated, system_column="method", device=-1)
    with pytest.raises(ValueError, match="predicts 'noisiness', got one for mos"):
        evaluator.compute(model, rated, score="noisiness", device=-1)
    with pytest.raises(ValueError, match="simple, bootstrap, got 'jackknife'"):
        evaluator.compute(model, rated, strategy="jackknife", device=-1)


def test_measuring_imports_neither_torch_nor_evaluate():
    code = "import sys; import hf_sqa.metrics; assert not {'torch', 'transformers', 'evaluate', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
