"""bfloat16 where the processor computes in it, and a warning where it does not."""

import os
import subprocess
import sys

import pytest
import torch

from hf_sqa.blocks import precision


def test_held_back_to_avx2_no_processor_computes_in_bfloat16_and_autocast_leaves_an_lstm_in_float32():
    """oneDNN has no LSTM in bfloat16 there: torch's own call is an error, and so was a training step with `bf16`."""
    code = (
        "import torch; from hf_sqa.blocks.precision import computes_in_bfloat16, run_lstm\n"
        "with torch.autocast('cpu', torch.bfloat16):\n"
        "    inputs = torch.nn.Linear(4, 4)(torch.ones(1, 3, 4))\n"
        "    print(computes_in_bfloat16(), inputs.dtype, run_lstm(torch.nn.LSTM(4, 4), inputs)[0].dtype)"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert done.stdout.split() == ["False", "torch.bfloat16", "torch.float32"], done.stderr


@pytest.mark.parametrize(
    ("dtype", "computes", "warns"), [("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)]
)
def test_emulated_bfloat16_is_warned_of_with_the_measured_factor(dtype, computes, warns, monkeypatch, recwarn, make_tiny):
    import hf_sqa

    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device="cpu": computes)
    model = make_tiny().to(getattr(torch, dtype))

    hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")

    messages = [str(warning.message) for warning in recwarn if "does not compute in bfloat16" in str(warning.message)]
    assert bool(messages) is warns
    if warns:
        factor = float(messages[0].split("takes ")[1].split(" times")[0])
        assert factor > 0
