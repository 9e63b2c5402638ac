"""Sweeps: plan a grid of runs, submit it to Slurm or this machine, watch it, lose nothing, collect it."""
