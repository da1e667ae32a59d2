"""Small corpora."""

import pytest
import soundfile
from made_clips import RATE, make_clip


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder of twelve clips of 0.6 s and a bit, `00.wav` to `11.wav`."""
    folder = tmp_path_factory.mktemp("clips")
    for index in range(12):
        soundfile.write(folder / f"{index:02d}.wav", make_clip(index, 0.6 + 0.05 * index), RATE)
    return folder
