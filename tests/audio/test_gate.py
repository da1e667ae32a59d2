"""The input gate: what cannot be judged is refused, what makes a score doubtful is said, and good speech passes in silence."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from hf_sqa.audio import REFUSALS, WARNINGS, AudioError, load_recording
from hf_sqa.audio.findings import Finding

RATE = 16_000


def load(waveform, rate=RATE, **options):
    return load_recording(waveform, sampling_rate=RATE, input_sampling_rate=rate, **options)


def warnings_of(waveform, rate=RATE):
    return [finding.code for finding in load(waveform, rate).warnings]


def refusal_of(waveform):
    with pytest.raises(AudioError) as caught:
        load(waveform)
    return caught.value


def tone(hertz, amplitude, seconds=2.0, rate=RATE):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def murmur(rng):
    """`murmur(seconds, rate)`: white noise as loud as syllables are."""

    def make(seconds, rate=RATE):
        time = np.arange(round(seconds * rate)) / rate
        return 0.2 * rng.standard_normal(len(time)) * (0.01 + (1 - np.cos(2 * np.pi * 4 * time)) / 2)

    return make


@pytest.fixture
def speech(speech_like):
    return speech_like(2.0)


def test_a_file_of_0_bytes_is_empty(tmp_path):
    path = tmp_path / "nothing.wav"
    path.touch()

    with pytest.raises(AudioError, match="the file has 0 bytes; nothing was recorded or the copy failed") as caught:
        load_recording(path)

    assert (caught.value.code, caught.value.status) == ("empty", "failed")


@pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF", "CAF"])
def test_a_header_without_samples_is_empty(format):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0), RATE, format=format, subtype="PCM_16")

    with pytest.raises(AudioError) as caught:
        load_recording(buffer.getvalue())

    assert caught.value.code == "empty"


@pytest.mark.parametrize(
    "content",
    [b"RIFF" + bytes(range(256)) * 40, np.random.default_rng(1).bytes(20_000), b"Dear Sir or Madam, " * 500, b"x", b"ID3"],
    ids=["garbage after RIFF", "random bytes", "text", "one byte", "three bytes"],
)
def test_garbage_named_wav_is_undecodable_and_the_message_says_what_to_do(content, tmp_path):
    path = tmp_path / "garbage.wav"
    path.write_bytes(content)

    with pytest.raises(AudioError, match=r"garbage.wav: libsndfile cannot read it .*Convert other formats first") as caught:
        load_recording(path)

    assert (caught.value.code, caught.value.status) == ("undecodable", "failed")


@pytest.mark.parametrize("seconds", [0.1, 0.25])
def test_a_quarter_of_a_second_or_less_is_refused_with_its_length(seconds, speech_like):
    error = refusal_of(speech_like(seconds))

    assert (error.code, error.status) == ("too_short", "abstained")
    assert f"expected more than 0.25 s of audio, got {seconds:.3f} s" in error.message


def test_one_sample_is_refused():
    assert refusal_of(np.ones(1, np.float32)).code == "too_short"


@pytest.mark.parametrize(("seconds", "short"), [(0.26, True), (0.5, True), (0.99, True), (1.0, False)])
def test_under_a_second_is_accepted_with_a_warning(seconds, short, speech_like):
    assert ("short" in warnings_of(speech_like(seconds))) == short


@pytest.mark.parametrize("value", [0.0, 0.25, -0.5])
def test_a_constant_is_digital_silence(value):
    error = refusal_of(np.full(2 * RATE, value, np.float32))

    assert (error.code, error.status) == ("silent", "abstained")
    assert "all 32,000 samples are digital silence" in error.message


def test_constant_stereo_is_digital_silence():
    assert refusal_of(np.tile(np.array([[0.25, 0.1]], np.float32), (RATE, 1))).code == "silent"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_not_finite_is_refused_with_its_time(value, speech):
    speech[8000] = value

    error = refusal_of(speech)

    assert (error.code, error.status) == ("not_finite", "abstained")
    assert "a sample at 0.500 s is NaN or infinite" in error.message


def test_a_sample_that_is_not_finite_is_found_late_in_a_float_file(speech_like, tmp_path):
    samples = speech_like(9.0)
    samples[8 * RATE] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")

    with pytest.raises(AudioError, match=r"a sample at 8\.000 s is NaN or infinite"):
        load_recording(tmp_path / "nan.wav")


def test_one_channel_that_is_not_finite_is_enough(speech):
    error = refusal_of(np.stack([speech, np.full_like(speech, np.nan)], axis=1))

    assert error.code == "not_finite"


@pytest.mark.parametrize("gain", [8.0, 40.0])
def test_heavy_clipping_gives_a_warning(gain, speech):
    clipped = np.clip(gain * speech, -1, 1)

    assert warnings_of(clipped) == ["clipped"]
    assert load(clipped).clipped_share > 0.02


def test_clipping_below_full_scale_gives_a_warning(speech):
    assert "clipped" in warnings_of(np.clip(8 * speech, -0.3, 0.3))


@pytest.mark.parametrize("amplitude", [0.9, 0.1, 0.02])
@pytest.mark.parametrize("hertz", [50, 100, 440, 1000])
def test_a_pure_tone_is_not_clipped(hertz, amplitude):
    assert "clipped" not in warnings_of(tone(hertz, amplitude))


@pytest.mark.parametrize("amplitude", [1.0, 0.2])
@pytest.mark.parametrize("hertz", [100, 440, 1000])
def test_a_tone_in_16_bits_is_not_clipped(hertz, amplitude):
    assert "clipped" not in warnings_of(np.round(32767 * tone(hertz, amplitude)).astype(np.int16))


@pytest.mark.parametrize("amplitude", [1.0, 0.3])
def test_a_clipped_recording_in_16_bits_gives_a_warning(amplitude, speech):
    assert "clipped" in warnings_of(np.round(32767 * amplitude * np.clip(8 * speech, -1, 1)).astype(np.int16))


def test_clean_speech_gives_no_warning(speech):
    assert warnings_of(speech) == []


def test_noise_that_moves_as_speech_does_gives_no_warning(murmur):
    assert warnings_of(murmur(3.0)) == []


@pytest.mark.parametrize(("level_dbfs", "low"), [(-45, False), (-55, True), (-75, True)])
def test_a_very_low_level_gives_a_warning(level_dbfs, low, rng):
    noise = rng.standard_normal(3 * RATE)

    recording = load(noise * 10 ** (level_dbfs / 20) / np.sqrt(np.mean(noise**2)))

    assert recording.level_dbfs == pytest.approx(level_dbfs, abs=0.2)
    assert ("low_level" in [finding.code for finding in recording.warnings]) == low


def test_a_burst_in_ten_seconds_of_pause_is_little_speech(rng):
    waveform = 1e-4 * rng.standard_normal(10 * RATE)
    waveform[5 * RATE : 5 * RATE + RATE // 5] += 0.2 * rng.standard_normal(RATE // 5)

    assert "little_speech" in warnings_of(waveform)


def test_two_seconds_of_speech_in_ten_are_not_little(rng, speech):
    waveform = 1e-4 * rng.standard_normal(10 * RATE).astype(np.float32)
    waveform[3 * RATE : 5 * RATE] += speech

    assert warnings_of(waveform) == []


@pytest.mark.parametrize("scale", [4.0, 32768.0])
def test_samples_beyond_full_scale_are_scored_as_they_are_with_a_warning(scale, speech, tiny_scorer, tmp_path):
    soundfile.write(tmp_path / "loud.wav", scale * speech, RATE, subtype="FLOAT")

    loud = tiny_scorer(str(tmp_path / "loud.wav"), return_details=True)

    assert [finding["code"] for finding in loud["warnings"]] == ["over_full_scale"]
    assert loud["mos"] == pytest.approx(tiny_scorer(speech, sampling_rate=RATE)["mos"], abs=1e-5)


def test_an_8_khz_recording_is_narrowband(speech_like):
    assert warnings_of(speech_like(2.0, 8000), rate=8000) == ["narrowband"]


def test_narrowband_material_in_a_16_khz_file_is_noticed(murmur):
    noise = soxr.resample(murmur(3.0, 8000), 8000, RATE)

    assert warnings_of(np.round(32767 * noise).astype(np.int16)) == ["narrowband"]


@pytest.mark.parametrize("rate", [11_025, 22_050, 44_100, 48_000])
def test_other_rates_give_no_warning(rate, murmur):
    assert warnings_of(murmur(3.0, rate), rate=rate) == []


def test_several_findings_come_in_the_order_of_the_list(speech_like):
    found = warnings_of(1e-3 * speech_like(0.4, 8000), rate=8000)

    assert found == [code for code in WARNINGS if code in found]
    assert {"short", "little_speech", "low_level", "narrowband"} <= set(found)


@pytest.mark.parametrize("levels", [2, 3, 4], ids=lambda levels: f"{2 * levels} levels")
@pytest.mark.parametrize("step", [1 / 32768, 1 / 128, 0.25])
def test_noise_of_a_few_levels_is_not_clipped(levels, step, rng):
    noise = step * (rng.integers(-levels, levels, 3 * RATE) + 0.5)

    assert "clipped" not in warnings_of(noise)


@pytest.mark.parametrize("offset", [0.02, -0.02])
def test_an_offset_hides_no_low_level(offset, speech):
    low = load(0.005 * speech)

    moved = load(0.005 * speech + offset)

    assert {"low_level", "dc_offset"} <= {finding.code for finding in moved.warnings}
    assert moved.level_dbfs == pytest.approx(low.level_dbfs, abs=0.1)
    assert moved.speech_seconds == pytest.approx(low.speech_seconds, abs=0.05)


@pytest.mark.parametrize("offset", [0.2, -0.3, 0.003])
def test_an_offset_makes_no_clipping_and_hides_none(offset, speech):
    clipped = np.clip(8 * speech, -0.3, 0.3)

    assert "clipped" not in warnings_of(0.3 * speech + offset)
    assert load(clipped + offset).clipped_share == pytest.approx(load(clipped).clipped_share, rel=0.01)


@pytest.mark.parametrize(("below_db", "found"), [(30, False), (18, True), (6, True), (-10, True)])
def test_an_offset_is_found_from_a_tenth_of_the_speech_on(below_db, found, speech):
    offset = 10 ** ((load(speech).level_dbfs - below_db) / 20)

    assert ("dc_offset" in warnings_of(speech + offset)) == found


def test_an_offset_that_changes_half_way_is_no_sound(speech):
    waveform = 0.01 * speech
    waveform[RATE:] += 0.1

    assert load(waveform).level_dbfs < load(speech).level_dbfs - 20


def test_channels_with_offsets_cancel_all_the_same(speech):
    with pytest.raises(AudioError) as caught:
        load(np.stack([speech + 0.2, 0.2 - speech], axis=1))

    assert caught.value.code == "channels_cancel"


@pytest.mark.parametrize("seconds", [1.2, 8.0, 40.0])
@pytest.mark.parametrize(
    "kind", ["white", "pink", "rumble", "fan", "tone", "low tone", "chord", "hum", "two bits", "white, then a pause", "square"]
)
def test_a_steady_sound_holds_no_speech(kind, seconds, rng):
    time = np.arange(round(seconds * RATE)) / RATE
    white = rng.standard_normal(len(time))
    spectrum, hertz = np.fft.rfft(white), np.maximum(np.arange(len(time) // 2 + 1) / seconds, 1.0)
    sounds = {
        "white": white,
        "pink": np.fft.irfft(spectrum / np.sqrt(hertz), len(time)) * 20,
        "rumble": np.fft.irfft(spectrum / np.maximum(hertz, 100), len(time)) * 100,
        "fan": np.fft.irfft(spectrum / (1 + (hertz / 800) ** 2), len(time)) * 4 + np.sin(2 * np.pi * 120 * time),
        "tone": np.sin(2 * np.pi * 1000 * time),
        "low tone": np.sin(2 * np.pi * 110 * time),
        "chord": sum(np.sin(2 * np.pi * pitch * time) for pitch in (262, 330, 392)),
        "hum": sum(np.sin(2 * np.pi * 50 * harmonic * time + harmonic) / harmonic for harmonic in range(1, 12)),
        "two bits": rng.integers(-2, 2, len(time)) + 0.5,
        "white, then a pause": np.where(time < 0.6 * seconds, white, 1e-4 * white),
        "square": np.sign(np.sin(2 * np.pi * 300 * time)),
    }

    assert "no_speech" in warnings_of(np.round(3276 * sounds[kind]).astype(np.int16))


@pytest.mark.parametrize("seconds", [1.2, 8.0])
@pytest.mark.parametrize("snr_db", [0, 5, 20, 60])
@pytest.mark.parametrize("rate", [8_000, RATE, 48_000])
def test_speech_in_noise_as_loud_as_itself_is_speech(rate, snr_db, seconds, speech_like, rng):
    speech = speech_like(seconds, rate)
    noise = rng.standard_normal(len(speech)) * np.sqrt(np.mean(speech**2))

    codes = [f.code for f in load_recording(speech + noise * 10 ** (-snr_db / 20), input_sampling_rate=rate).warnings]

    assert "no_speech" not in codes


def test_a_word_in_ten_minutes_of_noise_is_speech(speech_like, rng):
    waveform = 0.02 * rng.standard_normal(600 * RATE).astype(np.float32)
    waveform[300 * RATE : 302 * RATE] += speech_like(2.0)

    assert "no_speech" not in warnings_of(waveform)


@pytest.mark.parametrize(
    ("seconds", "tail_seconds", "found"),
    [(10.0, 8.0, True), (10.0, 2.0, True), (10.0, 1.5, False), (3.0, 1.1, True), (2.0, 0.9, False), (9.0, 4.6, True)],
)
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_long_end_of_digital_silence_is_found(seconds, tail_seconds, found, value, speech_like):
    speech = speech_like(seconds)
    speech[round((seconds - tail_seconds) * RATE) :] = value

    assert ("digital_tail" in warnings_of(speech)) == found


def test_digital_silence_before_and_within_is_no_tail(speech_like):
    speech = speech_like(10.0)
    speech[: 4 * RATE] = speech[5 * RATE : 8 * RATE] = 0

    assert "digital_tail" not in warnings_of(speech)


def test_samples_of_any_size_leave_the_terminal_alone(speech, recwarn):
    huge = 1e30 * speech

    assert "over_full_scale" in warnings_of(huge)
    assert not [str(warning.message) for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_none_of_the_156_rated_recordings_gives_a_warning(shared):
    files = sorted((shared / "data" / "p808").rglob("*.flac"))
    assert len(files) == 156

    found = {file.name: codes for file in files if (codes := [f.code for f in load_recording(file, sampling_rate=RATE).warnings])}

    assert found == {}


def test_of_the_coded_sentences_only_the_telephone_vocoder_gives_a_warning(shared):
    files = sorted((shared / "data" / "genspeech").glob("*.wav"))
    assert len(files) == 6

    found = {file.stem: codes for file in files if (codes := [f.code for f in load_recording(file).warnings])}

    assert found == {"melp": ["narrowband"]}  # a coder for 8 kHz


def test_every_refusal_is_a_failure_or_an_abstention():
    assert set(REFUSALS.values()) == {"failed", "abstained"}
    assert not set(REFUSALS) & set(WARNINGS)


def test_an_error_names_source_finding_and_code():
    error = AudioError("call.wav", "silent", "all samples are zero")

    assert str(error) == "call.wav: all samples are zero [silent]"
    assert str(Finding("short", "under one second")) == "short: under one second"


def test_an_error_survives_the_way_out_of_a_worker_process():
    import pickle

    copy = pickle.loads(pickle.dumps(AudioError("call.wav", "silent", "all samples are zero")))

    assert (copy.source, copy.code, copy.message) == ("call.wav", "silent", "all samples are zero")
