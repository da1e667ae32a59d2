"""Figures are drawn from the rows alone: what is on the axes, not how it looks."""

import math

import numpy as np
import pytest

from hf_sqa.studies import plotting
from hf_sqa.studies.figures import draw, growth

VALUES = {("a", "x"): 0.9, ("a", "y"): 0.5, ("b", "x"): 0.6, ("b", "y"): 0.8, ("c", "x"): 0.7, ("c", "y"): 0.7}


def row(model, test_set, value, metric="srcc", **columns):
    base = {"model": model, "seed": 0, "test_set": test_set, "score": "mos", "level": "utt", "metric": metric, "value": value}
    return {**base, "low": value - 0.05, "high": value + 0.02, "num_clips": 50, "overlap": None, "series": None, **columns}


@pytest.fixture
def rows():
    """Three models on two test sets; `a` was trained on clips of `x`."""
    made = []
    for (model, test_set), value in VALUES.items():
        overlap = "clips" if (model, test_set) == ("a", "x") else None
        for metric, one in (("srcc", value), ("lcc", value - 0.1), ("mse", 1 - value)):
            made.append(row(model, test_set, one, metric, overlap=overlap))
    return made


def visible(figure):
    return [axis for axis in figure.axes if axis.get_visible() and not axis.get_label().startswith("<colorbar")]


