"""Convert DNSMOS weights from the wheel of the `speechmos` package to a model.

Reads the ONNX files only: their tensors, by name. None of the package's code is imported, and no graph is run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hf_sqa.auto import PublishedCheckpoint
from hf_sqa.blocks.foreign_checkpoint import converted_tensors
from hf_sqa.choices import did_you_mean
from hf_sqa.models.dnsmos.configuration_dnsmos import POLYNOMIALS, PUBLISHED_SCORES, DNSMOSConfig
from hf_sqa.models.dnsmos.modeling_dnsmos import DNSMOS
from hf_sqa.models.dnsmos.onnx_initializers import read_initializers
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
