"""Convert XLS-R-SQA heads from the wheel of the `xls-r-sqa` package, on XLS-R or on MFCC features, to a folder that loads.

Reads the weight files only; none of the package's code is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from hf_sqa.auto import PublishedCheckpoint
from hf_sqa.blocks.foreign_checkpoint import (
    converted_tensors,
    published_name,
    read_foreign_checkpoint,
    renamed,
    split_in_proj,
    tensors_of,
)
from hf_sqa.blocks.speech_encoder import check_layer, load_encoder, load_encoder_config
from hf_sqa.choices import did_you_mean
from hf_sqa.models.xlsr_sqa.configuration_xlsr_sqa import XLSRSQAConfig
from hf_sqa.models.xlsr_sqa.modeling_xlsr_sqa import XLSRSQA
from hf_sqa.wheels import Wheel

#: What `convert` accepts, for `hf-sqa convert --list`.
READS = (
    "sqa-v2/mfcc_{full,subset}: published heads on MFCC (PyPI package xls-r-sqa; versions sqa-v2 and sqa); complete models",
    "sqa-v2/300m_{lay5,lay21,fusion}_{full,subset}: the same on XLS-R 300M, with --encoder facebook/wav2vec2-xls-r-300m",
    "sqa-v2/{1b,2b}_{lay10,lay41,fusion}_{full,subset}: the same on XLS-R 1B or 2B, with --encoder",
    "model_*.pt: a file of such a head",
)
WHEEL = Wheel(
    "xls-r-sqa",
    "0.1.0",
    sha256="7ed4587df6f46879bc4ad8773cc58fef80169d809edd5dab63bd9021b1355f0f",
    megabytes=15,
    license="MIT",
    weights=r"xls_r_sqa/models/.*\.pt",
    short_name="xls-r-sqa-v2-mfcc-subset",
)
#: `sqa-v2` is the training step with the least validation loss, `sqa` the last step, published by mistake.
VERSIONS = ("sqa-v2", "sqa")
#: Encoder size and the layers its heads read.
ENCODERS = {"300m": (5, 21), "1b": (10, 41), "2b": (10, 41)}
#: Training data. The authors test `subset` on NISQA and IU Bloomington as corpora it has not seen.
DATA = ("full", "subset")
DEFAULT_HEAD = "sqa-v2/mfcc_subset"
#: The heads were trained on an encoder in evaluation mode: no layer is skipped, no frame masked.
FIXED_ENCODER = {"layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}


def _file_in_wheel(name: str) -> str:
    version, head = name.split("/")
    encoder = head.split("_")[0]
    folder = "mfcc" if encoder == "mfcc" else f"xls-r-{encoder}"
    return f"xls_r_sqa/models/{version}/{folder}/model_{head}.pt"


#: The encoder layers that each of the 40 published heads reads, such as `"sqa-v2/300m_lay5_full"`; `None` for MFCC.
HEADS: dict[str, tuple[int, ...] | None] = {
    f"{version}/{name}_{data}": layers
    for version in VERSIONS
    for name, layers in (
        {"mfcc": None}
        | {f"{encoder}_lay{layer}": (layer,) for encoder, both in ENCODERS.items() for layer in both}
        | {f"{encoder}_fusion": both for encoder, both in ENCODERS.items()}
    ).items()
    for data in DATA
}
#: Heads that need no encoder, so they load by a short name.
PUBLISHED = tuple(
    PublishedCheckpoint(f"xls-r-{version}-mfcc-{data}", head, WHEEL, (_file_in_wheel(head),))
    for version in reversed(VERSIONS)
    for data in DATA
    for head in (f"{version}/mfcc_{data}",)
)


def convert(head: str | Path | None = None, encoder: str | Path | None = None, *, layers: Sequence[int] | None = None) -> XLSRSQA:
    """Build the model from a published head and, unless it is on MFCC, an encoder.

    Args:
        head (`str` or `Path`, *optional*): One of `HEADS` (without a version the one of `sqa-v2`), or the path of a `.pt`
            file; `"sqa-v2/mfcc_subset"`, the head that needs no download, if neither head nor encoder is given.
        encoder (`str` or `Path`, *optional*): Folder or Hub id of the XLS-R that the head was trained on, whole
            (`facebook/wav2vec2-xls-r-300m`) or truncated (`kul-speech-lab/wav2vec2-xls-r-300m-lay5`). Only the blocks up to the
            last layer used are read. Its dropout stays; its layer drop and masking are switched off.
        layers (`Sequence[int]`, *optional*): Layers that the head reads, if the name of its file does not say.

    Raises:
        OSError: If the head or the encoder cannot be found.
        ValueError: If the head is unknown, an encoder is missing or superfluous, too shallow or of another size, or a tensor is
            missing, unknown or of another shape; the message names it.
    """
    if head is None:
        if encoder is not None:
            raise ValueError(f"Expected `head` beside an encoder, got None; pass one of {', '.join(list(HEADS)[2:8])}, ...")
        head = DEFAULT_HEAD
    is_file = isinstance(head, Path) or head.endswith(".pt") or Path(head).is_file()
    name = Path(head).stem.removeprefix("model_") if is_file else _full_name(str(head))
    path = Path(head) if is_file else WHEEL.file(_file_in_wheel(name))
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; pass the path of a .pt file or the name of a head, as {DEFAULT_HEAD!r}.")
    original = tensors_of(read_foreign_checkpoint(path), path)
    if layers is None:
        layers = _layers_of_file(path, original) if is_file else HEADS[name]
    elif not is_file and tuple(layers) != HEADS[name]:
        raise ValueError(f"The head {name!r} reads layers={HEADS[name]}, got layers={tuple(layers)}; leave them out.")
    layers = tuple(layers) if layers is not None else None
    checkpoint_name = path.stem if is_file else "xls-r-" + name.replace("/", "-").replace("_", "-")

    if layers is None:
        if encoder is not None:
            raise ValueError(
                f"Expected no encoder for the head {name!r}, which reads MFCC features, got {str(encoder)!r}; leave it out."
            )
        config = XLSRSQAConfig(checkpoint_name=checkpoint_name)
    else:
        if encoder is None:
            raise ValueError(
                f"The head {name!r} reads layer(s) {', '.join(map(str, layers))} of an XLS-R encoder; pass `encoder=...`, a "
                "folder or a Hub id such as facebook/wav2vec2-xls-r-300m."
            )
        if (isinstance(encoder, Path) or Path(encoder).is_absolute()) and not Path(encoder).is_dir():
            raise FileNotFoundError(f"There is no folder {encoder}; pass the folder of an XLS-R or a Hub id.")
        encoder_config = load_encoder_config(str(encoder), FIXED_ENCODER)
        check_layer(encoder_config, layers[-1], "layers")
        config = XLSRSQAConfig(encoder_config=encoder_config, layers=layers, checkpoint_name=checkpoint_name)
    with torch.device("meta"):
        model = XLSRSQA(config)
    model.load_state_dict(convert_head(original, model), strict=False, assign=True)
    if layers is not None:
        model.encoder = _load_encoder(str(encoder), encoder_config, layers[-1])
    return model.eval()


def convert_head(original: dict[str, torch.Tensor], model: XLSRSQA) -> dict[str, torch.Tensor]:
    """Return the tensors of a published head under the names of a model without its encoder; see [`converted_tensors`]."""
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    return converted_tensors(original, expected, _published_name, f"an XLS-R-SQA head {_kind(model.config)}", split_in_proj)


def _published_name(name: str) -> str:
    if name.startswith("fusion."):
        return renamed(name, {"fusion.norms.": "norm_inputs.", "fusion.mix.": "lin_infusion."})
    return published_name(name.removeprefix("transformer."))


def _kind(config: XLSRSQAConfig) -> str:
    if config.layers is None:
        return f"on {config.num_mfcc} MFCC features"
    layers = ", ".join(map(str, config.layers))
    return f"on layer(s) {layers} of an encoder {config.feature_size} wide (XLS-R: 1024 for 300m, 1280 for 1b, 1920 for 2b)"


def _full_name(name: str) -> str:
    full_name = name if "/" in name else f"{VERSIONS[0]}/{name}"
    if full_name not in HEADS:
        raise ValueError(f"Unknown head {name!r}{did_you_mean(full_name, HEADS, 3)} `hf-sqa convert --list` describes them.")
    return full_name


def _load_encoder(encoder: str, encoder_config: PreTrainedConfig, layer: int) -> PreTrainedModel:
    try:
        return load_encoder(encoder, encoder_config, layer, dtype=torch.float32)
    except (RuntimeError, SafetensorError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"The weights in {encoder} are damaged, no plain tensors, or not those that its config.json describes; nothing of them "
            f"was run: {error}"
        ) from error


def _layers_of_file(path: Path, original: dict[str, torch.Tensor]) -> tuple[int, ...] | None:
    head = f"{VERSIONS[0]}/{path.stem.removeprefix('model_')}"
    if head in HEADS:
        return HEADS[head]
    projection = original.get("transformer.linear_proj.weight")
    if projection is not None and projection.dim() == 2 and projection.shape[1] == XLSRSQAConfig().num_mfcc:
        return None
    raise ValueError(f"The name of {path} does not tell which layers the head reads; pass `layers=(5,)` or whichever they are.")
