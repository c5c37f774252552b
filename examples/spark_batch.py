"""Rerank a table with Spark: python examples/spark_batch.py INPUT.parquet OUTPUT.parquet

INPUT has the columns "query" and "documents", a list of strings. OUTPUT has "scores", too.
"""

import sys
from collections.abc import Iterator

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

from edgerank import Reranker

BUNDLE = None  # a directory that every worker has; None for the model in the package
ROWS = "16"  # of a batch; a row is a query with its documents


def score(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Score the batches of a partition, with a model that is opened for it: that is quick."""
    # Spark sets OMP_NUM_THREADS to the cores of a task, and edgerank keeps to it
    with Reranker() if BUNDLE is None else Reranker(BUNDLE) as model:
        for batch in batches:
            pairs = [
                (query, document)
                for query, documents in zip(batch["query"], batch["documents"], strict=True)
                for document in documents
            ]
            scores = iter(model.score_pairs(pairs).tolist())
            yield batch.assign(scores=[[next(scores) for _ in row] for row in batch["documents"]])


def rerank(table: DataFrame) -> DataFrame:
    scores = StructField("scores", ArrayType(FloatType()))
    return table.mapInPandas(score, StructType([*table.schema.fields, scores]))


if __name__ == "__main__":
    source, target = sys.argv[1:]
    spark = (
        SparkSession.builder.appName("rerank")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", ROWS)
        .getOrCreate()
    )
    rerank(spark.read.parquet(source)).write.parquet(target)
    spark.stop()
