"""Configuration of MTQNet."""

import copy
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_sqa.models.mosa_net.configuration_mosa_net import HUBERT_LARGE, MOSANetConfig

#: What 3QUEST measures: quality of the speech, of the background noise, and of both together.
TARGET_SCORES = ("s_mos", "n_mos", "g_mos")
#: What the teacher, MOSA-Net, predicts: pseudo-labels of the auxiliary tasks.
AUXILIARY_SCORES = ("pesq", "stoi", "sdi")

#: `microsoft/wavlm-large`, without SpecAugment and layer drop, which the paper does not mention.
WAVLM_LARGE = HUBERT_LARGE | {"model_type": "wavlm", "conv_bias": False}


@strict
class MTQNetConfig(MOSANetConfig):
    r"""Configuration of [`MTQNet`]; the defaults are those of the paper's best system, "FT-WavLM, MPL, Huber".

    The paper does not print the alpha of its frame loss, the output of its heads, or what the encoder sees: these are MOSA-Net's.

    Args:
        id2label (`dict[int, str]`, *optional*): Score names in column order, targets first; S-MOS, N-MOS and G-MOS followed by
            `auxiliary_score_names` if not given.
        auxiliary_score_names (`list[str]`, *optional*): Scores that serve training only and are dropped for inference; PESQ, STOI
            and SDI, as far as `id2label` has them, if not given. Their labels are the scores of a teacher, MOSA-Net.
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): Speech encoder that gives the self-supervised features; WavLM
            large if not given.
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether the encoder stays as it is while training.
        score_loss (`str`, *optional*, defaults to `"huber"`): Loss at both levels: `"huber"`, `"mse"` or `"l1"` (the paper's MAE).
        attention_penalty_weight (`float`, *optional*, defaults to `0.0`): Weight of MOSA-Net's attention penalty while training,
            which the paper's objective does not have.
        score_min (`float`, *optional*, defaults to `1.0`): Lowest target score. PESQ lies in -0.5 to 4.5, STOI in 0 to 1, SDI
            from 0 up. Nothing is clipped or mapped.
        score_max (`float`, *optional*, defaults to `5.0`): Highest target score.
        **kwargs: Options of [`MOSANetConfig`]; `huber_delta` is the paper's delta, best at 1, `frame_loss_weight` its alpha. A
            model that takes over a teacher's weights has the teacher's `sinc_edges`.
    """

    model_type = "mtq_net"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="wavlm", init_kwargs=WAVLM_LARGE)}

    auxiliary_score_names: list[str] | tuple[str, ...] | None = None
    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    freeze_encoder: bool = False
    score_loss: str = "huber"
    attention_penalty_weight: float | int = 0.0
    score_min: float | int = 1.0
    score_max: float | int = 5.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.auxiliary_score_names is None:
            self.auxiliary_score_names = [name for name in self.score_names if name in AUXILIARY_SCORES]

    def default_id2label(self) -> dict[int, str]:
        auxiliary = AUXILIARY_SCORES if self.auxiliary_score_names is None else self.auxiliary_score_names
        return dict(enumerate((*TARGET_SCORES, *auxiliary)))

    @property
    def target_score_names(self) -> list[str]:
        """Scores that stay for inference, in column order."""
        return [name for name in self.score_names if name not in self.auxiliary_score_names]

    def without_auxiliary_scores(self) -> Self:
        """Return a copy of this configuration for inference: the targets only."""
        targets = self.target_score_names
        config = copy.deepcopy(self)
        config.id2label = dict(enumerate(targets))
        config.label2id = {name: index for index, name in config.id2label.items()}
        config.auxiliary_score_names = []
        config.score_activations = list(self.score_activations)[: len(targets)]
        config.score_scales = list(self.score_scales)[: len(targets)]
        return config

    def validate_auxiliary_scores(self) -> None:
        auxiliary, targets = list(self.auxiliary_score_names or ()), self.target_score_names
        if not targets or self.score_names != targets + auxiliary:
            raise ValueError(
                f"Expected `id2label` to name at least one target and then the auxiliary scores {auxiliary}, got "
                f"{self.score_names}; dropping the auxiliary scores must leave the targets' columns where they are."
            )
