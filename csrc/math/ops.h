// Element rules of the linear ops, for one pair: compiled for every instruction set and for CUDA.
#pragma once
#include "math/vmath.h"

namespace fntk {
namespace FNTK_ISA {

// Finite for subnormal rows too.
FNTK_HD double inverse_norm(double norm) { return 1 / select(norm < 1e-300, 1e-300, norm); }

// One coordinate of x / |x| - sign y / |y| from the raw rows, |x| >= |y|, t = -sign (|x| / |y| - 1): both terms
// are small where the difference is. What rounds t lies along y and changes the distance at second order only.
FNTK_HD double unit_difference(double x, double y, double sign, double t, double inverse) {
  return fma(t, y, x - sign * y) * inverse;
}

// dense: K -> w2 K + b2, theta -> w2 theta + f K_old + g. std: sqrt(f q) of each input, so that the product is
// symmetric to the last bit.
template <class T>
FNTK_HD T dense_theta(T w2, T g, T std1, T std2, T rho, T theta) {
  return fma(w2, theta, fma(std1 * std2, rho, g));
}

// A sum of independent parts, p = sqrt(q_part / q_sum): 1 - rho is the sum of p1 p2 (1 - rho_part) + (p1 - p2)^2 / 2,
// and 1 + rho that of p1 p2 (1 + rho_part) + (p1 - p2)^2 / 2. With sum p^2 = 1 no term is negative, and equal rows give
// 0.
template <class T>
FNTK_HD T part_defect(T p1, T p2, T defect) {
  return fma(p1 * p2, defect, T(0.5) * square(p1 - p2));
}
template <class T>
FNTK_HD T sum_defect(T minus, T plus) {  // 1 - rho and 1 + rho
  return select(minus > T(1), signed_defect(false, plus), minus);
}

// Where parts have means, m = mean / deviation of the sum, covariances add up to more than they are worth alone: by
// twice the products of two means. It is the sum over pairs of parts of (m1 - m2) (n1 - n2) for 1 - rho, and of
// (m1 + m2) (n1 + n2) for 1 + rho.

// A product of independent parts, correlations multiply: 1 - a b = w + u - w u for a = 1 - w, b = 1 - u.
template <class T>
FNTK_HD T product_defect(T v1, T v2) {
  const T w1 = magnitude(v1), w2 = magnitude(v2), w = fma(w1, T(1) - w2, w2), far = signed_defect(false, w);
  return select(v1 < T(0), select(v2 < T(0), w, far), select(v2 < T(0), far, w));
}

// dense with a bias: a part with the old defect, C = sqrt(w2 q / q'), and a constant one, S = sqrt(b2 / q').
template <class T, bool positive>
FNTK_HD T bias_defect(T C1, T C2, T S1, T S2, T v) {
  const T part = square(C1 - C2);
  if constexpr (positive) return fma(C1 * C2, v, T(0.5) * (part + square(S1 - S2)));
  const T w = magnitude(v);
  const bool near = !(v < T(0));
  const T minus = fma(C1 * C2, select(near, w, T(2) - w), T(0.5) * (part + square(S1 - S2)));  // 1 - rho
  const T plus = fma(C1 * C2, w, T(0.5) * (part + square(S1 + S2)));                           // 1 + rho, where rho < 0
  return select(near, minus, select(plus > T(1), minus, signed_defect(false, plus)));
}

// The same where C and S come in two parts.
template <class T>
struct Shares {
  T C, S, C_low, S_low;
};
template <class T>
FNTK_HD T fine_bias_defect(const Shares<T>& x1, const Shares<T>& x2, T v) {
  const T w = magnitude(v), both = whole(x1.C, x1.C_low) * whole(x2.C, x2.C_low);
  const T part = square(step(x1.C, x1.C_low, x2.C, x2.C_low)), apart = square(step(x1.S, x1.S_low, x2.S, x2.S_low));
  const bool near = !(v < T(0));
  const T minus = fma(both, select(near, w, T(2) - w), T(0.5) * (part + apart));
  const T plus = fma(both, w, T(0.5) * (part + square(whole(x1.S, x1.S_low) + whole(x2.S, x2.S_low))));
  return select(near, minus, select(plus > T(1), minus, signed_defect(false, plus)));
}

// dense without a bias: unchanged; a zero variance counts as rho = 0 where the NTK does not vanish with it (g != 0).
template <class T>
FNTK_HD T guarded_defect(T std1, T std2, T v) {
  return select(std1 == T(0), T(1), select(std2 == T(0), T(1), v));  // their product may underflow
}

template <class T>
FNTK_HD T covariance(T std1, T std2, T v) {
  return std1 * std2 * rho_of(v);
}

}  // namespace FNTK_ISA
}  // namespace fntk
