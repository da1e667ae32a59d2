"""Configuration of XLSRSQA."""

from itertools import pairwise
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_sqa.blocks.bounds import COUNT, SHARE, SIZE, check_multiple
from hf_sqa.blocks.speech_encoder import (
    TINY_ENCODER,
    check_encoder_config,
    check_layer,
    check_layerdrop,
    pads_safely,
    takes_spectra,
)
from hf_sqa.configuration import AudioQualityConfig


@strict
class XLSRSQAConfig(AudioQualityConfig):
    r"""Configuration of [`XLSRSQA`]; the defaults are those of the published head on MFCC features.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): The speech encoder: XLS-R, or another that takes waveforms and is
            shielded from padding by a mask. `None` for MFCC features. Its blocks above the last of `layers` are not built.
        layers (`tuple[int]`, *optional*): Encoder blocks after which features are taken, ascending, counted from 1, before
            any final norm. One layer feeds the head as it is, more are mixed into one. Only with an encoder.
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether the encoder is not trained, as in the paper.
        num_mfcc (`int`, *optional*, defaults to `40`): Cepstral coefficients, without an encoder.
        num_mel_bins (`int`, *optional*, defaults to `128`): Mel bands between 0 Hz and half the sampling rate.
        fft_size (`int`, *optional*, defaults to `400`): Samples in one spectrum, 25 ms.
        fft_hop_samples (`int`, *optional*, defaults to `200`): Distance between spectra, 12.5 ms.
        top_db (`float`, *optional*, defaults to `80.0`): Bands more than this many dB below the loudest are raised to that level.
        num_frames (`int`, *optional*, defaults to `384`): Frames the head sees: the middle of longer recordings; shorter ones are
            filled up with zero frames. 7.68 s of an encoder's frames, 4.8 s of MFCC frames.
        hidden_size (`int`, *optional*, defaults to `32`): Width of the head.
        num_hidden_layers (`int`, *optional*, defaults to `4`): Depth of the head.
        num_attention_heads (`int`, *optional*, defaults to `4`): Attention heads of the head.
        intermediate_size (`int`, *optional*, defaults to `64`): Width of the head's feed-forward and pooling.
        dropout (`float`, *optional*, defaults to `0.0`): Dropout inside the head while training.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "xlsr_sqa"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="wav2vec2", optional=True)}

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    layers: list[int] | tuple[int, ...] | None = None
    freeze_encoder: bool = False
    num_mfcc: int = 40
    num_mel_bins: int = 128
    fft_size: int = 400
    fft_hop_samples: int = 200
    top_db: float | int = 80.0
    num_frames: int = 384
    hidden_size: int = 32
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 64
    dropout: float | int = 0.0

    bounds = AudioQualityConfig.bounds | {
        **dict.fromkeys(("num_mfcc", "num_mel_bins", "fft_size", "fft_hop_samples", "num_frames"), SIZE),
        **dict.fromkeys(("hidden_size", "intermediate_size"), SIZE),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), COUNT),
        "top_db": (0, 1e6),
        "dropout": SHARE,
    }

    @classmethod
    def tiny(cls, **kwargs: Any) -> Self:
        """Return a configuration for tests: a head that sees 0.48 s, on both layers of a tiny encoder; about 9,000 weights.

        With `layers=None` it has no encoder, and the head, of about 3,000 weights, sees 0.3 s.
        """
        layers = kwargs.setdefault("layers", (1, 2))
        encoder = TINY_ENCODER | {"num_hidden_layers": layers[-1], "conv_bias": True} if layers else None
        head = {"num_frames": 24, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        return cls(**{"encoder_config": encoder} | head | kwargs)

    @property
    def feature_size(self) -> int:
        """Channels of the head's input."""
        return self.num_mfcc if self.encoder_config is None else self.encoder_config.hidden_size

    def validate_layers(self) -> None:
        if (self.encoder_config is None) != (self.layers is None):
            raise ValueError(
                f"Expected both `encoder_config` and `layers` (an encoder's features) or neither (MFCC), got encoder_config="
                f"{'None' if self.encoder_config is None else '...'} and layers={self.layers}."
            )
        if self.layers is None:
            return
        layers = list(self.layers)
        if not layers or layers[0] < 1 or any(lower >= higher for lower, higher in pairwise(layers)):
            raise ValueError(
                f"Expected `layers` to be one or more ascending layer numbers from 1, as (5,) or (5, 21), got {layers}."
            )

    def validate_encoder(self) -> None:
        encoder = self.encoder_config
        if encoder is None or not self.layers:
            return
        check_encoder_config(encoder)
        check_layer(encoder, self.layers[-1], "layers")
        if takes_spectra(encoder) or not pads_safely(encoder):
            raise ValueError(
                "Expected an encoder like XLS-R, which takes waveforms and normalises every frame by itself "
                f"(`feat_extract_norm='layer'`), got a {encoder.model_type} encoder with feat_extract_norm="
                f"{getattr(encoder, 'feat_extract_norm', None)!r}: its scores would depend on padding."
            )
        check_layerdrop(encoder)

    def validate_sizes(self) -> None:
        check_multiple(self, "hidden_size", "num_attention_heads")
        if self.fft_size % 2 or not 0 < self.fft_hop_samples <= self.fft_size:
            raise ValueError(
                f"Expected an even `fft_size` and `fft_hop_samples` between 1 and it, got "
                f"{self.fft_size} and {self.fft_hop_samples}."
            )
        if not 0 < self.num_mfcc <= self.num_mel_bins:
            raise ValueError(f"Expected `num_mfcc` between 1 and `num_mel_bins` = {self.num_mel_bins}, got {self.num_mfcc}.")
