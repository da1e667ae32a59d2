"""Use: `pipeline("audio-quality")`, with a default checkpoint that needs no network."""

from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import hf_sqa.models  # noqa: F401  # a pipeline is of use only with the families registered
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.checkpoints import (
    DefaultModel,
    default_checkpoint,
    explained,
    load_adapter,
    models_at_hand,
    resolve_checkpoint,
    split_revision,
)
from hf_sqa.pipelines.audio_quality import AudioQualityPipeline
from hf_sqa.pipelines.identity import model_identity
from hf_sqa.pipelines.onnx_backend import load_graph

__all__ = [
    "AudioQualityPipeline",
    "default_checkpoint",
    "model_identity",
    "models_at_hand",
    "pipeline",
    "resolve_checkpoint",
]

TASK = "audio-quality"
PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # registering twice, as a reload does, would only warn
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=AudioQualityPipeline,
    pt_model=AutoModelForAudioQuality,
    default=DefaultModel(),
    type="audio",
)


def pipeline(task: Any = None, model: Any = None, *, backend: Any = None, **kwargs: Any) -> AudioQualityPipeline:
    """`transformers.pipeline("audio-quality", ...)` that also knows short names, revisions, and adapters without their base.

    Args:
        task (*optional*): `"audio-quality"`, as in transformers. There is no other, so the model may stand in its place.
        model (*optional*): `"default"`, `"distill-mos-v7"`, a folder, a Hub id, `"owner/name@revision"`, or a loaded model (then
            with `feature_extractor`); the default if not given.
        backend (`str`, *optional*): `"onnx"` runs `model.onnx` of a folder by onnxruntime, `"torch"` its weights; if not given, the
            graph is run where there are no weights beside it.
        **kwargs: Anything `transformers.pipeline` or [`AudioQualityPipeline`] takes: `device`, `dtype`, `mode`, `hop_seconds`, ...

    Raises:
        OSError: If there is no such model or revision, or its weights are pickled.
        ValueError: If it is of a family that is not known here, or of none that scores speech.
    """
    named = isinstance(task, str) and task == TASK
    if task is not None and not named and model is not None:
        raise ValueError(f"Expected the task {TASK!r} before a model, got {task!r}.")
    model = task if model is None and not named else model
    asked = model
    try:
        if isinstance(model, str):
            name, revision = split_revision(model)
            if revision is not None:
                model, kwargs = name, {**kwargs, "revision": revision}
        model = resolve_checkpoint(model)
        graph = load_graph(model, backend, kwargs)
        if graph is not None:
            model = graph.pop("model")
            kwargs = {**{key: value for key, value in kwargs.items() if key != "dtype"}, **graph}
        if isinstance(model, str):
            adapted = load_adapter(model, kwargs)
            if adapted is not None:
                kwargs = {**{key: value for key, value in kwargs.items() if key != "revision"}, **adapted}
                model = kwargs.pop("model")
        # Without an answer given beforehand, transformers would ask on the terminal whether to run a stranger's code.
        kwargs.setdefault("trust_remote_code", False)
        return transformers.pipeline(TASK, model=model, pipeline_class=AudioQualityPipeline, **kwargs)
    except (OSError, ValueError) as error:
        told = explained(asked, error)
        if told is error:
            raise
        raise told from error
