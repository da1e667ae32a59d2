"""Rows of agreement that a training keeps."""

import math

import pytest

from hf_sqa.evaluation.after_training import _read, _write


@pytest.mark.parametrize("value", [13.036876548136501, 0.1 + 0.2, 1e-17, math.nan])
def test_rows_that_are_read_again_are_those_that_were_written(value, tmp_path):
    counts = {"num_clips": 4, "num_failed": 0, "num_unrated": 1, "num_units": 3, "unit": "clip"}
    row = {"test_set": "mine, too", "score": "mos", "level": "utt", "metric": "mse", "value": value, "low": math.nan, "high": 5.0}
    row |= {**counts, "weights": "0123", "source": "4567"}

    _write(tmp_path, [row])

    assert [repr(read) for read in _read(tmp_path)] == [repr(row)]