def points(axis):
    """Places and heights of the markers on an axis, lines and bars left out."""
    return sorted(
        (round(float(x), 6), round(float(y), 6))
        for line in axis.lines
        if line.get_marker() not in ("None", "", None)
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def test_by_test_set_has_a_row_a_group_and_a_column_a_metric(rows, tmp_path):
    figure = draw("by_test_set", rows, tmp_path / "f.png", groups={"one": ["a", "b"], "two": ["c"]})

    axes = visible(figure)
    assert len(axes) == 6 and (tmp_path / "f.png").stat().st_size > 1000
    assert [axis.get_ylabel() for axis in axes[:3]] == ["SRCC", "LCC", "MSE (MOS points²)"]
    assert [text.get_text() for text in axes[3].get_xticklabels()] == ["x", "y"]
    assert [height for _, height in points(axes[0])] == [0.9, 0.6, 0.5, 0.8]
    assert [height for _, height in points(axes[3])] == [0.7, 0.7]


def test_by_test_set_says_who_is_best_where(rows, tmp_path):
    assert title(draw("by_test_set", rows, tmp_path / "f.svg")).startswith("Best SRCC of 2 test sets: a on 1, b on 1")


def test_points_of_clips_that_were_trained_on_are_hollow(rows, tmp_path):
    figure = draw("by_test_set", rows, tmp_path / "f.png", metrics=["srcc"])

    hollow = {float(line.get_ydata()[0]) for line in visible(figure)[0].lines if line.get_markerfacecolor() == "white"}
    assert hollow == {0.9} and "hollow: some of these recordings were trained on" in title(figure)


def test_a_model_keeps_its_colour_from_group_to_group(rows, tmp_path):
    figure = draw("by_test_set", rows, tmp_path / "f.png", groups={"one": ["a", "b"], "two": ["b"]}, metrics=["srcc"])

    legends = [axis.get_legend() for axis in visible(figure)]
    colours = [
        {text.get_text(): line.get_color() for text, line in zip(one.get_texts(), one.get_lines(), strict=True)} for one in legends
    ]
    assert colours[0]["b"] == colours[1]["b"] != colours[0]["a"]


def test_spread_draws_a_box_a_model_over_test_sets(rows, tmp_path):
    figure = draw("spread", rows, tmp_path / "f.png", metrics=["srcc", "mse"])

    axis = visible(figure)[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b", "c"]
    assert sorted({height for _, height in points(axis)}) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert title(figure) == "a has the best median SRCC over 2 test sets (0.70); c varies least (0.00 from end to end)"


def test_spread_over_one_test_set_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="Expected two test sets or more"):
        draw("spread", rows, tmp_path / "f.png", test_sets=["x"])


def test_the_matrix_has_every_number_its_mark_and_its_frame(rows, tmp_path):
    figure = draw("transfer_matrix", rows, tmp_path / "f.png", own={"a": "x", "b": "y"})

    axis = visible(figure)[0]
    assert [text.get_text().strip() for text in axis.texts] == ["0.90 †", "0.50", "0.60", "0.80", "0.70", "0.70"]
    assert len(axis.patches) == 2
    # matched: 0.9 and 0.8; not: 0.5 and 0.6
    assert title(figure).startswith("SRCC 0.85 where training and test match (framed), 0.55 where not")
    assert "† some of these recordings were trained on" in title(figure)


def test_the_matrix_shows_the_mean_of_seeds_and_their_spread(tmp_path):
    rows = [row("a", "x", 0.8), row("a", "x", 0.9, seed=1), row("b", "x", 0.7)]

    figure = draw("transfer_matrix", rows, tmp_path / "f.png")

    assert [text.get_text() for text in visible(figure)[0].texts] == ["0.85\n± 0.07", "0.70"]


def test_a_cell_that_is_not_done_is_a_dash(rows, tmp_path):
    rest = [one for one in rows if (one["model"], one["test_set"]) != ("b", "y")]

    figure = draw("transfer_matrix", rest, tmp_path / "f.png")

    assert [text.get_text() for text in visible(figure)[0].texts][3] == "-"


@pytest.fixture
def curve():
    """Two seeds at four sizes, each doubling worth 0.03 in both; a reference."""
    made = [row("known", "x", 0.95)]
    for place, size in enumerate((10, 20, 40, 80)):
        for seed in (0, 1):
            made.append(row(f"n{size}", "x", 0.7 + 0.03 * place + 0.01 * seed, seed=seed, num_train=size))
    return made


def test_the_learning_curve_has_means_seeds_and_references(curve, tmp_path):
    figure = draw("learning_curve", curve, tmp_path / "f.png", references=["known"])

    (axis,) = visible(figure)
    mean = next(line for line in axis.lines if line.get_label() == "mean of the seeds")
    assert axis.get_xscale() == "log" and list(mean.get_xdata()) == [10, 20, 40, 80]
    assert list(mean.get_ydata()) == pytest.approx([0.705, 0.735, 0.765, 0.795])
    assert len(points(axis)) == 8
    assert [list(line.get_ydata()) for line in axis.lines if line.get_label() == "known"] == [[0.95, 0.95]]


def test_the_learning_curve_says_whether_more_labels_would_help(curve, tmp_path):
    told = title(draw("learning_curve", curve, tmp_path / "f.png"))

    assert told.startswith("More labels would help: a doubling gains +0.030 [+0.030, +0.030] SRCC at 80 clips")


def test_series_are_curves_of_their_own(curve, tmp_path):
    rows = [one | {"series": "tuned"} for one in curve] + [
        one | {"series": "scratch", "model": f"s-{one['model']}"} for one in curve
    ]

    figure = draw("learning_curve", rows, tmp_path / "f.png")

    assert {line.get_label() for line in visible(figure)[0].lines} >= {"tuned", "scratch"}
    assert title(figure).startswith("What doubling the labels gains in SRCC at the upper end, up to 80 clips:")
    assert "tuned on x: +0.030 [+0.030, +0.030], more labels would help scratch on x: +0.030" in title(figure)


def test_growth_is_the_mean_slope_with_an_interval_over_seeds():
    # slopes over the last three sizes: 0.02 and 0.04; mean 0.03, half-width 12.706 * 0.01414 / sqrt(2)
    told = growth([(10, {0: 0.1, 1: 0.1}), (20, {0: 0.5, 1: 0.5}), (40, {0: 0.52, 1: 0.54}), (80, {0: 0.54, 1: 0.58})], "lcc")

    assert told.gain == pytest.approx(0.03)
    assert (told.low, told.high) == pytest.approx((0.03 - 0.12706, 0.03 + 0.12706), abs=1e-4)
    assert told.verdict == "open"


def test_a_flat_curve_says_that_more_labels_would_hardly_help():
    assert growth([(n, {0: 0.9, 1: 0.9, 2: 0.901}) for n in (100, 200, 400)], "srcc").verdict == "hardly"


def test_a_falling_error_is_a_gain():
    told = growth([(10, {0: 0.5, 1: 0.51}), (20, {0: 0.4, 1: 0.41})], "rmse")

    assert told.gain == pytest.approx(0.1) and told.verdict == "yes" and "less error" in told.sentence


def test_one_seed_of_two_sizes_does_not_say_how_surely():
    told = growth([(10, {0: 0.5}), (20, {0: 0.6})], "srcc")

    assert told.verdict == "open" and math.isnan(told.low) and "one seed does not say" in told.sentence


def test_a_curve_of_one_size_is_refused(curve, tmp_path):
    with pytest.raises(ValueError, match="Expected curves of two sizes or more"):
        draw("learning_curve", [one for one in curve if one["model"] in ("n10", "known")], tmp_path / "f.png")


def test_a_sweep_has_the_values_of_its_variable_and_a_line_a_score(tmp_path):
    rows = [
        row(f"d{delta}", "x", 0.8 - (delta - 1) ** 2 + shift, metric, score=score, variable_delta=delta)
        for delta in (0.5, 1.0, 1.25)
        for score, shift in (("s_mos", 0.0), ("g_mos", 0.1))
        for metric in ("lcc", "srcc", "mse")
    ]

    figure = draw("sweep", rows, tmp_path / "f.png", variable="delta")

    axis = visible(figure)[0]
    assert axis.get_xlabel() == "delta" and list(axis.get_xticks()) == [0.5, 1.0, 1.25]
    assert {line.get_label() for line in axis.lines} >= {"s_mos", "g_mos"}
    # mean of the two scores at 1.0; the values span 0.25, an interval is 0.07 long
    assert title(figure) == "Best LCC at delta = 1.0 (0.850); all values span 0.250, more than one interval (0.070)"


def test_a_sweep_over_names_puts_them_side_by_side(tmp_path):
    rows = [row(loss, "x", value, "srcc", variable_loss=loss) for loss, value in (("mse", 0.7), ("l1", 0.8))]

    figure = draw("sweep", rows, tmp_path / "f.png", variable="loss", metrics=["srcc"])

    assert [text.get_text() for text in visible(figure)[0].get_xticklabels()] == ["mse", "l1"]


def test_a_sweep_of_a_variable_that_is_not_there_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match=r"made with `for: \{delta"):
        draw("sweep", rows, tmp_path / "f.png", variable="delta")


