"""`pipeline(model, backend="onnx")`: the same pipeline with the network run by onnxruntime."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor

from hf_sqa.checkpoint_files import GRAPH_FILE, HUB_GRAPHS, graph_files
from hf_sqa.checkpoints import local_folder
from hf_sqa.models.distilled_sqa.onnx_distilled_sqa import OnnxDistilledSQA

BACKENDS = ("torch", "onnx")
#: Files of a repository that a graph needs.
GRAPH_PARTS = ["*.json", GRAPH_FILE, *HUB_GRAPHS]


def load_graph(model: Any, backend: str | None, options: dict[str, Any]) -> dict[str, Any] | None:
    """Load a graph of `hf-sqa export onnx` from a folder or the Hub, as arguments for a pipeline; `None` if torch runs the model.

    `backend` and `options` are those of [`~hf_sqa.pipelines.loading.pipeline`].
    """
    if backend not in {None, *BACKENDS}:
        raise ValueError(f"Expected `backend` to be one of {', '.join(BACKENDS)}, got {backend!r}.")
    folder = Path(model) if isinstance(model, str | Path) and Path(model).is_dir() else None
    is_graph = folder is not None and graph_files(folder) and not any(folder.glob("*.safetensors*"))
    if backend == "torch" or (backend is None and not is_graph):
        return None
    if str(options.get("device") or "cpu") not in {"cpu", "-1"}:
        raise ValueError(f"An ONNX graph runs on the CPU here, got `device={options['device']!r}`; leave it out.")
    dtype = str(options.get("dtype") or "auto").removeprefix("torch.")
    if dtype not in {"auto", "float32", "int8"}:
        raise ValueError(f"The precision of an ONNX graph is fixed when it is exported, got `dtype={options['dtype']!r}`.")
    if folder is None:
        try:
            folder = local_folder(model, GRAPH_PARTS, **options)
        except OSError as error:
            raise OSError(
                f"Expected a folder or repository with an ONNX graph, got {model!r}, which is not available: {error}"
            ) from error
    config_file = folder / "config.json"
    family = json.loads(config_file.read_text(encoding="utf-8")).get("model_type") if config_file.is_file() else None
    if family != OnnxDistilledSQA.config_class.model_type:
        raise ValueError(
            f"Expected the graph of a {OnnxDistilledSQA.config_class.model_type} for `backend='onnx'`, got {family!r} in "
            f"{str(folder)!r}; run other graphs by onnxruntime on the inputs of `model.onnx_inputs()`."
        )
    graphs = graph_files(folder) if dtype != "int8" else [HUB_GRAPHS[1]]
    return {
        "model": OnnxDistilledSQA.from_folder(folder, graphs[0] if graphs else GRAPH_FILE),
        "feature_extractor": AutoFeatureExtractor.from_pretrained(folder),
        "device": "cpu",
    }


def load_published_graph(model: Any, options: dict[str, Any]) -> dict[str, Any] | None:
    """Call [`load_graph`] for a repository with a graph but no weights; `None` if it has no graph or does not exist."""
    if not isinstance(model, str) or Path(model).exists():
        return None
    try:
        has_graph = graph_files(local_folder(model, GRAPH_PARTS, **options))
    except (OSError, ValueError):
        return None
    return load_graph(model, "onnx", options) if has_graph else None
