"""The fault finder: stretches of real speech that are unlike the rest, found and named."""

from importlib.resources import files

import numpy as np
import pytest
import soxr

from hf_sqa import degradations
from hf_sqa.audio import load_recording
from hf_sqa.blocks.faults import EDGE_STEPS, KINDS, SEGMENT_STEPS, STEP_SECONDS, FaultFinder, stretches

RATE = 16_000


@pytest.fixture(scope="module")
def speech():
    """Nine seconds of a talker, with the noise of a microphone."""
    sample = load_recording(str(files("hf_sqa") / "assets" / "sample.flac"), sampling_rate=RATE).waveform
    noise = np.random.default_rng(0).normal(0, 10 ** (-72 / 20), 9 * RATE)
    return (np.resize(sample, 9 * RATE) + noise).astype(np.float32)


def found_in(sound, rate=RATE):
    finder = FaultFinder(rate)
    finder.feed(sound)
    return finder.close()


def with_fault(speech, start, end, degraded):
    sound = speech.copy()
    sound[round(start * RATE) : round(end * RATE)] = degraded[round(start * RATE) : round(end * RATE)]
    return np.clip(sound, -1, 1).astype(np.float32)


def decided(*any_fault, kind="noise"):
    """Probabilities of steps, by that of any fault."""
    steps = np.zeros((len(any_fault), 1 + len(KINDS)))
    steps[:, 0] = 1 - np.array(any_fault)
    steps[:, 1 + KINDS.index(kind)] = any_fault
    return steps


FAULTS = {
    "noise": lambda speech: degradations.white_noise(speech, RATE, snr_db=5, rng=np.random.default_rng(1)),
    "gap": np.zeros_like,
    "clipping": lambda speech: degradations.clip_share(speech, RATE, share=0.2),
    "band limit": lambda speech: degradations.low_pass(speech, RATE, cutoff_hz=1500),
}


class TestFaultFinder:
    @pytest.mark.parametrize("kind", FAULTS)
    def test_a_fault_is_found_to_a_fifth_of_a_second_and_named(self, speech, kind):
        (fault,) = found_in(with_fault(speech, 4, 6, FAULTS[kind](speech)))

        assert fault.kind == kind
        assert fault.start == pytest.approx(4, abs=0.2) and fault.end == pytest.approx(6, abs=0.2)

    def test_good_speech_has_none_and_speech_that_is_bad_throughout_has_none(self, speech):
        assert found_in(speech) == [] and found_in(FAULTS["band limit"](speech)) == []

    def test_the_gain_changes_nothing(self, speech):
        sound = with_fault(speech, 4, 6, FAULTS["noise"](speech))

        assert found_in(0.25 * sound) == found_in(sound)

    def test_portions_of_any_size_give_the_same(self, speech, rng):
        sound, finder = with_fault(np.tile(speech, 5), 37, 39, FAULTS["noise"](np.tile(speech, 5))), FaultFinder(RATE)
        whole = found_in(sound)

        for piece in np.split(sound, np.sort(rng.integers(0, len(sound), 40))):
            finder.feed(piece)

        assert finder.close() == whole and whole

    def test_a_fault_far_into_a_long_recording_is_found_and_what_is_kept_does_not_grow(self, speech):
        long, finder, kept = np.tile(speech, 14), FaultFinder(RATE), []
        sound = with_fault(long, 100, 102, FAULTS["noise"](long))
        for start in range(0, len(sound), 10 * RATE):
            finder.feed(sound[start : start + 10 * RATE])
            kept.append(len(finder._frames))

        (fault,) = finder.close()

        assert fault.start == pytest.approx(100, abs=0.3) and fault.end == pytest.approx(102, abs=0.3)
        assert max(kept) < 4 * SEGMENT_STEPS and 2 * EDGE_STEPS < SEGMENT_STEPS

    @pytest.mark.parametrize("rate", [8000, 48_000])
    def test_another_rate_finds_the_same_place(self, speech, rate):
        sound = soxr.resample(with_fault(speech, 4, 6, FAULTS["noise"](speech)), RATE, rate)

        (fault,) = found_in(sound.astype(np.float32), rate)

        assert fault.start == pytest.approx(4, abs=0.25) and fault.end == pytest.approx(6, abs=0.25)

    @pytest.mark.parametrize("length", [0, 1, 319, 1279, 1280, 5000])
    def test_what_is_hardly_any_sound_has_none(self, length):
        assert found_in(np.zeros(length, np.float32)) == []


class TestStretches:
    def test_a_fault_begins_with_certainty_and_reaches_as_far_as_a_doubt(self):
        (fault,) = stretches(decided(0, 0, 0.5, 0.9, 0.95, 1, 0.95, 0.9, 0.5, 0, 0), certain=0.9, reaches=0.4)

        assert (fault.start, fault.end) == pytest.approx((2 * STEP_SECONDS, 9 * STEP_SECONDS))

    def test_a_doubt_alone_is_no_fault(self):
        assert stretches(decided(0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0), certain=0.9, reaches=0.4) == []

    def test_a_short_break_belongs_to_the_fault_and_a_long_one_does_not(self):
        steps = {count: decided(*[1.0] * 8, *[0.0] * count, *[1.0] * 8) for count in (2, 12)}

        assert len(stretches(steps[2])) == 1 and len(stretches(steps[12])) == 2

    def test_the_likeliest_kind_names_it(self):
        steps = decided(*[0.3] * 8, kind="noise") + decided(*[0.6] * 8, kind="gap")
        steps[:, 0] = 0.1

        assert [fault.kind for fault in stretches(steps, certain=0.8, reaches=0.4)] == ["gap"]
