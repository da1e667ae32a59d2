"""Any speech encoder of transformers as the front end of a quality model: built, cut to a layer, loaded, masked, mixed.

Encoders: wav2vec 2.0 and XLS-R, HuBERT, WavLM, data2vec-audio, UniSpeech and UniSpeech-SAT, wav2vec 2.0 Conformer take waveforms
          (`input_values`), and so does Whisper here, which computes its log-mel spectra itself (`whisper_encoder.py`); w2v-BERT 2.0
          takes such spectra (`input_features`). DistilledSQA, a quality model of this package, serves as an encoder too where no
          other weights are at hand: its features are what its own pooling sees.
Layers:   layer `n` is the output of the `n`-th transformer block, `hidden_states[n]` of transformers 5; layer 0 is the input of
          the first block. Layers come before the final layer norm that some encoders apply to the output of the last block. No
          layer (`None`) means the encoder's own output, after that norm.
Shapes:   B batch, T samples or spectra, F frames, D hidden size
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.feature_extraction_auto import get_feature_extractor_config
from transformers.models.wavlm.modeling_wavlm import WavLMAttention
from transformers.utils import logging

from hf_sqa.blocks.bounds import COUNT, SIZE, check_bounds
from hf_sqa.blocks.encoder_blocks import check_heads, narrow_attention
from hf_sqa.blocks.partial_weights import refuse_partial_weights

#: Quality models that serve as encoders by their `encode`; they have no layers to choose from.
QUALITY_MODEL_TYPES = ("distilled_sqa",)
#: `model_type` of encoders that a mask shields from padding, if their features have layer norm.
MASKABLE_TYPES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "wav2vec2-bert", "whisper")
#: All encoders whose masks, layers and norms are known (and tested) here. data2vec-audio smears padding through a stack of
#: positional convolutions and Conformer through unmasked depthwise convolutions.
ENCODER_TYPES = (*MASKABLE_TYPES, "data2vec-audio", "wav2vec2-conformer")
#: Encoders that always normalise the output of their last block; others do so with `do_stable_layer_norm`.
NORMED_TYPES = ("wav2vec2-conformer", "whisper")
#: Samples in a spectrum, samples between spectra, and spectra in a frame, of w2v-BERT 2.0's feature extractor (16 kHz).
SPECTRUM_SAMPLES, SPECTRUM_HOP_SAMPLES, SPECTRA_PER_FRAME = 400, 160, 2
#: Samples per frame of Whisper, whose convolution joins two spectra; an incomplete frame counts as a frame.
WHISPER_FRAME_SAMPLES = 320
#: Encoder options for fine-tuning on scores: no frames are masked. The vector that would replace them is then not built.
FINE_TUNING_OPTIONS = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
#: wav2vec 2.0 base to be fine-tuned, with the dropouts of fairseq's pre-training configuration. Sizes are transformers' defaults.
WAV2VEC2_BASE = {
    **{"model_type": "wav2vec2", "hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0},
    **{"feat_proj_dropout": 0.1, "layerdrop": 0.05},
    **FINE_TUNING_OPTIONS,
}
#: Sizes of an encoder for tests; and a wav2vec 2.0 of these sizes, with layer norm and without dropout.
TINY_SIZES = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
    **{"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
}
TINY_ENCODER = {
    **{"model_type": "wav2vec2", "feat_extract_norm": "layer", "do_stable_layer_norm": True, "mask_time_prob": 0.0},
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"), 0.0),
    **TINY_SIZES,
}
#: Tensors of a checkpoint that belong to a task or to pre-training, and not to the encoder.
HEAD_TENSORS = re.compile(
    r"^(lm_head|quantizer|project_q|project_hid|dropout_features|final_proj|label_embs_concat|speaker_proj|label_embeddings_concat"
    r"|layer_norm_for_extract|classifier|projector|layer_weights|tdnn|feature_extractor\.(weight|bias)$|objective|decoder|proj_out)\b"
)
#: Names of tensors in a Whisper encoder that was saved by itself, and their names here.
WHISPER_ENCODER_NAMES = {r"^(conv1|conv2|embed_positions|layers|layer_norm)\.": r"encoder.\1."}
#: Bounds on options of the encoder: transformers' own configurations have none.
ENCODER_BOUNDS = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "conv_dim", "vocab_size", "feature_projection_input_dim"), SIZE),
    **dict.fromkeys(("d_model", "encoder_ffn_dim", "num_mel_bins"), SIZE),
    **dict.fromkeys(("conv_kernel", "conv_stride", "conv_pos_kernel_size", "max_source_positions"), SIZE),
    **dict.fromkeys(("num_attention_heads", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"), COUNT),
    "encoder_attention_heads": COUNT,
    **dict.fromkeys(("num_hidden_layers", "encoder_layers"), (0, COUNT[1])),
}


def check_encoder_config(encoder_config: PreTrainedConfig, *, with_quality_models: bool = False) -> None:
    """Refuse an encoder that is not in `ENCODER_TYPES`, nor, if `with_quality_models`, in `QUALITY_MODEL_TYPES`."""
    model_type = getattr(encoder_config, "model_type", None)
    if getattr(encoder_config, "hidden_size", None) is None:
        raise ValueError(
            f"Expected `encoder_config` of a speech encoder, got a {model_type!r} configuration without `hidden_size`; pass that "
            f"of one of {', '.join(ENCODER_TYPES)}, for example `AutoConfig.from_pretrained('facebook/wav2vec2-base')`."
        )
    if model_type not in QUALITY_MODEL_TYPES:  # which have bounds of their own
        check_bounds(vars(encoder_config), ENCODER_BOUNDS)
    types = ENCODER_TYPES + QUALITY_MODEL_TYPES if with_quality_models else ENCODER_TYPES
    if model_type not in types:
        raise ValueError(
            f"Expected `encoder_config` of one of {', '.join(types)}, got {model_type!r}: how it masks padding and numbers its "
            "layers is not known here."
        )
    check_heads(encoder_config)


def check_layer(encoder_config: PreTrainedConfig, layer: int | None, option: str = "layer") -> None:
    """Refuse a layer that the encoder does not have."""
    if layer is None:
        return
    if is_quality_model(encoder_config):
        raise ValueError(
            f"Expected no `{option}` for a {encoder_config.model_type} encoder, got {layer}: its features are those "
            "before its pooling."
        )
    if not 0 <= layer <= encoder_config.num_hidden_layers:
        raise ValueError(
            f"Expected `{option}` between 0 and {encoder_config.num_hidden_layers}, the number of transformer blocks of this "
            f"{encoder_config.model_type} encoder, got {layer}; 0 is the input of the first block."
        )
    if getattr(encoder_config, "add_adapter", False):
        raise ValueError(
            f"Expected no `{option}` for an encoder with an adapter, got {layer}: the adapter comes after the last block. Set "
            "`add_adapter=False` in `encoder_config`."
        )


def check_encoder_options(encoder_config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Refuse options that the encoder does not have: transformers would keep and ignore them."""
    for name in options:
        if not hasattr(encoder_config, name):
            raise ValueError(
                f"Expected options that a {encoder_config.model_type} encoder has, got {name!r}; see "
                f"{type(encoder_config).__name__} of transformers."
            )


