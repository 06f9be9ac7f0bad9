"""Image classification split between an edge and a cloud."""
