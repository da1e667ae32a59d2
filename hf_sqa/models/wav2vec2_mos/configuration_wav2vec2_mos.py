"""Configuration of Wav2Vec2ForMOS."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_sqa.blocks.bounds import COUNT, SHARE, SIZE
from hf_sqa.blocks.pooling import POOLINGS
from hf_sqa.blocks.speech_encoder import (
    FINE_TUNING_OPTIONS,
    TINY_ENCODER,
    WAV2VEC2_BASE,
    check_encoder_config,
    check_layer,
    check_layerdrop,
    has_convolutions,
    takes_spectra,
)
from hf_sqa.choices import check_choice
from hf_sqa.configuration import AudioQualityConfig

#: `feature_grad_mult` of fairseq's pre-training configurations: for extractors with group norm, and with layer norm.
FEATURE_GRAD_MULT = {"group": 0.1, "layer": 1.0}


@strict
class Wav2Vec2ForMOSConfig(AudioQualityConfig):
    r"""Configuration of [`Wav2Vec2ForMOS`]; the defaults are those of SSL-MOS on wav2vec 2.0 base, but for `mask_padding`.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): Speech encoder of transformers: wav2vec 2.0 or XLS-R, HuBERT,
            WavLM, data2vec-audio, UniSpeech, Conformer, w2v-BERT 2.0, Whisper; or DistilledSQA. wav2vec 2.0 base if not given.
        layer (`int`, *optional*): Transformer block whose output is used, counted from 1 and before any final layer norm; 0 is the
            input of the first block. Later blocks are neither built nor loaded. The encoder's own output if not given.
        mix_layers (`bool`, *optional*, defaults to `False`): Whether to average layer 0 up to `layer` (up to the last if not
            given) with learned weights.
        pooling (`str`, *optional*, defaults to `"mean"`): How frames count: all equally (`"mean"`), weighted by a small network
            (`"attention"`), or only the last ones (`"last"`).
        num_last_frames (`int`, *optional*, defaults to `1`): Frames that `"last"` averages.
        attention_size (`int`, *optional*, defaults to `128`): Width of the network of `"attention"`.
        bound_scores (`bool`, *optional*, defaults to `False`): Whether a sigmoid keeps every frame's scores between `score_min` and
            `score_max`; otherwise scores are unbounded.
        predict_log_variance (`bool`, *optional*, defaults to `False`): Whether to predict the natural logarithm of the variance of
            every score too. The loss is then the Gaussian negative log-likelihood, and `score_loss` has to be `"mse"`.
        feature_grad_mult (`float`, *optional*): Factor on the gradient that reaches the encoder's convolutions, 0 freezes them. If
            not given 0.1 for an encoder with group norm (wav2vec 2.0 base), 1 for others, as in fairseq.
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether the encoder stays as it is while training.
        mask_padding (`bool`, *optional*, defaults to `True`): Whether to keep padding, marked by `attention_mask`, out of attention
            and pooling. SSL-MOS does not: its converted weights have `False`, and `attention_mask` is then ignored.
        do_normalize (`bool`, *optional*): Whether the feature extractor brings waveforms to zero mean and unit variance. If not
            given, as in the encoder's pre-training: not with group norm, nor for Whisper and DistilledSQA. Converted SSL-MOS
            weights always have `False`.
        score_loss (`str`, *optional*, defaults to `"l1"`): As in the authors' code; `"mse"` or `"huber"` otherwise.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "wav2vec2_mos"
    #: wav2vec 2.0 with layer norm, two blocks, about 7,000 weights.
    tiny_options = {"encoder_config": TINY_ENCODER | FINE_TUNING_OPTIONS | {"intermediate_size": 32}, "attention_size": 8}
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="wav2vec2", init_kwargs=WAV2VEC2_BASE)}
    keys_to_ignore_at_inference = [*AudioQualityConfig.keys_to_ignore_at_inference, "log_variances"]

    encoder_config: dict | PreTrainedConfig | None = None
    layer: int | None = None
    mix_layers: bool = False
    pooling: str = "mean"
    num_last_frames: int = 1
    attention_size: int = 128
    bound_scores: bool = False
    predict_log_variance: bool = False
    feature_grad_mult: float | int | None = None
    freeze_encoder: bool = False
    mask_padding: bool = True
    do_normalize: bool | None = None
    score_loss: str = "l1"

    bounds = AudioQualityConfig.bounds | {"attention_size": SIZE, "num_last_frames": COUNT, "feature_grad_mult": SHARE}

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        norm = getattr(self.encoder_config, "feat_extract_norm", "layer")
        if self.feature_grad_mult is None:
            self.feature_grad_mult = FEATURE_GRAD_MULT.get(norm, 1.0)
        if self.do_normalize is None:
            self.do_normalize = norm != "group" and (has_convolutions(self.encoder_config) or takes_spectra(self.encoder_config))

    def validate_encoder(self) -> None:
        check_encoder_config(self.encoder_config, with_quality_models=True)
        check_layer(self.encoder_config, self.layer)
        if self.do_normalize is False and takes_spectra(self.encoder_config):
            raise ValueError(
                f"Expected `do_normalize` to be left out for a {self.encoder_config.model_type} encoder, got False: its feature "
                "extractor always normalises every mel band."
            )
        if self.feature_grad_mult not in (None, 1) and not has_convolutions(self.encoder_config):
            raise ValueError(
                f"Expected `feature_grad_mult` to be left out for a {self.encoder_config.model_type} encoder, which has no "
                f"convolutions in front of it whose gradient could be scaled, got {self.feature_grad_mult}."
            )

    def validate_mix(self) -> None:
        if self.mix_layers:
            check_layer(self.encoder_config, self.encoder_config.num_hidden_layers)
            check_layerdrop(self.encoder_config)

    def validate_pooling(self) -> None:
        check_choice("pooling", self.pooling, POOLINGS)
        if self.num_last_frames != 1 and self.pooling != "last":
            raise ValueError(
                f"Expected `num_last_frames` only beside `pooling='last'`, got {self.num_last_frames} beside "
                f"`pooling={self.pooling!r}`."
            )

    def validate_variance(self) -> None:
        if self.predict_log_variance and self.score_loss != "mse":
            raise ValueError(
                "Expected `score_loss='mse'` beside `predict_log_variance=True`, got "
                f"{self.score_loss!r}: the Gaussian log-likelihood that trains a variance weighs squared errors."
            )
