"""Configuration of DNSMOS."""

from huggingface_hub.dataclasses import strict

from hf_sqa.blocks.bounds import COUNT, SAMPLES, SIZE, check_hop
from hf_sqa.configuration import AudioQualityConfig

#: Scores of the published networks; the last comes from a separate network.
P808_SCORE = "p808_mos"
PUBLISHED_SCORES = ("sig", "bak", "ovrl", P808_SCORE)
#: From raw outputs to scores, coefficients of 1, x, x², ...; `DNSMOS.get_polyfit_val` of the package speechmos.
POLYNOMIALS: dict[str, dict[str, list[float]]] = {
    "dnsmos": {
        "sig": [0.0052439, 1.22083953, -0.08397278],
        "bak": [-0.39604546, 1.60915514, -0.13166888],
        "ovrl": [0.04602535, 1.11546468, -0.06766283],
    },
    "dnsmos-personalized": {
        "sig": [-0.24348726, 1.19576786, 0.02751166, -0.01019296],
        "bak": [0.96883132, -0.1644611, 0.44276479, -0.04976499],
        "ovrl": [-0.11236046, 1.18058466, 0.005101, -0.00533021],
    },
}
MAX_POLYNOMIAL_ORDER = 8


def check_polynomial(name: str, coefficients: list[float]) -> None:
    """Refuse a polynomial of a higher order, or with coefficients that are no finite numbers."""
    if not 1 < len(coefficients) <= MAX_POLYNOMIAL_ORDER + 1 or not all(abs(value) < 1e6 for value in coefficients):
        raise ValueError(
            f"Expected the polynomial of {name!r} as coefficients [c0, c1, ...] up to c{MAX_POLYNOMIAL_ORDER}, got {coefficients}."
        )


