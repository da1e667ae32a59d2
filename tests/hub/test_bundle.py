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
import transformers

import hf_sqa
from hf_sqa.auto import families
from hf_sqa.hub import bundle, staging
from hf_sqa.hub.bundle import BundleError, add_code, bundled_sources, scores_without_hf_sqa, visible_modules
from hf_sqa.hub.publish import publish
from tests.hub.conftest import ALICE
from tests.hub.test_publish import published
from tests.processes import PATIENCE, command

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
    assert {task: entry["impl"] for task, entry in config["custom_pipelines"].items()} == {
        "audio-quality": "pipelines_audio_quality.AudioQualityPipeline",
        "audio-classification": "pipelines_audio_classification.QualityAsClassification",
    }
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


@pytest.mark.parametrize("beside", [None, "config.json"])
def test_an_adapter_has_no_code_of_its_own(beside, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    if beside:
        (tmp_path / beside).write_text(json.dumps({"model_type": "nisqa"}))

    with pytest.raises(BundleError, match="merge it first"):
        add_code(tmp_path)


def test_what_is_visible_to_a_stranger_is_what_four_packages_bring():
    visible = visible_modules()

    assert {"torch", "transformers", "soundfile", "soxr", "numpy", "huggingface_hub"} <= visible
    assert not {"hf_sqa", "scipy", "librosa", "datasets", "pandas", "peft", "matplotlib"} & visible


def test_a_push_without_code_names_the_package_in_card_and_configuration(hub, tmp_path):
    folder = tiny("nisqa", tmp_path / "model")
    add_code(folder)

    done = publish(folder, "alice/without-code", license="mit", with_code=False)

    assert not [name for name in done.files if name.endswith(".py")]
    assert "This repository holds no code: `pip install 'hf-sqa'`" in done.card and "trust_remote_code" not in done.card
    names = ("config.json", "preprocessor_config.json")
    config, extractor = (
        json.loads(Path(hub.api().hf_hub_download("alice/without-code", name, cache_dir=tmp_path)).read_text()) for name in names
    )
    assert "`import hf_sqa`" in config["hf_sqa_needed"]
    assert not {"auto_map", "custom_pipelines"} & {*config, *extractor}
    assert exact_scores(folder) == pytest.approx(exact_scores("alice/without-code"), abs=1e-5, rel=0)


def test_what_was_loaded_with_its_code_is_saved_without_it(tmp_path):
    folder = tiny("nisqa", tmp_path / "model")
    add_code(folder)

    hf_sqa.pipeline(str(folder), device="cpu").save_pretrained(tmp_path / "again")

    assert not {"auto_map", "custom_pipelines"} & {*json.loads((tmp_path / "again" / "config.json").read_text())}


@pytest.mark.parametrize("with_code", [False, True], ids=["weights", "with code"])
def test_without_a_task_transformers_finds_our_pipeline(with_code, tmp_path):
    folder = tiny("nisqa", tmp_path / "model")
    if with_code:
        add_code(folder)

    for options in ({}, {"task": "audio-quality"}, {"trust_remote_code": True}):
        assert type(transformers.pipeline(model=str(folder), device="cpu", **options)) is hf_sqa.AudioQualityPipeline


def test_without_a_task_a_repository_gives_our_pipeline_though_its_page_has_another_task(hub, tmp_path):
    publish(tiny("nisqa", tmp_path / "model"), "alice/mos", license="mit", with_code=False)

    assert hub.api().model_info("alice/mos").pipeline_tag == "audio-classification"
    assert type(transformers.pipeline(model="alice/mos", device="cpu")) is hf_sqa.AudioQualityPipeline


@pytest.mark.parametrize("with_code", [False, True], ids=["weights", "with code"])
def test_with_code_forbidden_and_no_task_transformers_takes_the_one_of_the_page_and_we_warn(with_code, hub, tmp_path):
    folder = tiny("nisqa", tmp_path / "model")
    publish(folder, "alice/mos", license="mit", with_code=False)
    if with_code:  # by hand, as `publish` would first score with it in a process of its own
        add_code(folder)
        hub.api().upload_folder(repo_id="alice/mos", folder_path=folder)

    with pytest.warns(
        UserWarning, match=r"scores without the checks of hf_sqa.*`pipeline\(\'audio-quality\', model=...\)` has them"
    ):
        stock = transformers.pipeline(model="alice/mos", device="cpu", trust_remote_code=False)

    assert type(stock) is transformers.AudioClassificationPipeline
    assert type(stock.model) is hf_sqa.NISQA


def test_a_checkpoint_whose_code_cannot_travel_says_how_to_push_it(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "ALLOWED_IMPORTS", bundle.ALLOWED_IMPORTS - {"soxr"})

    with pytest.raises(staging.PublishError, match=r"imports soxr.* Push `--without-code`"):
        publish(tiny("nisqa", tmp_path / "model"), "alice/mos", license="mit")
    assert not hub.writes()


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
    for distribution in bundle.needed_distributions():
        for root in {file.parts[0] for file in distribution.files if file.parts[0] not in {"..", "__pycache__"}}:
            link = exposed / root
            if not link.exists() and not root.endswith(".pth"):
                link.symlink_to(Path(distribution.locate_file(root)).resolve())
    return python


STRANGER = """
for name in ("hf_sqa", "scipy", "datasets", "librosa", "peft"):
    try:
        __import__(name)
        raise SystemExit(name + " is installed here")
    except ModuleNotFoundError:
        pass
from huggingface_hub import ModelCard
from transformers import pipeline
blocks = ModelCard.load("alice/with-code").text.split("```python\\n")[1:]
(block,) = [block for block in blocks if "trust_remote_code=True" in block]
exec(block.split("```")[0])
exact = score.forward([score.preprocess(SAMPLE)])[0]["scores"].scores
labels = pipeline("audio-classification", model="alice/with-code", trust_remote_code=True, device="cpu")(SAMPLE, top_k=2)
print([[float(value) for value in exact], labels])
for task in ("audio-quality", "audio-classification"):
    try:
        pipeline(task, model="alice/with-code")
        raise SystemExit("code ran without being trusted")
    except ValueError as error:
        assert "`trust_remote_code=True`" in str(error), error
"""

#: Runs the handler of a repository as an Inference Endpoint does.
ENDPOINT = """
import base64, json, os, sys
from huggingface_hub import snapshot_download
folder = snapshot_download("alice/with-code", local_dir="repository")
sys.path.insert(0, folder)
from handler import EndpointHandler
handler = EndpointHandler(folder)
sample = open(os.path.join(folder, "sample.flac"), "rb").read()
print()
print(json.dumps([handler(dict(inputs=sample)), *handler(dict(inputs=[base64.b64encode(sample).decode(), b"no audio"]))]))
"""


@pytest.mark.slow
def test_a_virtual_environment_without_hf_sqa_scores_a_repository_by_the_snippet_of_its_card_and_by_its_handler(
    hub, fresh, strangers_python, tmp_path
):
    folder = tiny("nisqa", tmp_path / "model")
    expected = exact_scores(folder)
    pushed = fresh(command("push", folder, "alice/with-code", "--license", "mit", "--private", "--with-handler"), token=ALICE)
    assert pushed.returncode == 0, pushed.stderr
    assert {"handler.py", "requirements.txt"} <= published(hub, repo="alice/with-code")
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
        [strangers_python, "-c", f"SAMPLE = {str(SAMPLE)!r}\n" + STRANGER + ENDPOINT],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )

    assert result.returncode == 0, result.stderr
    shown, last = result.stdout.splitlines()[:2]  # what follows asks whether to trust
    exact, labels = ast.literal_eval(last)
    assert exact == pytest.approx(list(expected.values()), abs=1e-5, rel=0)
    assert ast.literal_eval(shown) == pytest.approx(expected, abs=1e-5, rel=0)
    highest = sorted(expected.items(), key=lambda named: -named[1])[:2]
    assert [row["label"] for row in labels] == [name for name, _ in highest]
    assert [row["score"] for row in labels] == pytest.approx([value for _, value in highest], abs=1e-5, rel=0)
    plain, encoded, bad = json.loads(result.stdout.splitlines()[-1])
    assert [{name: row[name] for name in expected} for row in (plain, encoded)] == [pytest.approx(expected, abs=1e-5, rel=0)] * 2
    assert (plain["status"], bad["status"], bad["code"]) == ("ok", "failed", "undecodable")
    assert all(bad[name] is None for name in expected)
