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


@pytest.mark.parametrize(
    ("num_images", "channels", "rows", "columns", "column_step"),
    [(1, 32, 8, 9, 2), (1, 48, 40, 19, 2), (2, 32, 25, 8, 1), (1, 64, 90, 41, 2)],
    ids=["one tile", "whole and overlapping tiles", "two images", "several blocks"],
)
@pytest.mark.parametrize("edges", [(None, None), (1, None), (None, 1), (2, 1)], ids=str)
def test_along_rows_the_values_are_those_of_the_definition(num_images, channels, rows, columns, column_step, edges):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 40, 3, stride=(1, column_step))
    images = torch.randn(num_images, channels, rows, columns)
    above, below = (None if size is None else torch.randn(num_images, channels, size, columns) for size in edges)
    with torch.inference_mode():
        found = winograd.conv_along_rows(images, winograd.row_filters(layer), layer.bias, column_step, above, below)

    whole = torch.cat([part for part in (above, images, below) if part is not None], dim=2)
    expected = layer.double()(whole.double())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_memory_is_used_again_without_mixing_results():
    torch.manual_seed(0)
    layer, memory = nn.Conv2d(32, 32, 3), winograd.Memory()
    with torch.inference_mode():
        filters = winograd.row_filters(layer)
        for rows in (20, 9, 31):
            images = torch.randn(1, 32, rows, 12)
            found = winograd.conv_along_rows(images, filters, layer.bias, memory=memory)
            torch.testing.assert_close(found, layer(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(16, 64, 3), nn.Conv2d(32, 32, 3, stride=2), nn.Conv2d(32, 32, 5), nn.Conv2d(32, 32, 3, groups=32)],
    ids=["few channels", "steps between rows", "size", "groups"],
)
def test_other_layers_are_left_to_the_definition(layer):
    with torch.inference_mode():
        assert winograd.row_filters(layer) is None


def test_where_a_gradient_is_wanted_layers_are_left_to_the_definition():
    assert winograd.row_filters(nn.Conv2d(32, 32, 3)) is None
