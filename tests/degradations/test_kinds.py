"""Each kind does what its numbers say: measured on signals whose answer is known."""

import importlib
import inspect

import numpy as np
import pytest

from hf_sqa import degradations
from hf_sqa.degradations import KINDS, RecordingFolder, level_dbfs
from hf_sqa.degradations.packet_loss import conceal

RATE = 16_000

#: What a kind needs beside the waveform, where it has no default.
REQUIRED = {
    "gain": {"gain_db": -6},
    "set_level": {"target_dbfs": -26},
    "white_noise": {"snr_db": 10},
    "pink_noise": {"snr_db": 10},
    "hum": {"snr_db": 10},
    "babble": {"snr_db": 10},
    "fluctuating_noise": {"snr_db": 10},
    "background_noise": {"snr_db": 10},
    "recorded_noise": {"snr_db": 10, "noises": [np.random.default_rng(5).standard_normal(9000).astype(np.float32)]},
    "mnru": {"q_db": 10},
    "reverberation": {"t60_seconds": 0.5},
    "room": {"t60_seconds": 0.4},
    "echo": {"delay_ms": 100, "attenuation_db": 10},
    "low_pass": {"cutoff_hz": 2000},
    "high_pass": {"cutoff_hz": 500},
    "clip_level": {"level": 0.1},
    "clip_share": {"share": 0.1},
    "soft_clip": {"drive_db": 10},
    "chop": {"chops_per_second": 4, "chop_ms": 30},
    "packet_loss": {"loss_share": 0.2},
    "jitter": {"jitter_ms": 200},
    "opus": {"bitrate_kbps": 16},
    "speex": {"bitrate_kbps": 12},
    "mp3": {"bitrate_kbps": 32},
    "aac": {"bitrate_kbps": 32},
    "vorbis": {"quality": 0.3},
    "phase_noise": {"spread_rad": 1.0},
}
ALL = sorted(KINDS)


def skip_if_unavailable(kind, **parameters):
    requirement = importlib.import_module("hf_sqa.degradations.kind").REQUIREMENTS.get(kind)
    if requirement is not None:
        try:
            requirement(parameters)
        except (RuntimeError, ModuleNotFoundError) as error:
            pytest.skip(str(error))


def apply(kind, waveform, sampling_rate=RATE, seed=0, **parameters):
    skip_if_unavailable(kind, **parameters)
    if "rng" in inspect.signature(KINDS[kind]).parameters:
        parameters["rng"] = np.random.default_rng(seed)
    return KINDS[kind](waveform, sampling_rate, **REQUIRED.get(kind, {}) | parameters)


def power_db(waveform):
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))


def tone(hertz, seconds=1.0, sampling_rate=RATE, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sampling_rate)) / sampling_rate)).astype(np.float32)


# --- What holds for every kind ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("sampling_rate", [8000, 16_000, 44_100])
def test_every_kind_returns_finite_float32_samples_of_the_same_length(kind, sampling_rate, speech_like):
    speech = speech_like(1.7, sampling_rate)
    degraded = apply(kind, speech, sampling_rate)

    assert degraded.dtype == np.float32
    assert degraded.shape == speech.shape
    assert np.isfinite(degraded).all()


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_leaves_its_input_as_it_was(kind, speech_like):
    speech = speech_like(1.0)
    before = speech.copy()
    apply(kind, speech)

    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize("kind", ALL)
def test_the_same_seed_gives_the_same_samples(kind, speech_like):
    speech = speech_like(1.0)

    np.testing.assert_array_equal(apply(kind, speech, seed=3), apply(kind, speech, seed=3))


@pytest.mark.parametrize("kind", [kind for kind in ALL if "rng" in inspect.signature(KINDS[kind]).parameters])
def test_another_seed_gives_other_samples_where_there_is_chance(kind, speech_like):
    speech = speech_like(2.0)
    losses = {"loss_share": 0.3} if "loss_share" in inspect.signature(KINDS[kind]).parameters else {}

    assert not np.array_equal(apply(kind, speech, seed=1, **losses), apply(kind, speech, seed=2, **losses))


