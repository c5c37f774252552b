"""The repository itself: its documentation, benchmarks, generated code and wheel."""
