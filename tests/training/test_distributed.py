"""Real processes, started with the environment that `torchrun` gives: two with batches of four take the steps of one with eight."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_sqa.training import TrainingResult, run_recipe

ROOT = Path(__file__).parents[2]
TRAIN = """
import runpy, sys
sys.argv = ["train_scripts/train.py", {recipe!r}]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def pair(recipe, table, tiny, nursery, tmp_path):
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
        code = TRAIN.format(recipe=str(tmp_path / "recipe.json"))
        # As with torchrun, the store is there before the processes: a port looked up for one of them may be another's by then.
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        both["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        ranks = [nursery.start(code, folder=ROOT, **both, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
        outputs = [process.communicate() for process in ranks]
        del store  # and its thread
        assert [process.returncode for process in ranks] == [0, 0], [errors[-3000:] for _, errors in outputs]
        return one, TrainingResult.load(tmp_path / "two"), "".join(printed for printed, _ in outputs)

    return run


def logged(result, name):
    return [entry[name] for entry in result.history if name in entry]


@pytest.mark.slow
def test_two_processes_follow_one(pair, tmp_path):
    one, two, printed = pair(
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
    assert printed.count("clips trained on") == 1  # told by one process
