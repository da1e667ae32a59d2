"""Exports a model as an ONNX graph that runs without torch, and checks it against torch."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sqa.checkpoint_files import GRAPH_FILE
from hf_sqa.export.int8 import filters_from_a_wave, quantize
from hf_sqa.extras import import_extra
from hf_sqa.modeling import AudioQualityPreTrainedModel

TOLERANCE = 1e-3  # largest difference between onnxruntime and torch, in MOS points
INT8_TOLERANCE = 0.1  # the same for an 8-bit graph, on one window of noise
OPSET = 20


class ScoresOnly(nn.Module):
    """A model that takes its inputs by position and returns only scores, like a graph."""

    def __init__(self, model: AudioQualityPreTrainedModel, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def export_onnx(model: AudioQualityPreTrainedModel, folder: str | Path, *, int8: bool = False) -> float:
    """Write `model.onnx` with configuration and feature extractor, and check it on inputs of three sizes.

    The graph takes the inputs of `model.onnx_inputs()`, without padding, and returns `logits`. It includes the spectrum of
    DistilledSQA, as a fixed convolution. It does not include the cutting of a recording into windows, the mel spectrum of NISQA,
    and a `score_mapping` of the configuration, which applies after the mean over windows; a warning says so.

    Args:
        model (`AudioQualityPreTrainedModel`): The model, in float32.
        folder (`str` or `Path`): Output folder; created if missing.
        int8 (`bool`, *optional*, defaults to `False`): Whether the linear layers compute in 8 bits; for DistilledSQA.

    Returns:
        `float`: Largest difference from torch over the three sizes, in label units.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is missing.
        ValueError: If the graph's scores differ from torch's by more than 0.001, or 0.1 in 8 bits; or if `int8` is set for a family
            other than DistilledSQA.
    """
    onnx, onnxruntime, _ = (import_extra(name, "Exporting to ONNX", "onnx") for name in ("onnx", "onnxruntime", "onnxscript"))
    spectrum = model.onnx_spectrum()
    if int8 and spectrum is None:
        raise ValueError(f"Expected a DistilledSQA for 8 bits, got {type(model).__name__}, which is exported in float32 only.")
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
    with TemporaryDirectory() as scratch:
        exact = Path(scratch) / GRAPH_FILE
        write_graph(graph, tuple(tensor for tensor, _ in inputs.values()), exact, names, "logits", (dynamic,), spectrum)
        written = Path(scratch) / "quantized.onnx" if int8 else exact
        if int8:
            with _quiet():
                quantize(exact, written)
        if spectrum is not None:
            made = onnx.load(written)
            onnx.helper.set_model_props(made, spectrum[1])
            onnx.save(made, written)
        shutil.move(written, folder / GRAPH_FILE)
    model.config.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)

    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    difference = max(_difference(graph, session, inputs, scale) for scale in (0.6, 1.0, 1.7))
    tolerance = INT8_TOLERANCE if int8 else TOLERANCE
    if difference > tolerance:
        raise ValueError(
            f"The ONNX graph's scores differ from torch's by up to {difference:.2g}, more than {tolerance}; report this."
        )
    return difference


def write_graph(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    file: Path,
    names: list[str],
    output: str,
    dynamic: tuple[Any, ...],
    spectrum: tuple[np.ndarray, Any] | None,
) -> None:
    """Write a module as a graph, without paths of this machine and without filters that a runtime can compute.

    `dynamic` is the `dynamic_shapes` of `torch.onnx.export`, `spectrum` the result of `model.onnx_spectrum()`.
    """
    import onnx

    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            inputs,
            file,
            input_names=names,
            output_names=[output],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        made = onnx.load(file)
        # The exporter's notes contain paths of this machine, and shapes are outdated.
        for part in (made.graph, *made.graph.node, *made.graph.input, *made.graph.output, *made.graph.initializer):
            del part.metadata_props[:]
            part.doc_string = ""
        del made.graph.value_info[:]
        if spectrum is not None:
            filters_from_a_wave(made, spectrum[0])
        onnx.save(made, file)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, and the quantiser, which warns on the root logger."""
    for chatty in ("torch.onnx", "onnxruntime.quantization"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def _difference(graph: ScoresOnly, session: Any, inputs: dict[str, Any], scale: float) -> float:
    """Return the largest difference between onnxruntime and torch on random inputs with every dynamic axis scaled."""
    generator = torch.Generator().manual_seed(0)
    sized = {}
    for name, (tensor, axes) in inputs.items():
        shape = [max(1, round(size * scale)) if axis in axes else size for axis, size in enumerate(tensor.shape)]
        sized[name] = torch.randn(shape, generator=generator) * tensor.std() + tensor.mean()
    with torch.no_grad():
        expected = graph(*sized.values()).numpy()
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in sized.items()})[0]
    return float(np.abs(found - expected).max())
