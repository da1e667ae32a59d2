"""Speech encoders of fairseq (wav2vec 2.0, HuBERT; small and large): their architecture from their tensors, and tensor names."""

from __future__ import annotations

import re
from typing import Any

import torch

from hf_sqa.blocks.foreign_checkpoint import renamed
from hf_sqa.blocks.speech_encoder import FINE_TUNING_OPTIONS

#: Attention heads of the published encoders by hidden size: base, large and XLS-R 300M, XLS-R 1B, XLS-R 2B. No tensor shows them.
NUM_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
#: Convolution kernels of all published encoders. Their strides, which no tensor shows, are transformers' defaults.
CONV_KERNEL = (10, 3, 3, 3, 3, 2, 2)
#: Dropouts of fairseq's pre-training configurations, for group norm (small) and layer norm (large).
DROPOUTS = {
    "group": {"hidden_dropout": 0.1, "attention_dropout": 0.1, "feat_proj_dropout": 0.1, "layerdrop": 0.05},
    "layer": {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0},
}
#: Tensors of pre-training that the model does not use.
PRETRAINING_TENSORS = re.compile(
    r"^(mask_emb|label_embs_concat)$|^(quantizer|project_q|final_proj|input_quantizer|project_inp|target_glu)\."
)
#: Prefixes of names in transformers and in fairseq, and parts of the names within a block.
FAIRSEQ_NAMES = {
    "feature_projection.layer_norm.": "layer_norm.",
    "feature_projection.projection.": "post_extract_proj.",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
    "encoder.pos_conv_embed.conv.": "encoder.pos_conv.0.",
    "masked_spec_embed": "mask_emb",
}
FAIRSEQ_BLOCK_NAMES = {
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense.": ".fc1.",
    ".feed_forward.output_dense.": ".fc2.",
}


def infer_encoder(tensors: dict[str, torch.Tensor], heads_known: bool = False) -> dict[str, Any]:
    """Infer the architecture of a fairseq encoder, for `AutoConfig.for_model`, from its tensors and the published sizes."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise ValueError(
                f"The checkpoint lacks the tensor {name!r}: expected an SSL-MOS checkpoint, or one of fairseq's wav2vec 2.0 or "
                "HuBERT with a projection behind the convolutions."
            )
        return tensors[name].shape

    hidden_size, _ = shape("post_extract_proj.weight")

    def count(prefix: str) -> int:
        """Return the number of modules in a list that is numbered from 0 without gaps."""
        return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})

    convs = [shape(f"feature_extractor.conv_layers.{index}.0.weight") for index in range(count("feature_extractor.conv_layers."))]
    kernels = tuple(kernel for _, _, kernel in convs)
    if kernels != CONV_KERNEL:
        raise ValueError(
            f"Expected convolutions with kernels {CONV_KERNEL}, those of all published encoders, got {kernels}: their strides "
            "cannot be inferred; pass a whole configuration as `encoder_config`."
        )
    if not heads_known and hidden_size not in NUM_HEADS:
        raise ValueError(
            f"Expected a hidden size of {', '.join(map(str, NUM_HEADS))}, those of the published encoders, got {hidden_size}: the "
            'number of attention heads cannot be inferred; pass `encoder_config={"num_attention_heads": ...}` '
            "(to `hf-sqa convert --encoder-config` as a JSON file)."
        )
    norm = "layer" if "feature_extractor.conv_layers.0.2.1.weight" in tensors else "group"
    intermediate_size, _ = shape("encoder.layers.0.fc1.weight")
    _, channels_per_group, pos_kernel = shape("encoder.pos_conv.0.weight_v")
    return {
        "model_type": "hubert" if "label_embs_concat" in tensors else "wav2vec2",
        "hidden_size": hidden_size,
        "num_hidden_layers": count("encoder.layers."),
        "num_attention_heads": NUM_HEADS.get(hidden_size),
        "intermediate_size": intermediate_size,
        "feat_extract_norm": norm,
        # No tensor shows whether norms come before or after a block; in all published encoders that goes with this norm.
        "do_stable_layer_norm": norm == "layer",
        "conv_dim": [channels for channels, _, _ in convs],
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in tensors,
        "num_conv_pos_embeddings": pos_kernel,
        "num_conv_pos_embedding_groups": hidden_size // channels_per_group,
        "activation_dropout": 0.0,
        **FINE_TUNING_OPTIONS,
        **DROPOUTS[norm],
    }


def fairseq_name(name: str, grouped: bool) -> str:
    """Return fairseq's name of a tensor in transformers' encoder; `grouped` says whether its convolutions have group norm."""
    if name.startswith("feature_extractor."):
        return name.replace(".conv.", ".0.").replace(".layer_norm.", ".2." if grouped else ".2.1.")
    name = renamed(name, FAIRSEQ_NAMES)
    for ours, theirs in FAIRSEQ_BLOCK_NAMES.items():
        name = name.replace(ours, theirs)
    return re.sub(r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm.", name)
