"""What knows no network: checks, arrays and where they lie, options, progress, the state between networks."""
