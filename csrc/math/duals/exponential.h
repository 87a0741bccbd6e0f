// Exponentials: of the input, of a distance, of a correlation.
#pragma once
#include "math/dual.h"

#define FNTK_EXPONENTIALS(X)         \
  X(Exp, "exp")                      \
  X(ExpNormalized, "exp_normalized") \
  X(Rbf, "rbf")

namespace fntk {
namespace FNTK_ISA {

// (z1^2 + z2^2) / 2 - rho z1 z2, half the squared distance of Gaussians of deviations z, as a sum without a negative
// term.
template <class T, class Row>
FNTK_HD T half_distance(const Correlation<T>& c, const Row& x1, const Row& x2) {
  const T product = whole(x1.z, x1.z_low) * whole(x2.z, x2.z_low);
  const T apart = step(x1.z, x1.z_low, x2.z, x2.z_low);
  return fma(product, select(c.near, c.w, T(2) - c.w), T(0.5) * square(apart));
}

// A parameter's exponential.
FNTK_HD double exponential(double x) {
  const double left = decay(magnitude(x)).left;
  return select(x < 0, left, 1 / left);
}

// phi(x) = sqrt(2) sin(sqrt(2 gamma) x + pi / 4): k = exp(-gamma (q11 + q22 - 2 q12)), kdot = 2 gamma k. z = sqrt(2
// gamma q).
template <class T>
struct Rbf {
  static constexpr int n_params = 1, n_rows = 2;
  static constexpr Names<n_rows> row_names = {"z", "z_low"};
  static constexpr bool positive = true, homogeneous = false, cheap = true;
  static constexpr T mean_square = T(0);
  struct Row {
    T z, z_low;
  };
  T slope;  // 2 gamma
  explicit FNTK_HD Rbf(const double* p) : slope(T(2 * p[0])) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i]};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const Decay<T> e = decay(half_distance(c, x1, x2));
    return {e.lost, e.left, slope * e.left};
  }
};

// phi(x) = a exp(b x): k = sqrt(V1 V2) exp(-b^2 (q11 + q22 - 2 q12) / 2), V = a^2 exp(2 b^2 q), kdot = b^2 k. z = |b|
// sqrt(q), e = |a b| exp(b^2 q).
template <class T>
struct Exp {
  static constexpr int n_params = 2, n_rows = 3;
  static constexpr Names<n_rows> row_names = {"z", "z_low", "e"};
  static constexpr bool positive = true, homogeneous = false, cheap = true;
  static constexpr T mean_square = T(0);
  static constexpr T least = std::is_same_v<T, float> ? T(1.2e-38) : T(2.3e-308);
  struct Row {
    T z, z_low, e;
  };
  explicit FNTK_HD Exp(const double*) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i]};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const Decay<T> e = decay(half_distance(c, x1, x2));
    const T left = select(e.left < least, least, e.left);  // of an infinite e no NaN
    return {e.lost, e.left, x1.e * x2.e * left};
  }
};

// The kernel sqrt(q11 q22) exp(gamma (rho + shift)); kdot = gamma exp(gamma (rho + shift)).
template <class T>
struct ExpNormalized {
  static constexpr int n_params = 2, n_rows = 0;
  static constexpr Names<n_rows> row_names = {};
  static constexpr bool positive = true, homogeneous = true, cheap = true;
  struct Row {};
  T gamma, mean_square, slope;
  explicit FNTK_HD ExpNormalized(const double* p) {
    const double scale = exponential(p[0] * (1 + p[1]));
    gamma = T(p[0]);
    mean_square = T(scale);
    slope = T(p[0] * scale);
  }
  template <class Rows>
  static FNTK_HD Row load(const Rows&, long) {
    return {};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row&, const Row&) const {
    const Decay<T> e = decay(gamma * select(c.near, c.w, T(2) - c.w));
    return {e.lost, e.left, slope * e.left};
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
