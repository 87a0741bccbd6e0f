"""What belongs to one input, in array code; of images which pairs of positions are computed, and in which lanes."""
