"""Compare several systems by the scores of their clips: means, differences with intervals, groups that differ.

Two systems that share enough sentences are compared sentence by sentence, which cancels the sentence's effect. All intervals come
from the same draws of whole units (sentences, talkers), [`hf_sqa.metrics.bootstrap`]. P-values of several pairs are adjusted as in
Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979. Groups follow the idea of
ITU-T P.1401, which puts systems that do not differ statistically from the best into one group. NumPy and SciPy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.stats import mannwhitneyu

from hf_sqa.metrics.agreement import group_codes, unit_codes
from hf_sqa.metrics.bootstrap import MIN_UNITS, Interval, Spread, check_options, spreads

#: Two systems are compared sentence by sentence if at least this share of the smaller one's clips has a partner.
PAIRED_SHARE = 0.5
#: Limit of draws times units: with a million clips, a thousand draws are as good as ten thousand with few clips.
MOST_COUNTS = 1_000_000_000
FEWEST_DRAWS = 1000


@dataclass(frozen=True)
class SystemMean:
    """A system and its mean score."""

    name: str  # Name of the system
    num_clips: int  # Number of its clips with a score
    num_failed: int  # Number of its clips without a score
    mean: Interval  # Mean of the scores, with the interval in which the mean of all such clips may lie


@dataclass(frozen=True)
class PairDifference:
    """One system compared with another."""

    first: str  # Names of the two systems
    second: str
    is_paired: bool  # Whether they are compared sentence by sentence
    num_pairs: int  # Number of sentences that both have; if not paired, number of clips of both
    num_alone: tuple[int, int]  # If paired, numbers of scored clips of each that are left out for lack of a partner
    difference: Interval  # Mean of the second minus that of the first; no interval from fewer than five units
    # Probability that the second has the higher mean: 0.975 if the 95 % interval just touches zero from above. It says how certain
    # the sign of the difference is, not how large the difference is
    probability: float
    # Share of pairs (if not paired, of all combinations) in which the second is higher; ties count half
    share_won: float
    p_value: float  # Two-sided p-value of the difference; NaN if there is no interval
    adjusted_p_value: float  # The same, adjusted for the number of pairs that were compared
    better: str | None  # The system shown to be better by the adjusted p-value; None if neither is


@dataclass(frozen=True)
class SystemComparison:
    """The result of comparing systems by scores."""

    systems: list[SystemMean]  # In order of first occurrence
    pairs: list[PairDifference]  # Every pair of systems with scores
    # Best group first, by means. A group starts with the best remaining system, and ends before the first system that is shown to
    # differ from it. Empty if nothing could be tested
    groups: list[list[str]]
    verdict: str  # The result in words

    def pair(self, first: str, second: str) -> PairDifference:
        """Return the comparison of two systems, in whichever order they were compared."""
        for pair in self.pairs:
            if {pair.first, pair.second} == {first, second}:
                return pair
        raise KeyError(f"{first!r} and {second!r} were not compared.")


@dataclass(frozen=True)
class _Clips:
    """Scored clips: `(num_clips,)` arrays of scores and of the numbers of system, sentence (-1: none) and unit."""

    scores: np.ndarray
    systems: np.ndarray
    items: np.ndarray
    units: np.ndarray


def compare_systems(
    scores: ArrayLike,
    systems: Sequence[Hashable],
    *,
    items: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    paired: bool | None = None,
    score_name: str = "score",
    confidence_level: float = 0.95,
    num_draws: int = 10_000,
    rng: np.random.Generator | int | None = 0,
) -> SystemComparison:
    """Compare systems by the scores of their clips.

    ```python
    >>> from hf_sqa.metrics import compare_systems
    >>> scores = [3.0, 3.4, 2.8, 3.3, 3.1, 3.2, 3.5, 3.1, 3.4, 3.3]
    >>> compare_systems(scores, ["old"] * 5 + ["new"] * 5, items=[1, 2, 3, 4, 5] * 2).pairs[0].better
    'new'
    ```

    Intervals say how much another draw of sentences (or talkers) would change a mean. They do not include errors of the scoring
    model, which may favour one kind of system.

    Args:
        scores (array of shape `(num_clips,)`): Score of every clip; NaN if missing.
        systems (sequence of length `num_clips`): System of every clip.
        items (sequence of length `num_clips`, *optional*): Item that links the clips to compare: sentence, source file. `None` for
            a clip without partners. Several clips of one system and item are averaged.
        clusters (sequence of length `num_clips`, *optional*): Cluster of every clip, such as its talker; drawn whole. By default
            the items, else single clips.
        paired (`bool`, *optional*): Whether to compare sentence by sentence. By default, if at least half of the smaller system's
            clips have a partner.
        score_name (`str`, *optional*, defaults to `"score"`): Name of the score in the verdict.
        confidence_level (`float`, *optional*, defaults to 0.95): Confidence level of every interval; groups differ at 1 minus it.
        num_draws (`int`, *optional*, defaults to 10000): Number of draws; fewer for more than a hundred thousand units.
        rng (`np.random.Generator` or `int`, *optional*, defaults to 0): Generator or seed.

    Raises:
        ValueError: If lengths differ, a number is out of range, two systems to be paired share no item, or the clips of one item
            are in several clusters.
    """
    check_options(num_draws, confidence_level)
    values = np.asarray(scores, np.float64)
    if values.ndim != 1:
        raise ValueError(f"Expected scores of shape (num_clips,), got {values.shape}.")
    of_system, labels = group_codes(systems, len(values), "systems")
    if (of_system < 0).any():
        raise ValueError(f"Expected a system for every clip, got none for {int((of_system < 0).sum())} of {len(values)}.")
    names = [str(label) for label in labels]
    of_item = group_codes(items, len(values), "items")[0] if items is not None else np.full(len(values), -1)
    scored = np.isfinite(values)
    # A clip is drawn with its cluster, else with its item, else alone.
    units = unit_codes(of_item if clusters is None else group_codes(clusters, len(values), "clusters")[0])
    clips = _Clips(values[scored], of_system[scored], of_item[scored], units[scored])
    counts = np.bincount(clips.systems, minlength=len(names))
    pairs = [
        _Pair(clips, first, second, (names[first], names[second]), paired)
        for first, second in itertools.combinations(range(len(names)), 2)
        if counts[first] and counts[second]
    ]
    spread = _spreads(clips, len(names), pairs, num_draws, np.random.default_rng(rng))
    means = [
        SystemMean(name, int(counts[number]), int((of_system == number).sum() - counts[number]), of_mean.interval(confidence_level))
        for number, (name, of_mean) in enumerate(zip(names, spread[: len(names)], strict=True))
    ]
    differences = _differences(names, pairs, spread[len(names) :], confidence_level)
    groups = _groups(means, differences)
    return SystemComparison(means, differences, groups, _verdict(means, differences, groups, score_name))


class _Pair:
    """Two systems and the sums that compare them: by unit, sums of differences and numbers of items."""

    def __init__(self, clips: _Clips, first: int, second: int, names: tuple[str, str], paired: bool | None):
        self.first, self.second = first, second
        rows = [np.flatnonzero(clips.systems == number) for number in (first, second)]
        (items, means, units), (other_items, other_means, other_units) = (_means_by_item(clips, each) for each in rows)
        shared, here, there = np.intersect1d(items, other_items, assume_unique=True, return_indices=True)
        self.is_paired = 0 < len(shared) >= PAIRED_SHARE * min(map(len, rows)) if paired is None else paired
        if self.is_paired and not len(shared):
            raise ValueError(f"Expected sentences that {names[0]!r} and {names[1]!r} share, got none; compare without pairs.")
        scores = [clips.scores[each] for each in rows]
        if self.is_paired:
            alone = [int((~np.isin(clips.items[each], shared)).sum()) for each in rows]
            self.num_alone, self.num_pairs = (alone[0], alone[1]), len(shared)
            self.units, self.differences = units[here], other_means[there] - means[here]
            if (self.units != other_units[there]).any():
                raise ValueError(
                    f"Expected one cluster for each sentence, got several for a sentence that {names[0]!r} and {names[1]!r} share."
                )
            self.num_units = len(np.unique(self.units))
            self.value = float(self.differences.mean())
            self.share_won = float(((self.differences > 0) + 0.5 * (self.differences == 0)).mean())
        else:
            self.num_alone, self.num_pairs = (0, 0), sum(len(each) for each in rows)
            of_each = [np.unique(clips.units[each]) for each in rows]
            fewest = min(map(len, of_each))
            self.num_units = len(np.union1d(*of_each)) if fewest >= MIN_UNITS else fewest
            self.value = float(scores[1].mean() - scores[0].mean())
            won = mannwhitneyu(scores[1], scores[0], method="asymptotic").statistic
            self.share_won = float(won / (len(scores[0]) * len(scores[1])))


def _means_by_item(clips: _Clips, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the items of these clips in ascending order, with the mean score and the unit of each."""
    rows = rows[clips.items[rows] >= 0]
    items, first, place = np.unique(clips.items[rows], return_index=True, return_inverse=True)
    return items, np.bincount(place, clips.scores[rows]) / np.bincount(place), clips.units[rows[first]]


