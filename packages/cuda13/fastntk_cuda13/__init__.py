"""fastntk's CUDA backend: private, reached through fastntk.engines."""
