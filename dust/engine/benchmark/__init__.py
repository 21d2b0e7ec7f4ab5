"""What dust costs: CPU time, wall time and memory of decoding, loading, models and multi-view testing.

``tools/benchmark.py`` is the command line; docs/BENCHMARKS.md holds what was measured with it.
"""