@pytest.mark.parametrize("kind", ALL)
def test_nan_samples_are_refused_with_their_place(kind, speech_like):
    skip_if_unavailable(kind)
    speech = speech_like(1.0)
    speech[123] = np.nan
    with pytest.raises(ValueError, match=r"1 that are NaN or infinite, the first at index 123"):
        apply(kind, speech)


@pytest.mark.parametrize("kind", ALL)
def test_a_very_short_waveform_does_not_break_a_kind(kind):
    speech = np.array([0.1, -0.2, 0.3, 0.1, -0.1] * 4, np.float32)

    assert apply(kind, speech).shape == (20,)


def test_integer_samples_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match="dividing by 32768"):
        degradations.gain(np.zeros(100, np.int16), RATE, gain_db=0)


def test_two_dimensional_samples_are_refused():
    with pytest.raises(ValueError, match=r"shape \(num_samples,\)"):
        degradations.gain(np.zeros((2, 100), np.float32), RATE, gain_db=0)


def test_a_seed_in_place_of_a_generator_is_refused():
    with pytest.raises(TypeError, match=r"numpy.random.Generator.*got 0"):
        degradations.white_noise(tone(440), RATE, snr_db=10, rng=0)


def test_a_parameter_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="Expected `gain_db` to be a number, got '6 dB'"):
        degradations.gain(tone(440), sampling_rate=RATE, gain_db="6 dB")


def test_every_kind_is_public_and_says_which_units_it_takes():
    for kind, function in KINDS.items():
        assert getattr(degradations, kind) is function
        for name in inspect.signature(function).parameters:
            assert name in (function.__doc__ or ""), (kind, name)


# --- Level and noise -------------------------------------------------------------------------------------------------------------


def test_level_of_a_full_scale_sine_is_minus_3_dbfs():
    assert level_dbfs(tone(1000, amplitude=1.0), RATE) == pytest.approx(-3.01, abs=0.01)
    assert level_dbfs(tone(1000, amplitude=1.0), RATE, "peak") == pytest.approx(0, abs=0.01)


def test_active_level_leaves_pauses_out():
    """Half tone, half silence: 3.01 dB under the tone over the file; active, 0.2 s of hangover cost 10 log10(1.2) = 0.79 dB."""
    half = np.concatenate([tone(1000, 1.0), np.zeros(RATE, np.float32)])

    assert level_dbfs(half, RATE) == pytest.approx(level_dbfs(tone(1000), RATE) - 3.01, abs=0.01)
    assert level_dbfs(half, RATE, "active") == pytest.approx(level_dbfs(tone(1000), RATE) - 0.79, abs=0.1)


@pytest.mark.parametrize("measure", ["whole_file", "active", "peak"])
@pytest.mark.parametrize("target_dbfs", [-26, -60])
def test_set_level_reaches_the_level(measure, target_dbfs, speech_like):
    degraded = apply("set_level", speech_like(2.0), target_dbfs=target_dbfs, measure=measure)

    assert level_dbfs(degraded, RATE, measure) == pytest.approx(target_dbfs, abs=0.01)


def test_set_level_of_silence_is_refused():
    with pytest.raises(ValueError, match="not silent"):
        apply("set_level", np.zeros(RATE, np.float32))


def test_a_gain_of_6_db_doubles_the_amplitude():
    np.testing.assert_allclose(apply("gain", tone(300), gain_db=20 * np.log10(2)), 2 * tone(300), rtol=1e-6)


NOISES = ["white_noise", "pink_noise", "hum", "babble", "fluctuating_noise", "background_noise", "recorded_noise"]