def check_layerdrop(encoder_config: PreTrainedConfig) -> None:
    """Refuse an encoder that skips blocks in training, for models that read individual layers."""
    option = layerdrop_option(encoder_config)
    if layerdrop := getattr(encoder_config, option, 0.0):
        raise ValueError(
            f"Expected `{option}=0` in `encoder_config`, got {layerdrop}: the model reads single layers, and one that is skipped "
            "while training cannot be read."
        )


def truncated(encoder_config: PreTrainedConfig, layer: int | None) -> PreTrainedConfig:
    """Return a copy of a configuration with no more blocks than `layer` needs; the original stays as it is."""
    config = copy.deepcopy(encoder_config)
    if layer is not None:
        config.num_hidden_layers = layer
        if (num_heads := getattr(config, "layer_num_heads", None)) is not None:
            config.layer_num_heads = num_heads[:layer]
    return config


def build_encoder(encoder_config: PreTrainedConfig, layer: int | None = None) -> PreTrainedModel:
    """Build an encoder, randomly initialised, that ends at a layer; later blocks are not built."""
    check_encoder_config(encoder_config, with_quality_models=True)
    check_layer(encoder_config, layer)
    config = truncated(encoder_config, layer)
    encoder = _whisper_class()._from_config(config) if computes_spectra(config) else AutoModel.from_config(config)
    narrow_attention(encoder, getattr(config, "layer_num_heads", None))
    return _prepared(encoder, layer)