def _spreads(clips: _Clips, num_systems: int, pairs: Sequence[_Pair], num_draws: int, rng: np.random.Generator) -> list[Spread]:
    """Return the spread of every system's mean, then of every pair's difference, all from the same draws."""
    num_units = int(clips.units.max(initial=-1)) + 1
    units, rows, sums = [clips.units], [clips.systems], [clips.scores]
    paired = [pair for pair in pairs if pair.is_paired]
    for row, pair in enumerate(paired, num_systems):
        units.append(pair.units)
        rows.append(np.full(len(pair.units), row))
        sums.append(pair.differences)
    places = (np.concatenate(rows), np.concatenate(units))
    shape = (num_systems + len(paired), num_units)
    totals = csr_array((np.concatenate(sums), places), shape=shape)
    sizes = csr_array((np.ones(len(places[0])), places), shape=shape)
    row_of = {pair: row for row, pair in enumerate(paired, num_systems)}

    def measure(counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            means = (totals @ counts) / (sizes @ counts)
        of_pairs = [means[row_of[pair]] if pair.is_paired else means[pair.second] - means[pair.first] for pair in pairs]
        return np.concatenate([means[:num_systems], np.array(of_pairs).reshape(len(pairs), counts.shape[1])])

    num_draws = min(num_draws, max(FEWEST_DRAWS, MOST_COUNTS // max(num_units, 1)))
    members = [clips.systems == number for number in range(num_systems)]
    values = [float(clips.scores[inside].mean()) if inside.any() else float("nan") for inside in members]
    counted = [len(np.unique(clips.units[inside])) for inside in members]
    values += [pair.value for pair in pairs]
    counted += [pair.num_units for pair in pairs]
    return spreads(measure, np.arange(num_units), values, num_draws, rng, num_units=counted)


def _differences(
    names: Sequence[str], pairs: Sequence[_Pair], spreads: Sequence[Spread], confidence_level: float
) -> list[PairDifference]:
    p_values = np.array([spread.p_value(of_a_mean=True) if spread.num_units >= MIN_UNITS else np.nan for spread in spreads])
    return [
        PairDifference(
            first=names[pair.first],
            second=names[pair.second],
            is_paired=pair.is_paired,
            num_pairs=pair.num_pairs,
            num_alone=pair.num_alone,
            difference=spread.interval(confidence_level),
            probability=1 - p_value / 2 if pair.value > 0 else p_value / 2,
            share_won=pair.share_won,
            p_value=p_value,
            adjusted_p_value=p_adjusted,
            better=names[pair.second if pair.value > 0 else pair.first] if p_adjusted < 1 - confidence_level else None,
        )
        for pair, spread, p_value, p_adjusted in zip(pairs, spreads, p_values.tolist(), holm(p_values).tolist(), strict=True)
    ]


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values of several tests so that one false finding among all is as rare as in a single test. NaN is no test."""
    adjusted = np.full(len(p_values), np.nan)
    order = [index for index in np.argsort(p_values, kind="stable").tolist() if not np.isnan(p_values[index])]
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, float(p_values[index]) * (len(order) - place)))
        adjusted[index] = highest
    return adjusted


def _groups(means: Sequence[SystemMean], pairs: Sequence[PairDifference]) -> list[list[str]]:
    tested = [pair for pair in pairs if not np.isnan(pair.p_value)]
    if not tested:
        return []
    known = {name for pair in tested for name in (pair.first, pair.second)}
    differ = {frozenset((pair.first, pair.second)) for pair in tested if pair.better is not None}
    left = [mean.name for mean in sorted(means, key=lambda mean: -mean.mean.value) if mean.name in known]
    groups = []
    while left:
        end = next((place for place, name in enumerate(left) if frozenset((left[0], name)) in differ), len(left))
        groups.append(left[:end])
        left = left[end:]
    return groups


def _verdict(means: Sequence[SystemMean], pairs: Sequence[PairDifference], groups: Sequence[Sequence[str]], score_name: str) -> str:
    by_name = {mean.name: mean for mean in means}
    if len(pairs) == 1:
        return pair_in_words(pairs[0], by_name, score_name)
    if not pairs:
        return "Nothing can be compared: fewer than two systems have scores."
    if not groups:
        return f"Nothing can be said: no two systems have {MIN_UNITS} units (sentences, talkers or clips) each."
    sentences = []
    for place, group in enumerate(groups):
        named = ", ".join(f"{name} ({by_name[name].mean.value:.2f})" for name in group)
        together = "; between these no difference from the first is shown" if len(group) > 1 else ""
        sentences.append(f"{'Best' if place == 0 else 'Then'}: {named}{together}.")
    tested = {name for group in groups for name in group}
    if untested := [mean.name for mean in means if mean.name not in tested]:
        sentences.append(f"Too few scored clips to place {', '.join(untested)}: {MIN_UNITS} units are needed for an interval.")
    return " ".join(sentences)


def pair_in_words(pair: PairDifference, means: Mapping[str, Any], score_name: str = "score") -> str:
    """Describe one comparison in a sentence."""
    units = pair.difference.num_units
    counted = f"{pair.num_pairs:,} {'pairs' if pair.is_paired else 'clips without pairs'}"
    if units != pair.num_pairs:
        counted += f", {units} units drawn whole"
    if alone := sum(pair.num_alone):
        counted += f"; {alone:,} clip{'s' * (alone > 1)} without a partner count{'s' * (alone == 1)} in the means only"
    # Told from the side of the better system; from that of the second where neither is shown to be better.
    turned = pair.better == pair.first
    leader, other = (pair.first, pair.second) if turned else (pair.second, pair.first)
    values = f"mean {score_name} {means[leader].mean.value:.3f} ({leader}) and {means[other].mean.value:.3f} ({other})"
    if np.isnan(pair.p_value):
        which = "" if pair.is_paired else " of the smaller system"
        return f"Nothing can be said: {values}, {counted}; {MIN_UNITS} units{which} are needed for an interval."
    value, low, high = pair.difference.value, pair.difference.low, pair.difference.high
    probability = pair.probability
    if turned:
        value, low, high, probability = -value, -high, -low, 1 - probability
    interval = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    found = f"{values}, difference {interval}, probability {in_per_cent(probability)} that {leader} is better"
    verdict = "No difference is shown" if pair.better is None else f"{leader} is better than {other}"
    return f"{verdict}: {found}; {counted}."


def in_per_cent(probability: float) -> str:
    """Format a probability for readers: `97 %`, `99.8 %`, never exactly 0 or 100."""
    if np.isnan(probability):
        return "unknown"
    if probability > 0.9995:
        return "over 99.9 %"
    if probability < 0.0005:
        return "under 0.1 %"
    return f"{100 * probability:.1f} %" if not 0.05 <= probability <= 0.95 else f"{100 * probability:.0f} %"
