"""Splits and subsets of rated corpora: the same score distribution in both parts, no talker in both, seeded, with a report.

The ten training sets are those of Table 1 of "Exploring the influence of fine-tuning data on wav2vec 2.0 model for blind speech
quality prediction" (Becerra, Ragano, Hines). It asks for "an 80-20 percent ratio and maintaining a similar MOS distribution"; the
method here is ours: one clip from each stretch of the sorted scores.

Data is anything with columns: a dict of sequences, a `pandas.DataFrame`, a `datasets.Dataset`. Results are row numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: Stretches of the sorted scores that grouped splits keep in proportion.
SCORE_BINS = 10
#: Random orders of the groups that a grouped split tries, and passes over each order to improve the split.
ORDERS, PASSES = 8, 10


@dataclass(frozen=True)
class Split:
    """Row numbers of two parts and how similar they are."""

    train: np.ndarray  # rows to train on, ascending
    validation: np.ndarray  # rows to validate on, ascending; no row is in both
    ks_distance: float  # Kolmogorov-Smirnov distance between the scores of the two, 0 (equal) to 1
    ks_by_corpus: dict[str, float]  # the same within each corpus; NaN where a part has no clip of it
    groups: tuple[int, int] | None = None  # number of groups in `train` and in `validation`, which share none

    def __str__(self) -> str:
        groups = f"; {self.groups[0]} and {self.groups[1]} groups, none in both" if self.groups else ""
        corpora = ", ".join(f"{corpus} {distance:.3f}" for corpus, distance in self.ks_by_corpus.items())
        return (
            f"{len(self.train)} train, {len(self.validation)} validation{groups}; Kolmogorov-Smirnov distance "
            f"{self.ks_distance:.3f} ({corpora})"
        )


@dataclass(frozen=True)
class TrainingSet:
    """One row of Table 1."""

    num_train: int  # numbers of clips, as printed
    num_validation: int
    sources: tuple[str, ...]  # parts of the names of the corpora to draw from, in lower case without punctuation; empty for all
    # sources whose own `train` and `validation` clips all go to the two parts, instead of a random draw; their other clips are
    # left out
    own_splits: tuple[str, ...] = ()
    own_counts: tuple[int, int] = (0, 0)  # number of these clips in the two parts


#: The two baselines of ConferencingSpeech 2022, of other architectures. Their checkpoints name NISQA's own parts for training
#: (TRAIN_SIM and TRAIN_LIVE) and validation (VAL_SIM and VAL_LIVE).
NISQA_BASELINE = TrainingSet(70764, 9713, ("nisqa", "tencent", "pstn"), ("nisqa",), (11020, 2700))
#: The paper does not give the shares of the corpora; ours are proportional to their sizes.
TRAINING_SETS = {
    "w2v_ger": TrainingSet(185, 47, ("livetalk",)),  # all 232 clips of NISQA_TEST_LIVETALK
    "w2v_cn": TrainingSet(2424, 606, ("tencent",)),
    "w2v_en": TrainingSet(7515, 1879, ("pstn",)),
    "w2v_all": TrainingSet(11429, 2858, ()),  # "all(D)": all 13 databases of Table 2
    # Printed as English, but Tencent is Chinese.
    "w2v_1k": TrainingSet(1884, 472, ("pstn", "tencent")),
    "w2v_10k": TrainingSet(8995, 2248, ("pstn", "tencent")),
    # 56217 is 80 % of all 70272 clips, which leaves 14055, not 14005: presumably a misprint, and 50 clips stay unused.
    "w2v_50k": TrainingSet(56217, 14005, ("pstn", "tencent")),
    "w2v_base": TrainingSet(4974, 1066, ("voicemos", "bvcc"), ("voicemos", "bvcc"), (4974, 1066)),
    "nq_base1": NISQA_BASELINE,
    "nq_base2": NISQA_BASELINE,
}


def stratified_split(
    data: Any,
    *,
    validation_share: float = 0.2,
    group_columns: str | Sequence[str] = (),
    score_column: str = "mos",
    corpus_column: str | None = "corpus",
    seed: int = 0,
) -> Split:
    """Split data in two parts with the same score distribution within each corpus.

    Without groups, the clips of a corpus are sorted by score and cut into as many stretches as `validation` gets clips, and one
    clip is drawn from each; the parts have exactly the size asked for. With groups, whole groups are moved until sizes and scores
    are as close to proportional in each corpus as possible.

    Args:
        data: A dict of sequences, a `pandas.DataFrame` or a `datasets.Dataset`.
        validation_share (`float`, *optional*, defaults to `0.2`): Share of the clips, between 0 and 1.
        group_columns (`str` or sequence of `str`, *optional*): Columns such as `talker`, `system_id`, `source`. Clips that share a
            value of any of them, directly or through other clips, stay together.
        score_column (`str`, *optional*, defaults to `"mos"`): Scores to keep in proportion.
        corpus_column (`str`, *optional*, defaults to `"corpus"`): Corpora to keep in proportion; `None` if all is one corpus.
        seed (`int`, *optional*, defaults to `0`): The same seed and rows give the same split.

    Raises:
        ValueError: If a column is missing, a score is NaN, a group is unknown, or there are too few clips or groups to split.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"Expected `validation_share` between 0 and 1, got {validation_share}.")
    scores = _scores(data, score_column)
    corpora = _labels(data, corpus_column, len(scores))
    rng = np.random.default_rng(seed)
    group_columns = [group_columns] if isinstance(group_columns, str) else list(group_columns)
    if not group_columns:
        num_validation = round(validation_share * len(scores))
        if not 0 < num_validation < len(scores):
            raise ValueError(
                f"Expected enough clips for two parts, got {len(scores)}, of which {validation_share} is no clip or all."
            )
        validation = _drawn(scores, corpora, num_validation, rng)
        return _split(scores, corpora, validation)
    groups = _groups([_labels(data, column, len(scores)) for column in group_columns])
    if groups.max() < 1:
        raise ValueError(
            f"Expected two groups or more to split by {', '.join(group_columns)}, got one: these "
            "columns connect all clips. Leave one out."
        )
    in_validation = _chosen_groups(scores, corpora, groups, validation_share, rng)
    return _split(scores, corpora, np.flatnonzero(in_validation[groups]), groups)


