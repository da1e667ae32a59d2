"""Convert DNSMOS weights from the wheel of the `speechmos` package to a model.

Reads the ONNX files only: their tensors, by name. None of the package's code is imported, and no graph is run. An ONNX file is a
message of protocol buffers: fields, each with a number and a value that is a whole number, 4 or 8 bytes, or a stretch of bytes,
often a message again. Weights need so little of the format that no package for it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hf_sqa.auto import PublishedCheckpoint
from hf_sqa.blocks.foreign_checkpoint import converted_tensors
from hf_sqa.choices import did_you_mean
from hf_sqa.models.dnsmos.configuration_dnsmos import POLYNOMIALS, PUBLISHED_SCORES, DNSMOSConfig
from hf_sqa.models.dnsmos.modeling_dnsmos import DNSMOS
from hf_sqa.wheels import Wheel

#: What `convert` accepts, for `hf-sqa convert --list`.
READS = (
    "dnsmos: SIG, BAK, OVRL and the P.808 score, from the PyPI package speechmos",
    "dnsmos-personalized: the variant that counts other talkers as noise, from the same package",
)
WHEEL = Wheel(
    "speechmos",
    "0.0.1.1",
    sha256="31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
    megabytes=10,
    license="MIT",
    weights=r"speechmos/p?dnsmos_models/(sig_bak_ovr|model_v8)\.onnx",
    short_name="dnsmos",
)
P835_FILES = {
    "dnsmos": "speechmos/dnsmos_models/sig_bak_ovr.onnx",
    "dnsmos-personalized": "speechmos/pdnsmos_models/sig_bak_ovr.onnx",
}
#: Network of the P.808 score, the same for both variants.
P808_FILE = "speechmos/dnsmos_models/model_v8.onnx"
PUBLISHED = tuple(
    PublishedCheckpoint(variant, variant, WHEEL, (file, P808_FILE), PUBLISHED_SCORES) for variant, file in P835_FILES.items()
)
#: Names that our modules have in the graphs of the networks.
P835_CONVS = ("conv2d", *(f"conv2d_{number}" for number in range(1, 7)))
P808_CONVS = tuple(f"conv2d_{number}" for number in range(5, 10))
P835_DENSE = tuple(f"mos_estimator_logpow/{name}" for name in ("dense", "dense_1", "dense_3"))
P808_DENSE = tuple(f"mos_estimator_small_1/{name}" for name in ("dense_3", "dense_4", "dense_5"))

#: Field numbers in onnx.proto: of the graph in a model, of tensors in a graph, of what a tensor is made of.
GRAPH, INITIALIZER = 7, 5
DIMS, DATA_TYPE, FLOAT_DATA, NAME, RAW_DATA = 1, 2, 4, 8, 9
FLOAT32 = 1
NUMBER = re.compile(rb"[\x80-\xff]{0,9}[\x00-\x7f]")


def convert(checkpoint: str | Path = "dnsmos") -> DNSMOS:
    """Build the model from the published networks, which are fetched when they are first needed.

    Args:
        checkpoint (`str`, *optional*, defaults to `"dnsmos"`): The variant, `"dnsmos"` or `"dnsmos-personalized"`.

    Raises:
        WheelError: If they are not on this machine and cannot be fetched. A `FileNotFoundError`; the message says what to do.
        ValueError: If there is no such variant; or if a tensor is missing, unknown or of another shape, which the message names.
    """
    variant = str(checkpoint)
    if variant not in P835_FILES:
        hint = did_you_mean(variant, P835_FILES)
        raise ValueError(f"Expected a published variant of DNSMOS, {' or '.join(map(repr, P835_FILES))}, got {variant!r}{hint}")
    model = DNSMOS(DNSMOSConfig(checkpoint_name=variant, skip_windows=True, score_polynomials=POLYNOMIALS[variant]))
    graphs = (read_initializers(WHEEL.file(name)) for name in (P835_FILES[variant], P808_FILE))
    model.load_state_dict(model.state_dict() | convert_initializers(*graphs, model))
    return model.eval()


def convert_initializers(p835: dict[str, np.ndarray], p808: dict[str, np.ndarray], model: DNSMOS) -> dict[str, torch.Tensor]:
    """Return the tensors of the two graphs under our names; see [`converted_tensors`]."""
    expected = dict(model.named_parameters())
    converted: dict[str, torch.Tensor] = {}
    filters = {"spectrum.real": "time2freq/stft-real/kernel:0", "spectrum.imaginary": "time2freq/stft-imag/kernel:0"}
    for graph, sources in (
        (p835, filters | _names("network.", P835_CONVS, P835_DENSE)),
        (p808, _names("p808_network.", P808_CONVS, P808_DENSE)),
    ):
        # Constants of the graphs, such as the least power, have no dimensions.
        tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in graph.items() if tensor.ndim}
        ours = {name: expected[name] for name in sources}
        converted |= converted_tensors(tensors, ours, sources.__getitem__, "a published network of DNSMOS", _laid_out)
    return converted


def _laid_out(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name.startswith("spectrum."):
        return tensor.flatten(1)
    return tensor.T if tensor.dim() == 2 else tensor  # Keras multiplies from the other side


def _names(prefix: str, convs: tuple[str, ...], dense: tuple[str, ...]) -> dict[str, str]:
    """Return the names in a graph, by our names."""
    names: dict[str, str] = {}
    for index, source in enumerate(convs):
        names |= {f"{prefix}convs.{index}.weight": f"{source}/kernel:0", f"{prefix}convs.{index}.bias": f"{source}/bias:0"}
    for name, source in zip(("dense.0", "dense.1", "score_head"), dense, strict=True):
        names |= {
            f"{prefix}{name}.weight": f"{source}/MatMul/ReadVariableOp/resource:0",
            f"{prefix}{name}.bias": f"{source}/BiasAdd/ReadVariableOp/resource:0",
        }
    return names


def read_initializers(path: str | Path) -> dict[str, np.ndarray]:
    """Return the float32 tensors in the graph of an ONNX file, by name; others are left out."""
    try:
        tensors: dict[str, np.ndarray] = {}
        for field, model_part in _fields(Path(path).read_bytes()):
            for kind, graph_part in _fields(_bytes(model_part)) if field == GRAPH else ():
                if kind == INITIALIZER:
                    name, tensor = _tensor(_bytes(graph_part))
                    if tensor is not None:
                        tensors[name] = tensor
    except (IndexError, ValueError) as error:
        raise ValueError(f"Expected an ONNX file at {str(path)!r}, got another or a damaged one ({error}).") from None
    if not tensors:
        raise ValueError(f"Expected an ONNX file with weights at {str(path)!r}, found none in it.")
    return tensors


def _tensor(content: bytes) -> tuple[str, np.ndarray | None]:
    """Return name and values of a tensor; no values if they are not in float32."""
    dims: list[int] = []
    name, data_type, values = "", 0, b""
    for field, value in _fields(content):
        if field == DIMS:  # single values, or packed
            dims += [value] if isinstance(value, int) else [_value(digits) for digits in NUMBER.finditer(value)]
        elif field == DATA_TYPE and isinstance(value, int):
            data_type = value
        elif field == NAME:
            name = _bytes(value).decode()
        elif field in (FLOAT_DATA, RAW_DATA):
            values += _bytes(value)
    if data_type != FLOAT32:
        return name, None
    return name, np.frombuffer(values, "<f4").reshape(dims)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of every field of a message."""
    position = 0
    while position < len(content):
        key, position = _number(content, position)
        kind = key & 7
        if kind == 0:
            value, position = _number(content, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _number(content, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if position + length > len(content):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, content[position : position + length]
        position += length


def _number(content: bytes, position: int) -> tuple[int, int]:
    """Return a whole number and the position after it; it has seven bits in a byte, and its last byte is below 128."""
    digits = NUMBER.match(content, position)
    if digits is None:
        raise ValueError("a number that is cut short, or has more than 64 bits")
    return _value(digits), digits.end()


def _value(digits: re.Match[bytes]) -> int:
    return sum((byte & 127) << 7 * place for place, byte in enumerate(digits[0]))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value
