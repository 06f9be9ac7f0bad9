"""Tandem's library: everything that the workload folders stand on."""

from common import vision

vision.install()
