"""SSL-MOS and fairseq checkpoints (wav2vec 2.0, HuBERT; small and large) to a `Wav2Vec2ForMOS`.

Nothing of fairseq or omegaconf is imported, and nothing in a checkpoint is executed: an unpickler that builds tensors and plain
containers turns the objects of a training configuration into inert records, and refuses everything else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from hf_sqa.blocks.foreign_checkpoint import InertRecord, read_foreign_checkpoint
from hf_sqa.blocks.speech_encoder import check_encoder_options
from hf_sqa.models.wav2vec2_mos.configuration_wav2vec2_mos import Wav2Vec2ForMOSConfig
from hf_sqa.models.wav2vec2_mos.modeling_wav2vec2_mos import Wav2Vec2ForMOS

#: What `convert` takes.
READS = (
    "SSL-MOS checkpoints (ckpt_w2vsmall and what its authors' code trains)",
    "fairseq checkpoints of wav2vec 2.0 and HuBERT, to be fine-tuned",
)
#: Encoders of fairseq that are converted.
MODEL_TYPES = ("wav2vec2", "hubert")
#: Attention heads of the published encoders by hidden size: base, large and XLS-R 300M, XLS-R 1B, XLS-R 2B. No tensor tells.
NUM_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
#: Convolution kernels of all published encoders, and the strides that go with them. No tensor tells the strides.
CONV_KERNEL, CONV_STRIDE = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
#: Dropouts of fairseq's pre-training configurations, for group norm (small) and layer norm (large).
DROPOUTS = {
    "group": {"hidden_dropout": 0.1, "attention_dropout": 0.1, "feat_proj_dropout": 0.1, "layerdrop": 0.05},
    "layer": {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0},
}
#: Options of fairseq's model configuration, and ours.
FAIRSEQ_OPTIONS = {
    "encoder_attention_heads": "num_attention_heads",
    "layer_norm_first": "do_stable_layer_norm",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "encoder_layerdrop": "layerdrop",
    "activation_fn": "hidden_act",
}
#: Tensors of pre-training that the model has no use for.
PRETRAINING_TENSORS = re.compile(
    r"^(mask_emb|label_embs_concat)$|^(quantizer|project_q|final_proj|input_quantizer|project_inp|target_glu)\."
)


def convert(
    checkpoint: str | Path, encoder_config: dict[str, Any] | PreTrainedConfig | None = None, **options: Any
) -> Wav2Vec2ForMOS:
    """Build the model from a fine-tuned SSL-MOS checkpoint or from a fairseq pre-training checkpoint.

    An SSL-MOS checkpoint gives the published model: padding is not masked, waveforms are not normalised. A fairseq checkpoint gives
    an encoder to fine-tune, below a new random head, with the defaults of new training.

    Args:
        checkpoint (`str` or `Path`): File written by the original code.
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): What the tensors do not tell: a dict of single values, which win
            over inferred ones, or a whole configuration. Needed for sizes that were never published, for example
            `{"num_attention_heads": 4}`.
        **options: Options of [`Wav2Vec2ForMOSConfig`], which win over those of the published model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds anything but tensors and a training configuration, if the architecture cannot be inferred, or
            if a tensor is missing, unknown or of another shape; the message names it.
    """
    path = Path(checkpoint)
    content = read_checkpoint(path)
    tensors = _tensors(content)
    fine_tuned = "output_layer.weight" in tensors
    fairseq = {} if fine_tuned else fairseq_options(content)
    if isinstance(encoder_config, PreTrainedConfig):
        config = encoder_config
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"Expected `encoder_config` of {' or '.join(MODEL_TYPES)}, the encoders of fairseq that are converted, got "
                f"{config.model_type!r}."
            )
    else:
        values = infer_encoder(tensors, heads_known="num_attention_heads" in {**fairseq, **(encoder_config or {})})
        check_encoder_options(AutoConfig.for_model(values["model_type"]), encoder_config or {})
        config = AutoConfig.for_model(**{**values, **_encoder_options(fairseq), **(encoder_config or {})})
    if fine_tuned and len(tensors["output_layer.weight"]) != 1 and "id2label" not in options:
        raise ValueError(
            f"Expected one score, got an `output_layer` with {len(tensors['output_layer.weight'])}; name them by "
            '`id2label={0: "mos", 1: ...}`.'
        )
    defaults: dict[str, Any] = {"checkpoint_name": path.stem}
    if fine_tuned:
        defaults |= {"mask_padding": False, "do_normalize": False}
    else:
        defaults |= {name: fairseq[name] for name in ("feature_grad_mult", "do_normalize") if name in fairseq}
    model = Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig(encoder_config=config, **{**defaults, **options}))
    converted = convert_state_dict(tensors, model)
    missing = model.load_state_dict(converted, strict=False).missing_keys
    assert fine_tuned == (not missing), missing
    return model.eval()


def convert_state_dict(original: dict[str, torch.Tensor], model: Wav2Vec2ForMOS) -> dict[str, torch.Tensor]:
    """Rename the tensors of the original; every tensor of both sides is accounted for.

    Args:
        original (`dict[str, torch.Tensor]`): By fairseq's names within the encoder; the head as `output_layer.*` if there is one.
        model (`Wav2Vec2ForMOS`): Model of the same architecture.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    has_head = any(name.startswith("output_layer.") for name in original)
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith("encoder.") or (has_head and name.startswith("score_head."))
    }
    converted: dict[str, torch.Tensor] = {}
    used = set()
    for name, ours in expected.items():
        source = _original_name(name, grouped=model.config.encoder_config.feat_extract_norm == "group")
        if source not in original:
            raise ValueError(f"The checkpoint lacks the tensor {source!r}, which gives {name!r}; use a complete checkpoint.")
        tensor = original[source]
        if tensor.shape != ours.shape:
            raise ValueError(
                f"Expected {source!r} of shape {tuple(ours.shape)}, got {tuple(tensor.shape)}: the tensors of this checkpoint "
                "contradict each other, or `encoder_config`."
            )
        converted[name] = tensor.to(ours.dtype)
        used.add(source)
    unknown = sorted(name for name in original if name not in used and not PRETRAINING_TENSORS.search(name))
    if unknown:
        raise ValueError(
            f"Unknown tensors in the checkpoint: {', '.join(unknown[:5])}; expected those of a wav2vec 2.0 or HuBERT encoder of "
            f"{model.encoder.config.num_hidden_layers} layers and a linear `output_layer` only."
        )
    return converted


