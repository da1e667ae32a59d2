"""Muon trains matrices and filters, AdamW the rest, in one optimiser that stops and goes on like any other."""

import os
import signal

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_sqa.training import Interrupted, run_recipe
from hf_sqa.training.muon import Muon, muon_groups, orthogonalised

#: Options of AdamW beside Muon.
ADAM = {"lr": 0.003, "betas": (0.9, 0.999), "eps": 1e-8}


class Small(nn.Module):
    """A layer of each kind that the groups tell apart."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 12)
        self.first = nn.Conv2d(1, 16, 3)
        self.filters = nn.Conv2d(16, 12, 3)
        self.matrix = nn.Linear(12, 40)
        self.score_head = nn.Linear(40, 1)


def by_kind(model, **options):
    groups = muon_groups(model, 0.01, ADAM, **options)
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {
        kind: {names[id(weight)] for group in groups if ("momentum" in group) == (kind == "muon") for weight in group["params"]}
        for kind in ("muon", "adam")
    }


def test_matrices_and_filters_go_to_muon_and_everything_else_to_adamw():
    model = Small()
    kinds = by_kind(model)
    assert kinds["muon"] == {"filters.weight", "matrix.weight"}
    assert kinds["adam"] == {name for name, _ in model.named_parameters()} - kinds["muon"]


def test_frozen_weights_are_left_out_and_biases_do_not_decay():
    model = Small()
    model.matrix.requires_grad_(False)
    groups = muon_groups(model, 0.01, ADAM, weight_decay=0.1, decayed=["filters.weight"])
    decays = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    assert id(model.matrix.weight) not in decays
    assert decays[id(model.filters.weight)] == 0.1
    assert decays[id(model.filters.bias)] == 0


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (24, 24)])
def test_an_update_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, shape[1])
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_steps_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.ParameterDict({"matrix": torch.ones(12, 40), "bias": torch.ones(9)}) for _ in range(2))
    optimizer = Muon(muon_groups(ours, 0.02, ADAM, weight_decay=0.1))
    references = [
        torch.optim.Muon([theirs["matrix"]], lr=0.02, weight_decay=0.1),
        torch.optim.AdamW([theirs["bias"]], lr=0.003, weight_decay=0.1),
    ]
    for _ in range(5):
        for name in ("matrix", "bias"):
            gradient = torch.randn(ours[name].shape, generator=generator)
            ours[name].grad, theirs[name].grad = gradient, gradient.clone()
        for one in (optimizer, *references):
            one.step()
    torch.testing.assert_close(ours["bias"], theirs["bias"])
    torch.testing.assert_close(ours["matrix"], theirs["matrix"], atol=2e-3, rtol=0)  # both in bfloat16 on the way


def test_filters_are_trained_as_the_matrix_of_their_rows():
    gradient = torch.randn(12, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    filters, matrix = nn.ParameterDict({"a": torch.zeros(12, 10, 3, 3)}), nn.ParameterDict({"a": torch.zeros(12, 90)})
    filters["a"].grad, matrix["a"].grad = gradient, gradient.flatten(1)
    for one in (filters, matrix):
        Muon(muon_groups(one, 0.02, ADAM)).step()
    assert torch.equal(filters["a"].flatten(1), matrix["a"])


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(recipe, rows, with_dropout, tmp_path):
    data = rows(22)

    def train(name, callbacks=()):
        content = recipe(muon_learning_rate=0.01) | {"output_dir": str(tmp_path / name)}
        model = with_dropout()
        result = run_recipe(
            content,
            train_dataset=data[:16],
            validation_dataset=data[16:],
            model=model,
            callbacks=callbacks,
            announce=lambda line: None,
        )
        return result, model

    _, unbroken = train("unbroken")
    with pytest.raises(Interrupted):
        train("broken", [StopAt()])
    _, resumed = train("broken")
    assert all(torch.equal(one, other) for one, other in zip(unbroken.parameters(), resumed.parameters(), strict=True))


def test_a_rate_out_of_range_is_refused(recipe, rows, tiny):
    with pytest.raises(ValueError, match=r"muon_learning_rate.*between 0 and 1, got 3"):
        run_recipe(recipe(muon_learning_rate=3.0), train_dataset=rows(8), validation_dataset=rows(8), model=tiny())
