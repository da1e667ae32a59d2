"""Configuration of NISQA."""

from itertools import pairwise

from huggingface_hub.dataclasses import strict

from hf_sqa.blocks.bounds import COUNT, SHARE, SIZE, check_hop, check_multiple
from hf_sqa.choices import check_choice
from hf_sqa.configuration import AudioQualityConfig

#: Scores of the five-dimension model, in the column order of the published weights.
DIMENSIONS = ("mos", "noisiness", "discontinuity", "coloration", "loudness")

SEGMENT_ENCODERS = ("adapt", "standard", "dff")
TIME_ENCODERS = ("self_att", "lstm")
POOLINGS = ("att", "last_step_bi", "avg")


@strict
class NISQAConfig(AudioQualityConfig):
    r"""Configuration of [`NISQA`]; the defaults are those of the published five-dimension model, NISQA v2.

    Args:
        sampling_rate (`int`, *optional*): `None`: every recording at its native rate, as published. The spectrum reaches up to
            `max_frequency_hz` whatever the rate, so the same recording stored at two rates gets two scores.
        fft_size (`int`, *optional*, defaults to `4096`): Points of the Fourier transform; the window fills a small part of them.
        hop_seconds (`float`, *optional*, defaults to `0.01`): Distance between frames.
        window_seconds (`float`, *optional*, defaults to `0.02`): Length of the window.
        num_mel_bins (`int`, *optional*, defaults to `48`): Mel bands.
        max_frequency_hz (`float`, *optional*, defaults to `20000.0`): Upper edge of the highest band. Bands above half the rate of
            a recording stay empty.
        segment_frames (`int`, *optional*, defaults to `15`): Frames in a segment.
        segment_hop_frames (`int`, *optional*, defaults to `4`): Frames between the starts of segments.
        segment_encoder (`str`, *optional*, defaults to `"adapt"`): What turns a segment into features: `"adapt"` (six convolutions,
            adaptive pooling), `"standard"` (six convolutions, pooling by halves) or `"dff"` (four dense layers).
        conv_channels (`list[int]`, *optional*, defaults to `(16, 32, 64)`): Channels of convolution 1, 2, and 3 to 6.
        conv_pool_sizes (`list[list[int]]`, *optional*, defaults to `((24, 7), (12, 5), (6, 3))`): Mel bins and frames left after
            the three poolings of `"adapt"`; the other segment encoders do not use it.
        segment_feature_size (`int`, *optional*): Width of a linear layer after the convolutions (`None`: no such layer), or of all
            four layers of `"dff"`.
        segment_dropout (`float`, *optional*, defaults to `0.2`): Dropout in the segment encoder while training.
        time_encoder (`str`, *optional*, defaults to `"self_att"`): `"self_att"` (transformer) or `"lstm"` (a bidirectional layer).
        hidden_size (`int`, *optional*, defaults to `64`): Width of the transformer, or of each direction of the LSTM.
        num_hidden_layers (`int`, *optional*, defaults to `2`): Depth of the transformer.
        num_attention_heads (`int`, *optional*, defaults to `1`): Attention heads of the transformer.
        intermediate_size (`int`, *optional*, defaults to `64`): Width of the transformer's feed-forward.
        dropout (`float`, *optional*, defaults to `0.1`): Dropout inside the transformer while training.
        pooling (`str`, *optional*, defaults to `"att"`): How segments become one vector: `"att"` (weights by a small network,
            one for each score), `"last_step_bi"` (last state of each direction of the LSTM) or `"avg"` (mean).
        pooling_size (`int`, *optional*, defaults to `128`): Width of the network of `"att"`.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "nisqa"
    takes_any_rate = True
    #: 16 mel bands, about 4,000 weights.
    tiny_options = {
        **{"fft_size": 1024, "num_mel_bins": 16, "conv_channels": (4, 6, 8), "conv_pool_sizes": ((8, 7), (4, 5), (2, 3))},
        **{"hidden_size": 8, "intermediate_size": 12, "pooling_size": 12},
    }

    sampling_rate: int | None = None
    fft_size: int = 4096
    hop_seconds: float = 0.01
    window_seconds: float = 0.02
    num_mel_bins: int = 48
    max_frequency_hz: float | int = 20_000.0
    segment_frames: int = 15
    segment_hop_frames: int = 4
    segment_encoder: str = "adapt"
    conv_channels: list[int] | tuple[int, ...] = (16, 32, 64)
    conv_pool_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = ((24, 7), (12, 5), (6, 3))
    segment_feature_size: int | None = None
    segment_dropout: float | int = 0.2
    time_encoder: str = "self_att"
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 1
    intermediate_size: int = 64
    dropout: float | int = 0.1
    pooling: str = "att"
    pooling_size: int = 128

    bounds = AudioQualityConfig.bounds | {
        **dict.fromkeys(("fft_size", "hidden_size", "intermediate_size", "pooling_size", "segment_feature_size"), SIZE),
        **dict.fromkeys(("num_mel_bins", "segment_frames", "segment_hop_frames", "conv_channels", "conv_pool_sizes"), COUNT),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), COUNT),
        **dict.fromkeys(("hop_seconds", "window_seconds"), (1e-4, 10)),
        **dict.fromkeys(("segment_dropout", "dropout"), SHARE),
        "max_frequency_hz": (1, 1e6),
    }

    def default_id2label(self) -> dict[int, str]:
        return dict(enumerate(DIMENSIONS))

    @property
    def conv_output_size(self) -> tuple[int, int]:
        """Mel bins and frames that the last convolution leaves of a segment."""
        if self.segment_encoder == "adapt":
            return self.conv_pool_sizes[-1][0], 1
        frames = (self.segment_frames // 2 + 1) // 4  # the first pooling puts a frame of padding on either side
        return self.num_mel_bins // 8, frames

    def validate_choices(self) -> None:
        for option, choices in (("segment_encoder", SEGMENT_ENCODERS), ("time_encoder", TIME_ENCODERS), ("pooling", POOLINGS)):
            check_choice(option, getattr(self, option), choices)
        if self.pooling == "last_step_bi" and self.time_encoder != "lstm":
            raise ValueError(
                "Expected `time_encoder='lstm'` with `pooling='last_step_bi'`: a transformer has no last state. Use "
                "`pooling='att'` or `'avg'`."
            )

    def validate_sizes(self) -> None:
        if len(self.conv_channels) != 3:
            raise ValueError(f"Expected three numbers in `conv_channels` (convolution 1, 2, 3 to 6), got {self.conv_channels}.")
        if self.segment_encoder == "adapt":
            sizes = [(self.num_mel_bins, self.segment_frames), *(tuple(size) for size in self.conv_pool_sizes)]
            shrink = all(
                len(small) == 2 and 0 < small[0] <= large[0] and 0 < small[1] <= large[1] for large, small in pairwise(sizes)
            )
            if len(sizes) != 4 or not shrink:
                raise ValueError(
                    "Expected `conv_pool_sizes` to hold three pairs (mel bins, frames), none larger than the one before or than "
                    f"`num_mel_bins` by `segment_frames` = {sizes[0]}, got {self.conv_pool_sizes}."
                )
        if self.segment_encoder == "standard" and min(self.conv_output_size) < 1:
            raise ValueError(
                "Expected at least 8 `num_mel_bins` and 6 `segment_frames` for the three halvings of `segment_encoder='standard'`, "
                f"got {self.num_mel_bins} and {self.segment_frames}."
            )
        if self.segment_encoder == "dff" and self.segment_feature_size is None:
            raise ValueError("Expected `segment_feature_size` with `segment_encoder='dff'`; the published baseline has 20.")
        if self.time_encoder == "self_att":
            check_multiple(self, "hidden_size", "num_attention_heads")

    def validate_frames(self) -> None:
        check_hop(self, "segment_hop_frames", "segment_frames", "segments")
        check_hop(self, "hop_seconds", "window_seconds")
