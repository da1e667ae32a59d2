"""Configuration of UTMOS."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_sqa.blocks.bounds import SHARE, SIZE
from hf_sqa.blocks.speech_encoder import TINY_SIZES, WAV2VEC2_BASE, check_encoder_config, has_convolutions
from hf_sqa.configuration import AudioQualityConfig


@strict
class UTMOSConfig(AudioQualityConfig):
    r"""Configuration of [`UTMOS`]; the defaults are those of the strong learner of UTMOS22 without phoneme encoder.

    Losses are in label units, twice those of the original, whose targets are `(MOS - 3) / 2`.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): Speech encoder of transformers that takes waveforms. wav2vec 2.0
            base if not given.
        num_domains (`int`, *optional*, defaults to `3`): Domains with an embedding; 1 where only one was published.
        domain_size (`int`, *optional*, defaults to `128`): Width of a domain's embedding.
        domain_id (`int`, *optional*, defaults to `0`): Domain for which to score.
        num_judges (`int`, *optional*, defaults to `3000`): Listeners with an embedding; 1 where only one was published.
        judge_size (`int`, *optional*, defaults to `128`): Width of a listener's embedding.
        judge_id (`int`, *optional*, defaults to `288`): Listener for whom to score; 288 is the mean listener of the original.
        lstm_hidden_size (`int`, *optional*, defaults to `512`): Width of each direction of the LSTM.
        projection_size (`int`, *optional*, defaults to `2048`): Width of the layer between LSTM and scores.
        dropout (`float`, *optional*, defaults to `0.3`): Dropout before the scores while training.
        feature_grad_mult (`float`, *optional*, defaults to `0.1`): Factor on the gradient that reaches the encoder's convolutions;
            0 freezes them.
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether the encoder stays as it is while training.
        score_loss (`str`, *optional*, defaults to `"clipped"`): Loss of every frame's score.
        clip_margin (`float`, *optional*, defaults to `0.5`): As in the original, in label units.
        ranking_weight (`float`, *optional*, defaults to `0.46`): As in the original, for its batches of 12, in label units.
        ranking_margin (`float`, *optional*, defaults to `0.2`): As in the original, in label units.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "utmos"
    #: wav2vec 2.0 with group norm, as in the base model, and two blocks; about 12,000 weights.
    tiny_options = {
        "encoder_config": WAV2VEC2_BASE
        | TINY_SIZES
        | {
            "intermediate_size": 32,
            **dict.fromkeys(("hidden_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"), 0.0),
        },
        **{"domain_size": 4, "num_judges": 5, "judge_size": 6, "judge_id": 2},
        **{"lstm_hidden_size": 8, "projection_size": 12, "dropout": 0.0},
    }
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="wav2vec2", init_kwargs=WAV2VEC2_BASE)}

    encoder_config: dict | PreTrainedConfig | None = None
    num_domains: int = 3
    domain_size: int = 128
    domain_id: int = 0
    num_judges: int = 3000
    judge_size: int = 128
    judge_id: int = 288
    lstm_hidden_size: int = 512
    projection_size: int = 2048
    dropout: float | int = 0.3
    feature_grad_mult: float | int = 0.1
    freeze_encoder: bool = False
    score_loss: str = "clipped"
    clip_margin: float | int = 0.5
    ranking_weight: float | int = 0.46
    ranking_margin: float | int = 0.2

    bounds = AudioQualityConfig.bounds | {
        **dict.fromkeys(("domain_size", "judge_size", "lstm_hidden_size", "projection_size", "num_domains", "num_judges"), SIZE),
        **dict.fromkeys(("domain_id", "judge_id"), (0, SIZE[1])),
        **dict.fromkeys(("dropout", "feature_grad_mult"), SHARE),
    }

    def validate_encoder(self) -> None:
        check_encoder_config(self.encoder_config)
        if not has_convolutions(self.encoder_config):
            raise ValueError(
                "Expected an encoder whose convolutions take the waveform, as those of wav2vec 2.0, got "
                f"{self.encoder_config.model_type}."
            )

    def validate_ids(self) -> None:
        for name, count in (("domain", self.num_domains), ("judge", self.num_judges)):
            if getattr(self, f"{name}_id") >= count:
                raise ValueError(
                    f"Expected `{name}_id` below `num_{name}s` = {count}, got {getattr(self, f'{name}_id')}; ids count from 0."
                )
