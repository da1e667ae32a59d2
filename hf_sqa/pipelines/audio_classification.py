"""`pipeline("audio-classification")` for a repository that carries its code: results in the form of that task, with our checks."""

from typing import Any

from hf_sqa.pipelines.audio_quality import AudioQualityPipeline

#: Options whose results do not fit into a list of labels.
NOT_HERE = ("return_segments", "return_details", "on_error")


class QualityAsClassification(AudioQualityPipeline):
    """Scores of [`AudioQualityPipeline`] in the form of the task `audio-classification`, which is the call shown on the Hub's page.

    ```python
    >>> from transformers import pipeline

    >>> score = pipeline("audio-classification", model="alice/swahili-mos", trust_remote_code=True)
    >>> score("call.wav")
    [{'score': 3.912345, 'label': 'mos'}]
    ```

    The highest score comes first, as in that task, whatever the order of the columns. A recording that cannot be scored raises
    [`AudioError`].

    Args (at construction or call):
        top_k (`int`, *optional*): Number of scores to return; all if not given.
        **kwargs: `sampling_rate`, `channel`, `mode`, `hop_seconds`, `batch_size` and `num_workers` of [`AudioQualityPipeline`].
    """

    def _sanitize_parameters(self, top_k: int | None = None, **kwargs: Any) -> tuple[dict, dict, dict]:
        if refused := [option for option in NOT_HERE if option in kwargs]:
            raise TypeError(f'Expected the task "audio-quality" for `{refused[0]}`, got "audio-classification".')
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return preprocess, forward, postprocess if top_k is None else postprocess | {"top_k": top_k}

    def postprocess(self, item: dict[str, Any], top_k: int | None = None) -> Any:  # type: ignore[override]
        row = super().postprocess(item)
        ranked = sorted(row.items(), key=lambda named: -named[1])
        return [{"score": score, "label": name} for name, score in ranked[:top_k]]
