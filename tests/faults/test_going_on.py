"""A run goes on from its own state or says in one message why not: nothing in a checkpoint of a training is ever executed."""

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_sqa import DistilledSQA, DistilledSQAConfig
from hf_sqa.data import load_corpus
from hf_sqa.distillation.run import distill
from hf_sqa.finetune.run import finetune
from hf_sqa.finetune.settings import FinetuneOptions
from hf_sqa.training import TrainingError, run_recipe
from hf_sqa.training.dry_run import generated_rows
from tests.faults.payload import Payload
from tests.made_speech import speech  # noqa: F401  # a fixture

STEPS = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "save_strategy": "steps", "eval_strategy": "steps", "use_cpu": True}


def train(folder, loss=None):
    """The run in a folder: it begins, or goes on from its newest checkpoint."""
    torch.manual_seed(0)
    rows = generated_rows(["mos"], 8)
    recipe = {"model": {"family": "distilled_sqa"}, "training": STEPS | {"per_device_train_batch_size": 4}, "loss": loss or {}}
    recipe |= {"data": {}, "output_dir": str(folder)}
    model = DistilledSQA(DistilledSQAConfig.tiny())
    lines = []
    result = run_recipe(recipe, train_dataset=rows[:6], validation_dataset=rows[6:], model=model, announce=lines.append)
    return result, lines


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory):
    """Folders of runs that were cut after two of four steps, by their loss."""
    folders = {}
    for name, loss in {"plain": None, "lines": {"kind": "bias_aware", "min_correlation": -1}}.items():
        folders[name] = tmp_path_factory.mktemp("runs") / name
        train(folders[name], loss)
        shutil.rmtree(folders[name] / "checkpoints" / "checkpoint-4")
        for file in ("training_result.json", "model.safetensors"):
            (folders[name] / file).unlink()
    return folders


@pytest.fixture
def run(cut_run, tmp_path):
    """A copy of the plain run, to be damaged; it resumes where the original stood."""
    shutil.copytree(cut_run["plain"], tmp_path / "run")
    return tmp_path / "run"


def forged(kind, marker):
    """Content of a file of a training's state."""
    contents = {
        "a program": lambda: Payload(marker),
        "a program beside tensors": lambda: {"state": {}, "param_groups": [], "x": Payload(marker)},
        "a class of ours": lambda: DistilledSQAConfig.tiny(),
        "a function": lambda: print,
        "a list": lambda: [1, 2],
        "null": lambda: None,
        "an empty object": dict,
        "other tensors": lambda: {"state": torch.ones(2), "param_groups": "x"},
        "other shapes": lambda: {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0, 1]}]},
    }
    file = io.BytesIO()
    torch.save(contents[kind](), file)
    return file.getvalue()


KINDS = ["a program", "a program beside tensors", "null", "an empty object"]
MORE_KINDS = ["a class of ours", "a function", "a list", "other tensors", "other shapes"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth") for kind in KINDS]
    + [("optimizer.pt", kind) for kind in MORE_KINDS],
)
def test_a_forged_state_is_not_opened_and_said_in_one_message(name, kind, run, tmp_path):
    marker = tmp_path / "executed"
    (run / "checkpoints" / "checkpoint-2" / name).write_bytes(forged(kind, marker))

    with pytest.raises(TrainingError, match=r"cannot go on from .*checkpoint-2.*Delete that folder") as refused:
        train(run)

    assert len(str(refused.value)) < 800 and "\n" not in str(refused.value) and "weights_only" not in str(refused.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_bare_pickle_is_no_state_and_the_run_begins_anew(name, run, tmp_path):
    (run / "checkpoints" / "checkpoint-2" / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))

    result, lines = train(run)

    assert result.num_steps == 4 and f"checkpoint-2 is not complete ({name} is cut short)" in " ".join(lines)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["training_args.bin", "pytorch_model.bin", "adapter_model.bin", "custom.pkl"])
