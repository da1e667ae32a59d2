"""How often does a 95 % interval over few clusters hold the truth? Simulated clips in clusters, such as conditions or talkers.

python benchmarks/cluster_coverage.py                     # 6, 13, 30 and 100 clusters, 500 simulations each, a minute of one core

Clips of a cluster, eight, share half of the variance of the listeners' scores, and half of that of the model's errors.
"""

import argparse

import numpy as np
from machine import print_machine

from hf_sqa.metrics import bootstrap_agreement
from hf_sqa.metrics.agreement import METRICS

CLIPS_IN_A_CLUSTER, SHARED, ERROR_DEVIATION = 8, 0.5, 0.6
NAMES = ("lcc", "srcc", "rmse")


def drawn_clips(rng: np.random.Generator, num_clusters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, labels and clusters of clips."""
    clusters = np.repeat(np.arange(num_clusters), CLIPS_IN_A_CLUSTER)

    def values() -> np.ndarray:
        of_cluster, of_clip = rng.standard_normal(num_clusters)[clusters], rng.standard_normal(len(clusters))
        return np.sqrt(SHARED) * of_cluster + np.sqrt(1 - SHARED) * of_clip

    labels = values()
    return labels + ERROR_DEVIATION * values(), labels, clusters


def main() -> None:
    """Print a row for each number of clusters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, nargs="+", default=[6, 13, 30, 100])
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--draws", type=int, default=600)
    options = parser.parse_args()
    print_machine()
    predictions, labels, _ = drawn_clips(np.random.default_rng(0), 50_000)
    truth = {f"utt_{name}": METRICS[name](predictions, labels) for name in NAMES}
    print("| clusters | " + " | ".join(name.upper() for name in NAMES) + " |\n|---:|" + "---:|" * len(NAMES))
    for num_clusters in options.clusters:
        held = dict.fromkeys(truth, 0)
        for number in range(options.simulations):
            predictions, labels, clusters = drawn_clips(np.random.default_rng([1, num_clusters, number]), num_clusters)
            intervals = bootstrap_agreement(
                predictions, labels, metrics=list(truth), clusters=clusters.tolist(), num_draws=options.draws, rng=number
            )
            for metric, interval in intervals.items():
                held[metric] += interval.low <= truth[metric] <= interval.high
        print(
            f"| {num_clusters} | " + " | ".join(f"{count / options.simulations:.1%}" for count in held.values()) + " |", flush=True
        )


if __name__ == "__main__":
    main()
