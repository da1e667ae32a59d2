"""Configuration of DistilledSQA."""

import json
import math
from typing import Any, Self

from huggingface_hub.dataclasses import strict

from hf_sqa.blocks.bounds import COUNT, SAMPLES, SHARE, SIZE, check_hop, check_multiple
from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.runs import digest_of

#: Convolutions and transformer of the students, by size; all but the largest have the same form.
STUDENTS: dict[str, dict[str, Any]] = {
    size: {"hop_samples": 122_880, "conv_final_channels": 128, "normalize_bands": True}
    | {"num_mel_bins": mel_bins, "num_conv_layers": len(channels), "conv_layer_channels": channels}
    | {"conv_time_strides": [2, 2, 2, 1][: len(channels)], "conv_frequency_strides": [2] * len(channels)}
    | {"hidden_size": hidden_size, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": width}
    | more
    for size, mel_bins, channels, (hidden_size, layers, heads, width), more in (
        ("xxs", 32, [8, 16, 24], (24, 1, 2, 48), {"fft_size": 512, "fft_hop_samples": 256, "separable_convs": True}),
        ("xs", 48, [24, 32, 32], (40, 2, 4, 96), {}),
        ("s", 48, [32, 48, 64], (96, 3, 4, 144), {}),
        ("m", 64, [32, 64, 96, 128], (144, 4, 6, 288), {}),
    )
} | {"l": {}}


@strict
class DistilledSQAConfig(AudioQualityConfig):
    r"""Configuration of [`DistilledSQA`]; the defaults are those of the published Distill-MOS v7.

    Args:
        window_samples (`int`, *optional*, defaults to `122880`): Samples the network sees at once, 7.68 s; shorter recordings are
            padded with zeros, longer ones are scored window by window.
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
        num_mel_bins (`int`, *optional*, defaults to `0`): Bands on the mel scale whose compressed magnitude the convolutions see; 0
            for the complex spectrum of the published model.
        normalize_bands (`bool`, *optional*, defaults to `False`): Whether every mel band is normalised, before the convolutions, by
            the mean and the deviation that [`DistilledSQA.measure_bands`] measures.
        conv_layer_channels (`list[int]`, *optional*): Channels of every convolution; replaces `conv_initial_channels` and
            `conv_final_channels`.
        conv_time_strides (`list[int]`, *optional*): Stride of every convolution in time; 1, and 2 in the last, if not given.
        conv_frequency_strides (`list[int]`, *optional*): Stride of every convolution in frequency; 1 in the first, then 2, if not
            given.
        separable_convs (`bool`, *optional*, defaults to `False`): Whether every convolution but the first filters each channel
            separately and then mixes channels.
        head_size (`int`, *optional*): Width of an attention head; `hidden_size / num_attention_heads` if not given.
        layer_num_heads (`list[int]`, *optional*): Attention heads of every layer; replaces `num_attention_heads`.
        layer_intermediate_sizes (`list[int]`, *optional*): Width of every feed-forward; replaces `intermediate_size` there.
        pooling_size (`int`, *optional*): Width of the pooling; `intermediate_size` if not given.
        dropout (`float`, *optional*, defaults to `0.0`): Dropout inside the transformer while training.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "distilled_sqa"
    sizes = STUDENTS
    #: Windows of 0.64 s, about 6,000 weights.
    tiny_options = {
        **{"window_samples": 10_240, "hop_samples": 3_200},
        **{"num_conv_layers": 5, "conv_initial_channels": 4, "conv_final_channels": 8},
        **{"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16},
    }

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
    num_mel_bins: int = 0
    normalize_bands: bool = False
    conv_layer_channels: list[int] | None = None
    conv_time_strides: list[int] | None = None
    conv_frequency_strides: list[int] | None = None
    separable_convs: bool = False
    head_size: int | None = None
    layer_num_heads: list[int] | None = None
    layer_intermediate_sizes: list[int] | None = None
    pooling_size: int | None = None

    bounds = AudioQualityConfig.bounds | {
        "window_samples": SAMPLES,
        **dict.fromkeys(("fft_size", "fft_hop_samples", "hidden_size", "intermediate_size", "head_size", "pooling_size"), SIZE),
        **dict.fromkeys(("conv_initial_channels", "conv_final_channels", "conv_layer_channels", "layer_intermediate_sizes"), SIZE),
        **dict.fromkeys(("num_conv_layers", "num_hidden_layers", "num_attention_heads", "layer_num_heads"), COUNT),
        **dict.fromkeys(("conv_time_strides", "conv_frequency_strides"), COUNT),
        "num_mel_bins": (0, SIZE[1]),
        "compression": (1e-3, 10),
        "leaky_relu_slope": SHARE,
        "dropout": SHARE,
    }

    @classmethod
    def student(cls, size: str, **kwargs: Any) -> Self:
        """Return the configuration of a student, fast on a CPU: mel bands, larger strides in time, windows without overlap.

        Args:
            size (`str`): `"xxs"` (10 thousand weights), `"xs"` (56 thousand), `"s"` (280 thousand), `"m"` (0.95 million) or `"l"`,
                the published form (4.1 million).
            **kwargs: Options to change.
        """
        if size not in STUDENTS:
            raise ValueError(f"Expected the size of a student, one of {', '.join(STUDENTS)}, got {size!r}.")
        return cls(**STUDENTS[size] | kwargs)

    @property
    def graph_metadata(self) -> dict[str, str]:
        """Metadata of an ONNX graph: all options that shape it or its scoring, as a digest and, for `hf_sqa.lite`, as JSON."""
        form = {name: getattr(self, name) for name in sorted({*self.bounds, "hop_samples", "normalize_bands", "separable_convs"})}
        options = json.dumps({**form, "id2label": self.id2label})
        return {"hf_sqa_form": digest_of([form, self.score_names]), "hf_sqa_options": options}

    @property
    def conv_channels(self) -> list[int]:
        """Output channels of every convolution."""
        return self.conv_layer_channels or [
            min(self.conv_initial_channels * 2 ** max(layer - 1, 0), self.conv_final_channels)
            for layer in range(self.num_conv_layers)
        ]

    @property
    def conv_strides(self) -> list[tuple[int, int]]:
        """Stride in time and in frequency of every convolution."""
        last = self.num_conv_layers - 1
        in_time = self.conv_time_strides or [2 if layer == last else 1 for layer in range(self.num_conv_layers)]
        in_frequency = self.conv_frequency_strides or [1 if layer == 0 else 2 for layer in range(self.num_conv_layers)]
        return list(zip(in_time, in_frequency, strict=True))

    @property
    def conv_num_bins(self) -> int:
        """Frequency bins left after the last convolution; below 1 if the spectrum is too small for so many layers."""
        bins = self.num_mel_bins or self.fft_size // 2 + 1
        for _, stride in self.conv_strides:
            bins = (bins - 3) // stride + 1
        return bins

    @property
    def spectra_per_frame(self) -> int:
        """Spectra from one frame to the next."""
        return math.prod(stride for stride, _ in self.conv_strides)

    @property
    def num_spectra(self) -> int:
        """Spectra in a window."""
        return self.window_samples // self.fft_hop_samples

    @property
    def num_frames(self) -> int:
        """Frames the transformer sees in a window."""
        return self.num_spectra // self.spectra_per_frame

    def validate_layers(self) -> None:
        for option, count in (
            ("conv_layer_channels", "num_conv_layers"),
            ("conv_time_strides", "num_conv_layers"),
            ("conv_frequency_strides", "num_conv_layers"),
            ("layer_num_heads", "num_hidden_layers"),
            ("layer_intermediate_sizes", "num_hidden_layers"),
        ):
            values = getattr(self, option)
            if values is not None and (len(values) != getattr(self, count) or min(values, default=1) < 1):
                raise ValueError(
                    f"Expected `{option}` with a number of 1 or more for each of `{count}`={getattr(self, count)}, got {values}."
                )

    def validate_windows(self) -> None:
        grid = self.spectra_per_frame * self.fft_hop_samples
        if self.window_samples % grid:
            raise ValueError(
                f"Expected `window_samples` to be a multiple of {self.spectra_per_frame} * `fft_hop_samples` = {grid}, got "
                f"{self.window_samples}."
            )
        if self.fft_size <= self.fft_hop_samples or (self.fft_size - self.fft_hop_samples) % 2:
            raise ValueError(
                f"Expected `fft_size` above `fft_hop_samples` by an even number, got {self.fft_size} and {self.fft_hop_samples}."
            )
        check_hop(self, "hop_samples", "window_samples")

    def validate_sizes(self) -> None:
        if self.conv_num_bins < 1:
            raise ValueError(
                f"Expected at most as many convolutions as halve {self.num_mel_bins or self.fft_size // 2 + 1} frequency bins down "
                f"to one, got `num_conv_layers`={self.num_conv_layers}."
            )
        if self.head_size is None:
            check_multiple(self, "hidden_size", "num_attention_heads", "; or give `head_size`")
        if self.layer_num_heads is not None and self.head_size is None:
            raise ValueError("Expected `head_size` beside `layer_num_heads`: the width of a head cannot be told from them.")
        if not 0 <= self.num_mel_bins <= self.fft_size // 4:
            raise ValueError(
                f"Expected `num_mel_bins` between 0 and a quarter of `fft_size`, {self.fft_size // 4} (narrower bands would be "
                f"empty), got {self.num_mel_bins}."
            )
        if self.normalize_bands and not self.num_mel_bins:
            raise ValueError("Expected `normalize_bands` with `num_mel_bins` above 0: there are no bands in the complex spectrum.")
