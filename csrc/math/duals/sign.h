// The sign.
#pragma once
#include "math/dual.h"

#define FNTK_SIGN(X) X(Sign, "sign")

namespace fntk {
namespace FNTK_ISA {

// phi(x) = sign(x): 1 - |rho'| = 2 theta / pi at cos theta = 1 - w. kdot counts as 0, as Neural Tangents has it. v': a
// few eps, both ends.
template <class T>
struct Sign {
  static constexpr int n_params = 0, n_rows = 0;
  static constexpr Names<n_rows> row_names = {};
  static constexpr bool positive = false, homogeneous = false, cheap = false;
  struct Row {};
  explicit FNTK_HD Sign(const double*) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows&, long) {
    return {};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row&, const Row&) const {
    const T rho = T(0.63661977236758134308) * arctangent(c.a, sqrt(c.w * (T(2) - c.w)));
    return {signed_defect(c.near, T(2) * arc(c.w).angle), select(c.near, rho, -rho), T(0) * c.w};
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
