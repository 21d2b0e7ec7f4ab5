"""Processes: started here, by torchrun or by Slurm; signals, and jobs that are queued again."""
