"""A model as an ONNX graph that runs without torch, checked against torch before it is handed over."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sqa.modeling import AudioQualityPreTrainedModel

GRAPH_FILE = "model.onnx"
TOLERANCE = 1e-3  # MOS points between onnxruntime and torch
OPSET = 20


class ScoresOnly(nn.Module):
    """A model that takes its inputs by position and returns nothing but scores, as a graph does."""

    def __init__(self, model: AudioQualityPreTrainedModel, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def export_onnx(model: AudioQualityPreTrainedModel, folder: str | Path) -> float:
    """Write `model.onnx` with configuration and feature extractor beside it, and check it on three sizes of input.

    The graph takes what `model.onnx_inputs()` names, without padding, and returns `logits`. Cutting a recording into windows, where
    a family does that, and the mel spectrum of NISQA stay outside. So does a `score_mapping` of the configuration, as a warning
    says: it belongs behind the mean over windows.

    Args:
        model (`AudioQualityPreTrainedModel`): In float32.
        folder (`str` or `Path`): Where to; created if missing.

    Returns:
        `float`: Largest difference from torch over the three sizes, in label units.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is missing.
        ValueError: If the graph's scores differ from torch's by more than 0.001.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Exporting to ONNX needs the extra `onnx`: `pip install 'hf-sqa[onnx]'` ({error}).") from None
    if model.config.score_mapping:
        warnings.warn(
            "The graph gives scores before the checkpoint's `score_mapping`; apply "
            "`hf_sqa.blocks.score_mapping.apply_score_mapping` to the score of each recording.",
            UserWarning,
            stacklevel=2,
        )
    model = model.eval().float().cpu()
    inputs = model.onnx_inputs()
    names = list(inputs)
    graph = ScoresOnly(model, names)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dynamic = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _, axes in inputs.values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(tensor for tensor, _ in inputs.values()),
            folder / GRAPH_FILE,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(dynamic,),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model.config.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)

    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    difference = max(_difference(graph, session, inputs, scale) for scale in (0.6, 1.0, 1.7))
    if difference > TOLERANCE:
        raise ValueError(
            f"The ONNX graph's scores differ from torch's by up to {difference:.2g}, more than {TOLERANCE}; report this."
        )
    return difference


def _difference(graph: ScoresOnly, session: Any, inputs: dict[str, Any], scale: float) -> float:
    """Largest difference between onnxruntime and torch on random inputs, every dynamic axis scaled."""
    generator = torch.Generator().manual_seed(0)
    sized = {}
    for name, (tensor, axes) in inputs.items():
        shape = [max(1, round(size * scale)) if axis in axes else size for axis, size in enumerate(tensor.shape)]
        sized[name] = torch.randn(shape, generator=generator) * tensor.std() + tensor.mean()
    with torch.no_grad():
        expected = graph(*sized.values()).numpy()
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in sized.items()})[0]
    return float(np.abs(found - expected).max())
