"""Made-up recordings with the ups and downs of speech, and tiny teachers: no package, no download, no second of training wasted."""

import numpy as np
import pytest
import soundfile

from hf_sqa.data.speech import SpeechPool, folder_speech
from hf_sqa.data.windows import WindowMaker
from hf_sqa.distillation.teacher import Teacher

RATE = 16_000
WINDOW = 10_240


def write_talker(path, seed, seconds=2.0):
    """A recording of a talker: noise of a colour and a rhythm of the talker's own."""
    rng = np.random.default_rng(seed)
    syllables = np.repeat(rng.random(int(seconds * 8)) ** 4, RATE // 8)
    noise = np.convolve(rng.standard_normal(len(syllables)), rng.standard_normal(12), mode="same")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * syllables * noise / np.abs(noise).max(), RATE)


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """A folder with a recording of each of 16 talkers."""
    folder = tmp_path_factory.mktemp("speech")
    for talker in range(16):
        write_talker(folder / f"talker{talker:02}" / "a.wav", talker)
    return folder


@pytest.fixture(scope="session")
def make_maker(speech):
    """`make_maker(folder, seed, degradations)`: a maker of windows of 0.64 s."""

    def make(folder=speech, seed=0, degradations=None):
        pool = SpeechPool(folder_speech(folder, validation_share=0.3), RATE)
        return WindowMaker(pool, degradations or {"none": 1}, WINDOW, seed)

    return make


@pytest.fixture(scope="session")
def make_teacher(make_tiny):
    """`make_teacher(seed, **options)`: a tiny random DistilledSQA as a teacher."""

    def make(seed=0, **options):
        model = make_tiny(seed, **options)
        return Teacher(model, model.make_feature_extractor())

    return make


@pytest.fixture
def teacher_folder(make_tiny, tmp_path):
    """`teacher_folder(seed, **options)`: the same, saved."""

    def make(seed=0, **options):
        model = make_tiny(seed, **options)
        folder = tmp_path / f"teacher-{seed}-{len(options)}"
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
        return str(folder)

    return make
