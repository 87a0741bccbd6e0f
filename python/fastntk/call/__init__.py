"""The road of a call: inputs in, tiles covered, results out."""
