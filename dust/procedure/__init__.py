"""The domain of procedures: tables of steps, decoders of step states, metrics. NumPy only."""
