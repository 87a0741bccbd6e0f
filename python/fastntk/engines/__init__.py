"""Who computes pairs: the compiled loops, a CUDA device, and NumPy, the readable definition."""
