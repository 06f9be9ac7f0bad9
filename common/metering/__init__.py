"""Energy and memory of this machine while something runs; see docs/metering.md."""
