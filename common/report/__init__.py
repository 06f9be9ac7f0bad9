"""Runs as one HTML page: ``python -m common.report RUN... --out report.html``."""
