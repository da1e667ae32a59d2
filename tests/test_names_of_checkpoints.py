"""One door: every kind of name that a user may give a model opens it wherever a model can be named, and it is the same model."""

import csv
import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import transformers
from huggingface_hub import constants
from typer.testing import CliRunner

import hf_sqa
from hf_sqa import checkpoints, short_names
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.cli import app
from hf_sqa.data import load_corpus
from hf_sqa.demo.scorers import Scorers
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.distillation.teacher import load_teacher
from hf_sqa.evaluation.suite import SuiteOptions, evaluate_checkpoint
from hf_sqa.finetune.run import FinetuneOptions, finetune
from hf_sqa.hub.publish import PublishError, publish
from hf_sqa.scoring import score_corpus
from hf_sqa.studies import load_study, read_clips, run_study
from hf_sqa.studies.makers import make_by_pruning
from hf_sqa.training.dry_run import generated_rows
from hf_sqa.training.run import run_recipe

peft = pytest.importorskip("peft")

RATE = 16_000
NUM_CLIPS = 18
COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Kinds of names, each with the seed of the tiny model that lies there; an adapter's is that of its base.
WHOLE = {
    "default": ("default", 1),
    "short name": ("distill-mos-v7", 1),
    "student": ("distilled-sqa-xs", 2),
    "student with its owner": ("hf-sqa/distilled-sqa-xs", 2),
    "folder": ("{root}/folder", 3),
    "Hub id": ("alice/tiny", 4),
    "Hub id at a revision": ("alice/tiny@v1", 4),
}
ADAPTERS = {f"adapter on a {kind}": ("{root}/adapters/" + kind.replace(" ", "-"), seed) for kind, (_, seed) in WHOLE.items()}
KINDS = {**WHOLE, **ADAPTERS}


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_tiny):
    """A folder with a tiny model for every kind of name: where packages, the cache of the Hub and users keep theirs."""
    root = tmp_path_factory.mktemp("names")

    def save(model, folder):
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
        return folder

    models = {seed: make_tiny(seed) for seed in (1, 2, 3, 4)}
    models[1].config.checkpoint_name, models[2].config.checkpoint_name = "distill-mos-v7", "distilled-sqa-xs"
    save(models[1], root / "packages" / f"distill-mos-v7-layout{short_names.LAYOUT}")
    save(models[2], root / "students" / "distilled-sqa-xs")
    save(models[3], root / "folder")
    repository = root / "hub" / "models--alice--tiny"
    save(models[4], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(COMMIT)
    for kind, (name, seed) in WHOLE.items():
        torch.manual_seed(seed)
        options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(make_tiny(seed), options)
        adapted.peft_config["default"].base_model_name_or_path = name.format(root=root)
        adapted.save_pretrained(root / "adapters" / kind.replace(" ", "-"), save_embedding_layers=False)
    return root


@pytest.fixture(autouse=True)
def places(root, monkeypatch):
    """Packages and the cache of the Hub are looked for in `root`."""
    monkeypatch.setattr(short_names, "STUDENTS_FOLDER", root / "students")
    monkeypatch.setattr(short_names, "cached_assets_path", lambda library, namespace, subfolder: root / "packages" / subfolder)
    for module in ("constants", "file_download", "_snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(root / "hub"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory, speech):
    """Eighteen rated clips in a table; the first is the one that every door scores."""
    folder = tmp_path_factory.mktemp("clips")
    with (folder / "rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "mos", "talker_id", "split"])
        for index in range(NUM_CLIPS):
            soundfile.write(folder / f"{index:02}.wav", speech(index), RATE)
            writer.writerow([f"{index:02}.wav", 1 + index % 4 + 0.01 * index, f"t{index % 6}", "test"])
    return folder


@pytest.fixture(scope="module")
def speech():
    """`speech(seed)`: syllables and noise for one window of the tiny model."""

    def make(seed):
        rng, time = np.random.default_rng(seed), np.arange(10_240) / RATE
        voice = np.sin(2 * np.pi * (110 + 7 * seed) * time) * (1 - np.cos(2 * np.pi * 4 * time))
        return (0.2 * voice + 0.05 * rng.random() * rng.standard_normal(len(time))).astype(np.float32)

    return make


@pytest.fixture(scope="module")
def expected(root, make_tiny, clips):
    """`expected(kind)`: the score of the first clip, of a model put together by hand."""

    @functools.cache
    def score(kind):
        name, seed = KINDS[kind]
        model = make_tiny(seed)
        if kind in ADAPTERS:
            model = peft.PeftModel.from_pretrained(model, name.format(root=root)).merge_and_unload().eval()
        return scored(model, clips)

    return score


def scored(model, clips):
    """Score of the first clip by a model in memory."""
    pipe = hf_sqa.pipeline(model=model, feature_extractor=model.make_feature_extractor(), device="cpu")
    return pipe(str(clips / "00.wav"))["mos"]


# The doors: each opens a name and gives the score of the first clip by what it opened.


def by_pipeline(name, clips, folder):
    return hf_sqa.pipeline(name, device="cpu")(str(clips / "00.wav"))["mos"]


def by_auto_class(name, clips, folder):
    return scored(hf_sqa.AutoModelForAudioQuality.from_pretrained(name).eval(), clips)


def by_pipeline_of_transformers(name, clips, folder):
    # Beside an adapter, transformers wants a feature extractor, which PEFT does not save.
    options = {"feature_extractor": load_checkpoint(name).feature_extractor} if checkpoints.is_adapter(name) else {}
    return transformers.pipeline("audio-quality", model=name, device="cpu", **options)(str(clips / "00.wav"))["mos"]


def by_auto_class_of_transformers(name, clips, folder):
    return scored(transformers.AutoModel.from_pretrained(name).eval(), clips)


def by_score(name, clips, folder):
    options = ["--model", name, "--device", "cpu", "--dtype", "float32", "--num-workers", "0", "-o", str(folder / "s.jsonl")]
    result = CliRunner().invoke(app, ["score", str(clips / "00.wav"), *options])
    assert result.exit_code == 0, result.output
    return json.loads((folder / "s.jsonl").read_text())["mos"]


def by_corpus_scoring(name, clips, folder):
    import pyarrow.parquet

    score_corpus(str(clips / "00.wav"), folder / "out", model=name, device="cpu", num_workers=0, suffix="")
    return pyarrow.parquet.read_table(next((folder / "out").rglob("*.parquet")))["mos"][0].as_py()


def by_train(name, clips, folder):
    options = {"max_steps": 1, "learning_rate": 0.0, "use_cpu": True, "per_device_train_batch_size": 2, "eval_strategy": "no"}
    recipe = {"model": {"checkpoint": name}, "training": options, "output_dir": str(folder / "run")}
    run_recipe(recipe, train_dataset=generated_rows(["mos"], 2), announce=lambda line: None)
    trained = load_checkpoint(folder / "run").model
    opened = load_checkpoint(name, merge=True).model
    # A step moves the statistics of batch norms, even with a learning rate of 0.
    for weight, kept in zip(trained.parameters(), opened.parameters(), strict=True):
        torch.testing.assert_close(weight, kept)
    return scored(opened, clips)


def by_finetune(name, clips, folder):
    scores = hf_sqa.pipeline(name, device="cpu")([str(clips / f"{index:02}.wav") for index in range(NUM_CLIPS)])
    ranks = np.argsort(np.argsort([row["mos"] for row in scores]))  # a calibration wants ratings that rise with the scores
    rows = [{"audio": str(clips / f"{index:02}.wav"), "mos": 1 + rank / 8} for index, rank in enumerate(ranks)]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = FinetuneOptions(calibrate="first", device="cpu")
    finetune(name, load_corpus(folder / "rated.jsonl"), folder / "calibrated", options=options)
    calibrated = load_checkpoint(folder / "calibrated").model
    calibrated.config.score_mapping = None
    return scored(calibrated, clips)


def by_distill(name, clips, folder):
    return scored(load_teacher(TeacherOptions(checkpoint=name)).model.cpu(), clips)


def by_prune(name, clips, folder):
    options = {"checkpoint": name, "calibration": str(clips), "num_windows": 16, "repair_steps": 1, "num_steps": 1}
    options |= {"target": 1 - 1e-6, "min_agreement": 1 - 1e-15}
    job = SimpleNamespace(options=options, seed=0, folder=folder, needed={}, model=SimpleNamespace(name="pruned"))
    make_by_pruning(job)  # nothing can go without losing agreement, so what is left is what was opened
    return scored(load_checkpoint(folder).model, clips)


def by_evaluate(name, clips, folder):
    result = evaluate_checkpoint(
        name, load_corpus(clips / "rated.csv"), test_set="rated", device="cpu", options=SuiteOptions(num_draws=10)
    )
    return result.clips[0]["predicted_mos"]


def by_study(name, clips, folder):
    study = {
        "name": "names",
        "corpora": {"rated": {"table": str(clips / "rated.csv")}},
        "sets": {"rated": {"corpus": "rated"}},
        "models": {"named": {"checkpoint": name}},
        "test_sets": ["rated"],
        "evaluation": {"num_draws": 10},
    }
    study = load_study(study)
    report = run_study(study, folder / "study")
    assert not report.failures, report
    return read_clips(study, folder / "study", "named", "rated")[0]["predicted_mos"]


def by_pseudo_label(name, clips, folder):
    result = CliRunner().invoke(app, ["pseudo-label", str(clips / "00.wav"), "--teacher", name, "-o", str(folder / "labels.jsonl")])
    assert result.exit_code == 0, result.output
    return json.loads((folder / "labels.jsonl").read_text())["mos"]


def by_export(name, clips, folder):
    exported = []
    with pytest.MonkeyPatch.context() as patched:  # the graph takes ten seconds, and tests/export makes real ones
        patched.setattr("hf_sqa.export.onnx.export_onnx", lambda model, folder, int8: exported.append(model) or 0.0)
        (folder / "graph").mkdir()
        (folder / "graph" / "model.onnx").touch()
        result = CliRunner().invoke(app, ["export", "onnx", str(folder / "graph"), "--model", name])
    assert result.exit_code == 0, result.output
    return scored(exported[0], clips)


def by_push(name, clips, folder):
    base = load_adapter_base(name)
    if base is not None and base not in short_names.short_names():
        with pytest.raises(PublishError, match=r"The adapter belongs to|Could not check"):  # nobody else would find its base
            publish(name, "alice/pushed", license="mit", dry_run=True, with_code=False)
        return by_pipeline(name, clips, folder)
    done = publish(name, "alice/pushed", license="mit", dry_run=True, with_code=False)
    sample = hf_sqa.pipeline(name, device="cpu")(hf_sqa.__path__[0] + "/assets/sample.flac")
    assert done.sample_scores["mos"] == pytest.approx(sample["mos"], abs=1e-5)
    return by_pipeline(name, clips, folder)


def load_adapter_base(name):
    """The base that an adapter names; `None` for a whole checkpoint."""
    file = checkpoints.local_folder(name) / "adapter_config.json"
    return json.loads(file.read_text())["base_model_name_or_path"] if file.exists() else None


def by_demo(name, clips, folder):
    scorers = Scorers([name], device="cpu")
    return scorers.judge(scorers.names[0], clips / "00.wav").row["mos"]


DOORS = [value for key, value in globals().items() if key.startswith("by_")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__.removeprefix("by_"))
def test_every_kind_of_name_opens_every_door(door, kind, root, clips, expected, tmp_path):
    assert door(KINDS[kind][0].format(root=root), clips, tmp_path) == pytest.approx(expected(kind), abs=1e-5)


@pytest.mark.parametrize("kind", ["short name", "student", "student with its owner", "adapter on a student"])
def test_transformers_finds_a_short_name_without_a_request(kind, root, clips, expected, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr("httpx2.Client.send", lambda client, request, **options: pytest.fail(f"asked {request.url}"))
    name = KINDS[kind][0].format(root=root)

    model = transformers.AutoModelForAudioClassification.from_pretrained(name).eval()

    assert scored(model, clips) == pytest.approx(expected(kind), abs=1e-5)
    assert transformers.AutoConfig.from_pretrained(WHOLE["student"][0]).model_type == model.config.model_type


def test_a_revision_of_a_short_name_is_asked_of_the_hub(monkeypatch):
    with pytest.raises(OSError, match="couldn't connect"):
        transformers.AutoConfig.from_pretrained("hf-sqa/distilled-sqa-xs", revision="v2")


def test_a_folder_below_home_needs_no_shell(root, clips, expected, monkeypatch):
    monkeypatch.setenv("HOME", str(root))

    assert scored(load_checkpoint("~/folder").model, clips) == pytest.approx(expected("folder"), abs=1e-5)


@pytest.mark.parametrize("name", ["~/nothing", "{root}/nothing", "./nothing", "alice/tiny/", "a/folder/deep", "nothing"])
def test_what_is_neither_folder_nor_repository_is_called_so(name, root):
    with pytest.raises(OSError, match=r"^there is no folder '.*/?(nothing|alice/tiny/|a/folder/deep)' here"):
        load_checkpoint(name.format(root=root))


def test_a_file_is_no_checkpoint(root):
    with pytest.raises(OSError, match="Expected the folder of a checkpoint, got the file"):
        load_checkpoint(root / "folder" / "config.json")


def test_a_short_name_in_capitals_is_suggested(root):
    with pytest.raises(OSError, match="did you mean 'distilled-sqa-xs'"):
        load_checkpoint("Distilled-SQA-XS")


@pytest.mark.parametrize("open_it", [load_checkpoint, checkpoints.resolve_checkpoint, checkpoints.local_folder])
def test_a_revision_that_cannot_be_had_is_one_line(open_it, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(OSError, match=r"there is no folder 'alice/tiny@v9' here, .* the Hub cannot be reached") as caught:
        open_it("alice/tiny@v9")
    assert "\n" not in str(caught.value)