def load_encoder_config(
    name_or_path: str, options: dict[str, Any] | None = None, *, local_files_only: bool = False
) -> PreTrainedConfig:
    """Load the configuration of a pre-trained encoder with some values changed; it does not say where it was read from.

    Checkpoints for CTC or pre-training serve as well as bare ones. `{"layerdrop": 0.0}` works whatever the encoder calls this
    option; those of `FINE_TUNING_OPTIONS` are left out for a quality model, which never masks frames.
    """
    config = AutoConfig.from_pretrained(name_or_path, local_files_only=local_files_only)
    check_encoder_config(config, with_quality_models=True)
    if is_quality_model(config):
        options = {name: value for name, value in (options or {}).items() if name not in FINE_TUNING_OPTIONS}
    options = {layerdrop_option(config) if name == "layerdrop" else name: value for name, value in (options or {}).items()}
    check_encoder_options(config, options)
    for name, value in options.items():
        setattr(config, name, value)
    config._name_or_path = ""
    if computes_spectra(config):
        config.dtype = None  # that of the published file, often half precision
    return config


def load_encoder(
    name_or_path: str, encoder_config: PreTrainedConfig, layer: int | None = None, sampling_rate: int | None = None, **options: Any
) -> PreTrainedModel:
    """Load a pre-trained encoder up to a layer; only the needed tensors of a safetensors file are read.

    The checkpoint may be bare or have a head for CTC, pre-training or classification, a Whisper its decoder. `encoder_config` is
    that of the whole encoder, from `load_encoder_config`; `**options` are those of `from_pretrained`. An encoder whose feature
    extractor asks for another rate is refused, and so is a tensor that is missing, of another shape, or belongs neither to the
    encoder, nor to a layer left out, nor to a head; the message names it.
    """
    check_encoder_config(encoder_config, with_quality_models=True)
    check_layer(encoder_config, layer)
    published_rate = get_feature_extractor_config(name_or_path).get("sampling_rate") if sampling_rate is not None else None
    if published_rate not in (None, sampling_rate):
        raise ValueError(
            f"Expected an encoder for audio sampled at {sampling_rate} Hz, got {name_or_path}, whose feature extractor asks for "
            f"{published_rate} Hz; pass `sampling_rate={published_rate}`."
        )
    loader: Any = AutoModel
    if computes_spectra(encoder_config):
        # A bare encoder's file has no prefix, and many on the Hub are in half precision, while training begins in single precision.
        loader = _whisper_class()
        options = {"key_mapping": WHISPER_ENCODER_NAMES, "dtype": torch.float32} | options
    with _without_load_report():
        encoder, loaded = loader.from_pretrained(
            name_or_path, config=truncated(encoder_config, layer), output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    prefix, num_layers = f"{encoder.base_model_prefix}.", encoder.config.num_hidden_layers
    refuse_partial_weights(
        name_or_path,
        loaded["missing_keys"],
        [name for name in loaded["unexpected_keys"] if not _may_be_left_out(name.removeprefix(prefix), num_layers, layer)],
        [key for key in loaded["mismatched_keys"] if not (computes_spectra(encoder_config) and encoder.takes_positions(*key))],
        remedy=f"use a complete {encoder_config.model_type} encoder, or correct its `config.json`",
    )
    encoder.config._name_or_path = ""
    encoder.name_or_path = ""
    return _prepared(encoder, layer)


def is_quality_model(encoder_config: PreTrainedConfig) -> bool:
    """Whether the encoder is a quality model of this package."""
    return encoder_config.model_type in QUALITY_MODEL_TYPES


def takes_spectra(encoder_config: PreTrainedConfig) -> bool:
    """Whether the encoder takes `input_features` (w2v-BERT 2.0) instead of `input_values`."""
    return encoder_config.model_type == "wav2vec2-bert"


def computes_spectra(encoder_config: PreTrainedConfig) -> bool:
    """Whether the encoder takes waveforms and itself computes the log-mel spectra for its blocks: Whisper."""
    return encoder_config.model_type == "whisper"


def has_convolutions(encoder_config: PreTrainedConfig) -> bool:
    """Whether the encoder reads the waveform by convolutions, as wav2vec 2.0 does."""
    return not (takes_spectra(encoder_config) or computes_spectra(encoder_config) or is_quality_model(encoder_config))


def front_modules(encoder_config: PreTrainedConfig) -> tuple[str, ...]:
    """Return patterns for the modules before an encoder's blocks, by their names in a model that has it as `encoder`."""
    fronts = {"wav2vec2-bert": ("encoder.feature_projection",), "whisper": ("encoder.encoder.conv?",)}
    return fronts.get(encoder_config.model_type, ("encoder.*feature_extractor", "encoder.*feature_projection"))


def layerdrop_option(encoder_config: PreTrainedConfig) -> str:
    """Return the name of the option that skips blocks at random in training."""
    return "encoder_layerdrop" if computes_spectra(encoder_config) else "layerdrop"


def in_precision_of(encoder: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    """Return inputs in the precision of the encoder's weights, or in float32 if it begins with logarithms over six decades."""
    return inputs.float() if computes_spectra(encoder.config) else inputs.to(encoder.dtype)


def pads_safely(encoder_config: PreTrainedConfig) -> bool:
    """Whether a recording's features, given its mask, are the same alone and padded in a batch.

    Group norm (wav2vec 2.0 base) averages over time before any mask is seen.
    """
    shielded = encoder_config.model_type in MASKABLE_TYPES + QUALITY_MODEL_TYPES
    return shielded and getattr(encoder_config, "feat_extract_norm", "layer") == "layer"


def output_size(encoder_config: PreTrainedConfig) -> int:
    """Width of the encoder's output: `hidden_size`, or that of its adapter."""
    if getattr(encoder_config, "add_adapter", False):
        return encoder_config.output_hidden_size
    return encoder_config.hidden_size


def min_num_samples(encoder_config: PreTrainedConfig) -> int:
    """Return the samples at 16 kHz that one frame needs; shorter audio gives no frame. 400 (25 ms) for wav2vec 2.0, 1 for a quality
    model or Whisper, which pad by themselves.
    """
    if is_quality_model(encoder_config) or computes_spectra(encoder_config):
        return 1
    if takes_spectra(encoder_config):
        return SPECTRUM_SAMPLES + (SPECTRA_PER_FRAME - 1) * SPECTRUM_HOP_SAMPLES
    num_samples = 1
    for kernel, stride in zip(reversed(encoder_config.conv_kernel), reversed(encoder_config.conv_stride), strict=True):
        num_samples = (num_samples - 1) * stride + kernel
    return num_samples


def frame_mask(encoder: PreTrainedModel, attention_mask: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return which frames of the encoder's output see no padding: `(B, F)` from `attention_mask` `(B, T)` over its inputs."""
    num_real_frames = num_frames_of(encoder, attention_mask.sum(dim=1))  # (B,)
    return torch.arange(num_frames, device=attention_mask.device)[None] < num_real_frames[:, None]


def scale_feature_gradient(encoder: PreTrainedModel, factor: float) -> None:
    """Multiply the gradient that reaches an encoder's convolutions by a factor; the encoder's output stays the same.

    This is fairseq's `feature_grad_mult`. A factor of 0 freezes the convolutions, see `freeze_idle_parameters`.
    """
    if factor not in (0, 1):
        encoder.feature_extractor.register_forward_hook(partial(_scale_gradient_of_output, factor=factor))


def freeze_idle_parameters(encoder: PreTrainedModel, feature_grad_mult: float = 1.0) -> None:
    """Freeze parameters that no gradient can reach: distributed training would stop at them, and weight decay would shrink them.

    These are the convolutions with a `feature_grad_mult` of 0; the vector that replaces masked frames, if training masks none; the
    positional convolution of wav2vec 2.0 Conformer, which transformers builds and does not use; the positions of Whisper, which
    are sines; and the pooling of a quality model. `from_pretrained` makes all parameters trainable again: call this after building
    and after loading.
    """
    config = encoder.config
    if is_quality_model(config):
        encoder.transformer.pooling.requires_grad_(False)
        return
    if computes_spectra(config):
        encoder.encoder.embed_positions.requires_grad_(False)
        return
    if feature_grad_mult == 0:
        encoder.feature_extractor._freeze_parameters()
    masks_frames = getattr(config, "apply_spec_augment", True) and config.mask_time_prob > 0
    if hasattr(encoder, "masked_spec_embed") and not masks_frames:
        encoder.masked_spec_embed.requires_grad = False
    if config.model_type == "wav2vec2-conformer":
        encoder.encoder.pos_conv_embed.requires_grad_(False)


def last_hidden_state(encoder: PreTrainedModel, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the output `(B, F, D)` of any encoder built or loaded here."""
    if is_quality_model(encoder.config):
        return encoder.encode(inputs, attention_mask)
    outputs = encoder(**{encoder.main_input_name: inputs}, attention_mask=attention_mask, return_dict=True)
    return outputs.last_hidden_state


def num_frames_of(encoder: PreTrainedModel, lengths: torch.Tensor) -> torch.Tensor:
    """Return the number of frames `(B,)` that an encoder makes of rows of `lengths` samples (or spectra)."""
    if is_quality_model(encoder.config):
        return num_frames_of_samples(encoder.config, lengths)
    return encoder._get_feat_extract_output_lengths(lengths)


def num_frames_of_samples(encoder_config: PreTrainedConfig, num_samples: Any) -> Any:
    """Return the number of frames for a number of samples (`int` or integer tensor), from the encoder's configuration alone.

    Raises:
        ValueError: If the encoder takes spectra or ends in an adapter: its frames cannot be computed from samples here.
    """
    if takes_spectra(encoder_config) or getattr(encoder_config, "add_adapter", False):
        raise ValueError(
            f"Expected `ssl_attention_mask` beside the `ssl_features` of a {encoder_config.model_type} encoder in a padded batch, "
            "got none: how many frames it makes of a recording is not known here. Pass 1 on frames, 0 on padding."
        )
    if is_quality_model(encoder_config):  # one frame per step of its grid, complete or not
        return -(-num_samples * encoder_config.num_frames // encoder_config.window_samples)
    if computes_spectra(encoder_config):
        return (num_samples + WHISPER_FRAME_SAMPLES - 1) // WHISPER_FRAME_SAMPLES  # ONNX rounds division towards zero
    for kernel, stride in zip(encoder_config.conv_kernel, encoder_config.conv_stride, strict=True):
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples


def all_layers(
    encoder: PreTrainedModel, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Return layers 0 to the last one built, each of shape `(B, F, D)`, all before any final layer norm.

    Layers skipped in training (`layerdrop`) would be missing, so encoders used this way are built with `layerdrop=0`.
    """
    options = {encoder.main_input_name: inputs, "output_hidden_states": True, "return_dict": True}
    return encoder(**options, attention_mask=attention_mask).hidden_states


class AdaptableWavLMAttention(WavLMAttention):
    """WavLM's attention, calling its projections as modules.

    transformers hands their weights to `F.multi_head_attention_forward`, so LoRA around `q_proj` would silently train nothing.
    """

    def torch_multi_head_self_attention(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, gated_position_bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def split(projected: torch.Tensor) -> torch.Tensor:
            return projected.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, H, F, D / H)

        query, key = split(self.q_proj(hidden_states)), split(self.k_proj(hidden_states))
        weights = query * self.scaling @ key.transpose(2, 3) + gated_position_bias.unflatten(0, (-1, self.num_heads))
        if attention_mask is not None:
            weights = weights.masked_fill(attention_mask[:, None, None].ne(1), float("-inf"))
        weights = F.dropout(weights.softmax(dim=-1), self.dropout, self.training)
        context = (weights @ split(self.v_proj(hidden_states))).transpose(1, 2).flatten(2)
        return self.out_proj(context), weights


def _whisper_class() -> Any:
    from hf_sqa.blocks.whisper_encoder import WhisperOnWaveforms  # its import takes a tenth of a second, for Whisper only

    return WhisperOnWaveforms


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Suppress transformers' table of missing and unused tensors: all of them are accounted for here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _prepared(encoder: PreTrainedModel, layer: int | None) -> PreTrainedModel:
    """Return the encoder, cut to the wanted layer and ready for adapters."""
    for module in encoder.modules():
        if type(module) is WavLMAttention:
            module.__class__ = AdaptableWavLMAttention
    has_final_norm = getattr(encoder.config, "do_stable_layer_norm", False) or encoder.config.model_type in NORMED_TYPES
    if layer is not None and has_final_norm:
        encoder.encoder.layer_norm = nn.Identity()
    return encoder


def _scale_gradient_of_output(_module: nn.Module, _inputs: Any, output: torch.Tensor, *, factor: float) -> None:
    if output.requires_grad:
        output.register_hook(partial(torch.mul, factor))


def _may_be_left_out(name: str, num_layers_built: int, layer: int | None) -> bool:
    """Whether a tensor of a checkpoint, by its name within the encoder, may be left out of the model."""
    if block := re.match(r"(?:encoder\.)?layers\.(\d+)\.", name):
        return layer is not None and int(block[1]) >= num_layers_built
    # The vector that replaces masked frames is built only if training masks any.
    return name == "masked_spec_embed" or HEAD_TENSORS.match(name) is not None