@pytest.mark.parametrize("speech_level", ["whole_file", "active"])
@pytest.mark.parametrize("snr_db", [-5, 0, 20])
@pytest.mark.parametrize("kind", NOISES)
def test_mix_has_the_requested_snr(kind, snr_db, speech_level, speech_like):
    speech = speech_like(3.0)
    noise = apply(kind, speech, snr_db=snr_db, speech_level=speech_level) - speech

    assert level_dbfs(speech, RATE, speech_level) - power_db(noise) == pytest.approx(snr_db, abs=0.05)


def test_a_p56_mix_is_the_noisier_one(speech_like):
    speech = speech_like(3.0)
    whole, active = (apply("white_noise", speech, speech_level=level) - speech for level in ("whole_file", "active"))

    assert power_db(active) > power_db(whole)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_on_silent_speech_is_refused(kind):
    with pytest.raises(ValueError, match="silent"):
        apply(kind, np.zeros(RATE, np.float32))


def test_silent_noise_is_refused(speech_like):
    with pytest.raises(ValueError, match="Expected noise that is not silent"):
        apply("recorded_noise", speech_like(1.0), noises=[np.zeros(2000, np.float32)])


def test_recorded_noise_without_recordings_is_refused(speech_like):
    with pytest.raises(ValueError, match="Expected `noises`"):
        apply("recorded_noise", speech_like(1.0), noises=None)


def test_noise_of_another_length_is_refused():
    with pytest.raises(ValueError, match="as long as the speech, 16000 samples, got 9"):
        degradations.add_noise(tone(300), np.ones(9, np.float32), RATE, snr_db=0)


def test_noise_white_to_24_khz_is_4_77_db_softer_at_16_khz(speech_like):
    """10 log10(24 / 8) = 4.77."""
    speech = speech_like(3.0)
    usual, wide = (apply("white_noise", speech, noise_bandwidth_hz=hertz) - speech for hertz in (None, 24_000))

    assert power_db(usual) - power_db(wide) == pytest.approx(4.77, abs=0.01)


def test_pink_noise_falls_by_3_db_per_octave():
    noise = apply("pink_noise", tone(50, 20.0, amplitude=1e-3), snr_db=-60)
    powers = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
    density = [powers[(hertz >= low) & (hertz < 1.1 * low)].mean() for low in (500, 1000, 2000, 4000)]

    np.testing.assert_allclose(np.diff(10 * np.log10(density)), -3.01, atol=0.5)


def test_hum_lies_on_the_harmonics_of_the_mains():
    speech = tone(3000, 1.0)
    noise = apply("hum", speech, mains_hz=60) - speech
    powers = np.abs(np.fft.rfft(noise)) ** 2  # bins of 1 Hz

    assert powers[[60 * k for k in range(1, 9)]].sum() / powers.sum() > 0.999
    assert powers[60] / powers[120] == pytest.approx(4, rel=0.01)  # amplitude 1/k


def test_recorded_noise_says_which_stretch_it_took(speech_like):
    recordings = [np.random.default_rng(number).standard_normal(5 * RATE).astype(np.float32) for number in range(3)]
    speech, record = speech_like(1.0), {}
    noise = apply("recorded_noise", speech, noises=recordings, record=record) - speech
    start = round(record["noise_start_seconds"] * RATE)

    stretch = recordings[int(record["noise"])][start : start + len(speech)]
    assert np.corrcoef(noise, stretch)[0, 1] > 0.9999


def test_a_short_noise_recording_is_repeated(speech_like):
    speech = speech_like(1.0)
    noise = apply("recorded_noise", speech, snr_db=-40, noises=[tone(500, 0.1)]) - speech

    np.testing.assert_allclose(noise[1600:3200], noise[:1600], atol=1e-3)


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        RecordingFolder(tmp_path)


def test_a_noise_file_that_is_no_audio_is_named(tmp_path, speech_like):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"broken\.wav.*cannot be used"):
        apply("recorded_noise", speech_like(1.0), noises=RecordingFolder(tmp_path))


