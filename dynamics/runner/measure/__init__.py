"""Measurements of finished runs, into the run's own file: samples, FID, and any instrument at a checkpoint."""
