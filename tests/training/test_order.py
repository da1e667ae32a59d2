"""An order without scores: what pairs are charged, what the table must say, and that a training with it learns the order."""

import itertools
import math

import numpy as np
import pytest
import soundfile
import torch

from hf_sqa.training.order import OrderedGroups, order_loss
from hf_sqa.training.recipe import OrderOptions, load_recipe
from hf_sqa.training.run import run_recipe

NAN = math.nan
RATE = 16_000


def charged(scores, groups, ranks, means=None, margin=0.2):
    means = [NAN] * len(scores) if means is None else means
    return float(order_loss(*(torch.tensor(values, dtype=torch.float32) for values in (scores, groups, ranks, means)), margin))


def test_a_pair_is_charged_what_the_better_lacks_of_its_margin():
    assert charged([3.0, 3.5], [0, 0], [0, 1]) == 0
    assert charged([3.0, 3.1], [0, 0], [0, 1]) == pytest.approx(0.1)
    assert charged([3.5, 3.0], [0, 0], [0, 1]) == pytest.approx(0.7)


def test_a_known_difference_of_means_is_aimed_at_from_both_sides():
    """Smooth L1: half the square below 1, the distance less a half above."""
    assert charged([3.0, 3.5], [0, 0], [0, 1], [2.0, 2.5]) == pytest.approx(0)
    assert charged([3.0, 3.5], [0, 0], [0, 1], [2.0, 3.0]) == pytest.approx(0.5**2 / 2)
    assert charged([3.0, 5.0], [0, 0], [0, 1], [2.0, 2.4]) == pytest.approx(1.6 - 0.5)


def test_a_pair_with_one_mean_is_held_to_the_margin():
    assert charged([3.0, 3.1], [0, 0], [0, 1], [2.0, NAN]) == pytest.approx(0.1)


def test_versions_of_equal_rank_and_of_other_groups_are_not_compared():
    assert charged([5.0, 1.0], [0, 0], [1, 1]) == 0
    assert charged([5.0, 1.0], [0, 1], [0, 1]) == 0


def test_a_level_common_to_a_group_costs_nothing():
    scores, ranks, means = [2.0, 2.3, 3.0], [0, 1, 2], [1.5, 2.0, NAN]

    assert charged(scores, [0] * 3, ranks, means) == pytest.approx(
        charged([one + 1.7 for one in scores], [0] * 3, ranks, means), abs=1e-6
    )


def test_a_batch_without_pairs_costs_nothing_and_has_a_gradient():
    scores = torch.tensor([3.0, 2.0], requires_grad=True)
    order_loss(scores, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([NAN, NAN]), 0.2).backward()

    assert scores.grad.tolist() == [0, 0]


def test_an_unknown_mean_leaves_the_gradient_finite():
    scores = torch.tensor([3.0, 3.1, 4.0], requires_grad=True)
    order_loss(scores, torch.zeros(3), torch.arange(3.0), torch.tensor([NAN, 2.0, 4.0]), 0.2).backward()

    assert torch.isfinite(scores.grad).all()


