"""The default checkpoint: converted once, whole or not at all, from the weight file alone."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest

import hf_sqa
from hf_sqa import checkpoints, short_names
from hf_sqa.models.distilled_sqa import convert_distilled_sqa

USE_DEFAULT = "import hf_sqa; print(hf_sqa.default_checkpoint())"


@pytest.fixture
def weights():
    try:
        return convert_distilled_sqa.WHEEL.file(convert_distilled_sqa.WEIGHTS_FILE)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_two_processes_at_once_make_one_whole_checkpoint_and_import_nothing_of_distillmos(weights, nursery):
    shutil.rmtree(nursery.home, ignore_errors=True)
    code = USE_DEFAULT + "; import sys; print([name for name in sys.modules if name.split('.')[0] in ('distillmos', 'torchaudio')])"
    processes = [nursery.start(code) for _ in range(2)]
    outputs = [process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    (folder, modules), other = (output[0].split("\n")[:2] for output in outputs)
    assert [folder, modules] == other
    assert modules == "[]"
    assert sorted(file.name for file in Path(folder).iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert [entry.name for entry in Path(folder).parent.iterdir()] == [Path(folder).name], "something unfinished was left behind"
    assert oct(Path(folder).stat().st_mode & 0o777) == oct(Path(folder).parent.stat().st_mode & 0o777)
    assert "_name_or_path" not in json.loads((Path(folder) / "config.json").read_text())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache in this process."""
    monkeypatch.setattr(
        short_names,
        "cached_assets_path",
        lambda library, namespace, subfolder: _made(tmp_path / library / namespace / subfolder),
    )
    return tmp_path


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_it_is_converted_once(weights, cache, monkeypatch):
    first = hf_sqa.default_checkpoint()
    monkeypatch.setattr(short_names, "convert", lambda: pytest.fail("converted a second time"))

    assert hf_sqa.default_checkpoint() == first


def test_a_conversion_that_fails_leaves_nothing_that_looks_finished(weights, cache, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("transformers.PreTrainedModel.save_pretrained", full_disk)
        with pytest.raises(OSError, match="No space left on device"):
            hf_sqa.default_checkpoint()

    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert Path(hf_sqa.default_checkpoint(), "model.safetensors").exists()


@pytest.mark.parametrize("place", ["a file", "where nobody writes"])
def test_a_cache_that_cannot_be_written_is_an_error_with_the_remedy(place, weights, tmp_path, monkeypatch):
    if place == "a file":
        cache = tmp_path / "assets"
        cache.touch()
    else:
        cache = Path("/proc/nobody-writes-here")
        if not cache.parent.is_dir():
            pytest.skip("needs /proc, which even root cannot write to")
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(cache))
    monkeypatch.setattr(short_names, "HF_ASSETS_CACHE", str(cache))

    with pytest.raises(
        OSError, match=rf"cannot be written to '{cache}'.* Set HF_HOME .or HF_ASSETS_CACHE. to a folder that can be"
    ):
        hf_sqa.default_checkpoint()


def test_without_distillmos_the_error_says_how_to_get_the_weights(cache, monkeypatch):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)

    with pytest.raises(FileNotFoundError, match=r"`hf-sqa download` fetches them; so does `pip install --no-deps distillmos"):
        hf_sqa.pipeline("distill-mos-v7", device="cpu")
    assert dict(hf_sqa.pipelines.models_at_hand())["distill-mos-v7"] == "not on this machine: `hf-sqa download`"


@pytest.mark.parametrize("name", [None, "default", "distill-mos-v7"])
def test_the_default_has_a_short_name(name, default_scorer):
    assert checkpoints.resolve_checkpoint(name) == hf_sqa.default_checkpoint()


def test_other_models_are_left_as_they_are(make_tiny):
    model = make_tiny()

    assert checkpoints.resolve_checkpoint(Path("folder") / "mine") == "folder/mine"
    assert checkpoints.resolve_checkpoint("owner/name") == "owner/name"
    assert checkpoints.resolve_checkpoint(model) is model
