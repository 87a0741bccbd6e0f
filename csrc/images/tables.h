// Tables of single images: everything about one image that its pairs read, made in float64.
#pragma once
#include "common/parallel.h"
#include "images/layout.h"

namespace fntk {

// What a link carries of one image's variances.
struct LinkVariance {
  std::vector<double> q;     // conv: the source's variances
  std::vector<double> mass;  // pool: sum of s s' - K of the image with itself over each window
};

// Fills the tables of one grid for one image. `x`: its inputs, positions x channels each, to be divided by `length`;
// `links`: what the grids before have left, and receives what this one leaves.
template <class T>
void make_tables(const ImageProgram& program, size_t grid, const std::vector<const T*>& x, double length,
                 const std::vector<double>& numbers, const PlaneKernels<T>& kernels, std::vector<LinkVariance>& links,
                 T* table, Watch& watch);

}  // namespace fntk
