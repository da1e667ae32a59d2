"""Scores inside a Spark pipeline: `spark-submit with_spark.py <table.parquet> <output folder>`; every executor needs hf_sqa."""

import sys
from collections.abc import Iterator

import pandas

from hf_sqa.scoring import score_batch

SCHEMA = "id string, mos double, status string, code string, reason string, duration_seconds double"


def score_frames(frames: Iterator[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
    """For `mapInPandas`: tables with the columns `id` and `path` in, tables of `SCHEMA` out."""
    names = [column.split()[0] for column in SCHEMA.split(", ")]
    for frame in frames:
        scored = score_batch(frame[["id", "path"]].to_dict("list"), audio_column="path", suffix="")
        yield pandas.DataFrame(scored)[names]


if __name__ == "__main__":
    from pyspark.sql import SparkSession

    table = SparkSession.builder.getOrCreate().read.parquet(sys.argv[1])
    table.select("id", "path").mapInPandas(score_frames, SCHEMA).write.parquet(sys.argv[2])
