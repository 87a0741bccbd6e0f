"""Networks as immutable data: layers, nonlinearities, windows, and the program that they become."""
