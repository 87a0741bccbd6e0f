// The error function.
#pragma once
#include "math/dual.h"

#define FNTK_ERF(X) X(Erf, "erf")

namespace fntk {
namespace FNTK_ISA {

// phi(x) = erf(x) (scales and offsets are affine ops around it). Williams 1997, "Computing with infinite networks",
// eq. 11, with sin A_i = 2 q_i / (1 + 2 q_i): k = (2/pi) A12, V(q_i) = (2/pi) A_i, sin A12 = rho sqrt(sin A1 sin A2).
// Three ways to 1 - |rho'| = 1 - A12 / sqrt(A1 A2), none of which takes a small number from nearly equal ones:
// - Small variances, where phi is nearly linear. With z = sin^2 A and L(z) = log(A / sin A) = z / 6 + 11 z^2 / 180 + ..
//   |rho'| = |rho| exp(-D), D = (L(z1) + L(z2)) / 2 - L(z12): a series in Z = (z1 + z2) / 2, Z - z12 and (z1 - z2)^2
//   without a negative term (derived).
// - Close pairs of other variances: X = (A1 + A2) / 2 - A12 less (sqrt A1 - sqrt A2)^2 / 2, which is far below X there;
//   tan X = (1 - cos(A1 - A2) + 2 (sin A1 sin A2 - sin^2 A12)) / (sin(A1 + A2) + sin 2 A12) (derived).
// - What is left is large.
template <class T>
struct Erf {
  static constexpr int n_params = 0, n_rows = 5;
  static constexpr Names<n_rows> row_names = {"h", "n", "t", "g", "over_g"};
  static constexpr bool positive = false, homogeneous = false, cheap = true;
  static constexpr T mean_square = T(0);
  // Sines below which the first terms of L give 1 - |rho'| to rounding, and above which the other two ways do.
  static constexpr T small = std::is_same_v<T, float> ? T(0.2) : T(0.01);
  // The least number, added where variances beyond the range would give 0 / 0 for kdot.
  static constexpr T least = std::is_same_v<T, float> ? T(1.5e-45) : T(5e-324);
  struct Row {
    T h, n, t, g, over_g;  // sqrt(sin A), 1 / sqrt(1 + 2 q), n (sqrt(1 + 4 q) - 1), sqrt(A), 1 / g or 0
  };
  explicit FNTK_HD Erf(const double*) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i]};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const T s1 = square(x1.h), s2 = square(x2.h), y1 = square(x1.n), y2 = square(x2.n);
    const T p = x1.h * x2.h, sine = p * c.a;
    const T fall = p * p * (c.w * (T(2) - c.w));  // sin A1 sin A2 - sin^2 A12
    const T cosine = sqrt(fall + fma(-y1, y2, y1 + y2));

    const bool nearly_linear = select(s1 < small, s2, small) < small;  // no & of bools: SSE2's loops stay scalar
    const T apart = s1 - s2, cross = T(0.5) * apart * (s1 + s2);
    const T z = square(sine), less = fma(T(0.5) * apart, apart, fall), mean = z + less;
    const T sum = mean + z, l1 = T(1.0 / 6), l2 = T(11.0 / 180), l3 = T(191.0 / 5670);
    const T slope = fma(l3, fma(sum, sum, -mean * z), fma(l2, sum, l1)), curvature = fma(T(3) * l3, mean, l2);
    const T D = fma(less, slope, cross * cross * curvature);
    const T drop = c.a * fma(T(-0.5) * D, D, D);  // |rho| (1 - exp(-D)), D < 0.004

    const T step = x1.t * x2.n - x1.n * x2.t;  // its square is 2 (1 - cos(A1 - A2))
    const T spread = square(x1.g - x2.g), product = x1.g * x2.g, scale = x1.over_g * x2.over_g;
    const bool close = select(spread < product, c.w, T(1)) < T(0.1);
    const T c1 = fma(x1.n, x1.t, y1), c2 = fma(x2.n, x2.t, y2);  // cosines of A1, A2
    const T top = fma(T(2), fall, T(0.5) * (step * step)), bottom = s1 * c2 + s2 * c1 + T(2) * (sine * cosine);
    const T angle = arctangent<false>(select(close, top, sine), select(close, bottom, cosine));
    const T w = scale * at_least_zero(select(close, angle - T(0.5) * spread, product - angle));

    Dual<T> d;
    d.v = signed_defect(c.near, select(nearly_linear, c.w + drop, w));  // an odd function
    const T rho = select(nearly_linear, c.a - drop, select(close, T(1) - w, angle * scale));
    d.rho = select(c.near, rho, -rho);
    d.kdot = T(1.27323954473516268615) * fma(x1.n, x2.n, least) / (cosine + least);
    return d;
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
