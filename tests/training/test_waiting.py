"""What a training says of its data."""

import time

import pytest

from hf_sqa.training.callbacks import Waiting


@pytest.fixture
def clock(monkeypatch):
    """`clock(seconds)` lets time pass, and nothing else does."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def test_the_share_and_the_rate_are_those_after_the_first_batches(clock):
    waiting = Waiting()

    def fetch(seconds, *sizes):
        clock(seconds)
        return [{"labels": [0] * size} for size in sizes], "rest"

    assert waiting.watch(lambda: fetch(50.0, 8)) == ([{"labels": [0] * 8}], "rest")
    for _ in range(3):
        clock(2.0)  # a step
        waiting.watch(lambda: fetch(1.0, 8, 4))
    clock(1.0)

    assert waiting.num_windows == 36
    assert waiting.sentence(2) == (
        "Data: 3.6 windows a second, 1.8 a worker; training waited for them 30% of the time; a larger "
        "`training.dataloader_num_workers` makes it faster."
    )


def test_nothing_is_said_to_be_slow_where_training_does_not_wait(clock):
    waiting = Waiting()
    for _ in range(3):
        clock(5.0)
        waiting.watch(lambda: ([{"labels": [0] * 10}], None))

    assert waiting.sentence(1) == "Data: 2.0 windows a second, 2.0 a worker; training waited for them 0% of the time."
