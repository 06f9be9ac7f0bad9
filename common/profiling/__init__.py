"""What this machine takes for each block of a model: time, bytes, memory, energy."""
