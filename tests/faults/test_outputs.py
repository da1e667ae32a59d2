"""Outputs that cannot be written, or are taken away: one message and exit code 2, or a whole result; never half of one."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from typer.testing import CliRunner

import hf_sqa
from hf_sqa import DistilledSQA, DistilledSQAConfig
from hf_sqa.cli import app
from hf_sqa.training import TrainingError, run_recipe
from hf_sqa.training.dry_run import generated_rows
from tests.processes import script

ROOT = Path(__file__).parents[2]

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@pytest.fixture
def table(tmp_path):
    import soundfile

    lines = ["audio,mos"]
    for number, row in enumerate(generated_rows(["mos"], 12)):
        soundfile.write(tmp_path / f"{number}.wav", row["audio"]["array"], row["audio"]["sampling_rate"])
        lines.append(f"{number}.wav,{row['mos']}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return tmp_path / "table.csv"


def commands(table, tiny, out):
    """Every command that writes a folder."""
    recipe = table.with_name("recipe.yaml")
    recipe.write_text(
        f"model: {{checkpoint: {tiny}}}\ndata: {{train: {{table: {table}}}, split: {{share: 0.25}}}}\n"
        f"training: {{max_steps: 2, use_cpu: true}}\noutput_dir: {out}\n"
    )
    distillation = table.with_name("distillation.yaml")
    distillation.write_text(
        f"student: {{family: distilled_sqa}}\nteachers: [{{checkpoint: {tiny}}}]\nspeech: {{folder: {table.parent}}}\n"
        f"degradations: {{none: 1}}\nlabels: {{folder: {out}, num_windows: 64}}\noutput_dir: {out}\n"
    )
    return {
        "convert": ["convert", "distilled_sqa", str(table), str(out)],
        "finetune": ["finetune", "--train", str(table), "--model", str(tiny), "--output", str(out), "--device", "cpu"],
        "train": ["train", str(recipe)],
        "distill": ["distill", str(distillation)],
        "export": ["export", "onnx", str(out), "--model", str(tiny)],
        "demo": ["demo", "--model", str(tiny), "--write-space", str(out)],
        "score": ["score", str(table), "--model", str(tiny), "--output", f"{out}/", "--num-workers", "0"],
    }


@needs_full
@pytest.mark.parametrize("out", ["/dev/full", "/dev/full/below", "a file", "a file/below"])
@pytest.mark.parametrize("command", ["convert", "finetune", "train", "distill", "export", "demo", "score"])
def test_a_folder_that_cannot_be_is_one_message(command, out, table, tiny_folder, tmp_path):
    (tmp_path / "a file").write_text("mine")
    out = out if out.startswith("/") else tmp_path / out

    result = CliRunner().invoke(app, commands(table, tiny_folder, out)[command])

    assert result.exit_code == 2 and isinstance(result.exception, SystemExit | None), (result.output, result.exception)
    assert result.stderr.strip() and "Traceback" not in result.stderr
    assert (tmp_path / "a file").read_text() == "mine"


class Remove(TrainerCallback):
    """Takes the folder away after a step."""

    def __init__(self, folder, step):
        self.folder, self.step = folder, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_folder_that_is_removed_while_training_costs_no_result_or_says_so(step, tmp_path):
    torch.manual_seed(0)
    rows = generated_rows(["mos"], 8)
    training = {
        "max_steps": 4,
        "save_steps": 2,
        "eval_steps": 2,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "use_cpu": True,
    }
    recipe = {"model": {"family": "distilled_sqa"}, "training": training, "data": {}, "output_dir": str(tmp_path / "run")}
    options = {"train_dataset": rows[:6], "validation_dataset": rows[6:], "announce": lambda line: None}
    try:
        run_recipe(recipe, model=DistilledSQA(DistilledSQAConfig.tiny()), callbacks=[Remove(tmp_path / "run", step)], **options)
    except (TrainingError, OSError) as error:
        assert len(str(error)) > 20
        torch.manual_seed(0)
        run_recipe(recipe, model=DistilledSQA(DistilledSQAConfig.tiny()), **options)

    assert isinstance(hf_sqa.pipeline(str(tmp_path / "run"), device="cpu")(rows[0]["audio"])["mos"], float)


def test_a_parent_that_is_removed_while_converting_is_one_message(tiny_folder, tmp_path, monkeypatch):
    from hf_sqa.hub import conversion

    converted = DistilledSQA.from_pretrained(tiny_folder)
    scored = conversion._sample_scores

    def removing(model, extractor):
        shutil.rmtree(tmp_path / "parent", ignore_errors=True)
        return scored(model, extractor)

    converter = replace(conversion.converters()["distilled_sqa"], convert=lambda checkpoint=None: converted)
    monkeypatch.setattr(conversion, "converters", lambda: {"distilled_sqa": converter})
    monkeypatch.setattr(conversion, "_sample_scores", removing)
    (tmp_path / "parent").mkdir()

    with pytest.raises(OSError, match="parent"):
        conversion.convert_checkpoint("distilled_sqa", None, tmp_path / "parent" / "out")
    assert not (tmp_path / "parent").exists()


@pytest.mark.parametrize(("moved", "written"), [(2.4e-7, True), (1e-3, False)])
def test_a_rounding_is_no_reason_to_refuse_a_conversion_and_another_score_is(moved, written, tiny_folder, tmp_path, monkeypatch):
    from hf_sqa.hub import conversion

    converted = DistilledSQA.from_pretrained(tiny_folder)
    scored, calls = conversion._sample_scores, []

    def rounded_otherwise(model, extractor):
        calls.append(model)
        return {name: score + moved * (len(calls) > 1) for name, score in scored(model, extractor).items()}

    converter = replace(conversion.converters()["distilled_sqa"], convert=lambda checkpoint=None: converted)
    monkeypatch.setattr(conversion, "converters", lambda: {"distilled_sqa": converter})
    monkeypatch.setattr(conversion, "_sample_scores", rounded_otherwise)

    if written:
        conversion.convert_checkpoint("distilled_sqa", None, tmp_path / "out")
    else:
        with pytest.raises(ValueError, match="report this"):
            conversion.convert_checkpoint("distilled_sqa", None, tmp_path / "out")
    assert (tmp_path / "out").exists() == written


@pytest.mark.slow
def test_commands_that_are_killed_twice_end_whole(nursery):
    """The small version of `python benchmarks/kills.py`."""
    kills = ROOT / "benchmarks" / "kills.py"
    result = nursery.start(script(kills, "--kills", 2, "--only", "train", "--only", "finetune"))
    result.communicate()

    assert result.returncode == 0, result.stderr[-3000:]
    assert "| `train` | 2 |" in result.stdout and "| `finetune` | 2 |" in result.stdout
