"""A run that is killed, interrupted, or runs out of disk goes on where it was, to the same weights."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_sqa.runs import Locked, RunMismatch, locked
from hf_sqa.training import Interrupted, TrainingError, find_resumable_checkpoint, run_recipe
from hf_sqa.training.recipe import Recipe
from hf_sqa.training.run import TrainingResult, what_is_torn


class At(TrainerCallback):
    """Does something once, after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(first, second):
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture
def train(recipe, rows, with_dropout, tmp_path):
    """`train(name, callbacks, **training)`: the same run in a folder of that name."""

    def make(name, callbacks=(), loss=None, model=None, overwrite=False, **training):
        content = recipe(loss=loss, **training) | {"output_dir": str(tmp_path / name)}
        data = rows(22, corpora=("first", "second"))
        return run_recipe(
            content,
            train_dataset=data[:16],
            validation_dataset=data[16:],
            model=model or with_dropout(),
            callbacks=callbacks,
            overwrite=overwrite,
            announce=lambda line: None,
        )

    return make


def test_the_result_is_written_last_so_that_a_kill_leaves_nothing_that_nobody_removes(train, monkeypatch):
    there, save = [], TrainingResult.save

    def noted(result):
        there.extend(path.name for path in result.output_dir.iterdir())
        save(result)

    monkeypatch.setattr(TrainingResult, "save", noted)
    folder = train("run").output_dir

    assert {*there, "training_result.json"} == {path.name for path in folder.iterdir()}


