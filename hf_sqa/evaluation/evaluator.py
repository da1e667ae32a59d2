"""`evaluate.evaluator("audio-quality")`: a pipeline, a rated data set, one call. Importing this module registers the task.

The base class of evaluate 0.4 refers to `transformers.TFPreTrainedModel`, which transformers 5 removed. Its bootstrap calls the
metric once per draw and key, and knows no systems. Those methods are replaced here. Needs `pip install 'hf-sqa[train]'`.
"""

import math
from time import perf_counter
from typing import Any

import transformers
from datasets import Audio, Dataset
from evaluate import EvaluationModule
from evaluate.evaluator import SUPPORTED_EVALUATOR_TASKS
from evaluate.evaluator.base import Evaluator
from evaluate.evaluator.utils import DatasetColumn

import hf_sqa.pipelines
from hf_sqa.choices import check_choice
from hf_sqa.metrics import METRICS, bootstrap_agreement
from hf_sqa.metrics.hub.speech_quality_agreement import SpeechQualityAgreement

TASK = "audio-quality"
STRATEGIES = ("simple", "bootstrap")


class AudioQualityEvaluator(Evaluator):
    """Scores a rated data set with an audio-quality pipeline and compares the scores with the listeners'.

    ```python
    >>> import evaluate
    >>> import hf_sqa.evaluation.evaluator  # registers the task

    >>> evaluate.evaluator("audio-quality").compute(data=rated, system_column="system_id", strategy="bootstrap")
    {'utt_srcc': {'score': 0.91, 'confidence_interval': (0.88, 0.93), 'standard_error': 0.012}, ...}
    ```
    """

    def __init__(self, task: str = TASK, default_metric_name: str | None = None):
        super().__init__(task, default_metric_name=default_metric_name)

    def compute(
        self,
        model_or_pipeline: Any = None,
        data: str | Dataset | None = None,
        subset: str | None = None,
        split: str | None = None,
        metric: EvaluationModule | None = None,
        feature_extractor: Any = None,
        strategy: str = "simple",
        confidence_level: float = 0.95,
        n_resamples: int = 9999,
        device: int | None = None,
        random_state: int | None = None,
        input_column: str = "audio",
        label_column: str = "mos",
        score: str | None = None,
        system_column: str | None = None,
        condition_column: str | None = None,
        ci95_column: str | None = None,
        mapping: str | None = None,
    ) -> dict[str, Any]:
        """Evaluate a pipeline on rated recordings.

        Args:
            model_or_pipeline (`str`, model or pipeline, *optional*): Checkpoint, model of ours, audio-quality pipeline, or any
                callable that takes a column of recordings and returns a dict of scores for each; else the default checkpoint.
            data (`str` or `datasets.Dataset`): Rated recordings; a string is loaded from the Hub.
            subset (`str`, *optional*): Configuration to load.
            split (`str`, *optional*): Split to load; the test split if not given.
            metric (`EvaluationModule`, *optional*): Another metric of predictions and references; agreement with listeners if not
                given. The bootstrap and the columns of systems, conditions and intervals are for agreement only.
            feature_extractor (feature extractor, *optional*): For a model given as an object; the model's own if not given.
            strategy (`str`, *optional*, defaults to `"simple"`): `"simple"`, or `"bootstrap"` for intervals of
                [`hf_sqa.metrics.bootstrap_agreement`], clustered by system if `system_column` is given.
            confidence_level (`float`, *optional*, defaults to 0.95): Confidence level of the intervals.
            n_resamples (`int`, *optional*, defaults to 9999): Bootstrap draws.
            device (`int`, *optional*): Device of the pipeline made here; -1 is the CPU. A GPU is used if there is one.
            random_state (`int`, *optional*): Seed of the draws.
            input_column (`str`, *optional*, defaults to `"audio"`): Recordings. hf_sqa decodes an `Audio` column, not datasets.
            label_column (`str`, *optional*, defaults to `"mos"`): Listeners' labels; None or NaN means unrated.
            score (`str`, *optional*): Name of the predicted score; that of `label_column` if not given.
            system_column (`str`, *optional*): Systems; adds the `sys_` keys.
            condition_column (`str`, *optional*): Conditions; adds the `con_` keys.
            ci95_column (`str`, *optional*): Half-widths of the labels' 95 % intervals; with `mapping` adds RMSE*.
            mapping (`str`, *optional*): `"first"` or `"third"`; adds RMSE after mapping.

        Returns:
            `dict`: The keys of [`hf_sqa.metrics.agreement`]. With `strategy="bootstrap"`, correlations and errors are dicts of
            `score`, `confidence_interval` and `standard_error`; counts, mapped errors and Kendall's tau, whose draws would compare
            all pairs of clips, stay numbers. Then `total_time_in_seconds`, `samples_per_second` and `latency_in_seconds`.
            Recordings that cannot be scored do not stop the evaluation; `num_failed` counts them.

        Raises:
            ValueError: If a column, the score or the strategy does not exist.
        """
        check_choice("strategy", strategy, STRATEGIES)
        self.check_for_mismatch_in_device_setup(device, model_or_pipeline)
        rated: Any = self.load_data(data=data, subset=subset, split=split)
        columns = {"systems": system_column, "conditions": condition_column, "ci95": ci95_column}
        named = {name: column for name, column in columns.items() if column is not None}
        self.check_required_columns(rated, {"input_column": input_column, "label_column": label_column, **named})
        inputs: dict[str, Any] = {name: list(rated[column]) for name, column in {"references": label_column, **named}.items()}
        if isinstance(rated.features[input_column], Audio):
            rated = rated.cast_column(input_column, Audio(decode=False))
        pipe = self.prepare_pipeline(model_or_pipeline, feature_extractor=feature_extractor, device=device)
        if metric is not None and strategy == "bootstrap":
            raise ValueError("Intervals are drawn for agreement with listeners only; leave `metric` out, or use strategy='simple'.")

        rows, performance = self.call_pipeline(pipe, DatasetColumn(rated, input_column))
        inputs |= self.predictions_processor(rows, score or label_column)
        if mapping is not None:
            inputs["mapping"] = mapping
        result: dict[str, Any] = self.prepare_metric(metric).compute(**inputs)
        if strategy == "bootstrap":
            result |= _intervals(result, inputs, confidence_level, n_resamples, random_state)
        return result | performance

    def prepare_pipeline(
        self, model_or_pipeline: Any, tokenizer: Any = None, feature_extractor: Any = None, device: int | None = None
    ) -> Any:
        """Return the given pipeline, or make one from a model or checkpoint."""
        if model_or_pipeline is not None and not isinstance(model_or_pipeline, (str, transformers.PreTrainedModel)):
            task = getattr(model_or_pipeline, "task", self.task)
            if task != self.task:
                raise ValueError(f"Expected a pipeline for the task {self.task!r}, got one for {task!r}.")
            return model_or_pipeline
        options: dict[str, Any] = {"device": self._infer_device() if device is None else device}
        if isinstance(model_or_pipeline, transformers.PreTrainedModel):
            model: Any = model_or_pipeline
            options["feature_extractor"] = feature_extractor or model.make_feature_extractor()
        return hf_sqa.pipelines.pipeline(model=model_or_pipeline, **options)

    def prepare_metric(self, metric: EvaluationModule | None) -> EvaluationModule:
        return SpeechQualityAgreement() if metric is None else super().prepare_metric(metric)

    def call_pipeline(self, pipe: Any, recordings: DatasetColumn) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Score every recording; one that cannot be scored becomes a row without scores."""
        options = {"on_error": "row"} if isinstance(pipe, hf_sqa.pipelines.AudioQualityPipeline) else {}
        start = perf_counter()
        rows = list(pipe(recordings, **options))
        return rows, self._compute_time_perf(start, perf_counter(), len(rows)) if rows else {}

    def predictions_processor(self, rows: list[dict[str, Any]], score: str) -> dict[str, list[float]]:
        """Return the named score of every row; NaN if it is missing."""
        if rows and score not in rows[0]:
            names = [name for name in rows[0] if name not in ("status", "code", "reason")]
            raise ValueError(f"Expected a model that predicts {score!r}, got one for {', '.join(names)}; choose with `score=`.")
        return {"predictions": [math.nan if row[score] is None else row[score] for row in rows]}


def _intervals(
    result: dict[str, Any], inputs: dict[str, Any], confidence_level: float, num_draws: int, seed: int | None
) -> dict[str, dict[str, Any]]:
    metrics = [key for key in result if key.partition("_")[2] in METRICS and not key.endswith("_ktau")]
    intervals = bootstrap_agreement(
        inputs["predictions"],
        inputs["references"],
        metrics=metrics,
        systems=inputs.get("systems"),
        conditions=inputs.get("conditions"),
        num_draws=num_draws,
        confidence_level=confidence_level,
        rng=seed,
    )
    return {
        key: {"score": result[key], "confidence_interval": (found.low, found.high), "standard_error": found.standard_error}
        for key, found in intervals.items()
    }


SUPPORTED_EVALUATOR_TASKS[TASK] = {"implementation": AudioQualityEvaluator, "default_metric_name": None}