# --- MNRU ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q_db", [5, 20, 35])
def test_mnru_reaches_q(q_db, speech_like):
    speech = speech_like(4.0)
    noise = apply("mnru", speech, q_db=q_db) - speech

    assert power_db(speech) - power_db(noise) == pytest.approx(q_db, abs=0.15)


def test_mnru_is_the_speech_times_one_plus_scaled_white_noise():
    """ITU-T P.810: y = x (1 + 10^(-Q/20) n), so (y / x - 1) 10^(Q/20) is the noise itself, whatever the speech."""
    speech = np.full(RATE, 0.25, np.float32)
    noise = np.random.default_rng(0).standard_normal(RATE, dtype=np.float32)

    np.testing.assert_allclose(apply("mnru", speech, q_db=20), 0.25 * (1 + 0.1 * noise), rtol=1e-5, atol=1e-7)


def test_mnru_leaves_silence_silent():
    assert not apply("mnru", np.zeros(100, np.float32)).any()


# --- Rooms, echo, band -----------------------------------------------------------------------------------------------------------


def decay_seconds(response):
    """T60 from the slope of Schroeder's backward integral between -5 and -25 dB."""
    energy = np.cumsum(np.square(response, dtype=np.float64)[::-1])[::-1]
    decibels = 10 * np.log10(energy / energy[0] + 1e-15)
    begin, end = int(np.argmax(decibels < -5)), int(np.argmax(decibels < -25))
    return 3 * (end - begin) / RATE


@pytest.mark.parametrize("t60_seconds", [0.3, 0.7, 1.2])
def test_reverberation_decays_in_its_t60(t60_seconds):
    click = np.zeros(3 * RATE, np.float32)
    click[0] = 1
    response = apply("reverberation", click, t60_seconds=t60_seconds)

    assert decay_seconds(response[100:]) == pytest.approx(t60_seconds, rel=0.1)


@pytest.mark.parametrize("direct_to_reverberant_db", [-6, 0, 10])
def test_reverberation_has_its_direct_to_reverberant_ratio(direct_to_reverberant_db):
    click = np.zeros(3 * RATE, np.float32)
    click[1000] = 0.5
    response = apply("reverberation", click, direct_to_reverberant_db=direct_to_reverberant_db)

    assert response[1000] == pytest.approx(0.5, abs=1e-6)  # the direct sound passes at its own time and level
    tail = np.square(response[1001:], dtype=np.float64).sum()
    assert 10 * np.log10(0.25 / tail) == pytest.approx(direct_to_reverberant_db, abs=0.5)


def test_a_room_keeps_the_direct_sound_in_place_and_decays():
    click = np.zeros(2 * RATE, np.float32)
    click[1000] = 0.5
    response = apply("room", click, t60_seconds=0.4, room_m=[5, 4, 2.5])

    assert np.abs(response).argmax() == 1000
    assert response[1000] == pytest.approx(0.5, rel=0.01)
    assert 0.2 < decay_seconds(response[1000:]) < 0.6


def test_a_room_too_small_for_the_distance_is_refused():
    skip_if_unavailable("room")
    with pytest.raises(ValueError, match="distance_m"):
        apply("room", tone(300), room_m=[3, 3, 2.5], distance_m=4)