def infer_encoder(tensors: dict[str, torch.Tensor], heads_known: bool = False) -> dict[str, Any]:
    """Architecture of a fairseq encoder, as far as tensors and published sizes tell.

    Args:
        tensors (`dict[str, torch.Tensor]`): By fairseq's names within the encoder.
        heads_known (`bool`, *optional*, defaults to `False`): Whether the number of attention heads is known from elsewhere.

    Returns:
        `dict[str, Any]`: For `AutoConfig.for_model`, `model_type` included.

    Raises:
        ValueError: If a tensor needed is missing, or if the sizes are none of the published ones and leave a choice.
    """

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise ValueError(
                f"The checkpoint lacks the tensor {name!r}: expected an SSL-MOS checkpoint, or one of fairseq's wav2vec 2.0 or "
                "HuBERT with a projection behind the convolutions."
            )
        return tensors[name].shape

    hidden_size, _ = shape("post_extract_proj.weight")
    num_layers = 1 + max(
        (int(match[1]) for match in map(re.compile(r"encoder\.layers\.(\d+)\.").match, tensors) if match), default=-1
    )
    num_convs = 1 + max(
        (int(match[1]) for match in map(re.compile(r"feature_extractor\.conv_layers\.(\d+)\.").match, tensors) if match), default=-1
    )
    convs = [shape(f"feature_extractor.conv_layers.{index}.0.weight") for index in range(num_convs)]
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
        "num_hidden_layers": num_layers,
        "num_attention_heads": NUM_HEADS.get(hidden_size),
        "intermediate_size": intermediate_size,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": norm,
        "feat_extract_activation": "gelu",
        # No tensor tells whether norms come before or after a block; in all published encoders it goes with this norm.
        "do_stable_layer_norm": norm == "layer",
        "conv_dim": [channels for channels, _, _ in convs],
        "conv_kernel": list(kernels),
        "conv_stride": list(CONV_STRIDE),
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in tensors,
        "num_conv_pos_embeddings": pos_kernel,
        "num_conv_pos_embedding_groups": hidden_size // channels_per_group,
        "activation_dropout": 0.0,
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        **DROPOUTS[norm],
    }


