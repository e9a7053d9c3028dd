"""Whole pipelines: one run, benchmarks of many, comparisons of methods."""
