"""Codecs: aligned, as long as the input, better with more bits, honest about what is missing."""

import inspect
import itertools

import numpy as np
import pytest
import scipy.signal
import soundfile

from hf_sqa import degradations
from hf_sqa.degradations import KINDS, CodecUnavailableError
from hf_sqa.degradations.kind import REQUIREMENTS

EXAMPLE = "examples/clean.flac"

#: Every codec and mode, with the bound for the delay that remains, in ms. Coders that model speech instead of its waveform shift
#: phases by frequency; all others are exact.
MODES = [
    ("opus", {"bitrate_kbps": 32, "library": "libopus", "application": "audio"}, 0.01),
    ("opus", {"bitrate_kbps": 16, "library": "libopus"}, 0.1),
    ("opus", {"bitrate_kbps": 64, "library": "libsndfile"}, 0.01),
    ("amr_nb", {"bitrate_kbps": 12.2}, 0.1),
    ("amr_wb", {"bitrate_kbps": 23.85}, 0.1),
    ("gsm", {}, 0.02),
    ("g711", {"law": "mu"}, 0.01),
    ("g711", {"law": "a"}, 0.01),
    ("g726", {"bitrate_kbps": 16}, 0.02),
    ("g726", {"bitrate_kbps": 24}, 0.02),
    ("g726", {"bitrate_kbps": 32}, 0.02),
    ("g726", {"bitrate_kbps": 40}, 0.02),
    ("speex", {"bitrate_kbps": 28}, 0.1),
    ("speex", {"bitrate_kbps": 15, "wideband": False}, 0.1),
    ("mp3", {"bitrate_kbps": 32}, 0.01),
    ("mp3", {"bitrate_kbps": 64}, 0.01),
    ("aac", {"bitrate_kbps": 32}, 0.01),
    ("vorbis", {"quality": 0.5}, 0.01),
    ("adpcm", {"variant": "ima"}, 0.02),
    ("adpcm", {"variant": "ms"}, 0.02),
    ("adpcm", {"variant": "nms_16"}, 0.02),
    ("adpcm", {"variant": "ima", "codec_rate_hz": 16_000}, 0.01),
]

#: More bits, better, by segmental SNR.
LADDERS = [
    ("opus", {"library": "libopus"}, "bitrate_kbps", [6, 12, 24, 64]),
    ("opus", {"library": "libsndfile"}, "bitrate_kbps", [6, 12, 32, 64]),
    ("amr_nb", {}, "bitrate_kbps", [4.75, 7.95, 12.2]),
    ("amr_wb", {}, "bitrate_kbps", [6.6, 12.65, 23.85]),
    ("g726", {}, "bitrate_kbps", [16, 24, 32, 40]),
    ("speex", {}, "bitrate_kbps", [10, 17, 28, 42]),
    ("mp3", {}, "bitrate_kbps", [16, 32, 64]),
    ("aac", {}, "bitrate_kbps", [16, 32, 64]),
    ("vorbis", {}, "quality", [0, 0.5, 1]),
]


@pytest.fixture(scope="module")
def speech(request):
    waveform, sampling_rate = soundfile.read(request.config.rootpath / EXAMPLE, dtype="float32")
    assert sampling_rate == 16_000
    return waveform[: 3 * sampling_rate]


def code(kind, waveform, sampling_rate=16_000, **parameters):
    try:
        return KINDS[kind](waveform, sampling_rate, **parameters)
    except CodecUnavailableError as error:
        pytest.skip(str(error))


