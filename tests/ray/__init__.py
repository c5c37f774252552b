"""``edgerank.ray`` and the examples of Ray and Spark, in the environment of ``make test-ray``."""
