"""An 8-bit ONNX graph of DistilledSQA: the transformer computes in integers, the layers before it in float32."""

from pathlib import Path
from typing import Any

import numpy as np

#: Unquantised weights of at least this size are stored in half precision and used in single precision.
STORED_IN_HALF = 1024


def quantize(source: Path, target: Path) -> None:
    """Convert a float32 graph of DistilledSQA, written by [`~hf_sqa.export.onnx.export_onnx`], to 8 bits.

    The linear layers of transformer and pooling are quantised dynamically by onnxruntime: 8-bit weights with a scale for each
    output, and 8-bit activations scaled by their current range, so that no calibration recordings are needed. Weights are unsigned:
    with signed weights, processors with AVX2 but without VNNI saturate, and the score would depend on the machine. Spectrum,
    convolutions and the projection after them need more precision: they compute in float32, with weights stored in float16. So
    does the last layer, which is small.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = onnx.load(source)
    graph = exact.graph
    constants = {tensor.name for tensor in graph.initializer}
    last_convolution = max(index for index, node in enumerate(graph.node) if node.op_type == "Conv")
    linear = [node.name for node in graph.node[last_convolution:] if node.op_type == "MatMul" and node.input[1] in constants]
    quantize_dynamic(exact, target, nodes_to_quantize=linear[1:], per_channel=True, weight_type=QuantType.QUInt8)
    model, casts = onnx.load(target), []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= STORED_IN_HALF:
            name, values = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            # The runtime computes a cast once, when it loads the graph.
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    _prepend(model.graph, casts)
    onnx.save(model, target)


def filters_from_a_wave(model: Any, hann: np.ndarray) -> None:
    """Replace the spectrum's filters, which can be larger than a student, by nodes that compute them from one period of a wave.

    The runtime computes them once, when it loads the graph. The first convolution of the model is the spectrum, and `hann` its
    window; the model is changed in place.
    """
    from onnx import helper, numpy_helper

    graph, size = model.graph, len(hann)
    spectrum = next(node for node in graph.node if node.op_type == "Conv")
    kernel = next(tensor for tensor in graph.initializer if tensor.name == spectrum.input[1])
    num_bins = size // 2 + 1
    assert list(kernel.dims) == [2 * num_bins, 1, size], kernel.dims
    angle = 2 * np.pi / size * np.arange(size)
    constants = {
        "bins": np.arange(num_bins)[:, None],
        "samples": np.arange(size)[None],
        "size": np.array(size),
        "cosine": np.cos(angle).astype(np.float32),
        "minus_sine": -np.sin(angle).astype(np.float32),
        "window": hann.astype(np.float32),
        "axis": np.array([1]),
    }
    name = kernel.name
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Mul", ["bins", "samples"], "product", {}),
        ("Mod", ["product", "size"], "phase", {}),
        ("Gather", ["cosine", "phase"], "real", {}),
        ("Gather", ["minus_sine", "phase"], "imaginary", {}),
        ("Concat", ["real", "imaginary"], "waves", {"axis": 0}),
        ("Mul", ["waves", "window"], "filters", {}),
        ("Unsqueeze", ["filters", "axis"], name, {}),
    ]
    graph.initializer.remove(kernel)
    graph.initializer.extend(numpy_helper.from_array(values, f"filters.{key}") for key, values in constants.items())
    nodes = []
    for kind, inputs, out, options in steps:
        own_name = out if out == name else f"filters.{out}"
        nodes.append(helper.make_node(kind, [f"filters.{tensor}" for tensor in inputs], [own_name], **options))
    _prepend(graph, nodes)


def _prepend(graph: Any, nodes: list[Any]) -> None:
    """Put nodes before all others."""
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
