"""What dust costs on this machine: CPU time, wall time and memory of decoding, loading, models and testing.

docs/BENCHMARKS.md holds what was measured with it.
"""
