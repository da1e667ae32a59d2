"""What families on a pre-trained encoder share: they start from its weights, and keep frozen what is to stay frozen."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from hf_sqa.blocks.speech_encoder import (
    FINE_TUNING_OPTIONS,
    freeze_idle_parameters,
    load_encoder,
    load_encoder_config,
    min_num_samples,
    takes_spectra,
)


class FreezesEncoder:
    """Base of families with an `encoder` and the option `freeze_encoder`: frozen parts stay frozen, also after loading."""

    config: Any
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    @property
    def min_samples(self) -> int:
        """Samples, or spectra, that one frame of the encoder needs."""
        encoder_config = self.config.encoder_config
        return 1 if takes_spectra(encoder_config) else min_num_samples(encoder_config)

    @classmethod
    def from_encoder(
        cls, name_or_path: str, config: Any = None, *, encoder_options: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Return a model on a pre-trained encoder, with all other layers new: the starting point of fine-tuning on rated speech.

        Args:
            name_or_path (`str`): Hub id or folder, for example `"facebook/wav2vec2-base"`; checkpoints for CTC or pre-training
                serve as well as bare ones. Only the needed layers are read from a safetensors file.
            config (*optional*): Configuration of all but the encoder; the family's defaults if not given.
            encoder_options (`dict[str, Any]`, *optional*): Values of the encoder's configuration to change, for example dropouts.
                Frames are not masked in training unless asked for here.
            **options: Options of the configuration if none is given, for example `layer=5` or `id2label={0: "mos", 1: "loudness"}`.

        Raises:
            ValueError: If a tensor of the encoder is missing or one is unknown (the message names it), if its feature extractor
                asks for another sampling rate, if an option cannot be used, or if both `config` and options are given.
        """
        if config is not None and options:
            raise ValueError(f"Expected `config` or options, got both: {', '.join(options)}; set them in the configuration.")
        without_layerdrop = {"layerdrop": 0.0} if cls.reads_layers(options) else {}
        encoder_config = load_encoder_config(name_or_path, FINE_TUNING_OPTIONS | without_layerdrop | (encoder_options or {}))
        if config is None:
            config = cls.config_class(encoder_config=encoder_config, **options)  # type: ignore[attr-defined]
        else:
            config = copy.deepcopy(config)
            config.encoder_config = encoder_config
            config.validate_encoder()
        load = partial(load_encoder, name_or_path, config.encoder_config, cls.last_layer(config), config.sampling_rate)
        return cls.around_encoder(config, load).eval()

    @classmethod
    def around_encoder(cls, config: Any, load: Callable[[], PreTrainedModel]) -> Any:
        """Return a new model with this configuration around the encoder that `load` returns."""
        return cls(config, load())  # type: ignore[call-arg]

    @staticmethod
    def reads_layers(options: dict[str, Any]) -> bool:
        """Whether a model with these options reads the output of individual layers, which training must then not skip."""
        return False

    @staticmethod
    def last_layer(config: Any) -> int | None:
        """Return the last layer that the model reads; `None` for the encoder's own output."""
        return None

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; see [`AudioQualityPreTrainedModel.from_pretrained`]."""
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze()
        return loaded

    def freeze(self) -> None:
        """Freeze the parts of the encoder that no gradient reaches, and all of it if the configuration says so."""
        if (encoder := getattr(self, "encoder", None)) is not None:
            freeze_idle_parameters(encoder, getattr(self.config, "feature_grad_mult", 1.0))
            if self.config.freeze_encoder:
                encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        """Set training mode; a frozen encoder stays in evaluation mode, so its features are constant."""
        super().train(mode)  # type: ignore[misc]
        if self.config.freeze_encoder and (encoder := getattr(self, "encoder", None)) is not None:
            encoder.eval()
        return self
