"""`hf-sqa download`: folders of checkpoints, by any name, before they are needed."""

import importlib.metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_sqa.cli import app


@pytest.fixture
def run():
    return lambda *names: CliRunner().invoke(app, ["download", *names])


def test_it_prints_each_name_with_a_folder_that_loads(run, tiny_folder):
    result = run("distilled-sqa-xs", str(tiny_folder))

    assert result.exit_code == 0, result.output
    first, second = (line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert first[0] == "distilled-sqa-xs" and (Path(first[1]) / "model.safetensors").is_file()
    assert second == [str(tiny_folder), str(tiny_folder)]


def test_what_cannot_be_had_is_named_and_the_others_are_fetched(run):
    result = run("no-such-model", "distilled-sqa-s")

    assert result.exit_code == 1
    assert "hf-sqa: no-such-model: " in result.stderr
    assert result.stdout.startswith("distilled-sqa-s ")


def test_the_default_is_the_published_model_and_no_stand_in(run, monkeypatch, tmp_path):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    for module in ("hf_sqa.short_names", "hf_sqa.wheels"):
        monkeypatch.setattr(f"{module}.cached_assets_path", lambda library, namespace, subfolder: tmp_path / namespace / subfolder)

    result = run()

    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE is set" in result.stderr and not result.stdout
