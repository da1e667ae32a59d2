"""Convolutions with fewer multiplications: the values of the definition, with and without NNPACK, and gradients."""

import pytest
import torch
from torch import nn

from hf_sqa.blocks import winograd


@pytest.mark.parametrize("has_nnpack", [True, False], ids=["nnpack", "without"])
@pytest.mark.parametrize(
    ("num_images", "channels", "height", "width"), [(1, 32, 17, 40), (3, 32, 8, 9), (1, 3, 1, 1), (20, 5, 2, 31)]
)
def test_the_values_are_those_of_the_definition(num_images, channels, height, width, has_nnpack, monkeypatch):
    if has_nnpack and not winograd.has_nnpack():
        pytest.skip("this build of torch has no NNPACK")
    monkeypatch.setattr(winograd, "has_nnpack", lambda: has_nnpack)
    torch.manual_seed(0)
    images, layer = torch.randn(num_images, channels, height, width), nn.Conv2d(channels, 8, 3, padding=1)

    with torch.inference_mode():
        found = winograd.conv3x3(layer, images)

    expected = layer.double()(images.double())
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_any_layout_of_the_images_is_understood():
    torch.manual_seed(0)
    images, layer = torch.randn(1, 16, 12, 12), nn.Conv2d(16, 8, 3, padding=1)

    with torch.inference_mode():
        found = winograd.conv3x3(layer, images.contiguous(memory_format=torch.channels_last))
        part = winograd.conv3x3(layer, images[:, :, 2:9])
        torch.testing.assert_close(found, winograd.conv3x3(layer, images), rtol=0, atol=1e-4)

    torch.testing.assert_close(part[:, :, 1:-1], found[:, :, 3:8], rtol=0, atol=1e-4)


def test_image_and_layer_receive_gradients():
    images, layer = torch.randn(1, 4, 6, 6, requires_grad=True), nn.Conv2d(4, 8, 3, padding=1)

    winograd.conv3x3(layer, images).square().sum().backward()

    assert all(tensor.grad.abs().sum() > 0 for tensor in (images, layer.weight, layer.bias))
