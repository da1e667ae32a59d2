"""Coders and vocoders that do not keep the waveform: in step with their input, closer with more bits, honest of what is missing."""

import itertools

import numpy as np
import pytest
import scipy.signal
import soundfile

from hf_sqa.degradations import KINDS, CodecUnavailableError, draw_losses
from hf_sqa.degradations.codec.lyra import FOLDER_VARIABLE
from hf_sqa.degradations.codec.shared_library import load_library

RATE = 16_000
MODES = [
    *(("lyra", {"bitrate_kbps": rate}) for rate in (3.2, 6, 9.2)),
    *(("codec2", {"bitrate_kbps": rate}) for rate in (3.2, 2.4, 1.6, 1.4, 1.3, 1.2, 0.7)),
    *(("lpc_vocoder", {"excitation": excitation}) for excitation in ("mixed", "binary", "noise")),
    ("lpc_vocoder", {"codec_rate": 16_000, "order": 18, "frame_ms": 10}),
    ("world_vocoder", {}),
    ("world_vocoder", {"num_coefficients": 30}),
    *(("opus", {"bitrate_kbps": 9, "bandwidth": "wideband", "enhancement": name}) for name in ("lace", "nolace")),
]


@pytest.fixture(scope="module")
def speech(request):
    return soundfile.read(request.config.rootpath / "examples/clean.flac", dtype="float32")[0][: 3 * RATE]


def code(kind, waveform, sampling_rate=RATE, **parameters):
    if kind == "lpc_vocoder":
        parameters["rng"] = np.random.default_rng(0)
    try:
        return KINDS[kind](waveform, sampling_rate, **parameters)
    except (CodecUnavailableError, ModuleNotFoundError) as error:
        pytest.skip(str(error))


