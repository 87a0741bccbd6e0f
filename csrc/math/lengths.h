// The norm of a row, whatever its size: host and CUDA run this same text.
#pragma once
#include <cfloat>
#include <cmath>

#include "math/vmath.h"

namespace fntk {
namespace FNTK_ISA {

// As a product of two reciprocal scales, so that no square leaves double's range.
struct Length {
  double norm, first, second;  // unit row = x first second
};

// sum(scale): sum of (scale x)^2; largest(): largest |x|.
template <class Sum, class Largest>
FNTK_HD Length length_of(const Sum& sum, const Largest& largest) {
  double square = sum(1.0), scale = 1;
  if (!(square > 1e-200 && square < 1e300) && square == square) {
    const double most = largest();
    if (most > DBL_MAX) return {most - most, 1, 0};  // no direction: all of it becomes NaN
    if (most > 0) {
      const int exponent = ilogb(most);
      scale = ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
      square = sum(scale);
    }
  }
  return {sqrt(square) / scale, scale, square > 0 ? 1 / sqrt(square) : 0};
}

}  // namespace FNTK_ISA
}  // namespace fntk