KILLED = """
import os, signal
import torch
from transformers import TrainerCallback
from hf_sqa import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig
from hf_sqa.training import run_recipe
from hf_sqa.training.dry_run import generated_rows

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(0)
model = Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny())
for module in model.modules():
    if isinstance(getattr(module, "dropout", None), float):
        module.dropout = 0.1
    if type(module).__name__ == "Dropout":
        module.p = 0.1
data = generated_rows(["mos"], 22, ("first", "second"))
run_recipe({recipe!r}, train_dataset=data[:16], validation_dataset=data[16:], model=model, callbacks=[Kill()])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_bit_identical_weights(train, recipe, nursery, tmp_path):
    content = recipe() | {"output_dir": str(tmp_path / "killed")}
    script = KILLED.format(step=7, recipe=content)

    killed = nursery.start(script)
    killed.communicate()
    resumed = train("killed")
    whole = train("whole")

    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert (resumed.num_steps, resumed.best_step) == (whole.num_steps, whole.best_step)
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("step", [3, 5])
def test_ctrl_c_saves_a_checkpoint_and_the_run_goes_on_to_the_same_weights(train, tmp_path, step):
    with pytest.raises(Interrupted) as stopped:
        train("stopped", [At(step, lambda: os.kill(os.getpid(), signal.SIGINT))], save_steps=100, load_best_model_at_end=False)

    assert stopped.value.checkpoint.name.endswith(f"-{step + 1}") or stopped.value.checkpoint.name.endswith(f"-{step}")
    train("stopped", save_steps=100, load_best_model_at_end=False)
    train("whole", save_steps=100, load_best_model_at_end=False)
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_ctrl_c_while_the_model_is_written_leaves_no_half_of_it_and_the_run_goes_on(train, tmp_path, monkeypatch):
    def interrupt(recipe, path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Recipe, "save", interrupt)  # the weights are written by then, aside
        train("stopped")
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoints"]

    train("stopped")
    train("whole")
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_the_lines_of_the_bias_aware_loss_survive_an_interrupt(train, tmp_path):
    loss = {"kind": "bias_aware", "min_correlation": -1}
    options = {"loss": loss, "load_best_model_at_end": False, "save_steps": 100, "learning_rate": 1e-2}

    with pytest.raises(Interrupted):
        train("stopped", [At(6, lambda: os.kill(os.getpid(), signal.SIGINT))], **options)
    train("stopped", **options)
    train("whole", **options)

    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_ctrl_c_works_as_before_after_a_run(train):
    before = signal.getsignal(signal.SIGINT)

    train("run", max_steps=2)

    assert signal.getsignal(signal.SIGINT) is before


def test_a_torn_newest_checkpoint_is_skipped_and_named(train, tmp_path):
    train("run", save_total_limit=5)
    folder = tmp_path / "run" / "checkpoints"
    names = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert names == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    (folder / "checkpoint-8" / "trainer_state.json").write_text('{"global_step": 8,')
    with (folder / "checkpoint-6" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with (folder / "checkpoint-4" / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)

    checkpoint, torn = find_resumable_checkpoint(folder)

    assert checkpoint.name == "checkpoint-2"
    assert [line.split(" ")[0] for line in torn] == ["checkpoint-8", "checkpoint-6", "checkpoint-4"]
    assert "trainer_state.json" in torn[0] and "model.safetensors" in torn[1] and "optimizer.pt" in torn[2]


def test_a_checkpoint_of_another_number_of_processes_is_not_taken_for_whole(train, tmp_path):
    train("run", max_steps=2)

    assert what_is_torn(tmp_path / "run" / "checkpoints" / "checkpoint-2") is None
    assert "another number of processes" in what_is_torn(tmp_path / "run" / "checkpoints" / "checkpoint-2", num_processes=2)


def test_a_folder_without_checkpoints_has_none_to_go_on_from(tmp_path):
    assert find_resumable_checkpoint(tmp_path / "nowhere") == (None, [])


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on(train, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill():  # no file may grow beyond 5 kB from here on: saving fails in the middle, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))

    try:
        with pytest.raises(TrainingError, match=r"disk of .*run' is full.*goes on from the newest complete checkpoint"):
            train("run", [At(3, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)

    checkpoint, _ = find_resumable_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint.name == "checkpoint-2"
    train("run")
    train("whole")
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_is_not_repeated(train, tmp_path):
    first = train("run", max_steps=2)
    written = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns

    again = train("run", max_steps=2)

    assert again == first
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_with_another_run_is_refused(train):
    train("run", max_steps=2)

    with pytest.raises(RunMismatch, match=r"another run.*recipe\.training\.max_steps was 2, is 3.*choose another `output_dir`"):
        train("run", max_steps=3)
    assert train("run", max_steps=3, overwrite=True).num_steps == 3


def test_a_run_that_never_got_to_a_checkpoint_does_not_hold_its_folder(train, recipe, rows, tmp_path):
    misspelled = recipe(max_steps=2) | {"model": {"checkpoint": "misspelled"}, "output_dir": str(tmp_path / "run")}
    with pytest.raises(OSError, match="there is no folder 'misspelled' here"):
        run_recipe(misspelled, train_dataset=rows(4), validation_dataset=rows(2), announce=lambda line: None)

    assert train("run", max_steps=2).num_steps == 2


def test_a_checkpoint_of_something_else_is_not_written_over(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_text("mine")

    with pytest.raises(RunMismatch, match=r"holds model\.safetensors, which this run did not write; choose another"):
        train("run", max_steps=2)
    assert (tmp_path / "run" / "model.safetensors").read_text() == "mine"
    assert train("run", max_steps=2, overwrite=True).num_steps == 2


def test_a_result_whose_checkpoints_are_gone_is_that_of_its_run_only(train, tmp_path):
    train("run", max_steps=2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")

    assert train("run", max_steps=2).num_steps == 2
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunMismatch, match="the result of another recipe or other data"):
        train("run", max_steps=3)


def test_a_second_process_may_not_train_into_the_same_folder(train, tmp_path):
    lock = tmp_path / "run" / "checkpoints" / ".lock"
    with locked(lock), pytest.raises(Locked, match=r"Another process trains into .*run'"):
        train("run", max_steps=2)


def test_checkpoints_are_kept_apart_from_the_result(train, tmp_path):
    train("run", max_steps=2)

    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
        "training_result.json",
    }
    assert json.loads((tmp_path / "run" / "training_result.json").read_text())["num_steps"] == 2


def test_the_result_loads_without_its_checkpoints(train, tmp_path):
    import hf_sqa

    train("run", max_steps=2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")

    assert hf_sqa.AutoModelForAudioQuality.from_pretrained(tmp_path / "run").config.score_names == ["mos"]
