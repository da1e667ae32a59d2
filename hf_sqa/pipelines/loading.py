"""The task `audio-quality` of `transformers.pipeline`, and [`pipeline`], which also knows short names, revisions and adapters."""

import warnings
from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.precision import warn_if_emulated
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.pipelines.audio_quality import AudioQualityPipeline
from hf_sqa.pipelines.onnx_backend import load_graph, load_published_graph
from hf_sqa.short_names import DefaultModel

TASK = "audio-quality"
#: transformers' own task, which the page of a repository names.
STOCK_TASK = "audio-classification"
#: Arguments of `transformers.pipeline` that concern loading.
LOADING = ("config", "device_map", "dtype", "local_files_only", "revision", "token", "trust_remote_code")

PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # without this a reload would warn that the task is registered twice
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=AudioQualityPipeline, pt_model=AutoModelForAudioQuality, default=DefaultModel(), type="audio"
)


class RegisteredTask(dict[str, Any]):
    """The task that `transformers.pipeline` uses for our models if none is given.

    transformers looks for custom tasks in the configuration, and runs the checkpoint's code for a task that it finds there. This
    mapping lists the task but does not contain it, so that the registered pipeline is used whether or not there is code.

    With `trust_remote_code=False` and no task, transformers silently uses the task of the repository's page. It looks up the task,
    given or found, in this mapping, so the warning is given here.
    """

    def __contains__(self, task: object) -> bool:
        if task == STOCK_TASK:
            warnings.warn(
                f"The task {STOCK_TASK!r} is transformers' own: it scores without the checks of hf_sqa, so silence gets a score "
                f"too. `pipeline({TASK!r}, model=...)` has them, and so has `pipeline(model=...)`, but for "
                "`trust_remote_code=False`, with which transformers takes the task of the repository's page.",
                UserWarning,
                stacklevel=3,
            )
        return False


AudioQualityConfig.custom_pipelines = RegisteredTask({TASK: {}})


def pipeline(task: Any = None, model: Any = None, *, backend: Any = None, **kwargs: Any) -> AudioQualityPipeline:
    """Call `transformers.pipeline("audio-quality", ...)` for any name that [`~hf_sqa.checkpoints.load_checkpoint`] accepts.

    Args:
        task (*optional*): `"audio-quality"`, as in transformers. It is the only task, so the model may be given in its place.
        model (*optional*): `"default"`, another short name, a folder, a Hub id, `"owner/name@revision"`, an adapter, or a loaded
            model (then with `feature_extractor`); the default if not given.
        backend (`str`, *optional*): `"onnx"` runs a graph of a folder or repository in onnxruntime (`model.onnx`,
            `onnx/model.onnx`, with `dtype="int8"` `onnx/model_quantized.onnx`), `"torch"` the weights; if not given, the graph
            is run only if there are no weights beside it.
        **kwargs: Anything `transformers.pipeline` or [`AudioQualityPipeline`] takes: `device`, `dtype`, `mode`, `hop_seconds`, ...

    Raises:
        OSError: If the model or revision does not exist, or its weights are pickled.
        ValueError: If its family is unknown here or does not score speech, or if its weights are incomplete.
    """
    is_named = isinstance(task, str) and task == TASK
    if task is not None and not is_named and model is not None:
        raise ValueError(f"Expected the task {TASK!r} before a model, got {task!r}.")
    model = task if model is None and not is_named else model
    if isinstance(model, transformers.PreTrainedModel):
        kwargs["model"] = model
    else:
        graph, asked = load_graph(model, backend, kwargs), dict(kwargs)
        loading = {name: kwargs.pop(name) for name in LOADING if name in kwargs} | kwargs.pop("model_kwargs", {})
        if graph is None:
            try:
                checkpoint = load_checkpoint(model, **loading)
                kwargs = {"feature_extractor": checkpoint.feature_extractor, **kwargs, "model": checkpoint.model}
            except OSError:
                graph = load_published_graph(model, asked) if backend is None else None
                if graph is None:
                    raise
        kwargs |= graph or {}
    scorer = transformers.pipeline(TASK, pipeline_class=AudioQualityPipeline, **kwargs)
    warn_if_emulated(scorer.model.dtype, scorer.device)
    return scorer
