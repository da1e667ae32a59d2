"""Scores inside a Ray Data pipeline: `python with_ray.py <manifest.jsonl> <output folder>`.

To score a corpus and nothing else, `hf-sqa score <corpus> --output out/ --engine ray` also resumes.
"""

import sys
from functools import partial

import ray.data

from hf_sqa.scoring import score_batch


def add_scores(dataset: ray.data.Dataset, column: str = "audio_filepath", **settings) -> ray.data.Dataset:
    """The data set with scores in the place of the column of recordings."""
    score = partial(score_batch, audio_column=column, **settings)
    return dataset.map_batches(score, batch_size=16, num_cpus=1)  # on accelerators: num_gpus=1


if __name__ == "__main__":
    add_scores(ray.data.read_json(sys.argv[1])).write_parquet(sys.argv[2])