def nested_subsets(
    data: Any, sizes: Sequence[int], *, corpus_column: str | None = "corpus", seed: int = 0
) -> dict[int, np.ndarray]:
    """Draw clips with the score distribution and the proportions of corpora of the whole data.

    Each subset is part of the next larger one, so that points of a learning curve differ only in size.

    Args:
        data: A dict of sequences, a `pandas.DataFrame` or a `datasets.Dataset`.
        sizes (sequence of `int`): Numbers of clips to draw.
        corpus_column, seed: As for [`stratified_split`].

    Returns:
        `dict[int, np.ndarray]`: Rows of each size, ascending.

    Raises:
        ValueError: If there are fewer clips than asked for, a column is missing, or a score is NaN.
    """
    scores = _scores(data, "mos")
    corpora = _labels(data, corpus_column, len(scores))
    if not sizes or min(sizes) < 1 or max(sizes) > len(scores):
        raise ValueError(f"Expected sizes from 1 to the {len(scores)} clips there are, got {list(sizes)}.")
    rng = np.random.default_rng(seed)
    rows = np.arange(len(scores))
    drawn = {}
    for size in sorted(set(sizes), reverse=True):
        rows = rows[_drawn(scores[rows], corpora[rows], size, rng)]
        drawn[size] = rows
    return {size: drawn[size] for size in sizes}