def test_other_pickles_in_a_checkpoint_are_not_opened(name, run, tmp_path):
    for content in (pickle.dumps(Payload(tmp_path / "executed")), forged("a program", tmp_path / "executed")):
        (run / "checkpoints" / "checkpoint-2" / name).write_bytes(content)

    result, lines = train(run)

    assert result.num_steps == 4 and any("Going on from" in line for line in lines)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", ["null", "[]", "3", "{}", '{"global_step": "2"}', "[" * 100_000], ids=lambda text: text[:20])
def test_a_state_of_the_trainer_that_is_none_is_skipped(content, run):
    (run / "checkpoints" / "checkpoint-2" / "trainer_state.json").write_text(content)

    result, lines = train(run)

    assert result.num_steps == 4 and "trainer_state.json" in " ".join(lines)


@pytest.mark.parametrize("content", ["a program", "objects", "text", "nothing"])
def test_a_forged_state_of_the_loss_is_not_opened(content, cut_run, tmp_path):
    folder = Path(shutil.copytree(cut_run["lines"], tmp_path / "run"))
    file = folder / "checkpoints" / "checkpoint-2" / "training_loss_0.npz"
    assert file.exists()
    objects = np.array([Payload(tmp_path / "executed")], dtype=object)
    if content == "objects":
        with np.load(file) as whole:
            np.savez(file, **dict(whole) | {"seen": objects, "seen_in": objects})
    else:
        file.write_bytes({"a program": pickle.dumps(objects), "text": b"no archive", "nothing": b""}[content])

    with pytest.raises(TrainingError, match="cannot go on from"):
        train(folder, {"kind": "bias_aware", "min_correlation": -1})
    assert not (tmp_path / "executed").exists()


class CutError(Exception):
    """Ends a run as a power cut would, for what catches no exceptions of its own."""


def cut_at(line_start):
    def announce(line):
        if line.startswith(line_start):
            raise CutError

    return announce


@pytest.mark.slow
def test_a_fine_tuning_opens_no_program_either(tiny_folder, tmp_path):
    import soundfile

    rows = generated_rows(["mos"], 12)
    table = ["audio,mos"]
    for number, row in enumerate(rows):
        soundfile.write(tmp_path / f"{number}.wav", row["audio"]["array"], row["audio"]["sampling_rate"])
        table.append(f"{number}.wav,{row['mos']}")
    (tmp_path / "table.csv").write_text("\n".join(table))
    options = FinetuneOptions(folds=2, epochs=1, device="cpu")
    rated, out = load_corpus(tmp_path / "table.csv"), tmp_path / "out"
    with pytest.raises(CutError):
        finetune(str(tiny_folder), rated, out, options=options, announce=cut_at("Training, fold 2"))
    (first,) = (out / ".finetune").glob("fold-1*")
    (checkpoint,) = (first / "checkpoints").glob("checkpoint-*")
    (first / "training_result.json").unlink()
    (checkpoint / "optimizer.pt").write_bytes(forged("a program", tmp_path / "executed"))
    objects = np.array([Payload(tmp_path / "executed")], dtype=object)
    np.savez(out / ".finetune" / "before.npz", clips=objects, judged=objects)

    with pytest.raises(TrainingError, match="cannot go on from"):
        finetune(str(tiny_folder), rated, out, options=options, resume=True)
    shutil.rmtree(checkpoint)
    report = finetune(str(tiny_folder), rated, out, options=options, resume=True)

    assert report["scores"]["mos"]["num_clips"] and not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_a_distillation_opens_no_program_either(tiny_folder, speech, tmp_path):  # noqa: F811
    recipe = {
        "student": {"family": "distilled_sqa", "config": DistilledSQAConfig.tiny().changed_options()},
        "teachers": [{"checkpoint": str(tiny_folder)}],
        "speech": {"folder": str(speech), "validation_share": 0.3},
        "degradations": {"none": 1},
        "labels": {"folder": str(tmp_path / "labels"), "num_windows": 320},
        "loss": {"kind": "l1", "feature_weight": 0.1},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 32, "save_strategy": "epoch", "use_cpu": True},
        "output_dir": str(tmp_path / "student"),
    }
    distill(recipe, announce=lambda line: None)
    checkpoints = (tmp_path / "student" / "checkpoints").glob("checkpoint-*")
    newest = max(checkpoints, key=lambda path: int(path.name.split("-")[1]))
    (tmp_path / "student" / "training_result.json").unlink()
    (newest / "teacher_maps.pt").write_bytes(forged("a program", tmp_path / "executed"))

    with pytest.raises(TrainingError, match="cannot go on from"):
        distill(recipe, announce=lambda line: None)
    assert not (tmp_path / "executed").exists()
