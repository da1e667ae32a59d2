"""MTQ-Net: the three 3QUEST scores of speech, learned beside pseudo-labels of MOSA-Net.

Paper:    Zezario et al., "Multi-Task Pseudo-Label Learning for Non-Intrusive Speech Quality Assessment Model", ICASSP 2024,
          arXiv:2308.09262
Code:     none published; the layers are MOSA-Net's (`hf_sqa.models.mosa_net`)
Weights:  none published; train it from scratch or from a MOSA-Net
Differs:  `MTQNetConfig` lists what the paper does not state; the filter bank is fixed, as in MOSA-Net's code, though the paper
          calls it learnable.
Shapes:   B batch, T samples, F frames, F3 self-supervised frames, D feature size, L labels
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.models.mosa_net.configuration_mosa_net import ENCODER_OPTIONS, TRUNK_OPTIONS
from hf_sqa.models.mosa_net.modeling_mosa_net import MOSANet
from hf_sqa.models.mtq_net.configuration_mtq_net import MTQNetConfig

TEACHER_FAMILY = "mosa_net"


class MTQNet(MOSANet):
    """MTQ-Net: S-MOS, N-MOS and G-MOS of a recording alone.

    In training it has three more heads, for PESQ, STOI and SDI: columns of `logits` and `labels` like the others, labelled with
    a MOSANet's scores. `drop_auxiliary_heads` removes them, `save_for_inference` saves without them.
    """

    config: MTQNetConfig
    config_class = MTQNetConfig

    def drop_auxiliary_heads(self) -> MTQNet:
        """Remove the auxiliary heads and their names in the configuration in place; the targets keep their scores and columns."""
        for name in self.config.auxiliary_score_names:
            del self.score_heads[name]
        self.config = self.config.without_auxiliary_scores()
        return self

    def save_for_inference(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save without the auxiliary heads; this model keeps them."""
        lean = copy.copy(self)  # shares every tensor
        lean._modules = dict(self._modules)
        lean.score_heads = copy.copy(self.score_heads)
        lean.score_heads._modules = dict(self.score_heads._modules)
        lean.drop_auxiliary_heads().save_pretrained(save_directory, **kwargs)

    @classmethod
    def with_knowledge_from(
        cls,
        name_or_path: str | Path | AudioQualityPreTrainedModel,
        *,
        encoder: str | None = None,
        encoder_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[Any, dict[str, list[str]]]:
        """Start from a MOSANet's knowledge: its trunk, its heads of the same names, and its encoder unless another is given.

        The paper's "KT" trains the targets alone: `with_knowledge_from(..., auxiliary_score_names=[])`. When the encoder changes,
        the layer that narrows its features is kept if their width is the same.

        Args:
            name_or_path (`str`, `Path` or model): Folder or Hub id of a MOSANet, or the model itself, which stays as it is.
            encoder (`str`, *optional*): Hub id or folder of another pre-trained encoder.
            encoder_options (`dict[str, Any]`, *optional*): Values of that encoder's configuration to change.
            **options: Options of [`MTQNetConfig`]; the trunk's and the encoder's are the teacher's if not given. With another
                `encoder_config` and no `encoder`, the encoder is randomly initialised.

        Returns:
            `(MTQNet, dict)`, with the lists `"copied"`, `"initialized"` and `"encoder"` (names of this model's tensors:
            from the teacher, random, from `encoder`) and `"left_out"` (names of the teacher's that this model has no place for).

        Raises:
            ValueError: If the source is not a MOSANet, or an option gives the trunk another shape than the teacher's.
        """
        teacher = (
            name_or_path
            if isinstance(name_or_path, AudioQualityPreTrainedModel)
            else AutoModelForAudioQuality.from_pretrained(str(name_or_path), dtype=torch.float32)
        )
        if teacher.config.model_type != TEACHER_FAMILY:
            raise ValueError(
                f"Expected a {TEACHER_FAMILY} model to take the knowledge from, got a {teacher.config.model_type} model; to "
                "continue from an MTQNet use `from_pretrained`."
            )
        inherited = {name: getattr(teacher.config, name) for name in TRUNK_OPTIONS + ENCODER_OPTIONS}
        if encoder is None:
            model = cls(cls.config_class(**copy.deepcopy(inherited) | options))
        elif "encoder_config" in options:
            raise ValueError("Expected `encoder` or `encoder_config`, got both; the configuration is read from `encoder`.")
        else:
            del inherited["encoder_config"]
            options = copy.deepcopy(inherited) | {"precomputed_features": False} | options
            model = cls.from_encoder(encoder, encoder_options=encoder_options, **options)
        return model.eval(), _take_over(teacher, model, has_new_encoder=encoder is not None)


@torch.no_grad()
def _take_over(teacher: AudioQualityPreTrainedModel, model: MTQNet, has_new_encoder: bool) -> dict[str, list[str]]:
    """Copy what both models have, module by module, and return what became of every tensor."""
    info: dict[str, list[str]] = {"copied": [], "initialized": [], "encoder": [], "left_out": []}
    available = teacher.state_dict()
    same_encoder = _architecture(teacher) == _architecture(model)
    for name, tensor in model.state_dict().items():
        of_encoder = name.startswith("encoder.")
        if of_encoder and has_new_encoder:
            info["encoder"].append(name)
            continue
        usable = name in available and (same_encoder or not of_encoder)
        if usable and name.startswith(("trunk.bottleneck.", "trunk.ssl_")):
            usable = teacher.trunk.bottleneck.weight.shape == model.trunk.bottleneck.weight.shape
        if usable and available[name].shape != tensor.shape:
            raise ValueError(
                f"Expected the teacher's tensor {name!r} to have shape {tuple(tensor.shape)}, got {tuple(available[name].shape)}; "
                f"leave the options of the trunk ({', '.join(TRUNK_OPTIONS)}) as the teacher has them."
            )
        if usable:
            tensor.copy_(available[name])
        info["copied" if usable else "initialized"].append(name)
    info["left_out"] = [name for name in available if name not in info["copied"]]
    return info


def _architecture(model: AudioQualityPreTrainedModel) -> dict[str, Any]:
    """Return the encoder's configuration without the entries that say nothing about its layers."""
    values = model.config.encoder_config.to_dict()
    return {name: value for name, value in values.items() if name not in ("dtype", "_name_or_path", "transformers_version")}