def training_set(name: str, data: Any, *, seed: int = 0) -> Split:
    """Draw one of the ten training sets of the paper from the given corpora, with the counts of the paper.

    Args:
        name (`str`): `"w2v_ger"`, `"w2v_cn"`, `"w2v_en"`, `"w2v_all"`, `"w2v_1k"`, `"w2v_10k"`, `"w2v_50k"`, `"w2v_base"`,
            `"nq_base1"` or `"nq_base2"`; see `TRAINING_SETS` for what the paper specifies.
        data: Rows of at least its corpora, with the columns `mos` and `corpus`; others are ignored. A corpus is recognised by its
            name, ignoring case and punctuation: `NISQA_TEST_LIVETALK` by `livetalk`. `"w2v_base"`, which keeps the splits of its
            corpus, and `"nq_base1"` and `"nq_base2"`, which keep those of NISQA, need the column `split`.
        seed (`int`, *optional*, defaults to `0`): The same seed and rows give the same sets.

    Raises:
        ValueError: If the name is unknown, a corpus is missing, or there are fewer clips than the counts need.
    """
    if name not in TRAINING_SETS:
        raise ValueError(f"Expected one of {', '.join(TRAINING_SETS)}, got {name!r}.")
    wanted = TRAINING_SETS[name]
    corpora = _labels(data, "corpus", len(_column(data, "mos")))
    plain = np.array(["".join(filter(str.isalnum, corpus.lower())) for corpus in corpora], dtype=str)
    hits = {source: np.char.find(plain, source) >= 0 for source in wanted.sources}
    missing = [source for source, hit in hits.items() if not hit.any()]
    if set(missing) - set(wanted.own_splits) or (wanted.own_splits and set(wanted.own_splits) <= set(missing)):
        raise ValueError(f"{name} needs corpora named like {', '.join(missing)}; the corpora here are {_listed(corpora)}.")
    nothing = np.zeros(len(corpora), bool)
    is_own = np.logical_or.reduce([nothing, *(hits[source] for source in wanted.own_splits)])
    is_drawn = np.logical_or.reduce([nothing, *hits.values()]) & ~is_own if hits else ~nothing
    train = validation = np.flatnonzero(nothing)
    if wanted.own_splits:
        splits = _column(data, "split").astype(str)
        train, validation = (np.flatnonzero(is_own & (splits == part)) for part in ("train", "validation"))
        if (len(train), len(validation)) != wanted.own_counts:
            raise ValueError(
                f"{name} has other counts in the paper: expected train {wanted.own_counts[0]}, got {len(train)}; validation "
                f"{wanted.own_counts[1]}, got {len(validation)}. Check that the corpus is complete."
            )
    rows = np.flatnonzero(is_drawn)
    num_validation = wanted.num_validation - len(validation)
    total = wanted.num_train - len(train) + num_validation
    if len(rows) < total:
        sources = ", ".join(source for source in wanted.sources if source not in wanted.own_splits) or "all corpora"
        raise ValueError(
            f"{name} needs {total - num_validation} + {num_validation} = {total} clips of {sources}, got {len(rows)}; check that "
            "the corpora are complete."
        )
    if total:
        scores = _scores(data, "mos", rows)
        rng = np.random.default_rng(seed)
        kept = _drawn(scores, corpora[rows], total, rng)
        rows, scores = rows[kept], scores[kept]
        drawn = rows[_drawn(scores, corpora[rows], num_validation, rng)]
        train, validation = np.union1d(train, np.setdiff1d(rows, drawn)), np.union1d(validation, drawn)
    rows = np.union1d(train, validation)
    scores = _scores(data, "mos", rows)
    split = _split(scores, corpora[rows], np.flatnonzero(np.isin(rows, validation)))
    return replace(split, train=rows[split.train], validation=rows[split.validation])


def ks_distance(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Kolmogorov-Smirnov distance: the largest gap between the two distribution functions, 0 to 1; NaN if one sample is empty."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(first, second, method="asymp").statistic) if len(first) and len(second) else math.nan


def _split(scores: np.ndarray, corpora: np.ndarray, validation: np.ndarray, groups: np.ndarray | None = None) -> Split:
    train = np.setdiff1d(np.arange(len(scores)), validation)
    by_corpus = {
        str(corpus): ks_distance(scores[train][corpora[train] == corpus], scores[validation][corpora[validation] == corpus])
        for corpus in np.unique(corpora)
    }
    counts = None
    if groups is not None:
        assert not np.intersect1d(groups[train], groups[validation]).size
        counts = (len(np.unique(groups[train])), len(np.unique(groups[validation])))
    return Split(train, validation, ks_distance(scores[train], scores[validation]), by_corpus, counts)


def _drawn(scores: np.ndarray, corpora: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the row numbers of `size` clips: from each corpus its share, one clip from each stretch of its sorted scores."""
    _, of_corpus = np.unique(corpora, return_inverse=True)
    chosen = []
    for corpus, count in enumerate(_shares(np.bincount(of_corpus), size)):
        rows = np.flatnonzero(of_corpus == corpus)
        rows = rows[np.lexsort((rng.random(len(rows)), scores[rows]))]
        edges = np.arange(count + 1) * len(rows) / max(count, 1)
        # Whole clips only: a stretch runs from the clip at its lower edge to the last clip before its upper edge.
        low, high = np.ceil(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
        chosen.append(rows[rng.integers(low, high)] if count else rows[:0])
    return np.sort(np.concatenate(chosen))


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Divide `size` in proportion to `counts`, into whole numbers that add up to it; the largest remainders are rounded up."""
    exact = counts * size / max(counts.sum(), 1)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: size - shares.sum()]] += 1
    return shares


