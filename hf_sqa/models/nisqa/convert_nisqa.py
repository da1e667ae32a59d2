"""Convert NISQA weights, as the authors and the organisers of ConferencingSpeech 2022 published them, to a model.

The files are pickles, two of them with pandas objects beside the tensors. They are read by an unpickler that builds tensors and
plain containers only: objects of known libraries become inert stand-ins, and a file that names anything else is refused. Nothing
that a file names is ever imported or called.

The three files of the authors (nisqa.tar, nisqa_mos_only.tar, nisqa_tts.tar) are licensed CC BY-NC-SA 4.0: not for commercial use.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from hf_sqa.blocks.foreign_checkpoint import (
    PUBLISHED_LAYER_NAMES,
    converted_tensors,
    read_foreign_checkpoint,
    renamed,
    split_in_proj,
)
from hf_sqa.models.nisqa.configuration_nisqa import DIMENSIONS, NISQAConfig
from hf_sqa.models.nisqa.modeling_nisqa import NISQA

#: What `convert` accepts, one line each.
READS = (
    "a file of NISQA: nisqa.tar, nisqa_mos_only.tar, nisqa_tts.tar (CC BY-NC-SA 4.0), or one trained with its code",
    "a baseline of ConferencingSpeech 2022: nq_base1, nq_base2 as published (*.tar)",
)

#: Names of the published weights, by the SHA-256 of their files.
CHECKPOINT_NAMES = {
    "7ec4cf937514dd3f8860b21e66fabd8ca87a168572675ef8d979c4c4ad2e805c": "nisqa-v2",
    "16b2632bea0a481b1bba485587a8da2265f2c7797b525712ae0c072986ee783c": "nisqa-v2-mos-only",
    "c556a954cd9536360b4fe6f524ad432816509cd22f436f345b281a7851360656": "nisqa-v1-tts",
    "4d4d56df6a7039a23d4f5deda9f9d8860e22f5e361f7212f1b17f44a3a18ebcf": "nq-base1",
    "3c6045cd5da5db78e02e31e25423db19875e0f02e1d20aed44bb3913a30e89e5": "nq-base2",
}

#: Original names of our options: for spectra, segments and the parts of the network; and for self-attention over time.
OPTIONS = {
    **{"sampling_rate": "ms_sr", "fft_size": "ms_n_fft", "hop_seconds": "ms_hop_length", "window_seconds": "ms_win_length"},
    **{"num_mel_bins": "ms_n_mels", "max_frequency_hz": "ms_fmax"},
    **{"segment_frames": "ms_seg_length", "segment_hop_frames": "ms_seg_hop_length"},
    **{"segment_encoder": "cnn_model", "segment_feature_size": "cnn_fc_out_h", "segment_dropout": "cnn_dropout"},
    **{"time_encoder": "td", "pooling": "pool"},
}
SELF_ATTENTION_OPTIONS = {
    **{"hidden_size": "td_sa_d_model", "num_attention_heads": "td_sa_nhead", "num_hidden_layers": "td_sa_num_layers"},
    **{"intermediate_size": "td_sa_h", "dropout": "td_sa_dropout"},
}


def convert(checkpoint: str | Path) -> NISQA:
    """Build the model from a checkpoint of the original code.

    Args:
        checkpoint (`str` or `Path`): File written by the original: a dictionary with `args` and `model_state_dict`.

    Returns:
        [`NISQA`] in evaluation mode. `NISQAFeatureExtractor.from_config(model.config)` is the extractor that fits it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds objects that are refused, an architecture that this family does not have, or a tensor that is
            missing, unknown or of another shape; the message names it.
    """
    path = Path(checkpoint)
    content = read_foreign_checkpoint(path)
    for part in ("args", "model_state_dict"):
        if not isinstance(content, dict) or not isinstance(content.get(part), dict):
            raise ValueError(f"Expected a dictionary with 'args' and 'model_state_dict' in {str(path)!r}, found no {part!r}.")
    original = content["model_state_dict"]
    name = CHECKPOINT_NAMES.get(hashlib.sha256(path.read_bytes()).hexdigest(), path.stem)
    model = NISQA(config_from_args(content["args"], original, checkpoint_name=name))
    model.load_state_dict(convert_state_dict(original, model))
    return model.eval()


def config_from_args(args: dict[str, Any], tensors: dict[str, torch.Tensor], checkpoint_name: str | None = None) -> NISQAConfig:
    """Return the architecture of a checkpoint, from the original's options and the names of its tensors."""

    def option(name: str) -> Any:
        if name not in args:
            raise ValueError(f"Expected the option {name!r} among the checkpoint's 'args', got none.")
        return args[name]

    def refuse_unless(name: str, *accepted: Any) -> None:
        if args.get(name) not in accepted:
            raise ValueError(
                f"Expected the option {name!r} of the checkpoint to be {' or '.join(map(repr, accepted))}, got {args[name]!r}: "
                "this family does not have it."
            )

    refuse_unless("model", "NISQA", "NISQA_DIM")
    refuse_unless("td_2", "skip", None)
    refuse_unless("double_ended", False, None)
    num_labels = len({name.split(".")[1] for name in tensors if name.startswith("pool_layers.")}) or 1
    if num_labels not in (1, len(DIMENSIONS)):
        raise ValueError(
            f"Expected one score or the five of NISQA_DIM ({', '.join(DIMENSIONS)}), got {num_labels} poolings in the checkpoint."
        )
    options = {"checkpoint_name": checkpoint_name, "id2label": dict(enumerate(DIMENSIONS[:num_labels]))}
    options |= {ours: option(theirs) for ours, theirs in OPTIONS.items()}
    cnn, time_encoder, pooling = (options[name] for name in ("segment_encoder", "time_encoder", "pooling"))
    if cnn in ("adapt", "standard"):
        if tuple(option("cnn_kernel_size")) != (3, 3):
            raise ValueError(f"Expected convolutions of 3 by 3, got 'cnn_kernel_size' {args['cnn_kernel_size']}.")
        options["conv_channels"] = [option(f"cnn_c_out_{index}") for index in (1, 2, 3)]
    if cnn == "adapt":
        options["conv_pool_sizes"] = [list(option(f"cnn_pool_{index}")) for index in (1, 2, 3)]
    if time_encoder == "self_att":
        refuse_unless("td_sa_pos_enc", False, None)
        options |= {ours: option(theirs) for ours, theirs in SELF_ATTENTION_OPTIONS.items()}
    elif time_encoder == "lstm":
        refuse_unless("td_lstm_num_layers", 1)
        refuse_unless("td_lstm_bidirectional", True)
        options["hidden_size"] = option("td_lstm_h")
    if pooling == "att":
        options["pooling_size"] = option("pool_att_h")
    return NISQAConfig(**options)