@strict
class DNSMOSConfig(AudioQualityConfig):
    r"""Configuration of [`DNSMOS`]; the defaults are the sizes of the published networks.

    Args:
        window_samples (`int`, *optional*, defaults to `144160`): Samples that the networks see at once, 9.01 s. A shorter recording
            is doubled, by appending it to itself, until it is at least as long.
        hop_samples (`int`, *optional*, defaults to `16000`): Distance between the starts of windows.
        skip_windows (`bool`, *optional*, defaults to `False`): Whether to leave out windows as the published code does: those that
            a rounding error makes one sample too short (with the published sizes windows 7 to 23 and 119 to 122, counted from 0),
            and what follows the last whole second. `True` in converted weights. Otherwise every window counts, and one more reaches
            to the end of the recording.
        fft_size (`int`, *optional*, defaults to `320`): Samples in one spectrum, 20 ms; the P.808 score uses one more.
        fft_hop_samples (`int`, *optional*, defaults to `160`): Distance between spectra, 10 ms.
        conv_channels (`list[int]`, *optional*, defaults to `(128, 64, 64, 32, 32, 32, 64)`): Channels of every convolution.
        conv_pools (`list[int]`, *optional*, defaults to `(4, 5, 6)`): Convolutions, counted from 1, that are followed by a pooling
            by halves.
        dense_sizes (`list[int]`, *optional*, defaults to `(128, 64)`): Widths of the layers between convolutions and scores.
        num_mel_bins (`int`, *optional*, defaults to `120`): Mel bands that the network of the P.808 score sees.
        p808_conv_channels (`list[int]`, *optional*, defaults to `(32, 32, 32, 32, 64)`): As `conv_channels`, in that network.
        p808_conv_pools (`list[int]`, *optional*, defaults to `(1, 2, 4)`): As `conv_pools`, in that network.
        p808_dense_sizes (`list[int]`, *optional*, defaults to `(64, 64)`): As `dense_sizes`, in that network.
        score_polynomials (`dict[str, list[float]]`, *optional*): By score name, coefficients of 1, x, x², ... of a polynomial that
            turns the network's output for a window into its score. Scores without a polynomial are the outputs themselves.
        id2label (`dict[int, str]`, *optional*): Score names in column order; sig, bak, ovrl and p808_mos if not given. The score
            called p808_mos must be the last; it comes from a separate network, on mel bands.
        **kwargs: Options of [`AudioQualityConfig`].
    """

    model_type = "dnsmos"
    #: Windows of 0.41 s, about 3,000 weights.
    tiny_options = {
        **{"window_samples": 6_560, "hop_samples": 1_600},
        **{"conv_channels": (6, 4, 4, 4, 8), "conv_pools": (2, 3, 4), "dense_sizes": (8, 8)},
        **{"num_mel_bins": 24, "p808_conv_channels": (4, 4, 4, 8), "p808_conv_pools": (1, 2, 3), "p808_dense_sizes": (8, 8)},
    }

    window_samples: int = 144_160
    hop_samples: int = 16_000
    skip_windows: bool = False
    fft_size: int = 320
    fft_hop_samples: int = 160
    conv_channels: list[int] | tuple[int, ...] = (128, 64, 64, 32, 32, 32, 64)
    conv_pools: list[int] | tuple[int, ...] = (4, 5, 6)
    dense_sizes: list[int] | tuple[int, ...] = (128, 64)
    num_mel_bins: int = 120
    p808_conv_channels: list[int] | tuple[int, ...] = (32, 32, 32, 32, 64)
    p808_conv_pools: list[int] | tuple[int, ...] = (1, 2, 4)
    p808_dense_sizes: list[int] | tuple[int, ...] = (64, 64)
    score_polynomials: dict[str, list[float | int]] | None = None

    bounds = AudioQualityConfig.bounds | {
        **dict.fromkeys(("window_samples", "hop_samples"), SAMPLES),
        **dict.fromkeys(("fft_size", "fft_hop_samples", "conv_channels", "p808_conv_channels"), SIZE),
        **dict.fromkeys(("dense_sizes", "p808_dense_sizes", "num_mel_bins"), SIZE),
        **dict.fromkeys(("conv_pools", "p808_conv_pools"), COUNT),
    }

    checks_by_score = AudioQualityConfig.checks_by_score | {"score_polynomials": check_polynomial}

    score_meanings = {
        "sig": "ITU-T P.835, quality of the speech",
        "bak": "ITU-T P.835, quality of the background",
        "ovrl": "ITU-T P.835, overall quality",
        "p808_mos": "overall quality as rated after ITU-T P.808",
    }

    def default_id2label(self) -> dict[int, str]:
        return dict(enumerate(PUBLISHED_SCORES))

    @property
    def has_p808_score(self) -> bool:
        """Whether the last score comes from the network on mel bands."""
        return self.score_names[-1] == P808_SCORE

    @property
    def num_p835_scores(self) -> int:
        """Scores of the network on the spectrum."""
        return len(self.score_names) - self.has_p808_score

    @property
    def num_frames(self) -> int:
        """Spectra in a window."""
        return self.window_samples // self.fft_hop_samples - 1

    def validate_p808_score(self) -> None:
        if P808_SCORE in self.score_names[:-1]:
            raise ValueError(f"Expected {P808_SCORE!r} to be the last score in `id2label`, got {', '.join(self.score_names)}.")

    def validate_windows(self) -> None:
        if self.fft_size != 2 * self.fft_hop_samples:
            raise ValueError(
                f"Expected `fft_size` to be twice `fft_hop_samples`, got {self.fft_size} and {self.fft_hop_samples}: spectra "
                "overlap by half."
            )
        for option, samples in (("window_samples", self.window_samples - self.fft_hop_samples), ("hop_samples", self.hop_samples)):
            if samples < 1 or samples % (2 * self.fft_hop_samples):
                above = " above `fft_hop_samples`" if option == "window_samples" else ""
                raise ValueError(
                    f"Expected `{option}` to be a multiple of twice `fft_hop_samples`, {2 * self.fft_hop_samples}{above}, got "
                    f"{getattr(self, option)}: windows begin and end between pairs of spectra."
                )
        check_hop(self, "hop_samples", "window_samples")

    def validate_convolutions(self) -> None:
        for prefix, bins in (("", self.fft_size // 2 + 1), ("p808_", self.num_mel_bins)):
            channels, pools = getattr(self, f"{prefix}conv_channels"), getattr(self, f"{prefix}conv_pools")
            if not pools or list(pools) != sorted(set(pools)) or pools[-1] > len(channels):
                raise ValueError(
                    f"Expected `{prefix}conv_pools` to name one or more of the {len(channels)} convolutions of "
                    f"`{prefix}conv_channels`, counted from 1 and ascending, got {list(pools)}."
                )
            if min(bins, self.num_frames) < 2 ** len(pools):
                raise ValueError(
                    f"Expected at most as many `{prefix}conv_pools` as halve {self.num_frames} spectra by {bins} bands to one, got "
                    f"{len(pools)}."
                )
