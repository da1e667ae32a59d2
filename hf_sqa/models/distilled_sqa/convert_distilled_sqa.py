"""Convert the Distill-MOS weights in the wheel of the `distillmos` package to a folder that `from_pretrained` loads.

Reads the weight file only; none of the package's code is imported.
"""

import hashlib
import json
from pathlib import Path

import torch

from hf_sqa.auto import PublishedCheckpoint
from hf_sqa.blocks.foreign_checkpoint import converted_tensors, published_name, read_foreign_checkpoint, split_in_proj, tensors_of
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig
from hf_sqa.models.distilled_sqa.modeling_distilled_sqa import DistilledSQA
from hf_sqa.wheels import Wheel

#: What `convert` accepts, for `hf-sqa convert --list`.
READS = (
    "published: Distill-MOS v7 from the PyPI package distillmos",
    "*.pt: a file written by the original code, of the same architecture",
)
WHEEL = Wheel(
    "distillmos",
    "0.9.1",
    sha256="f82e5326ed963ddc28a3e079ded4dbb1bd072ad54be5bdc4380290a9bce3536a",
    megabytes=16,
    license="MIT",
    weights=r"distillmos/weights/.*",
)
WEIGHTS_FILE = "distillmos/weights/distill_mos_v7.pt"
WEIGHTS_SHA256 = "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40"
CHECKPOINT_NAME = "distill-mos-v7"
#: It also loads without a name.
PUBLISHED = PublishedCheckpoint(CHECKPOINT_NAME, "published", WHEEL, (WEIGHTS_FILE,))
#: Calibration of its scores, `score_intervals` of the configuration; written by `benchmarks/interval_coverage.py`.
INTERVALS = Path(__file__).with_name("distill-mos-v7-intervals.json")


def convert(checkpoint: str | Path | None = None) -> DistilledSQA:
    """Build the model from a Distill-MOS checkpoint.

    Args:
        checkpoint (`str` or `Path`, *optional*): File written by the original code; the published one if not given.

    Raises:
        FileNotFoundError: If there is no such file, or the published file can be neither found nor fetched.
        ValueError: If it holds anything but weights, which is never run; or if a tensor is missing, unknown or of another shape;
            the message names it.
    """
    path = Path(checkpoint) if checkpoint else WHEEL.file(WEIGHTS_FILE)
    original = tensors_of(read_foreign_checkpoint(path), path, "model")
    published = hashlib.sha256(path.read_bytes()).hexdigest() == WEIGHTS_SHA256
    config = DistilledSQAConfig(
        checkpoint_name=CHECKPOINT_NAME if published else path.stem,
        score_intervals=json.loads(INTERVALS.read_text(encoding="utf-8")) if published else None,
    )
    model = DistilledSQA(config)
    model.load_state_dict(convert_state_dict(original, model))
    return model.eval()


def convert_state_dict(original: dict[str, torch.Tensor], model: DistilledSQA) -> dict[str, torch.Tensor]:
    """Return the tensors of the original under our names and in our layout; see [`converted_tensors`]."""
    bins = model.config.conv_num_bins

    def laid_out(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name.startswith("trunk.") and tensor.dim() == 4:
            return tensor.transpose(2, 3)  # frequency first to time first
        if name.startswith(("transformer.feature_norm.", "transformer.projection_norm.")) and tensor.dim() == 1:
            return tensor.unflatten(0, (-1, bins)).transpose(0, 1).flatten()  # channel first to bin first
        if name == "transformer.projection.weight":
            return tensor.unflatten(1, (-1, bins)).transpose(1, 2).flatten(1)
        return split_in_proj(name, tensor)

    return converted_tensors(original, model.state_dict(), _original_name, "a Distill-MOS v7 checkpoint", laid_out)


def _original_name(name: str) -> str:
    if name.startswith("trunk.layers."):
        _, _, index, kind = name.split(".")
        return f"cnn.cnn.{2 * int(index)}.{kind}"
    return "transformer_pool_attn." + published_name(name.removeprefix("transformer."))
