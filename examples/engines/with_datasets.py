"""Scores beside the rows of a Hugging Face data set: `python with_datasets.py <folder that load_dataset reads> <output folder>`."""

import sys
from functools import partial

import datasets

from hf_sqa.scoring import score_batch


def add_scores(dataset: datasets.Dataset, column: str = "audio", **settings) -> datasets.Dataset:
    """The data set without its audio, with scores; its audio is never decoded by `datasets`."""
    if isinstance(dataset.features[column], datasets.Audio):
        dataset = dataset.cast_column(column, datasets.Audio(decode=False))
    score = partial(score_batch, audio_column=column, **settings)
    return dataset.map(score, batched=True, batch_size=16, remove_columns=[column])


if __name__ == "__main__":
    add_scores(datasets.load_dataset(sys.argv[1], split="train")).save_to_disk(sys.argv[2])
