"""A fuzzer that knows the format: of frames and decoders in this process, and of a live server."""
