"""Configuration of MTQNet."""

from __future__ import annotations

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.models.mosa_net.configuration_mosa_net import check_encoder_options, check_trunk_options, default_score_activations

#: What 3QUEST measures: quality of the speech, of the background noise, and of both together.
TARGET_SCORES = ("s_mos", "n_mos", "g_mos")
#: What the teacher, MOSA-Net, predicts: pseudo-labels of the auxiliary tasks.
AUXILIARY_SCORES = ("pesq", "stoi", "sdi")

#: `microsoft/wavlm-large`, without SpecAugment and layer drop, of which the paper says nothing.
WAVLM_LARGE = {
    "model_type": "wavlm",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}


@strict
class MTQNetConfig(AudioQualityConfig):
    r"""Configuration of [`MTQNet`]; the defaults are those of the paper's best system, "FT-WavLM, MPL, Huber".

    The paper does not print the alpha of its frame loss, the output of its heads, nor what the encoder sees: these are MOSA-Net's.

    Args:
        id2label (`dict[int, str]`, *optional*): Score names in column order, targets first; S-MOS, N-MOS and G-MOS followed by
            `auxiliary_score_names` if not given.
        auxiliary_score_names (`list[str]`, *optional*): Scores that serve training only and are dropped for inference; PESQ, STOI
            and SDI, as far as `id2label` has them, if not given. Their labels are the scores of a teacher, MOSA-Net.
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): Speech encoder that gives the self-supervised features; WavLM
            large if not given.
        encoder_layer (`int`, *optional*): Transformer block whose output is taken, from 1; the encoder's own output if not given.
        encoder_input (`str`, *optional*, defaults to `"peak"`): What the encoder sees: the waveform divided by its peak (`"peak"`),
            as it is (`"raw"`), or with zero mean and unit variance (`"standardized"`).
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether the encoder stays as it is while training.
        precomputed_features (`bool`, *optional*, defaults to `False`): Whether the model has no encoder and is given its features;
            `encoder_config` then tells their width and rate.
        fft_size (`int`, *optional*, defaults to `512`): Samples in one spectrum; half of it plus one is the number of filters too.
        hop_samples (`int`, *optional*, defaults to `256`): Distance between spectra, and between outputs of the filter bank.
        sinc_kernel_size (`int`, *optional*, defaults to `251`): Samples in one band-pass filter.
        sinc_edges (`str`, *optional*, defaults to `"python3"`): Rule for the edges of the bands, that of the teacher when its
            weights are taken over: `"python3"` reaches 8000 Hz, `"python2"` 7700 Hz.
        conv_channels (`list[int]`, *optional*, defaults to `(16, 32, 64, 128)`): Channels of each block of three convolutions.
        smooth_ssl_features (`bool`, *optional*, defaults to `False`): Whether each self-supervised frame is averaged with the next.
        bottleneck_relu (`bool`, *optional*, defaults to `True`): Whether a ReLU follows the layer that narrows these features.
        lstm_hidden_size (`int`, *optional*, defaults to `128`): Width of the recurrence, per direction.
        hidden_size (`int`, *optional*, defaults to `128`): Width of the frames that the heads see.
        dropout (`float`, *optional*, defaults to `0.3`): Dropout on these frames while training.
        score_activations (`list[str]`, *optional*): `"linear"` or `"sigmoid"` for each score; `"sigmoid"` for STOI and `"linear"`
            for the others if not given.
        score_scales (`list[float]`, *optional*): What the activation is multiplied by to give label units, for each score; 1 if not
            given. The loss sees errors divided by it.
        score_loss (`str`, *optional*, defaults to `"huber"`): Loss at both levels: `"huber"`, `"mse"` or `"l1"` (the paper's MAE).
        frame_loss_weight (`float`, *optional*, defaults to `1.0`): Weight of the frames' loss beside the recording's, alpha.
        attention_penalty_weight (`float`, *optional*, defaults to `0.0`): Weight of MOSA-Net's attention penalty while training,
            which the paper's objective does not have.
        **kwargs: Options of [`AudioQualityConfig`]; `huber_delta` is the paper's delta, best at 1. `score_min` and `score_max` are
            the range of the targets. PESQ lies in -0.5 to 4.5, STOI in 0 to 1, SDI from 0 up. Nothing is clipped or mapped.

    Raises:
        StrictDataclassError: If the encoder, its layer, the auxiliary scores, or a size or rule of the trunk cannot be used.
    """

    model_type = "mtq_net"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="wavlm", init_kwargs=WAVLM_LARGE)}

    auxiliary_score_names: list[str] | tuple[str, ...] | None = None
    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    encoder_layer: int | None = None
    encoder_input: str = "peak"
    freeze_encoder: bool = False
    precomputed_features: bool = False
    fft_size: int = 512
    hop_samples: int = 256
    sinc_kernel_size: int = 251
    sinc_edges: str = "python3"
    conv_channels: list[int] | tuple[int, ...] = (16, 32, 64, 128)
    smooth_ssl_features: bool = False
    bottleneck_relu: bool = True
    lstm_hidden_size: int = 128
    hidden_size: int = 128
    dropout: float | int = 0.3
    score_activations: list[str] | tuple[str, ...] | None = None
    score_scales: list[float | int] | tuple[float | int, ...] | None = None
    score_loss: str = "huber"
    frame_loss_weight: float | int = 1.0
    attention_penalty_weight: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.auxiliary_score_names is None:
            self.auxiliary_score_names = [name for name in self.score_names if name in AUXILIARY_SCORES]
        self.score_activations = self.score_activations or default_score_activations(self.score_names)
        self.score_scales = self.score_scales or [1.0] * len(self.score_names)

    def default_id2label(self) -> dict[int, str]:
        """Score names of a configuration that does not name any: the three targets, then the auxiliary scores."""
        auxiliary = AUXILIARY_SCORES if self.auxiliary_score_names is None else self.auxiliary_score_names
        return dict(enumerate((*TARGET_SCORES, *auxiliary)))

    @property
    def target_score_names(self) -> list[str]:
        """Scores that stay for inference, in column order."""
        return [name for name in self.score_names if name not in self.auxiliary_score_names]

    def without_auxiliary_scores(self) -> MTQNetConfig:
        """Copy of this configuration for inference: the targets only."""
        targets = self.target_score_names
        config = copy.deepcopy(self)
        config.id2label = dict(enumerate(targets))
        config.label2id = {name: index for index, name in config.id2label.items()}
        config.auxiliary_score_names = []
        config.score_activations = list(self.score_activations)[: len(targets)]
        config.score_scales = list(self.score_scales)[: len(targets)]
        return config

    @classmethod
    def tiny(cls, **kwargs: Any) -> MTQNetConfig:
        """A configuration for tests: every layer, six heads, a few channels, a HuBERT of two blocks; about 10,000 weights."""
        encoder_config = WAVLM_LARGE | {
            "model_type": "hubert",
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "conv_dim": (8,) * 7,
            "conv_bias": True,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        }
        sizes = {
            "fft_size": 64,
            "sinc_kernel_size": 65,
            "conv_channels": (3, 4, 4, 6),
            "lstm_hidden_size": 6,
            "hidden_size": 8,
        }
        return cls(**{"encoder_config": encoder_config} | sizes | kwargs)

    def validate_encoder(self) -> None:
        check_encoder_options(self)

    def validate_trunk(self) -> None:
        check_trunk_options(self)

    def validate_auxiliary_scores(self) -> None:
        auxiliary, targets = list(self.auxiliary_score_names or ()), self.target_score_names
        if not targets or self.score_names != targets + auxiliary:
            raise ValueError(
                f"Expected `id2label` to name at least one target and then the auxiliary scores {auxiliary}, got "
                f"{self.score_names}; dropping the auxiliary scores must leave the targets' columns where they are."
            )
