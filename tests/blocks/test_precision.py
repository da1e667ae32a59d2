"""bfloat16 where the processor computes in it, and a warning where it does not."""

import os
import subprocess
import sys

import pytest
import torch

from hf_sqa.blocks import precision


def test_the_answer_follows_the_instruction_sets_that_may_be_used():
    """Held back to AVX2, no processor computes in bfloat16."""
    code = "from hf_sqa.blocks.precision import computes_in_bfloat16; print(computes_in_bfloat16())"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


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