def test_echo_comes_after_its_delay_by_its_attenuation():
    """White noise: the cross-correlation at the delay, over that at zero, is the amplitude of the echo: 12 dB down is 0.2512."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(4 * RATE)).astype(np.float32)
    degraded = apply("echo", noise, delay_ms=150, attenuation_db=12)
    correlation = np.correlate(degraded[: 3 * RATE], noise[: 3 * RATE - 4000], "valid") / np.sum(noise[: 3 * RATE - 4000] ** 2)

    assert correlation.argmax() == 0
    assert 1 + correlation[1:].argmax() == 2400  # 0.150 s
    assert correlation[2400] == pytest.approx(0.2512, abs=0.01)


def test_each_repeat_of_an_echo_is_softer_by_the_attenuation():
    click = np.zeros(1000, np.float32)
    click[0] = 1
    degraded = apply("echo", click, delay_ms=12.5, attenuation_db=20, num_repeats=3)  # 200 samples

    np.testing.assert_allclose(degraded[[0, 200, 400, 600]], [1, 0.1, 0.01, 0.001], rtol=1e-5)
    assert np.count_nonzero(degraded) == 4


@pytest.mark.parametrize(("hertz", "expected_db"), [(500, 0.0), (2000, -3.01), (4000, -48.2), (1000, 0.0)])
def test_low_pass_attenuates_as_a_butterworth_filter_of_order_8(hertz, expected_db):
    """An octave above the cut-off: 10 log10(1 + 2^16) = 48.2 dB."""
    degraded = apply("low_pass", tone(hertz, 2.0), cutoff_hz=2000)

    assert power_db(degraded[4000:-4000]) - power_db(tone(hertz)) == pytest.approx(expected_db, abs=0.1)


@pytest.mark.parametrize(("hertz", "expected_db"), [(150, -48.2), (300, -3.01), (1000, 0.0), (3400, -3.01), (6800, -48.2)])
def test_band_pass_keeps_the_telephone_band(hertz, expected_db):
    degraded = apply("band_pass", tone(hertz, 2.0))

    assert power_db(degraded[4000:-4000]) - power_db(tone(hertz)) == pytest.approx(expected_db, abs=0.1)


def test_high_pass_attenuates_below_its_cut_off():
    assert power_db(apply("high_pass", tone(250, 2.0), cutoff_hz=500)[4000:-4000]) - power_db(tone(250)) == pytest.approx(
        -48.2, abs=0.2
    )


def test_filters_delay_nothing():
    np.testing.assert_allclose(apply("low_pass", tone(300), cutoff_hz=3000), tone(300), atol=2e-3)


def test_a_cut_off_above_half_the_rate_is_refused():
    with pytest.raises(ValueError, match=r"cutoff_hz.*below half the sampling rate, 4000 Hz, got 5000"):
        apply("low_pass", tone(300), 8000, cutoff_hz=5000)


# --- Clipping and chopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_clip_share_cuts_off_that_share(share, speech_like):
    speech, record = speech_like(2.0), {}
    degraded = apply("clip_share", speech, share=share, record=record)

    assert np.mean(degraded != speech) == pytest.approx(share, abs=0.001)
    assert np.abs(degraded).max() == pytest.approx(record["level"], rel=1e-6)


def test_clip_level_cuts_off_at_the_level_and_counts():
    record = {}
    degraded = apply("clip_level", np.array([0.05, -0.2, 0.1, 0.9], np.float32), level=0.1, record=record)

    np.testing.assert_allclose(degraded, [0.05, -0.1, 0.1, 0.1])
    assert record == {"clipped_share": 0.5}


def test_soft_clip_follows_the_hyperbolic_tangent():
    """Peak 0.5 and 20 dB of drive: tanh(10) / 10 of the peak remain."""
    assert apply("soft_clip", tone(1000), drive_db=20).max() == pytest.approx(0.5 * np.tanh(10) / 10, rel=0.01)


def test_chop_silences_its_share():
    """4 stretches of 30 ms a second: 12 %."""
    record = {}
    degraded = apply("chop", np.ones(10 * RATE, np.float32), record=record)

    assert np.mean(degraded == 0) == pytest.approx(0.12, abs=1e-6)
    assert len(record["starts_seconds"]) == 40
    first = round(record["starts_seconds"][0] * RATE)
    assert not degraded[first : first + 480].any()


def test_chop_can_repeat_what_came_before():
    ramp = np.arange(RATE, dtype=np.float32) / RATE
    record = {}
    degraded = apply("chop", ramp, mode="previous", record=record)
    start = round(record["starts_seconds"][1] * RATE)

    np.testing.assert_array_equal(degraded[start : start + 480], ramp[start - 480 : start])


def test_stretches_longer_than_their_interval_are_refused():
    with pytest.raises(ValueError, match="no longer than the 250 ms"):
        apply("chop", tone(300), chop_ms=300)


# --- Losses ----------------------------------------------------------------------------------------------------------------------


def bursts_of(lost):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lost.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize(("loss_share", "mean_burst_packets"), [(0.05, 1.0), (0.2, 3.0), (0.5, 8.0)])
def test_losses_have_their_share_and_mean_burst(loss_share, mean_burst_packets):
    lost = degradations.draw_losses(
        400_000, loss_share=loss_share, mean_burst_packets=mean_burst_packets, rng=np.random.default_rng(0)
    )

    assert lost.mean() == pytest.approx(loss_share, rel=0.03)
    assert bursts_of(lost).mean() == pytest.approx(mean_burst_packets, rel=0.03)


def test_independent_losses_have_bursts_of_one_over_one_minus_the_share():
    record = {}
    apply("packet_loss", np.ones(RATE * 600, np.float32), loss_share=0.5, packet_ms=10, concealment="zeros", record=record)
    lost = np.zeros(60_000, bool)
    lost[record["lost_packets"]] = True

    assert lost.mean() == pytest.approx(0.5, rel=0.03)
    assert bursts_of(lost).mean() == pytest.approx(2, rel=0.03)


def test_many_losses_in_short_bursts_are_refused():
    """Bursts of 1 separated by gaps of at least 1 lose half of the packets at most; 60 % need bursts of 0.6 / 0.4 = 1.5."""
    with pytest.raises(ValueError, match=r"1\.5 or more for a `loss_share` of 0\.6"):
        degradations.draw_losses(10, loss_share=0.6, mean_burst_packets=1, rng=np.random.default_rng(0))


def test_no_loss_changes_nothing(speech_like):
    speech = speech_like(1.0)
    np.testing.assert_array_equal(apply("packet_loss", speech, loss_share=0), speech)


def test_lost_packets_are_those_on_record(speech_like):
    speech, record = speech_like(2.0) + 0.5, {}
    degraded = apply("packet_loss", speech, concealment="zeros", record=record)

    silent = (degraded.reshape(100, 320) == 0).all(axis=1)
    assert np.flatnonzero(silent).tolist() == record["lost_packets"]


def voiced(seconds=2.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.1 * sum(np.sin(2 * np.pi * 125 * k * time) / k for k in range(1, 20))).astype(np.float32)


def test_concealment_continues_a_steady_voice():
    """A voice of 125 Hz: the error of the filled gaps is at least 10 dB under that of silence, which is the signal itself."""
    voice = voiced()
    lost = np.zeros(200, bool)
    lost[20::10] = True  # 10 ms each
    error = {how: np.square(conceal(voice, RATE, lost, 160, how) - voice).sum() for how in ("pitch", "zeros")}

    assert 10 * np.log10(error["pitch"] / error["zeros"]) < -10


def test_concealment_of_speech_keeps_more_energy_than_zeros(speech_like):
    speech = speech_like(4.0)
    degraded, silent = (apply("packet_loss", speech, concealment=how) for how in ("pitch", "zeros"))

    assert np.square(degraded).sum() > 1.05 * np.square(silent).sum()


def test_concealment_falls_silent_after_60_ms():
    lost = np.zeros(100, bool)
    lost[50:60] = True  # 0.2 s
    degraded = conceal(voiced(), RATE, lost, 320)

    assert np.abs(degraded[16_000 : 16_000 + 160]).max() > 0.05
    assert np.abs(degraded[16_000 + 960 : 19_200]).max() < 1e-3


def test_concealment_does_not_look_at_lost_samples():
    voice = voiced()
    lost = np.zeros(100, bool)
    lost[[30, 31, 60]] = True
    spoiled = np.where(np.repeat(lost, 320), 9.0, voice).astype(np.float32)

    np.testing.assert_array_equal(conceal(spoiled, RATE, lost, 320), conceal(voice, RATE, lost, 320))


def test_repeat_plays_the_last_packet_again():
    ramp = np.arange(1600, dtype=np.float32)
    lost = np.array([False, False, True, True, False])

    degraded = conceal(ramp, RATE, lost, 320, "repeat")
    np.testing.assert_array_equal(degraded[640:960], ramp[320:640])
    np.testing.assert_array_equal(degraded[960:1280], ramp[320:640])


def test_jitter_loses_packets_later_than_the_buffer():
    """Delays are normal: with a buffer of one standard deviation, 15.9 % come too late, in bursts."""
    record = {}
    apply("jitter", np.zeros(RATE * 2000, np.float32), jitter_ms=200, buffer_ms=200, concealment="zeros", record=record)
    lost = np.zeros(100_000, bool)
    lost[record["lost_packets"]] = True

    assert lost.mean() == pytest.approx(0.159, abs=0.01)
    assert bursts_of(lost).mean() > 2


# --- Noise suppression and vocoders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wiener_filter", "spectral_subtraction"])
def test_suppression_lowers_noise_in_the_pauses_more_than_speech(kind, speech_like):
    speech = np.concatenate([np.zeros(RATE, np.float32), speech_like(1.5)])
    noisy = apply("white_noise", speech, snr_db=10)
    cleaned = apply(kind, noisy)

    pause_db = power_db(cleaned[2000:14_000]) - power_db(noisy[2000:14_000])
    speech_db = power_db(cleaned[RATE:]) - power_db(noisy[RATE:])
    assert pause_db < -6
    assert speech_db > -3


def test_suppression_does_not_go_below_its_floor():
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    reduced = apply("spectral_subtraction", noise, oversubtraction=20, floor_db=-12)

    assert power_db(reduced) - power_db(noise) == pytest.approx(-12, abs=0.5)


@pytest.mark.parametrize("kind", ["wiener_filter", "spectral_subtraction"])
def test_suppression_that_takes_nothing_away_gives_the_input_back(kind, speech_like):
    """With a floor of 0 dB no gain is below 1: analysis and synthesis must fit together."""
    speech = speech_like(1.3)

    np.testing.assert_allclose(apply(kind, speech, floor_db=0), speech, atol=1e-5)


@pytest.mark.parametrize(("kind", "parameters"), [("mel_vocoder", {}), ("phase_noise", {"spread_rad": 2.0})])
def test_vocoders_keep_the_level_and_change_the_waveform(kind, parameters, speech_like):
    speech = speech_like(2.0)
    degraded = apply(kind, speech, **parameters)

    assert power_db(degraded) == pytest.approx(power_db(speech), abs=0.05)
    assert np.corrcoef(degraded, speech)[0, 1] < 0.8


def test_no_phase_noise_gives_the_input_back(speech_like):
    speech = speech_like(1.0)

    np.testing.assert_allclose(apply("phase_noise", speech, spread_rad=0), speech, atol=1e-5)


def test_more_iterations_bring_the_vocoder_closer_to_the_spectrum(speech_like):
    speech = speech_like(2.0)

    def distance(degraded):
        spectra = [
            np.abs(np.fft.rfft(one[: len(one) // 512 * 512].reshape(-1, 512) * np.hanning(512))) for one in (degraded, speech)
        ]
        return np.linalg.norm(spectra[0] - spectra[1])

    assert distance(apply("mel_vocoder", speech, num_iterations=30)) < distance(apply("mel_vocoder", speech, num_iterations=1))


@pytest.mark.parametrize("kind", ["wiener_filter", "spectral_subtraction", "mel_vocoder", "phase_noise", "soft_clip"])
def test_silence_stays_silent(kind):
    assert not apply(kind, np.zeros(RATE, np.float32)).any()
