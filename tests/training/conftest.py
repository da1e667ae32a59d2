"""Tiny runs: generated clips whose noise says their score, as arrays and as files with a table."""

import csv

import pytest
import soundfile

from hf_sqa.training.dry_run import generated_rows


@pytest.fixture
def rows():
    """`rows(number, scores=("mos",))`: generated rows in the schema."""
    return lambda number, scores=("mos",), **options: generated_rows(scores, number, **options)


@pytest.fixture
def table(tmp_path):
    """`table(number)`: a CSV file of generated clips, FLAC beside it, a quarter of them for validation."""

    def make(number: int = 16):
        folder = tmp_path / "clips"
        folder.mkdir()
        with (folder / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["audio", "mos", "system_id", "split"])
            for index, row in enumerate(generated_rows(["mos"], number)):
                name = f"clip{index:03d}.flac"
                soundfile.write(folder / name, row["audio"]["array"], row["audio"]["sampling_rate"])
                split = "validation" if index >= number - max(number // 4, 1) else "train"
                writer.writerow([name, row["mos"], row["system_id"], split])
        return folder / "labels.csv"

    return make


@pytest.fixture
def recipe(tmp_path):
    """`recipe(**training)`: a recipe of eight steps, evaluated and saved every two."""

    def make(model=None, data=None, loss=None, **training):
        options = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "use_cpu": True, "max_steps": 8}
        options |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2, "learning_rate": 1e-3}
        options |= {"lr_scheduler_type": "constant"}
        return {
            "model": model or {"family": "wav2vec2_mos"},
            "data": data or {},
            "loss": loss or {},
            "training": options | training,
            "output_dir": str(tmp_path / "run"),
        }

    return make


@pytest.fixture
def tiny():
    """`tiny(family, **options)`: a tiny random model, always the same."""
    import torch

    import hf_sqa  # noqa: F401
    from hf_sqa.auto import families

    def make(family="wav2vec2_mos", seed=0, **options):
        config_class, model_class = families()[family]
        torch.manual_seed(seed)
        return model_class(config_class.tiny(**options))

    return make


@pytest.fixture
def with_dropout(tiny):
    """A tiny model that draws random numbers in every step."""

    def make():
        model = tiny()
        for module in model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.1
            if type(module).__name__ == "Dropout":
                module.p = 0.1
        return model

    return make