def test_size_is_shown_against_weights_and_time_by_series(tmp_path):
    sizes = {"xs": (1e4, 0.80, "distilled"), "s": (1e5, 0.88, "distilled"), "teacher": (4e6, 0.89, "teacher")}
    rows = [
        row(model, "x", value, series=series, num_parameters=weights, cpu_seconds_per_second=weights / 1e7)
        for model, (weights, value, series) in sizes.items()
    ]

    figure = draw("size", rows, tmp_path / "f.png")

    left, right = visible(figure)
    distilled = next(line for line in left.lines if line.get_label() == "distilled")
    assert list(distilled.get_xdata()) == [1e4, 1e5] and list(distilled.get_ydata()) == [0.8, 0.88]
    assert left.get_xlabel() == "weights" and right.get_xlabel() == "CPU seconds for a second of audio"
    assert next(line for line in right.lines if line.get_label() == "teacher").get_xdata()[0] == pytest.approx(0.4)
    assert title(figure).startswith("s (100,000 weights, SRCC 0.880 on x) is the smallest within 0.02 of the best")


def test_the_title_of_sizes_crowns_no_model_that_fails_on_a_test_set(tmp_path):
    agreement = {"narrow": (1e4, {"x": 0.90, "y": 0.1}), "m": (1e6, {"x": 0.88, "y": 0.85}), "l": (4e6, {"x": 0.86, "y": 0.9})}
    rows = [
        row(model, test_set, value, num_parameters=weights, cpu_seconds_per_second=weights / 1e7)
        for model, (weights, values) in agreement.items()
        for test_set, value in values.items()
    ]

    figure = draw("size", rows, tmp_path / "f.png")

    assert title(figure) == (
        "m (1,000,000 weights, SRCC 0.850 on its worst of 2 test sets) is the smallest within 0.02 of the best, l (0.860)"
    )


@pytest.mark.parametrize(
    ("kind", "options", "error", "told"),
    [
        ("box", {}, ValueError, "Expected a figure out of by_test_set"),
        ("spred", {}, ValueError, "did you mean 'spread'"),
        ("spread", {"metric": "srcc"}, TypeError, "Unknown option 'metric' of the figure 'spread'"),
        ("spread", {"models": ["z"]}, ValueError, "Expected models out of a, b, c, got 'z'"),
        ("spread", {"level": "sys"}, ValueError, "Expected rows of mos at level sys"),
        ("transfer_matrix", {"test_sets": ["z"]}, ValueError, "Expected test sets out of x, y, got 'z'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(kind, options, error, told, rows, tmp_path):
    with pytest.raises(error, match=told):
        draw(kind, rows, tmp_path / "f.png", **options)


def test_colours_and_markers_do_not_repeat_within_ten():
    assert len(set(plotting.COLOURS)) == len(set(plotting.MARKERS)) == 10


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected rows of results to draw"):
        draw("spread", [], tmp_path / "f.png")


def test_undefined_values_are_left_out(rows, tmp_path):
    rows = [one | {"value": np.nan, "low": np.nan, "high": np.nan} if one["model"] == "b" else one for one in rows]

    figure = draw("by_test_set", rows, tmp_path / "f.png", metrics=["srcc"])

    assert len(points(visible(figure)[0])) == 4


def test_a_clip_weighted_mean_stands_for_all_test_sets(tmp_path):
    counts = {"x": 300, "y": 100}
    agreement = {"s": (1e5, {"x": 0.9, "y": 0.5}), "m": (1e6, {"x": 0.8, "y": 0.8}), "lost": (1e4, {"x": 0.99})}
    rows = [
        row(model, test_set, value, "lcc", num_clips=counts[test_set], num_parameters=weights, cpu_seconds_per_second=weights / 1e7)
        for model, (weights, values) in agreement.items()
        for test_set, value in values.items()
    ]

    figure = draw("size", rows, tmp_path / "f.png", metric="lcc", clip_weighted=True)

    left, _ = visible(figure)
    assert points(left) == [(1e5, 0.8), (1e5, 0.8), (1e6, 0.8), (1e6, 0.8)]  # 0.75 * 0.9 + 0.25 * 0.5; the lines lie on the points
    assert left.get_title(loc="left") == "2 test sets, weighted by clips"
