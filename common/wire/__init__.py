"""Bytes and messages: the format is pure (`messages`, `framing`), `tcp` is the thin driver."""