@pytest.fixture
def ladders(tmp_path):
    """`ladders(sentences)`: a table of tones that get noisier, three versions each; noise decides the rank."""

    def make(sentences=4, seconds=1.0, header="filepath,group,rank,mos", noises=(0.1, 0.02, 0.0005)):
        lines = [header]
        for sentence in range(sentences):
            rng = np.random.default_rng(sentence)
            time = np.arange(round(seconds * RATE)) / RATE
            tone = 0.2 * np.sin(2 * np.pi * 200 * (sentence + 1) * time) * (np.sin(2 * np.pi * 3 * time) > 0)
            for rank, noise in enumerate(noises):
                name = f"{sentence}_{rank}.flac"
                soundfile.write(tmp_path / name, tone + noise * rng.standard_normal(len(tone)), RATE)
                lines.append(f"{name},sentence {sentence},{rank},")
        (tmp_path / "order.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / "order.csv")

    return make


def test_the_same_step_draws_the_same_groups_and_other_steps_others(ladders):
    groups = OrderedGroups(OrderOptions(table=ladders()), 1, RATE)

    def names(step, process=0):
        return [float(example["waveform"][100]) for example in groups.draw(step, process)[0]]

    assert names(3) == names(3)
    assert len({tuple(names(step)) for step in range(20)}) > 1
    assert len({tuple(names(3, process)) for process in range(20)}) > 1


def test_all_versions_of_a_group_are_cut_at_one_place(ladders):
    groups = OrderedGroups(OrderOptions(table=ladders(seconds=2.0)), 1, RATE, window_samples=RATE // 2)
    examples, known = groups.draw(0)
    loud = [np.abs(example["waveform"]) > 0.17 for example in examples if np.abs(example["waveform"]).max() < 0.4]

    assert {len(example["waveform"]) for example in examples} == {RATE // 2}
    assert known["groups"].tolist() == [0, 0, 0] and known["ranks"].tolist() == [0, 1, 2]
    assert (loud[0] == loud[1]).mean() > 0.9


def test_no_more_versions_take_part_than_allowed_and_all_take_turns(ladders):
    groups = OrderedGroups(OrderOptions(table=ladders(noises=(0.1, 0.05, 0.02, 0.01, 0.0005))), 1, RATE)
    drawn = {tuple(groups.draw(step)[1]["ranks"].tolist()) for step in range(60)}

    assert drawn == set(itertools.combinations(range(5), 4))


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("file,group,rank", "0_0.flac,a,0", "missing: filepath"),
        ("filepath,group,rank", "nowhere.flac,a,0", "nowhere.flac.*not there"),
        ("filepath,group,rank", "0_0.flac,a,good", "Expected numbers as `rank` and `mos` of '0_0.flac'.*'good'"),
        ("filepath,group,rank", "0_0.flac,a,0\n0_1.flac,a,0", "groups of two versions or more of different `rank`"),
    ],
)
def test_a_table_that_says_no_order_is_refused_with_what_is_wrong(ladders, tmp_path, header, line, message):
    ladders()
    (tmp_path / "order.csv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        OrderedGroups(OrderOptions(table=str(tmp_path / "order.csv")), 1, RATE)


def test_a_recipe_names_an_order_and_checks_it():
    recipe = load_recipe({"model": {"family": "nisqa"}, "order": {"table": "order.csv", "weight": 0.3}})

    assert recipe.order == OrderOptions(table="order.csv", weight=0.3)
    with pytest.raises(ValueError, match="`weight` above 0"):
        load_recipe({"model": {"family": "nisqa"}, "order": {"table": "order.csv", "weight": 0}})


def test_a_training_with_an_order_learns_it_from_labels_that_say_nothing(recipe, rows, tiny, ladders):
    table = ladders()
    options = OrderOptions(table=table, margin=0.5)
    flat = [row | {"mos": 3.0} for row in rows(8)]

    def wrong_pairs(model):
        examples, known = OrderedGroups(options, 1, RATE).draw(0)
        extractor = model.eval().make_feature_extractor()
        with torch.inference_mode():
            scores = [model(**extractor(one["waveform"], sampling_rate=RATE, return_tensors="pt")).logits[0, 0] for one in examples]
        return float(order_loss(torch.stack(scores), margin=0.5, **known))

    before = wrong_pairs(tiny("distilled_sqa"))
    content = recipe({"family": "distilled_sqa"}, max_steps=40, eval_strategy="no", save_strategy="no", learning_rate=3e-3)
    content["order"] = {"table": table, "weight": 5.0, "margin": 0.5}
    model = tiny("distilled_sqa")
    run_recipe(content, train_dataset=flat, model=model)

    assert wrong_pairs(model) < 0.5 * before


def test_an_order_leaves_the_statistics_of_norms_to_the_batches(recipe, rows, tiny, ladders, tmp_path):
    found = []
    for order in (None, {"table": ladders()}):
        content = recipe({"family": "distilled_sqa"}, max_steps=4, eval_strategy="no", save_strategy="no", learning_rate=0.0)
        content |= {"order": order, "output_dir": str(tmp_path / f"run{order is not None}")}
        model = tiny("distilled_sqa")
        before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
        run_recipe(content, train_dataset=rows(8), model=model)
        found.append({name: value for name, value in model.named_buffers() if "running" in name})
        assert any(not torch.equal(found[-1][name], before[name]) for name in before)

    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)
