"""The forms of DistilledSQA made for speed: they keep every promise of the families, and have the sizes their names say."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError

from hf_sqa.audio import load_recording
from hf_sqa.models.distilled_sqa import DistilledSQA, DistilledSQAConfig
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import STUDENTS
from tests.models.test_every_family import *  # noqa: F403  # all of its tests, on the student below instead of a family

RATE = 16_000
#: Weights: the least and the most that each may have.
SIZES = {"xxs": (5e3, 15e3), "xs": (30e3, 60e3), "s": (150e3, 300e3), "m": (500e3, 1e6), "l": (4e6, 4.2e6)}


class StudentConfig(DistilledSQAConfig):
    """Tells `tiny()` to make a student, and is otherwise the configuration itself."""

    def __new__(cls, **kwargs):
        return DistilledSQAConfig(**kwargs)

    @classmethod
    def tiny(cls, **kwargs):
        options = {
            "num_mel_bins": 20,
            "num_conv_layers": 3,
            "conv_layer_channels": [4, 6, 8],
            "conv_time_strides": [2, 1, 2],
            "conv_frequency_strides": [2, 1, 2],
            "separable_convs": True,
            "head_size": 5,
            "layer_num_heads": [1, 3],
            "layer_intermediate_sizes": [7, 16],
            "pooling_size": 9,
            "hop_samples": 10_240,
        }
        return DistilledSQAConfig.tiny(**options | kwargs)


@pytest.fixture(scope="module")
def family():
    return StudentConfig, DistilledSQA


@pytest.mark.parametrize("size", STUDENTS)
def test_the_ladder_has_the_sizes_promised(size):
    with torch.device("meta"):
        model = DistilledSQA(DistilledSQAConfig.student(size))

    lowest, highest = SIZES[size]
    assert lowest <= sum(parameter.numel() for parameter in model.parameters()) <= highest


def test_an_unknown_size_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="xxs, xs, s, m, l, got 'xl'"):
        DistilledSQAConfig.student("xl")


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.47, 0.6])
def test_zeros_after_a_short_recording_are_as_if_computed(model, speech_like, seconds):
    waveform = torch.from_numpy(speech_like(seconds))[None]
    with torch.no_grad():
        short = model.score_windows(waveform)
        filled = model.score_frames(model.trunk(model.spectrum(_normalised(waveform, model.config.window_samples))))

    torch.testing.assert_close(short, filled, rtol=0, atol=2e-5)


def test_modes_agree_on_the_grid_of_the_frames(model, speech_like):
    grid = model.config.spectra_per_frame * model.config.fft_hop_samples
    samples = model.config.window_samples + 5 * grid
    recording = load_recording(speech_like(3.0)[:samples], sampling_rate=RATE, input_sampling_rate=RATE)

    published, fast = (model.score_recordings([recording], mode=mode)[0] for mode in ("published", "fast"))

    assert published.segment_starts.tolist() == fast.segment_starts.tolist()
    assert published.scores == pytest.approx(fast.scores, abs=1e-5)


def test_a_score_does_not_depend_on_gain(model, speech_like):
    waveform = torch.from_numpy(speech_like(0.6))[None]
    with torch.no_grad():
        torch.testing.assert_close(model(waveform).logits, model(0.01 * waveform).logits, rtol=0, atol=1e-3)


def test_students_do_not_overlap_their_windows():
    config = DistilledSQAConfig.student("s")
    with torch.device("meta"):
        model = DistilledSQA(config)

    assert len(model.window_starts(10 * RATE)) == 2
    assert len(model.window_starts(4 * config.window_samples)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_num_heads": [2]}, "`layer_num_heads` with a number of 1 or more for each of `num_hidden_layers`=2"),
        ({"conv_layer_channels": [4, 0, 8]}, "`conv_layer_channels` between 1 and 65,536, got 0"),
        ({"head_size": None}, "`head_size` beside `layer_num_heads`"),
        ({"num_mel_bins": 200}, "`num_mel_bins` between 0 and a quarter"),
        ({"conv_time_strides": [3, 3, 3]}, "multiple of 27"),
        ({"conv_frequency_strides": [4, 4, 4]}, "frequency bins down to one"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        StudentConfig.tiny(**options)


def _normalised(waveform, length):
    filled = F.pad(waveform, (0, length - waveform.shape[1]))
    return filled / (filled.abs().max() + 1e-8)


def test_a_student_is_one_graph_for_torch_compile():
    torch.manual_seed(0)
    model = DistilledSQA(DistilledSQAConfig.student("xxs")).eval()
    windows = torch.randn(2, model.config.window_samples)

    traced = torch.compile(model, fullgraph=True, backend="eager")  # as for a compiler, of which there need be none

    with torch.no_grad():
        torch.testing.assert_close(traced(windows).logits, model(windows).logits, rtol=0, atol=1e-5)
