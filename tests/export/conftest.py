"""A student in small with its graphs, for all tests of exports."""

import pytest
import torch

RATE = 16_000
#: A student in small: mel bands, windows side by side.
STUDENT = {"num_mel_bins": 20, "num_conv_layers": 3, "conv_layer_channels": [4, 6, 8], "hop_samples": 10_240}
#: Large enough that 8 bits have something to round.
WIDE = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(scope="session", params=["student", "published"])
def model(request, make_tiny):
    model = make_tiny(3, **WIDE, **STUDENT) if request.param == "student" else make_tiny(6, **WIDE)
    with torch.no_grad():
        model.transformer.pooling.score_head.weight.mul_(0.2)  # away from the ends of the scale, where the sigmoid is flat
    return model


@pytest.fixture(scope="session")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def graphs(model, tmp_path_factory):
    """Folders with the graph in float32 and in 8 bits."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
    from hf_sqa.export.onnx import export_onnx

    folders = {name: tmp_path_factory.mktemp(name) for name in ("float32", "int8")}
    for name, folder in folders.items():
        export_onnx(model, folder, int8=name == "int8")
    return folders


@pytest.fixture
def recordings(speech_like):
    """Shorter than a window of 0.64 s, a little longer, and of many windows."""
    return [{"array": speech_like(seconds), "sampling_rate": RATE} for seconds in (0.4, 0.7, 3.3)]