def segmental_snr_db(speech, degraded):
    """Mean over frames of 20 ms with speech in them, each between -10 and 35 dB."""
    frames, errors = (one[: len(one) // 320 * 320].reshape(-1, 320) for one in (speech, speech - degraded))
    signal, noise = np.square(frames).sum(axis=1), np.square(errors).sum(axis=1)
    heard = signal > 1e-3 * signal.max()
    return np.clip(10 * np.log10(signal[heard] / (noise[heard] + 1e-12)), -10, 35).mean()


@pytest.mark.parametrize(("kind", "parameters", "bound_ms"), MODES, ids=str)
@pytest.mark.parametrize("sampling_rate", [8000, 16_000, 48_000])
def test_a_codec_is_aligned_with_its_input(kind, parameters, bound_ms, sampling_rate, speech):
    waveform = degradations.band_pass(speech, 16_000, low_hz=100, high_hz=3000)
    waveform = scipy.signal.resample_poly(waveform, sampling_rate // 8000, 2).astype(np.float32)
    degraded = code(kind, waveform, sampling_rate, **parameters)
    correlation = scipy.signal.correlate(degraded, waveform, method="fft")
    top = int(correlation.argmax())
    before, peak, after = correlation[top - 1 : top + 2]
    lag = top - (len(waveform) - 1) + 0.5 * (before - after) / (before - 2 * peak + after)

    assert degraded.shape == waveform.shape
    assert abs(lag) * 1000 / sampling_rate < bound_ms + 0.005


@pytest.mark.parametrize(("kind", "parameters", "bound_ms"), MODES, ids=str)
def test_a_codec_keeps_the_level_within_2_db_and_changes_the_samples(kind, parameters, bound_ms, speech):
    waveform = degradations.band_pass(speech, 16_000)
    degraded = code(kind, waveform, **parameters)

    assert 20 * np.log10(degraded.std() / waveform.std()) == pytest.approx(0, abs=2)
    assert not np.array_equal(degraded, waveform)


@pytest.mark.parametrize(("kind", "parameters", "name", "ladder"), LADDERS, ids=str)
def test_more_bits_sound_closer_to_the_input(kind, parameters, name, ladder, speech):
    waveform = degradations.band_pass(speech, 16_000) if kind in ("amr_nb", "g726") else speech
    snr_db = [segmental_snr_db(waveform, code(kind, waveform, **parameters, **{name: value})) for value in ladder]

    assert all(worse < better for worse, better in itertools.pairwise(snr_db)), snr_db


@pytest.mark.parametrize(("kind", "at_least_db"), [("g711", 30), ("g726", 18), ("adpcm", 15), ("gsm", 8)])
def test_waveform_codecs_reach_their_usual_segmental_snr(kind, at_least_db, speech):
    """Far less, and the codec is not what it claims to be, or out of step with its input."""
    waveform = degradations.band_pass(speech, 16_000, high_hz=3000, order=32)

    assert segmental_snr_db(waveform, code(kind, waveform)) > at_least_db


@pytest.mark.parametrize("kind", ["opus", "amr_nb", "amr_wb", "speex"])
def test_lost_frames_are_concealed_by_the_decoder(kind, speech):
    parameters = {"opus": {"bitrate_kbps": 16}, "speex": {"bitrate_kbps": 20}}.get(kind, {})
    record = {}
    rng = np.random.default_rng(1)
    degraded = code(kind, speech, loss_share=0.1, rng=rng, record=record, **parameters)
    whole = code(kind, speech, **parameters)

    frames, whole_frames = (one[: len(one) // 320 * 320].reshape(-1, 320) for one in (degraded, whole))
    lost = [number for number in record["lost_packets"] if number < len(frames)]
    assert lost
    assert not np.array_equal(frames[lost], whole_frames[lost])
    heard = [number for number in lost if np.square(whole_frames[number]).mean() > 1e-4]
    assert (np.square(frames[heard]).mean(axis=1) > 0).all()  # not digital silence
    untouched = (lost[0] - 2) * 320  # the decoder is late by less than two frames
    np.testing.assert_allclose(degraded[:untouched], whole[:untouched], atol=1e-4)


def test_opus_with_losses_needs_a_generator(speech):
    with pytest.raises(ValueError, match=r"Expected `rng`.*loss_share=0\.1"):
        code("opus", speech, bitrate_kbps=16, loss_share=0.1, library="libopus")


def test_opus_says_which_library_it_took(speech):
    record = {}
    KINDS["opus"](speech, 16_000, bitrate_kbps=16, record=record)

    assert record["library"] in ("libopus", "libsndfile")


def test_a_16_bit_codec_says_how_many_samples_it_clipped():
    record = {}
    loud = np.array([0.5, 1.5, -2.0, 0.25] * 100, np.float32)
    degradations.g711(loud, 8000, record=record)

    assert record["clipped_samples"] == 200


def test_speex_says_which_mode_it_took(speech):
    record = {}
    code("speex", speech, bitrate_kbps=12, record=record)

    assert record["mode_kbps"] == 9.8  # quality 4 of the wideband modes; the next has 12.8


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("amr_nb", {"bitrate_kbps": 13}, r"4\.75, 5\.15.*got 13"),
        ("opus", {"bitrate_kbps": 5}, "between 6 and 256, got 5"),
        ("g726", {"bitrate_kbps": 33}, "16, 24, 32, 40, got 33"),
        ("mp3", {"bitrate_kbps": 320}, "between 8 and 160, got 320"),
        ("g711", {"law": "b"}, "one of mu, a, got 'b'"),
        ("adpcm", {"variant": "nms_16", "codec_rate_hz": 16_000}, "codec_rate_hz=8000"),
        ("opus", {"bitrate_kbps": 16, "loss_share": 0.1, "library": "libsndfile"}, "got .libsndfile., which has none of them"),
    ],
)
def test_options_that_a_codec_does_not_have_are_refused(kind, parameters, message, speech):
    if "loss_share" in parameters:
        parameters = parameters | {"rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=message):
        code(kind, speech, **parameters)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("amr_nb", "libopencore-amrnb0"), ("amr_wb", "libvo-amrwbenc0"), ("speex", "libspeex1"), ("aac", "ffmpeg")],
)
def test_a_missing_library_is_named_with_its_package(kind, package, no_libraries, speech):
    needed = {"bitrate_kbps": 16} if kind in ("speex", "aac") else {}
    with pytest.raises(CodecUnavailableError, match=rf"{kind}.*apt-get install {package}.*brew install"):
        KINDS[kind](speech, 16_000, **needed)
    with pytest.raises(CodecUnavailableError):
        REQUIREMENTS[kind]({})


def test_opus_without_libopus_is_done_by_libsndfile_and_refuses_losses(no_libraries, speech):
    record = {}
    KINDS["opus"](speech, 16_000, bitrate_kbps=16, record=record)

    assert record["library"] == "libsndfile"
    with pytest.raises(CodecUnavailableError, match="libopus0"):
        KINDS["opus"](speech, 16_000, bitrate_kbps=16, loss_share=0.1, rng=np.random.default_rng(0))


def test_every_codec_is_a_kind_with_a_rate_of_its_own_documented():
    for name in ("opus", "amr_nb", "amr_wb", "gsm", "g711", "g726", "speex", "mp3", "aac", "vorbis", "adpcm"):
        assert "resampled" in inspect.getdoc(KINDS[name])


@pytest.mark.parametrize(
    ("step", "package"),
    [
        ({"kind": "opus", "bitrate_kbps": 16, "loss_share": [0.1, 0.2]}, "libopus0"),
        ({"kind": "g726", "bitrate_kbps": {"one_of": [16, 24]}}, "ffmpeg"),
        ({"kind": "g726", "bitrate_kbps": 16}, "ffmpeg"),
    ],
)
def test_a_chain_knows_which_options_need_a_library(step, package, no_libraries):
    with pytest.raises(CodecUnavailableError, match=package):
        degradations.Chain([step]).check_requirements()
    optional = {"kind": step["kind"], "bitrate_kbps": 24}
    degradations.Chain([optional]).check_requirements()
