"""Every family learns a handful of clips: the training loss falls by half. No family is named here but for what it needs."""

import pytest
import torch

import hf_sqa
from hf_sqa.auto import families
from hf_sqa.training import run_recipe

#: Learning rate and steps to halve the loss of a tiny random model; the same for all but where a family starts further off.
DEFAULT = {"learning_rate": 1e-2, "max_steps": 24}
OTHERS: dict[str, dict[str, float]] = {}


@pytest.mark.parametrize("family", list(families()))
def test_the_training_loss_falls_by_half(family, rows, tiny, tmp_path):
    def clips(number):
        """Short ones: the noise in them says their score."""
        made = rows(number, model.config.score_names)
        return [row | {"audio": row["audio"] | {"array": row["audio"]["array"][:10_240]}} for row in made]

    model = tiny(family)
    options = DEFAULT | OTHERS.get(family, {})

    result = run_recipe(
        {
            "model": {"family": family},
            "training": options
            | {
                "per_device_train_batch_size": 6,
                "lr_scheduler_type": "constant",
                "logging_strategy": "steps",
                "logging_steps": 1,
                "save_strategy": "no",
                "eval_strategy": "steps",
                "eval_steps": 12,
                "load_best_model_at_end": False,
                "use_cpu": True,
            },
            "output_dir": str(tmp_path),
        },
        train_dataset=clips(12),
        validation_dataset=clips(6),
        model=model,
        announce=lambda line: None,
    )

    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert len(losses) == options["max_steps"]
    assert sum(losses[-4:]) / 4 < 0.5 * losses[0]
    reloaded = hf_sqa.AutoModelForAudioQuality.from_pretrained(tmp_path)
    for name, tensor in reloaded.state_dict().items():
        assert torch.isfinite(tensor.float()).all(), name
