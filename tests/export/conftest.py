"""Tiny models with their graphs, for all tests of exports."""

import pytest

RATE = 16_000


@pytest.fixture(scope="session", params=["student", "published"])
def folders(request, exported):
    return exported(request.param)


@pytest.fixture(scope="session")
def checkpoint(folders):
    return folders / "weights"


@pytest.fixture(scope="session")
def graphs(folders):
    """Folders with the graph in float32 and in 8 bits."""
    return {precision: folders / precision for precision in ("float32", "int8")}


@pytest.fixture
def recordings(speech_like):
    """Shorter than a window of 0.64 s, a little longer, and of many windows."""
    return [{"array": speech_like(seconds), "sampling_rate": RATE} for seconds in (0.4, 0.7, 3.3)]
