"""A user-space link between edge and cloud on one machine: rate, delay, jitter and broken connections."""
