"""Measure a device or a running command."""
