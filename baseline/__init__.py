"""Baselines and ablations in one process."""