def spectral_distance_db(speech, degraded, high_hz=3600):
    """Distance of log spectra in 40 bands, over frames with speech in them."""
    levels = []
    for waveform in (speech, degraded):
        power = np.abs(scipy.signal.stft(waveform, RATE, nperseg=512)[2][: high_hz * 512 // RATE]) ** 2
        bands = power[: len(power) // 40 * 40].reshape(40, -1, power.shape[1]).mean(axis=1)
        levels.append(10 * np.log10(bands + 1e-7))
    heard = levels[0].mean(axis=0) > np.median(levels[0].mean(axis=0))
    return np.abs(levels[0] - levels[1])[:, heard].mean()


@pytest.mark.parametrize(("kind", "parameters"), MODES, ids=str)
def test_the_envelope_of_generated_speech_is_in_step_with_its_input(kind, parameters, speech):
    degraded = code(kind, speech, **parameters)
    low_pass = scipy.signal.butter(2, 40, fs=RATE, output="sos")
    envelopes = [scipy.signal.sosfiltfilt(low_pass, np.abs(waveform)) for waveform in (speech, degraded)]
    first, second = (envelope - envelope.mean() for envelope in envelopes)
    lag = int(scipy.signal.correlate(second, first, method="fft").argmax()) - (len(speech) - 1)

    assert abs(lag) * 1000 / RATE < 8


@pytest.mark.parametrize(("kind", "parameters"), MODES, ids=str)
def test_generated_speech_has_the_spectrum_of_its_input(kind, parameters, speech):
    """The same speech 100 ms late is twice as far away as the worst of them."""
    late = spectral_distance_db(speech, np.roll(speech, RATE // 10))

    assert 0.1 < spectral_distance_db(speech, code(kind, speech, **parameters)) < 0.8 * late


@pytest.mark.parametrize(("kind", "ladder"), [("lyra", [3.2, 6, 9.2]), ("codec2", [1.2, 1.6, 3.2])])
def test_more_bits_bring_generated_speech_closer_to_its_input(kind, ladder, speech):
    distances = [spectral_distance_db(speech, code(kind, speech, bitrate_kbps=rate)) for rate in ladder]

    assert all(worse > better for worse, better in itertools.pairwise(distances)), distances


def test_a_second_call_of_lyra_does_not_hear_the_first(speech):
    first = code("lyra", speech)
    code("lyra", speech[::-1].copy())

    np.testing.assert_allclose(code("lyra", speech), first, atol=1e-6)


@pytest.mark.parametrize("enhancement", ["lace", "nolace"])
def test_an_enhanced_opus_decoder_plays_the_same_speech_otherwise(enhancement, speech):
    options = {"bitrate_kbps": 6, "bandwidth": "wideband", "library": "libopus"}
    enhanced, plain = code("opus", speech, enhancement=enhancement, **options), code("opus", speech, **options)

    assert np.abs(enhanced - plain).max() > 0.01
    assert np.corrcoef(enhanced, plain)[0, 1] > 0.8


def test_held_at_wide_band_opus_keeps_what_narrow_band_cuts_off(speech):
    def high_share(bandwidth):
        degraded = code("opus", speech, bitrate_kbps=16, bandwidth=bandwidth)
        spectrum = np.abs(np.fft.rfft(degraded)) ** 2
        return spectrum[len(spectrum) // 2 + 200 :].sum() / spectrum.sum()

    assert high_share("wideband") > 10 * high_share("narrowband")


def test_neural_concealment_changes_what_is_lost_and_leaves_what_came_before(speech):
    options = {"bitrate_kbps": 24, "bandwidth": "wideband", "loss_share": 0.1, "library": "libopus"}
    record = {}
    usual = code("opus", speech, rng=np.random.default_rng(1), record=record, **options)
    neural = code("opus", speech, rng=np.random.default_rng(1), neural_concealment=True, **options)
    before = (record["lost_packets"][0] - 2) * 320

    assert before > 0
    np.testing.assert_allclose(neural[:before], usual[:before], atol=1e-4)
    assert np.abs(neural - usual).max() > 0.01


def test_redundancy_brings_back_more_of_lost_frames_than_concealment(speech):
    options = {"bitrate_kbps": 24, "bandwidth": "wideband", "loss_share": 0.15, "mean_burst_packets": 1.2, "library": "libopus"}
    lost = draw_losses(150, loss_share=0.15, mean_burst_packets=1.2, rng=np.random.default_rng(2))

    def correlation(redundancy):
        degraded = code("opus", speech, rng=np.random.default_rng(2), redundancy=redundancy, **options)
        played, wanted = (waveform[: 150 * 320].reshape(150, 320)[lost].ravel() for waveform in (degraded, speech))
        return np.corrcoef(played, wanted)[0, 1]

    assert correlation(True) > correlation(False) + 0.05


def test_a_libopus_without_networks_is_refused_by_its_version(speech):
    library = load_library("opus", 0, "opus", "libopus0", "opus")
    if library.opus_decoder_get_size(1) > 100_000:
        pytest.skip("the libopus here has the networks")
    with pytest.raises(CodecUnavailableError, match=r"1\.5 or later.*got libopus.*HF_SQA_LIBOPUS"):
        KINDS["opus"](speech, RATE, bitrate_kbps=9, enhancement="lace")


def test_libsndfile_is_refused_what_it_cannot_do(speech):
    with pytest.raises(ValueError, match=r"Expected `library='libopus'` with .*`enhancement`"):
        KINDS["opus"](speech, RATE, bitrate_kbps=9, enhancement="lace", library="libsndfile")


def test_missing_networks_of_lyra_are_named(speech, tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(CodecUnavailableError, match=r"needs soundstream_encoder.tflite, .*got no folder.*HF_SQA_LYRA"):
        KINDS["lyra"](speech, RATE)
    with pytest.raises(CodecUnavailableError, match=r"got a folder without them"):
        KINDS["lyra"](speech, RATE, networks=str(tmp_path))


def test_a_voiced_filter_has_a_pitch_and_a_whispering_one_has_none():
    """Pulses every 8 ms through a resonance; likeness to itself at that lag."""
    pulses = np.zeros(2 * RATE)
    pulses[:: RATE // 125] = 1
    voiced = scipy.signal.lfilter([1], [1, -1.6, 0.81], pulses).astype(np.float32) / 4

    def likeness(excitation):
        degraded = code("lpc_vocoder", voiced, excitation=excitation)[RATE // 2 :]
        return np.corrcoef(degraded[: -RATE // 125], degraded[RATE // 125 :])[0, 1]

    assert likeness("binary") > 0.8
    assert abs(likeness("noise")) < 0.3


def test_world_raises_the_pitch_as_told():
    pulses = np.zeros(2 * RATE)
    pulses[:: RATE // 125] = 1
    voiced = (scipy.signal.lfilter([1], [1, -1.6, 0.81], pulses) / 4).astype(np.float32)
    degraded = code("world_vocoder", voiced, pitch_factor=1.6)
    spectrum = np.abs(np.fft.rfft(degraded * np.hanning(len(degraded)))) ** 2
    autocorrelation = np.fft.irfft(spectrum)[40:400]

    assert RATE / (40 + int(autocorrelation.argmax())) == pytest.approx(200, abs=4)


@pytest.mark.parametrize("kind", ["lpc_vocoder", "world_vocoder", "codec2", "lyra"])
def test_half_a_second_into_silence_nothing_is_heard_stays_silent(kind):
    assert np.abs(code(kind, np.zeros(RATE, np.float32))[RATE // 2 :]).max() < 3e-3
