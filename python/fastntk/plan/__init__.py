"""What of a pair of images is computed: grids, links and displacements, and which axis fills a vector's lanes."""
