"""Measuring: peak RSS, benchmarks, plots."""
