"""Real processes: two with batches of four take the steps of one with batches of eight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_sqa.training import TrainingResult, run_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pair(recipe, table, tiny, tmp_path):
    """Runs a recipe in one process here and in two there, on 26 clips of which one cannot be read: uneven last batches."""

    def run(spoil=True, **training):
        labels = table(26)
        if spoil:
            (labels.parent / "clip003.flac").write_bytes(b"no audio")
        start = tmp_path / "start"
        model = tiny()
        model.save_pretrained(start)
        model.make_feature_extractor().save_pretrained(start)
        content = recipe(model={"checkpoint": str(start)}, data={"train": [{"table": str(labels)}]}, **training)
        one = run_recipe(content | {"output_dir": str(tmp_path / "one")}, announce=lambda line: None)
        content["training"] |= {"per_device_train_batch_size": content["training"]["per_device_train_batch_size"] // 2}
        (tmp_path / "recipe.json").write_text(json.dumps(content | {"output_dir": str(tmp_path / "two")}))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*command, "train_scripts/train.py", str(tmp_path / "recipe.json")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return one, TrainingResult.load(tmp_path / "two"), done

    return run


def logged(result, name):
    return [entry[name] for entry in result.history if name in entry]


@pytest.mark.slow
def test_two_processes_follow_one(pair, tmp_path):
    one, two, done = pair(
        per_device_train_batch_size=8, per_device_eval_batch_size=4, logging_strategy="steps", logging_steps=1, max_grad_norm=0.5
    )

    assert (one.num_processes, two.num_processes) == (1, 2)
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), rel=1e-5)
    assert logged(two, "grad_norm") == pytest.approx(logged(one, "grad_norm"), rel=1e-4)
    for metric in ("eval_loss", "eval_utt_mse", "eval_num_scored"):
        assert logged(two, metric) == pytest.approx(logged(one, metric), rel=1e-5), metric
    assert two.metrics["eval_num_scored"] == 6  # every clip once
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-5)
    assert one.excluded == two.excluded == {"undecodable": 1}
    assert done.stdout.count("clips trained on") == 1  # told by one process
