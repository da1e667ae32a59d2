"""Every published checkpoint, converted, against what the authors' own code gave; recorded by `tests/parity/record.py`."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from hf_sqa.audio import AudioError, load_recording
from tests.parity.signals import signal

RECORDINGS = sorted((Path(__file__).parents[1] / "parity").glob("*.json"))
LONGEST_SECONDS = 10.0  # longer signals take a minute; the families' own tests have them, marked slow


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_scores_are_those_of_the_original(path):
    recorded = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = recorded["checkpoint"]
    if checkpoint and checkpoint.startswith("shared/"):
        checkpoint = Path(__file__).parents[3] / checkpoint
        if not checkpoint.is_file():
            pytest.skip(f"needs {recorded['checkpoint']} beside the project: weights that may not be passed on")
    family = recorded["family"]
    convert = importlib.import_module(f"hf_sqa.models.{family}.convert_{family}").convert
    try:
        model = convert(checkpoint)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    extractor = model.make_feature_extractor()

    assert model.config.checkpoint_name == path.stem
    compared, longest = 0, recorded.get("longest_seconds", LONGEST_SECONDS)
    for name, expected in recorded["scores"].items():
        waveform, sampling_rate = signal(name, recorded["signals"][name])
        if len(waveform) > longest * sampling_rate or model.config.sampling_rate not in (None, sampling_rate):
            continue
        try:
            recording = load_recording(waveform, input_sampling_rate=sampling_rate)
        except AudioError as error:
            assert error.code == "silent"
            continue
        scores = dict(zip(model.config.score_names, model.score_recordings([recording], extractor)[0].scores, strict=True))
        found = np.array([scores[score] for score in expected])
        np.testing.assert_allclose(found, list(expected.values()), rtol=0, atol=recorded["tolerance"], err_msg=name)
        compared += 1
    assert compared >= 8
