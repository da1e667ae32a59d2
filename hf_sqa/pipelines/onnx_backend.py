"""`pipeline(folder, backend="onnx")`: the same pipeline, its network run by onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor

from hf_sqa.models.distilled_sqa.onnx_distilled_sqa import GRAPH_FILE, OnnxDistilledSQA

BACKENDS = ("torch", "onnx")


def load_graph(model: Any, backend: str | None, options: dict[str, Any]) -> dict[str, Any] | None:
    """A folder by `hf-sqa export onnx` as arguments for a pipeline; `None` where torch is to run the model.

    Args:
        model: What was asked for.
        backend (`str`, *optional*): `"onnx"` or `"torch"`; if not given, a folder with `model.onnx` and no weights is a graph.
        options (`dict`): `device` and `dtype` are looked at.

    Raises:
        ValueError: If the backend, device or dtype is not one that there is, or the graph is of a family other than DistilledSQA.
        OSError: If `model` is not a folder, has no graph, or onnxruntime is missing.
    """
    if backend not in {None, *BACKENDS}:
        raise ValueError(f"Expected `backend` to be one of {', '.join(BACKENDS)}, got {backend!r}.")
    folder = Path(model) if isinstance(model, str | Path) and Path(model).is_dir() else None
    is_graph = folder is not None and (folder / GRAPH_FILE).is_file() and not any(folder.glob("*.safetensors*"))
    if backend == "torch" or (backend is None and not is_graph):
        return None
    if folder is None:
        raise OSError(
            f"Expected a folder with {GRAPH_FILE} for `backend='onnx'`, got {model!r}; `hf-sqa export onnx <folder> --model ...` "
            "writes one."
        )
    if str(options.get("device") or "cpu") not in {"cpu", "-1"}:
        raise ValueError(f"An ONNX graph runs on the CPU here, got `device={options['device']!r}`; leave it out.")
    if str(options.get("dtype") or "auto").removeprefix("torch.") not in {"auto", "float32"}:
        raise ValueError(f"The precision of an ONNX graph is fixed when it is exported, got `dtype={options['dtype']!r}`.")
    config_file = folder / "config.json"
    family = json.loads(config_file.read_text(encoding="utf-8")).get("model_type") if config_file.is_file() else None
    if family != OnnxDistilledSQA.config_class.model_type:
        raise ValueError(
            f"Expected the graph of a {OnnxDistilledSQA.config_class.model_type} for `backend='onnx'`, got {family!r} in "
            f"{str(folder)!r}; run other graphs by onnxruntime on the inputs of `model.onnx_inputs()`."
        )
    return {
        "model": OnnxDistilledSQA.from_folder(folder),
        "feature_extractor": AutoFeatureExtractor.from_pretrained(folder),
        "device": "cpu",
    }