def _groups(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Number the group of each row: rows that share a value in any column, directly or through others, have the same number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num_rows = len(columns[0])
    nodes, next_node = [], num_rows
    for column in columns:
        _, values = np.unique(column, return_inverse=True)
        nodes.append(next_node + values)
        next_node += int(values.max()) + 1
    rows = np.tile(np.arange(num_rows), len(columns))
    links = coo_array((np.ones(len(rows), bool), (rows, np.concatenate(nodes))), shape=(next_node, next_node))
    components = connected_components(links, directed=False)[1][:num_rows]
    return np.unique(components, return_inverse=True)[1]


def _chosen_groups(
    scores: np.ndarray, corpora: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Choose the groups for validation: those that bring every stretch of scores of every corpus closest to its share."""
    cells = np.zeros(len(scores), int)
    num_cells = 0
    for corpus in np.unique(corpora):
        rows = np.flatnonzero(corpora == corpus)
        edges = np.unique(np.quantile(scores[rows], np.arange(1, SCORE_BINS) / SCORE_BINS))
        cells[rows] = num_cells + np.searchsorted(edges, scores[rows], side="right")
        num_cells += len(edges) + 1
    num_groups = int(groups.max()) + 1
    table = np.bincount(groups * num_cells + cells, minlength=num_groups * num_cells).reshape(num_groups, num_cells).astype(float)
    target = share * table.sum(0)
    weights = 1 / np.maximum(target, share)
    best_cost, best = math.inf, np.zeros(num_groups, bool)
    for _ in range(ORDERS):
        chosen, missing = np.zeros(num_groups, bool), target.copy()
        for _ in range(PASSES):
            changed = False
            for group in rng.permutation(num_groups):
                after = missing + table[group] if chosen[group] else missing - table[group]
                last = chosen.sum() == (1 if chosen[group] else num_groups - 1)
                if weights @ (after * after - missing * missing) < 0 and not last:
                    chosen[group], missing, changed = not chosen[group], after, True
            if not changed:
                break
        if not chosen.any():
            costs = ((target - table) ** 2) @ weights
            chosen[int(np.argmin(costs))] = True
            missing = target - table[chosen][0]
        cost = float(weights @ (missing * missing))
        if cost < best_cost:
            best_cost, best = cost, chosen
    return best


def _column(data: Any, name: str) -> np.ndarray:
    names = list(getattr(data, "column_names", None) or data.keys())
    if name not in names:
        raise ValueError(f"Expected a column {name!r}, got {', '.join(map(str, names))}; name the one that is meant.")
    return np.asarray(data[name][:])


def _scores(data: Any, name: str, rows: Any = slice(None)) -> np.ndarray:
    scores = _column(data, name)[rows].astype(float)
    if not len(scores):
        raise ValueError(f"Expected clips to draw from, got none in {name!r}.")
    unrated = int((~np.isfinite(scores)).sum())
    if unrated:
        raise ValueError(f"Expected a score in {name!r} of every clip, got NaN for {unrated} of {len(scores)}; drop those first.")
    return scores


def _labels(data: Any, name: str | None, num_rows: int) -> np.ndarray:
    """Return the values of a column as text, one per score; if `name` is `None`, all values are the same."""
    column = np.full(num_rows, "all") if name is None else _column(data, name)
    if len(column) != num_rows:
        raise ValueError(f"Expected {num_rows} values in {name!r}, as many as scores, got {len(column)}.")
    unknown = [value is None or value != value or value == "" for value in column.tolist()]
    if any(unknown):
        raise ValueError(
            f"Expected a value in {name!r} of every clip, got none for {sum(unknown)} of {len(column)}; fill in or "
            "drop those first."
        )
    return column.astype(str)


def _listed(values: np.ndarray) -> str:
    names = np.unique(values).tolist()
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
