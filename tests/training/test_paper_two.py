"""Paper two as a whole, in miniature: teacher, pseudo-labels, three ways to a student; its recipes; an encoder that is at hand."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError

import hf_sqa
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks import feature_cache
from hf_sqa.models import DistilledSQA, DistilledSQAConfig, MOSANet, MOSANetConfig, MTQNet, MTQNetConfig, Wav2Vec2ForMOS
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOSConfig
from hf_sqa.training import build_model, load_recipe, run_recipe
from hf_sqa.training.dry_run import generated_rows
from hf_sqa.training.pseudo_label import pseudo_label, read_pseudo_labels

SCRIPTS = Path(__file__).parents[2] / "train_scripts"
RECIPES = sorted(SCRIPTS.glob("recipes/mtq_net-*.yaml")) + sorted(SCRIPTS.glob("recipes/mosa_net-teacher-*.yaml"))
STUDIES = sorted(SCRIPTS.glob("studies/mtq_*.yaml"))
TARGETS, AUXILIARY = ["s_mos", "n_mos", "g_mos"], ["pesq", "stoi", "sdi"]
TRAINING = {
    "use_cpu": True,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 6,
    "num_train_epochs": 6,
    "metric_for_best_model": "loss",
    "seed": 0,
}


def rows(scores, number=24):
    return [{**row, "utterance_id": f"utterance {index}"} for index, row in enumerate(generated_rows(scores, number))]


def train(folder, model, scores, data=None, in_memory=None, loss=None):
    recipe = {"model": model, "training": TRAINING, "output_dir": str(folder), "data": data or {}, "loss": loss or {"kind": "mse"}}
    known = rows(scores)
    return run_recipe(recipe, train_dataset=known[:18], validation_dataset=known[18:], model=in_memory, announce=lambda line: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folder of a tiny MOSANet that has learned PESQ, STOI and SDI of generated clips."""
    folder = tmp_path_factory.mktemp("paper-two") / "teacher"
    torch.manual_seed(0)
    result = train(
        folder, {"family": "mosa_net"}, AUXILIARY, in_memory=MOSANet(MOSANetConfig.tiny(dropout=0.0, freeze_encoder=True))
    )
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    return folder


@pytest.fixture(scope="module")
def labels(teacher):
    """Pseudo-labels of all clips by the teacher."""
    table = teacher.parent / "pseudo_labels.jsonl"
    pseudo_label(rows(TARGETS), hf_sqa.pipeline(str(teacher), device="cpu"), table)
    return table


# The chain


def test_a_student_learns_beside_pseudo_labels_and_leaves_the_auxiliary_heads_behind(labels, tmp_path):
    torch.manual_seed(0)
    student = MTQNet(MTQNetConfig.tiny(dropout=0.0, freeze_encoder=True))

    result = train(tmp_path / "mpl", {"family": "mtq_net"}, TARGETS, {"pseudo_labels": str(labels)}, student)

    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]  # with five seeds 0.56 or less; a trainer that learns nothing stays at 1
    assert any(note.startswith("pseudo-labels pesq, stoi, sdi by ") for note in result.notes)
    saved = AutoModelForAudioQuality.from_pretrained(tmp_path / "mpl")
    assert list(saved.score_heads) == TARGETS == saved.config.score_names and saved.config.auxiliary_score_names == []
    assert set(hf_sqa.pipeline(str(tmp_path / "mpl"), device="cpu")(rows(TARGETS)[0]["audio"])) == set(TARGETS)


def test_the_auxiliary_labels_of_training_are_the_teachers_scores(labels):
    from hf_sqa.training.pseudo_label import with_pseudo_labels

    joined = with_pseudo_labels(rows(TARGETS + AUXILIARY), labels)

    table = read_pseudo_labels(labels)
    assert [[row[name] for name in AUXILIARY] for row in joined] == [[row[name] for name in AUXILIARY] for row in table.rows]
    assert joined[0]["pesq"] != rows(TARGETS + AUXILIARY)[0]["pesq"]
    assert joined[5]["g_mos"] == rows(TARGETS)[5]["g_mos"]


def test_knowledge_transfer_begins_with_the_teachers_trunk_and_new_heads(teacher, tmp_path):
    recipe = load_recipe(
        {"model": {"family": "mtq_net", "knowledge_from": str(teacher), "scores": TARGETS, "config": {"freeze_encoder": True}}}
    )

    student, mosa_net = build_model(recipe.model), AutoModelForAudioQuality.from_pretrained(teacher)

    for name, tensor in mosa_net.trunk.state_dict().items():
        assert torch.equal(student.trunk.state_dict()[name], tensor), name
    assert list(student.score_heads) == TARGETS
    result = train(tmp_path / "kt", recipe.to_dict()["model"], TARGETS)
    assert result.num_train == 18 and AutoModelForAudioQuality.from_pretrained(tmp_path / "kt").config.score_names == TARGETS


