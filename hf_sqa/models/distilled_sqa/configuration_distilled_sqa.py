"""Configuration of DistilledSQA."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict

from hf_sqa.configuration import AudioQualityConfig


@strict
class DistilledSQAConfig(AudioQualityConfig):
    r"""Configuration of [`DistilledSQA`]; the defaults are those of the published Distill-MOS v7.

    Args:
        window_samples (`int`, *optional*, defaults to `122880`): Samples the network sees at once, 7.68 s; shorter recordings are
            filled up with zeros, longer ones are scored window by window.
        hop_samples (`int`, *optional*, defaults to `16000`): Largest distance between the starts of windows.
        fft_size (`int`, *optional*, defaults to `320`): Samples in one spectrum, 20 ms.
        fft_hop_samples (`int`, *optional*, defaults to `160`): Distance between spectra, 10 ms.
        compression (`float`, *optional*, defaults to `0.3`): Exponent applied to the magnitude; the phase is kept.
        num_conv_layers (`int`, *optional*, defaults to `6`): Convolutions. The first keeps the frequency resolution, the others
            halve it; the last halves the time resolution too.
        conv_initial_channels (`int`, *optional*, defaults to `64`): Channels of the first two convolutions; each further one
            doubles them.
        conv_final_channels (`int`, *optional*, defaults to `256`): Where the doubling stops.
        leaky_relu_slope (`float`, *optional*, defaults to `0.1`): Slope of the activation below zero.
        hidden_size (`int`, *optional*, defaults to `200`): Width of the transformer.
        num_hidden_layers (`int`, *optional*, defaults to `7`): Depth of the transformer.
        num_attention_heads (`int`, *optional*, defaults to `8`): Attention heads.
        intermediate_size (`int`, *optional*, defaults to `400`): Width of feed-forward and pooling.
        dropout (`float`, *optional*, defaults to `0.0`): Dropout inside the transformer while training.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "distilled_sqa"

    window_samples: int = 122_880
    hop_samples: int = 16_000
    fft_size: int = 320
    fft_hop_samples: int = 160
    compression: float | int = 0.3
    num_conv_layers: int = 6
    conv_initial_channels: int = 64
    conv_final_channels: int = 256
    leaky_relu_slope: float | int = 0.1
    hidden_size: int = 200
    num_hidden_layers: int = 7
    num_attention_heads: int = 8
    intermediate_size: int = 400
    dropout: float | int = 0.0

    @classmethod
    def tiny(cls, **kwargs: Any) -> DistilledSQAConfig:
        """A configuration for tests: windows of 0.64 s, about 6,000 weights."""
        return cls(
            **{
                "window_samples": 10_240,
                "hop_samples": 3_200,
                "num_conv_layers": 5,
                "conv_initial_channels": 4,
                "conv_final_channels": 8,
                "hidden_size": 12,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 16,
            }
            | kwargs
        )

    @property
    def conv_channels(self) -> list[int]:
        """Output channels of every convolution."""
        return [
            min(self.conv_initial_channels * 2 ** max(layer - 1, 0), self.conv_final_channels)
            for layer in range(self.num_conv_layers)
        ]

    @property
    def conv_num_bins(self) -> int:
        """Frequency bins left after the last convolution; below 1 if there are more layers than the spectrum can feed."""
        bins = self.fft_size // 2 + 1
        for layer in range(self.num_conv_layers):
            bins = (bins - 3) // (1 if layer == 0 else 2) + 1
        return bins

    @property
    def num_spectra(self) -> int:
        """Spectra in a window."""
        return self.window_samples // self.fft_hop_samples

    @property
    def num_frames(self) -> int:
        """Frames the transformer sees in a window."""
        return self.num_spectra // 2

    def validate_windows(self) -> None:
        if self.window_samples % (2 * self.fft_hop_samples):
            raise ValueError(
                f"Expected `window_samples` to be a multiple of 2 * `fft_hop_samples` = {2 * self.fft_hop_samples}, got "
                f"{self.window_samples}."
            )
        if self.fft_size <= self.fft_hop_samples or (self.fft_size - self.fft_hop_samples) % 2:
            raise ValueError(
                f"Expected `fft_size` above `fft_hop_samples` by an even number, got {self.fft_size} and {self.fft_hop_samples}."
            )
        if not 0 < self.hop_samples <= self.window_samples:
            raise ValueError(
                f"Expected `hop_samples` between 1 and `window_samples` = {self.window_samples} (windows must not leave gaps), got "
                f"{self.hop_samples}."
            )

    def validate_sizes(self) -> None:
        if self.conv_num_bins < 1:
            raise ValueError(
                f"Expected at most as many convolutions as halve {self.fft_size // 2 + 1} frequency bins down to one, got "
                f"`num_conv_layers`={self.num_conv_layers}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"Expected `hidden_size` to be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
