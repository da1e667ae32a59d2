"""Does `hf-sqa compare` find what listeners find? Verdicts of models on pairs of systems beside those of the ratings.

python benchmarks/compare_verdicts.py ../shared/data --model distilled-sqa-m

Both sides are tested in the same way: paired by sentence, by talker where talkers are known, adjusted for the number of pairs.
"""

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import torch
from machine import print_machine

import hf_sqa
from hf_sqa.metrics import SystemComparison, compare_systems

SETS = {
    "P.808 reference clips": ("p808/labels.csv", "condition", ("talker", "study"), "talker"),
    "neural coders": ("neural_codecs/labels.csv", "system", ("sentence",), None),
}
HEAD = ["set", "model", "pairs", "listeners show", "of these shown alike", "contradicted", "shown by the model only", "same sign"]


def by_listeners(table: Path, system: str, pair_by: tuple[str, ...], cluster: str | None) -> SystemComparison:
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return compare_systems(
        [float(row["mos"]) for row in rows],
        [row[system] for row in rows],
        items=["/".join(row[column] for column in pair_by) for row in rows],
        clusters=None if cluster is None else [row[cluster] for row in rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with p808/ and neural_codecs/")
    parser.add_argument("--model", action="append", help="as in `hf-sqa compare`; again for more")
    arguments = parser.parse_args()
    print_machine()
    torch.set_num_threads(1)
    sys.stdout.write(f"| {' | '.join(HEAD)} |\n|---|---|{'---:|' * (len(HEAD) - 2)}\n")
    for name, (file, system, pair_by, cluster) in SETS.items():
        table = arguments.data / file
        listened = by_listeners(table, system, pair_by, cluster)
        compared = hf_sqa.compare(
            table, model=arguments.model or ["default"], systems=system, pair_by=pair_by, cluster=cluster, device="cpu"
        )
        for model, found in compared.by_model.items():
            counts: Counter[str] = Counter()
            for theirs in listened.pairs:
                ours = found.pair(theirs.first, theirs.second)
                if theirs.p_value != theirs.p_value:  # too few sentences
                    continue
                counts["pairs"] += 1
                counts["shown"] += theirs.better is not None
                counts["alike"] += theirs.better is not None and ours.better == theirs.better
                counts["contradicted"] += None not in (theirs.better, ours.better) and ours.better != theirs.better
                counts["only"] += theirs.better is None and ours.better is not None
                counts["sign"] += (theirs.difference.value > 0) == (ours.difference.value > 0)
            cells = [name, model, *(str(counts[key]) for key in ("pairs", "shown", "alike", "contradicted", "only", "sign"))]
            sys.stdout.write(f"| {' | '.join(cells)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
