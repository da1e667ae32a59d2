"""Configuration of MOSANet."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_sqa.blocks.bounds import SHARE, SIZE, WEIGHT
from hf_sqa.blocks.speech_encoder import TINY_SIZES, check_encoder_config, check_layer, takes_spectra
from hf_sqa.choices import check_choice
from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.models.mosa_net.sincnet import SINC_EDGES

SCORE_ACTIVATIONS = ("linear", "sigmoid")
#: What the encoder sees: the waveform divided by its peak, as it is, or with zero mean and unit variance.
ENCODER_INPUTS = ("peak", "raw", "standardized")
#: Options that the trunk is built from.
TRUNK_OPTIONS = (
    *("sampling_rate", "fft_size", "hop_samples", "sinc_kernel_size", "sinc_edges", "conv_channels"),
    *("smooth_ssl_features", "bottleneck_relu", "lstm_hidden_size", "hidden_size", "dropout"),
)
#: Options that say which self-supervised features the trunk gets.
ENCODER_OPTIONS = ("encoder_config", "encoder_layer", "encoder_input", "precomputed_features", "standardize_ssl_features")
#: `facebook/hubert-large-ll60k`, without SpecAugment: the encoder is not trained.
HUBERT_LARGE = {
    **{"model_type": "hubert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    **{"conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "layerdrop": 0.0, "mask_time_prob": 0.0},
}
#: The encoder of `openai/whisper-medium`; the decoder is not built.
WHISPER_MEDIUM = {
    **{"model_type": "whisper", "d_model": 1024},
    **{"encoder_layers": 24, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096},
}


@strict
class MOSANetConfig(AudioQualityConfig):
    r"""Configuration of [`MOSANet`]; the defaults are those of the published model for PESQ, STOI and SDI.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): Speech encoder that gives the self-supervised features; HuBERT
            large if not given.
        encoder_layer (`int`, *optional*): Transformer block whose output is taken, from 1; the encoder's own output if not given.
        encoder_input (`str`, *optional*, defaults to `"peak"`): What the encoder sees: the waveform divided by its peak (`"peak"`),
            as it is (`"raw"`), or with zero mean and unit variance (`"standardized"`).
        freeze_encoder (`bool`, *optional*, defaults to `True`): Whether the encoder stays as it is while training.
        precomputed_features (`bool`, *optional*, defaults to `False`): Whether the model has no encoder and takes its features as
            input; `encoder_config` then says their width and rate.
        standardize_ssl_features (`bool`, *optional*, defaults to `False`): Whether every channel of the encoder's features is
            normalised by its mean and deviation in training speech ([`MOSANet.measure_bands`]): Whisper's channels differ widely
            and lie far from 0.
        fft_size (`int`, *optional*, defaults to `512`): Samples in one spectrum; half of it plus one is also the number of filters.
        hop_samples (`int`, *optional*, defaults to `256`): Distance between spectra, and between outputs of the filter bank.
        sinc_kernel_size (`int`, *optional*, defaults to `251`): Samples in one band-pass filter.
        sinc_edges (`str`, *optional*, defaults to `"python3"`): Rule for the edges of the bands: `"python3"` reaches 8000 Hz,
            `"python2"` 7700 Hz as under the interpreter that the published weights were trained with.
        conv_channels (`list[int]`, *optional*, defaults to `(16, 32, 64, 128)`): Channels of each block of three convolutions.
        smooth_ssl_features (`bool`, *optional*, defaults to `False`): Whether each self-supervised frame is averaged with the next.
        bottleneck_relu (`bool`, *optional*, defaults to `True`): Whether a ReLU follows the layer that narrows these features.
        lstm_hidden_size (`int`, *optional*, defaults to `128`): Width of the recurrence, per direction.
        hidden_size (`int`, *optional*, defaults to `128`): Width of the frames that the heads see.
        dropout (`float`, *optional*, defaults to `0.3`): Dropout on these frames while training.
        score_activations (`list[str]`, *optional*): `"linear"` or `"sigmoid"` for each score; `"sigmoid"` for STOI and `"linear"`
            for the others if not given.
        score_scales (`list[float]`, *optional*): Factor from the activation to label units, for each score; 1 if not given. The
            loss divides errors by it.
        frame_loss_weight (`float`, *optional*, defaults to `1.0`): Weight of the frames' loss relative to the recording's.
        attention_penalty_weight (`float`, *optional*, defaults to `1e-4`): Weight of the attention's penalty while training.
        score_min (`float`, *optional*, defaults to `-0.5`): Lowest score of any kind: that of PESQ (P.862 raw scale). STOI lies in
            0 to 1, SDI from 0 up, 0 being no distortion. Nothing is clipped or mapped to the range.
        score_max (`float`, *optional*, defaults to `4.5`): Highest score of any kind: that of PESQ.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "mosa_net"
    #: A few channels, a HuBERT of two blocks; about 10,000 weights.
    tiny_options = {
        "encoder_config": HUBERT_LARGE | TINY_SIZES,
        **{"fft_size": 64, "sinc_kernel_size": 65, "conv_channels": (3, 4, 4, 6), "lstm_hidden_size": 6, "hidden_size": 8},
    }
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="hubert", init_kwargs=HUBERT_LARGE)}

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    encoder_layer: int | None = None
    encoder_input: str = "peak"
    freeze_encoder: bool = True
    precomputed_features: bool = False
    standardize_ssl_features: bool = False
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
    frame_loss_weight: float | int = 1.0
    attention_penalty_weight: float | int = 1e-4
    score_min: float | int = -0.5
    score_max: float | int = 4.5

    bounds = AudioQualityConfig.bounds | {
        **dict.fromkeys(("fft_size", "hop_samples", "sinc_kernel_size", "conv_channels", "lstm_hidden_size", "hidden_size"), SIZE),
        **dict.fromkeys(("frame_loss_weight", "attention_penalty_weight"), WEIGHT),
        "score_scales": (1e-6, 1e6),
        "dropout": SHARE,
    }

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not self.score_activations:  # STOI lies between 0 and 1
            self.score_activations = ["sigmoid" if name == "stoi" else "linear" for name in self.score_names]
        self.score_scales = self.score_scales or [1.0] * len(self.score_names)

    def default_id2label(self) -> dict[int, str]:
        return {0: "pesq", 1: "stoi", 2: "sdi"}

    @classmethod
    def voicemos(cls, **kwargs: Any) -> Self:
        """Return the configuration of the authors' entry to the VoiceMOS challenge 2022: one MOS, 5 times a sigmoid."""
        options = {"encoder_input": "raw", "smooth_ssl_features": True, "bottleneck_relu": False, "id2label": {0: "mos"}}
        scores = {"score_activations": ["sigmoid"], "score_scales": [5.0], "score_min": 1.0, "score_max": 5.0}
        return cls(**options | scores | kwargs)

    @classmethod
    def plus(cls, **kwargs: Any) -> Self:
        """Return the configuration of MOSA-Net+ (Zezario et al., arXiv:2309.12766) as in its first published code.

        Whisper medium's features replace HuBERT's, and there are two sigmoids, for quality and intelligibility as rated in
        TMHINT-QI. The authors' trunk always sees the features of 30 s, ours those of the recording. Their later code has
        another trunk (trained filters, batch norm) and Whisper large-v3; its weights do not fit here.
        """
        options = {"encoder_config": dict(WHISPER_MEDIUM), "encoder_input": "raw", "id2label": {0: "mos", 1: "intelligibility"}}
        scores = {"score_activations": ["sigmoid"] * 2, "score_scales": [5.0, 10.0], "score_min": 0.0, "score_max": 10.0}
        return cls(**options | scores | kwargs)

    def validate_encoder(self) -> None:
        check_encoder_config(self.encoder_config, with_quality_models=True)
        check_layer(self.encoder_config, self.encoder_layer, "encoder_layer")
        if takes_spectra(self.encoder_config) and not self.precomputed_features:
            raise ValueError(
                f"Expected an encoder that takes waveforms, got {self.encoder_config.model_type!r}, which takes mel spectra; "
                "compute its features beforehand and set `precomputed_features=True`."
            )
        if self.standardize_ssl_features and self.precomputed_features:
            raise ValueError(
                "Expected `standardize_ssl_features` of a model with an encoder, got `precomputed_features=True` beside it; "
                "standardize the features where they are computed."
            )
        check_choice("encoder_input", self.encoder_input, ENCODER_INPUTS)

    def validate_trunk(self) -> None:
        check_choice("sinc_edges", self.sinc_edges, SINC_EDGES)
        if self.fft_size % 2 or self.fft_size < 4:
            raise ValueError(f"Expected `fft_size` to be even and at least 4, got {self.fft_size}.")
        if self.sinc_kernel_size % 2 == 0 or self.sinc_kernel_size < 3:
            raise ValueError(f"Expected `sinc_kernel_size` to be odd and at least 3, got {self.sinc_kernel_size}.")
        if not self.conv_channels:
            raise ValueError("Expected `conv_channels` to hold one positive size per block, got none.")
        if self.dropout == 1:
            raise ValueError("Expected `dropout` in [0, 1), got 1.")
        for option in ("score_activations", "score_scales"):
            if len(getattr(self, option)) != len(self.id2label):
                raise ValueError(
                    f"Expected one entry of `{option}` per score {', '.join(self.id2label.values())}, got {getattr(self, option)}."
                )
        if unknown := set(self.score_activations) - set(SCORE_ACTIVATIONS):
            raise ValueError(f"Expected `score_activations` among {', '.join(SCORE_ACTIVATIONS)}, got {unknown.pop()!r}.")