def test_the_scale_of_other_features_than_the_teachers_is_measured_anew():
    teacher = MOSANet(MOSANetConfig.tiny(standardize_ssl_features=True))
    teacher.trunk.ssl_mean.fill_(2.0)
    other = teacher.config.encoder_config.to_dict() | {"hidden_size": 24}

    same, _ = MTQNet.with_knowledge_from(teacher)
    student, _ = MTQNet.with_knowledge_from(teacher, encoder_config=other)

    assert not same.needs_bands and student.needs_bands and len(student.trunk.ssl_mean) == 24


def test_training_that_begins_at_the_mean_starts_the_heads_with_the_mean_label(tmp_path, monkeypatch):
    monkeypatch.setitem(TRAINING, "begin_at_mean", True)
    monkeypatch.setitem(TRAINING, "learning_rate", 0.0)
    student = MTQNet(MTQNetConfig.tiny(dropout=0.0, freeze_encoder=True, standardize_ssl_features=True, auxiliary_score_names=[]))

    train(tmp_path / "run", {"family": "mtq_net"}, TARGETS, in_memory=student)

    trained = AutoModelForAudioQuality.from_pretrained(tmp_path / "run")
    means = [np.mean([row[score] for row in rows(TARGETS)[:18]]) for score in TARGETS]
    assert [head.frame_score.bias.item() for head in trained.score_heads.values()] == pytest.approx(means, abs=1e-5)
    assert not trained.needs_bands  # the features were measured, too


def test_heads_that_are_trained_or_of_another_family_do_not_begin_at_the_mean(teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(TRAINING, "begin_at_mean", True)

    with pytest.raises(ValueError, match=r"Expected `training.begin_at_mean` of a new model"):
        train(tmp_path / "trained", {"checkpoint": str(teacher)}, AUXILIARY)
    with pytest.raises(ValueError, match="Expected a family whose heads can begin at a score"):
        train(tmp_path / "other", {"family": "wav2vec2_mos"}, ["mos"], in_memory=Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny()))


def test_a_family_without_a_trunk_to_take_over_is_refused(teacher):
    recipe = load_recipe({"model": {"family": "wav2vec2_mos", "knowledge_from": str(teacher)}})

    with pytest.raises(ValueError, match="it is for mtq_net"):
        build_model(recipe.model)


def test_training_without_the_table_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="`hf-sqa pseudo-label` makes them"):
        train(tmp_path, {"family": "mtq_net"}, TARGETS, {"pseudo_labels": str(tmp_path / "none.csv")}, MTQNet(MTQNetConfig.tiny()))


# Recipes


def test_recipes_exist_for_every_row_of_the_papers_tables():
    stems = {path.stem.removeprefix("mtq_net-") for path in RECIPES}

    assert {"hubert-scratch", "hubert-kt", "wavlm-kt", "wavlm-mpl", "ft_wavlm-mpl-mse", "ft_wavlm-mpl-mae"} <= stems
    assert {f"ft_wavlm-mpl-huber_{delta}" for delta in ("0.5", "0.75", "1", "1.25")} <= stems
    assert {f"mos_ssl-{score}" for score in TARGETS} <= stems
    assert {
        load_recipe(SCRIPTS / f"recipes/mtq_net-ft_wavlm-mpl-huber_{delta}.yaml").loss.huber_delta for delta in (0.5, 0.75, 1, 1.25)
    } == {
        0.5,
        0.75,
        1.0,
        1.25,
    }


@pytest.mark.parametrize("path", [path for path in RECIPES if "bench" not in path.stem], ids=lambda path: path.stem)
def test_every_number_of_a_recipe_has_its_source(path):
    recipe = load_recipe(path)

    numbers = {f"training.{name}" for name in recipe.training if name not in ("lr_scheduler_type", "max_grad_norm")}
    numbers |= {f"loss.{name}" for name in recipe.to_dict()["loss"]} | {"model.encoder", "model.scores", "data.split.share"}
    cited = set(recipe.cites) | ({"data.split.share"} if recipe.data.split.share == 0.1 else set())
    assert numbers <= cited, numbers - cited


@pytest.mark.parametrize("path", [*RECIPES, *STUDIES], ids=lambda path: path.stem)
def test_what_is_cited_stands_in_the_paper(path, shared):
    paper = _letters((shared / "papers" / "mtq_net.md").read_text(encoding="utf-8"))
    cites = yaml.safe_load(path.read_text(encoding="utf-8"))["cites"].values()

    quotes = [match[1] for match in (re.match(r"(?:\d(?:\.\d)?|abstract): (.*)", cite) for cite in cites) if match]
    for quote in quotes:
        sentence = re.split(r"\. (?=[A-Z])|; ", quote)[0]
        assert _letters(sentence) in paper, sentence
    assert quotes or "mosa_net" in path.stem