def fairseq_options(content: dict[str, Any]) -> dict[str, Any]:
    """What a fairseq checkpoint's own training configuration says, by our names; empty if it has none.

    Returns:
        `dict[str, Any]`: Options of the encoder, and `feature_grad_mult` and `do_normalize` of the model.
    """
    cfg, args = _plain(content.get("cfg")), _plain(content.get("args"))
    model = (cfg or {}).get("model") or args or {}
    task = (cfg or {}).get("task") or args or {}
    # Anything else, an enumeration for example, was an object and left its value behind.
    values = {name: value for name, value in model.items() if isinstance(value, (bool, int, float, str))}
    options = {ours: values[theirs] for theirs, ours in FAIRSEQ_OPTIONS.items() if theirs in values}
    if "feature_grad_mult" in values:
        options["feature_grad_mult"] = values["feature_grad_mult"]
    if isinstance(task.get("normalize"), bool):
        options["do_normalize"] = task["normalize"]
    return options


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file written by `torch.save`, without executing anything in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds an object that is neither tensor, nor plain container, nor part of a training configuration.
    """
    content = read_foreign_checkpoint(path)
    if not isinstance(content, dict):
        raise ValueError(f"Expected a dict of tensors, or one with the entry 'model', in {path}, got {type(content).__name__}.")
    return content


def _tensors(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by fairseq's names within the encoder, the head as `output_layer.*`."""
    state = content.get("model", content)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("Expected a dict of tensors, or one with such a dict as the entry 'model'; this is no model checkpoint.")
    tensors = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.startswith("w2v_encoder.proj."):  # the letters of a model fine-tuned for recognition
            continue
        tensors[name.removeprefix("ssl_model.").removeprefix("w2v_encoder.w2v_model.")] = tensor
    return tensors


def _encoder_options(fairseq: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fairseq.items() if name in FAIRSEQ_OPTIONS.values()}


def _plain(value: Any) -> Any:
    """Dicts and values of a configuration that was unpickled into inert records."""
    if isinstance(value, InertRecord):
        content = value.__dict__
        if "_content" in content:  # omegaconf's containers
            return _plain(content["_content"])
        return _plain(content["_val"] if "_val" in content else dict(content))  # omegaconf's values; argparse's namespaces
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value


def _original_name(name: str, grouped: bool) -> str:
    """Name in the original of the tensor that gives one of ours."""
    if name.startswith("score_head."):
        return name.replace("score_head.", "output_layer.")
    name = name.removeprefix("encoder.")
    if name.startswith("feature_extractor."):
        return name.replace(".conv.", ".0.").replace(".layer_norm.", ".2." if grouped else ".2.1.")
    for ours, theirs in (
        ("feature_projection.layer_norm.", "layer_norm."),
        ("feature_projection.projection.", "post_extract_proj."),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
        ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.0."),
        ("masked_spec_embed", "mask_emb"),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    for ours, theirs in (
        (".attention.", ".self_attn."),
        (".feed_forward.intermediate_dense.", ".fc1."),
        (".feed_forward.output_dense.", ".fc2."),
    ):
        name = name.replace(ours, theirs)
    return re.sub(r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm.", name)