def convert_state_dict(original: dict[str, torch.Tensor], model: NISQA) -> dict[str, torch.Tensor]:
    """Return the tensors of the original under our names; see [`converted_tensors`]."""
    what = "the NISQA that its options describe"
    return converted_tensors(original, model.state_dict(), lambda name: original_name(name, model.config), what, split_in_proj)


def original_name(name: str, config: NISQAConfig) -> str:
    """Return the original name of one of our tensors."""
    part, rest = name.split(".", 1)
    if part == "segment_encoder":
        return "cnn.model." + _original_segment_encoder_name(rest, config)
    if part == "time_encoder":
        return "time_dependency.model." + _original_time_encoder_name(rest)
    index, layer, kind = rest.split(".")
    linear = {"attention_hidden": "linear1", "attention_score": "linear2", "score_head": "linear3"}[layer]
    prefix = "pool" if config.num_labels == 1 else f"pool_layers.{index}"
    return f"{prefix}.model.{linear if config.pooling == 'att' else 'linear'}.{kind}"


def _original_segment_encoder_name(name: str, config: NISQAConfig) -> str:
    if name.startswith("input_norm."):
        return name.replace("input_norm", "bn1")
    if name.startswith("projection."):
        return name.replace("projection", "fc_out" if config.segment_encoder == "standard" else "fc")
    _, index, layer, kind = name.split(".")
    # The dense encoder counts the norm of its input as the first.
    number = int(index) + (2 if config.segment_encoder == "dff" and layer == "norm" else 1)
    return f"{ {'conv': 'conv', 'linear': 'lin', 'norm': 'bn'}[layer] }{number}.{kind}"


def _original_time_encoder_name(name: str) -> str:
    if name.startswith("backward_lstm."):
        return name.replace("backward_lstm", "lstm") + "_reverse"
    if not name.startswith("layers."):
        return renamed(name, {"forward_lstm.": "lstm.", "input_projection.": "linear.", "input_norm.": "norm1."})
    layer, index, rest = name.split(".", 2)
    return f"{layer}.{index}.{renamed(rest, PUBLISHED_LAYER_NAMES)}"
