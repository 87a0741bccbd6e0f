// Functions of two slopes: the rectifier and its kin.
#pragma once
#include "math/dual.h"
#include "math/wide.h"

#define FNTK_RECTIFIERS(X) \
  X(Relu, "relu")          \
  X(ABRelu, "abrelu")

namespace fntk {
namespace FNTK_ISA {

// phi(x) = max(x, 0). v', rho', kdot: a few eps, both ends.
template <class T>
struct Relu {
  static constexpr int n_params = 0, n_rows = 0;
  static constexpr Names<n_rows> row_names = {};
  static constexpr bool positive = true, homogeneous = true, cheap = true, part = true;
  static constexpr T mean_square = T(0.5);
  struct Row {};
  explicit FNTK_HD Relu(const double*) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows&, long) {
    return {};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row&, const Row&) const {
    const Arc<T> t = arc(c.w);
    Dual<T> d;
    d.v = select(c.near, c.w, T(1)) - t.moment;  // the moment is below w / 3
    d.rho = select(c.near, T(1) - d.v, t.moment);
    d.kdot = T(0.5) * select(c.near, T(1) - t.angle, t.angle);
    return d;
  }

  // v' r' / (w r) = (1 - moment / w) / 2 and kdot, of n vectors, which share coefficients.
  template <class N, int n>
  static FNTK_HD void near(const N* w, Near<N>* found) {
    N moment[n], angle[n];
    if constexpr (std::is_same_v<T, float>) {
      horner_each<T, n>(w, moment, T(0.5), FNTK_MOMENT_FLOAT);
      horner_each<T, n>(w, angle, T(0.5), FNTK_ANGLE_FLOAT);
    } else {
      horner_each<T, n>(w, moment, T(0.5), FNTK_MOMENT_DOUBLE);
      horner_each<T, n>(w, angle, T(0.5), FNTK_ANGLE_DOUBLE);
    }
    const N half = all_lanes<N>(T(0.5));
    for (int k = 0; k < n; ++k) {
      const N less = -defect_root(w[k]);
      found[k] = {fma(less, moment[k], half), fma(less, angle[k], half)};
    }
  }
};

// phi(x) = a min(x, 0) + b max(x, 0): LeakyRelu (alpha, 1), Abs (-1, 1), identity (1, 1). It is a b x + (b - a)^2 relu
// in the dual: rho' = mix rho + rest rho'_relu. v', rho', kdot: a few eps, both ends.
template <class T>
struct ABRelu {
  static constexpr int n_params = 2, n_rows = 0;
  static constexpr Names<n_rows> row_names = {};
  static constexpr bool positive = false, homogeneous = true, cheap = true;
  struct Row {};
  T mix;          // 2 a b / (a^2 + b^2)
  T rest;         // 1 - mix
  T sum;          // 1 + mix
  T slope;        // a b
  T half_jump2;   // (b - a)^2 / 2
  T mean_square;  // (a^2 + b^2) / 2

  explicit FNTK_HD ABRelu(const double* p) {
    const double a = p[0], b = p[1], total = a * a + b * b;
    mix = T(total > 0 ? 2 * a * b / total : 1);
    rest = T(total > 0 ? (b - a) * (b - a) / total : 0);
    sum = T(total > 0 ? (b + a) * (b + a) / total : 2);
    slope = T(a * b);
    half_jump2 = T((b - a) * (b - a) / 2);
    mean_square = T(total / 2);
  }
  template <class Rows>
  static FNTK_HD Row load(const Rows&, long) {
    return {};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row&, const Row&) const {
    const Arc<T> t = arc(c.w);
    const T gain = rest * t.moment;
    const T above = at_least_zero(select(c.near, c.w, fma(-mix, c.w, sum)) - gain);  // 1 - rho'
    const T below = fma(mix, c.w, rest) + gain;                                      // 1 + rho', where rho < 0
    const bool negative = !c.near & (gain < mix * c.a);
    Dual<T> d;
    d.v = signed_defect(!negative, select(negative, below, above));
    d.rho = select(c.near, T(1) - above, fma(-mix, c.a, gain));
    d.kdot = fma(half_jump2, select(c.near, T(1) - t.angle, t.angle), slope);
    return d;
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
