"""What of a pair of images is computed: grids, links and displacements."""