def _letters(text):
    """Letters and digits alone: the text of the paper has references, formulas and hyphens of its typesetting."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\s*\[[\d, ]+\]", "", text).lower())


# A quality model as the encoder


@pytest.fixture(scope="module")
def encoder_folder(make_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    model = make_tiny()
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


def padded(waveforms):
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=0.3)
    return batch, (torch.arange(batch.shape[1]) < torch.tensor([len(one) for one in waveforms])[:, None]).long()


@pytest.fixture
def waveforms():
    """Shorter than a window of the tiny encoder, a bit longer, and of three windows."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in (4_001, 10_400, 30_000)]


@torch.no_grad()
def test_features_of_a_quality_model_are_those_that_its_pooling_sees(make_tiny, waveforms):
    model = make_tiny()
    seen = []
    model.transformer.pooling.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    short, window = model.encode(waveforms[0][None]), model.encode(waveforms[2][None, :10_240])

    model.score_windows(waveforms[0][None])
    model.score_windows(waveforms[2][None, :10_240])
    samples = model.config.window_samples // model.config.num_frames
    assert short.shape == (1, -(-4_001 // samples), 12) and window.shape == (1, model.config.num_frames, 12)
    torch.testing.assert_close(short, seen[0][:, : short.shape[1]], rtol=0, atol=1e-6)
    torch.testing.assert_close(window, seen[1], rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("family", ["mtq_net", "wav2vec2_mos"])
def test_scores_on_a_quality_models_features_are_the_same_alone_and_in_a_batch(family, encoder_folder, waveforms, tmp_path):
    torch.manual_seed(0)
    if family == "mtq_net":
        model = MTQNet.from_encoder(str(encoder_folder), MTQNetConfig.tiny(freeze_encoder=True))
    else:
        model = Wav2Vec2ForMOS.from_encoder(str(encoder_folder), freeze_encoder=True)

    together = model(*padded(waveforms)).logits

    torch.testing.assert_close(together, torch.cat([model(one[None]).logits for one in waveforms]), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = AutoModelForAudioQuality.from_pretrained(tmp_path).eval()
    assert model.pads_safely
    torch.testing.assert_close(again(*padded(waveforms)).logits, together, rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in again.encoder.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_a_quality_model_is_fine_tuned_but_for_its_pooling_or_not_at_all(frozen, encoder_folder, waveforms):
    torch.manual_seed(0)
    model = MTQNet.from_encoder(str(encoder_folder), MTQNetConfig.tiny(freeze_encoder=frozen)).train()

    model(*padded(waveforms), labels=torch.full((3, 6), 3.0)).loss.backward()

    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    received = {name for name, parameter in model.encoder.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert received == trained and bool(trained) != frozen
    assert not any(name.startswith("transformer.pooling.") for name in trained)


def test_a_layer_of_a_quality_model_and_a_family_that_needs_layers_are_refused():
    tiny = DistilledSQAConfig.tiny().to_dict()
    for make in (
        lambda: MTQNetConfig.tiny(encoder_config=tiny, encoder_layer=1),
        lambda: Wav2Vec2ForMOSConfig(encoder_config=tiny, mix_layers=True),
        lambda: hf_sqa.models.XLSRSQAConfig(encoder_config=tiny, layers=(0, 1)),
    ):
        with pytest.raises((ValueError, StrictDataclassError), match="distilled_sqa"):
            make()


def test_the_default_checkpoint_is_an_encoder_by_name(default_scorer):
    recipe = load_recipe({"model": {"family": "wav2vec2_mos", "encoder": "default", "config": {"freeze_encoder": True}}})

    model = build_model(recipe.model)

    assert isinstance(model.encoder, DistilledSQA) and model.config.encoder_config.hidden_size == 200
    for name, tensor in default_scorer.model.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name


# Features kept on disk


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(feature_cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@torch.no_grad()
def test_features_are_computed_once_a_recording_and_change_no_score(encoder_folder, waveforms, cache, monkeypatch):
    torch.manual_seed(0)
    model = MTQNet.from_encoder(str(encoder_folder), MTQNetConfig.tiny(freeze_encoder=True)).train()
    model.trunk.dropout.p = 0.0
    first = model(*padded(waveforms)).logits
    monkeypatch.setattr(model.encoder, "encode", None)  # is not asked again

    torch.testing.assert_close(model(*padded(waveforms)).logits, first, rtol=0, atol=1e-5)

    assert len(list(cache.rglob("*.npy"))) == 3
    monkeypatch.undo()
    torch.testing.assert_close(model(*padded(waveforms)).logits, first, rtol=0, atol=1e-5)


@torch.no_grad()
def test_other_weights_never_get_features_that_are_not_theirs(encoder_folder, waveforms, cache):
    model = MTQNet.from_encoder(str(encoder_folder), MTQNetConfig.tiny(freeze_encoder=True))
    before = model(waveforms[0][None]).logits
    model.encoder.transformer.projection.bias.add_(1.0)

    assert (model(waveforms[0][None]).logits - before).abs().max() > 1e-3
    assert len(list(cache.iterdir())) == 2


@torch.no_grad()
def test_a_damaged_file_is_computed_again(encoder_folder, waveforms, cache):
    model = MTQNet.from_encoder(str(encoder_folder), MTQNetConfig.tiny(freeze_encoder=True))
    before = model(waveforms[0][None]).logits
    next(cache.rglob("*.npy")).write_bytes(b"torn")

    torch.testing.assert_close(model(waveforms[0][None]).logits, before, rtol=0, atol=1e-5)
    assert np.load(next(cache.rglob("*.npy"))).shape[1] == 12


def test_an_encoder_in_training_keeps_nothing(encoder_folder, waveforms, cache):
    MTQNet.from_encoder(str(encoder_folder), MTQNetConfig.tiny(freeze_encoder=False)).train()(waveforms[0][None])

    assert not cache.exists()


# The study, in miniature


@pytest.fixture
def miniature(tmp_path):
    """A study of teacher, knowledge transfer and pseudo-labels on 24 generated clips, tiny models."""
    with (tmp_path / "rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", *TARGETS, *AUXILIARY, "condition_id", "split"])
        for index, row in enumerate(rows(TARGETS + AUXILIARY)):
            soundfile.write(tmp_path / f"{index}.flac", row["audio"]["array"], row["audio"]["sampling_rate"])
            split = ("train", "validation", "test")[index // 6 - 1 if index >= 12 else 0]
            writer.writerow([f"{index}.flac", *(row[name] for name in TARGETS + AUXILIARY), row["condition_id"], split])
    tiny = MTQNetConfig.tiny()
    config = {
        name: getattr(tiny, name) for name in ("fft_size", "sinc_kernel_size", "conv_channels", "lstm_hidden_size", "hidden_size")
    }
    config |= {"encoder_config": tiny.encoder_config.to_diff_dict() | {"model_type": "hubert"}, "freeze_encoder": True}
    training = TRAINING | {"num_train_epochs": 2}
    sets = {"train": "train-set", "validation": "validation-set"}
    return {
        "name": "miniature",
        "corpora": {"rated": {"table": str(tmp_path / "rated.csv")}},
        "sets": {f"{split}-set": {"corpus": "rated", "where": {"split": split}} for split in ("train", "validation", "test")},
        "recipe": {
            "model": {"family": "mtq_net", "scores": TARGETS, "config": config},
            "loss": {"kind": "mse"},
            "training": training,
        },
        "models": {
            "teacher": {"set": {"model.family": "mosa_net", "model.scores": AUXILIARY}, "test_sets": [], **sets},
            "KT": {"maker": "knowledge_transfer", "needs": ["teacher"], **sets},
            "MPL": {
                "maker": "pseudo_labels",
                "needs": ["teacher"],
                "set": {"model.scores": TARGETS + AUXILIARY},
                **sets,
            },
        },
        "test_sets": ["test-set"],
        "evaluation": {"metrics": ["srcc"], "num_draws": 20},
    }


def test_a_study_trains_the_teacher_labels_with_it_and_compares_its_students(miniature, tmp_path):
    from hf_sqa.studies import load_study, read_results, run_study

    report = run_study(load_study(miniature), tmp_path / "study")

    assert not report.failures
    results = read_results(tmp_path / "study")
    assert {(row["model"], row["score"]) for row in results} == {(model, score) for model in ("KT", "MPL") for score in TARGETS}
    teacher, student = (next((tmp_path / "study" / "models").glob(f"{name}-*")) for name in ("teacher", "MPL"))
    table = read_pseudo_labels(student / "pseudo_labels.csv")
    assert len(table.rows) == 18 and table.score_names == AUXILIARY
    assert table.teacher["teacher_weights"] == hf_sqa.pipeline(str(teacher), device="cpu").identity()["weights"]


def test_a_student_without_a_teacher_is_told(miniature, tmp_path):
    from hf_sqa.studies import load_study, run_study

    del miniature["models"]["MPL"]["needs"], miniature["models"]["KT"], miniature["models"]["teacher"]

    report = run_study(load_study(miniature), tmp_path / "study")

    assert "Expected `needs` of the model 'MPL' to name its teacher" in next(iter(report.failures.values()))
