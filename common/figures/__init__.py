"""Figures of runs, profiles, measurements and comparisons."""
