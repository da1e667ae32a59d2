"""Code that travels: the same score where hf_sqa is not installed."""

import ast
import json
import os
import shutil
import subprocess
import venv
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import hf_sqa
from hf_sqa.auto import families
from hf_sqa.hub import bundle, staging
from hf_sqa.hub.bundle import BundleError, add_code, bundled_sources, scores_without_hf_sqa, visible_modules
from hf_sqa.hub.publish import publish
from tests.hub.conftest import ALICE
from tests.processes import PATIENCE

SAMPLE = files("hf_sqa") / "assets" / "sample.flac"


def tiny(model_type, folder):
    config_class, model_class = families()[model_type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config_class.tiny()).eval()
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


def exact_scores(folder):
    scorer = hf_sqa.pipeline(str(folder), device="cpu", dtype="float32")
    scores = scorer.forward([scorer.preprocess(str(SAMPLE))])[0]["scores"].scores
    return dict(zip(scorer.model.config.score_names, map(float, scores), strict=True))


@pytest.mark.parametrize("model_type", list(families()))
def test_every_module_that_travels_imports_siblings_and_what_everybody_has(model_type):
    sources = bundled_sources(model_type)

    known = {*bundle.ALLOWED_IMPORTS, "__future__"}
    for name, source in sources.items():
        tree = ast.parse(source)
        attempted = [statement for node in ast.walk(tree) if isinstance(node, ast.Try) for statement in node.body]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node not in attempted:
                assert {alias.name.split(".")[0] for alias in node.names} <= known, name
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in sources, f"{name}: {node.module}"
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in known, f"{name}: {node.module}"
    assert f"modeling_{model_type}.py" in sources and "pipelines_audio_quality.py" in sources


@pytest.mark.slow
def test_the_scores_of_every_family_without_hf_sqa_are_the_same(tmp_path):
    folders = {model_type: tiny(model_type, tmp_path / model_type) for model_type in families()}
    expected = {model_type: exact_scores(folder) for model_type, folder in folders.items()}
    for folder in folders.values():
        add_code(folder)

    found = scores_without_hf_sqa(SAMPLE, *folders.values())

    for model_type, scores in zip(folders, found, strict=True):
        assert scores == pytest.approx(expected[model_type], abs=1e-5, rel=0), model_type


def test_with_hf_sqa_installed_the_same_folder_uses_the_installed_classes(tmp_path):
    folder = tiny("nisqa", tmp_path / "model")
    expected = exact_scores(folder)
    add_code(folder)
    (folder / "modeling_nisqa.py").write_text("raise RuntimeError('the copy was run')")

    assert exact_scores(folder) == pytest.approx(expected, abs=1e-5, rel=0)
    scorer = hf_sqa.pipeline(str(folder), device="cpu")
    assert type(scorer.model).__module__ == "hf_sqa.models.nisqa.modeling_nisqa"


def test_names_that_a_config_needs_are_written(tmp_path):
    folder = tiny("nisqa", tmp_path / "model")
    add_code(folder)

    config = json.loads((folder / "config.json").read_text())
    extractor = json.loads((folder / "preprocessor_config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_nisqa.NISQA"
    assert config["custom_pipelines"]["audio-quality"]["impl"] == "pipelines_audio_quality.AudioQualityPipeline"
    assert extractor["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_nisqa.NISQAFeatureExtractor"}


def test_an_import_that_a_stranger_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(bundle, "ALLOWED_IMPORTS", bundle.ALLOWED_IMPORTS - {"soxr"})

    with pytest.raises(BundleError, match=r"hf_sqa\.audio\.recording imports soxr, which a user with only torch"):
        bundled_sources("distilled_sqa")


@pytest.mark.slow
def test_code_that_does_not_run_elsewhere_is_told(tmp_path):
    folder = tiny("distilled_sqa", tmp_path / "model")
    add_code(folder)
    shutil.copytree(folder, tmp_path / "whole")
    (folder / "outputs.py").write_text("import librosa\n")

    with pytest.raises(BundleError, match=r"/model' does not work without hf_sqa: .*librosa"):
        scores_without_hf_sqa(SAMPLE, tmp_path / "whole", folder)


def test_an_adapter_has_no_code_of_its_own(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(BundleError, match="merge it first"):
        add_code(tmp_path)


def test_what_is_visible_to_a_stranger_is_what_four_packages_bring():
    visible = visible_modules()

    assert {"torch", "transformers", "soundfile", "soxr", "numpy", "huggingface_hub"} <= visible
    assert not {"hf_sqa", "scipy", "librosa", "datasets", "pandas", "peft", "matplotlib"} & visible


@pytest.mark.slow
def test_a_push_with_code_says_in_its_card_how_to_use_it(hub, tmp_path):
    folder = tiny("distilled_sqa", tmp_path / "model")

    done = publish(folder, "alice/with-code", license="mit", with_code=True)

    assert 'pipeline("audio-quality", model="alice/with-code", trust_remote_code=True)' in done.card
    assert "modeling_distilled_sqa.py" in done.files
    assert set(bundled_sources("distilled_sqa")) < set(done.files)


def test_a_copy_may_round_otherwise_but_not_score_otherwise():
    staging._refuse_other_scores({"mos": 3.000002}, {"mos": 3.0})
    for found in ({"mos": 3.001}, {"mos": 3.0, "loudness": 3.0}, {"mos": float("nan")}):
        with pytest.raises(staging.PublishError, match=r"The code beside the weights scores the sample .* report this"):
            staging._refuse_other_scores(found, {"mos": 3.0})


@pytest.fixture
def strangers_python(tmp_path):
    """The interpreter of a new virtual environment that holds torch, transformers, soundfile, soxr and what they require."""
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    target = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    exposed = tmp_path / "exposed"
    exposed.mkdir()
    (target / "exposed.pth").write_text(f"{exposed}\n")
    waiting, seen = list(bundle.NEEDED), set()
    while waiting:
        distribution = bundle._distribution(waiting.pop())
        if distribution is None or distribution.name in seen:
            continue
        seen.add(distribution.name)
        waiting += bundle._requirements(distribution)
        for root in {file.parts[0] for file in distribution.files if file.parts[0] not in {"..", "__pycache__"}}:
            link = exposed / root
            if not link.exists() and not root.endswith(".pth"):
                link.symlink_to(Path(distribution.locate_file(root)).resolve())
    return python


@pytest.mark.slow
def test_a_virtual_environment_without_hf_sqa_pulls_and_scores_the_same(hub, strangers_python, tmp_path):
    folder = tiny("wav2vec2_mos", tmp_path / "model")
    expected = exact_scores(folder)
    publish(folder, "alice/with-code", license="mit", with_code=True, private=True)
    code = f"""
import sys
try:
    import hf_sqa
    raise SystemExit("hf_sqa is installed here")
except ModuleNotFoundError:
    pass
for name in ("scipy", "datasets", "librosa", "peft"):
    try:
        __import__(name)
        raise SystemExit(name + " is installed here")
    except ModuleNotFoundError:
        pass
from transformers import pipeline
score = pipeline("audio-quality", model="alice/with-code", trust_remote_code=True, device="cpu", dtype="float32")
print([float(v) for v in score.forward([score.preprocess({str(SAMPLE)!r})])[0]["scores"].scores])
"""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": ALICE,
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [strangers_python, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=PATIENCE
    )

    assert result.returncode == 0, result.stderr
    assert ast.literal_eval(result.stdout.splitlines()[-1]) == list(expected.values())
