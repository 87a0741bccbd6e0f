// THE mathematics of the nonlinearities: one struct each, compiled for every instruction set, for CUDA and for one
// scalar.
//
// A pair of inputs enters with its defect u = 1 - rho, rho = q12 / sqrt(q11 q22), because u keeps the digits that a
// rounded covariance has lost near rho = 1 (theory: kdot ~ 1 - sqrt(2 u) / pi there). For phi with variance map
// V(q) = E phi(sqrt(q) z)^2 a struct gives
//   variance(q)      V(q)
//   row(q)           what the pair formula needs of one input: n_rows numbers that load() and store() keep in row
//   arrays pair(c, x1, x2)  u' = 1 - k / sqrt(V(q11) V(q22)), rho' = 1 - u' without cancellation, kdot = E phi'(.)
//   phi'(.)
// pair() is symmetric in x1 and x2 to the last bit, returns u' = 0 for u = 0 and equal rows, and any finite number
// where a variance is 0. Only the members a caller reads are computed: everything inlines.
//
// To add a nonlinearity: a struct here, its line in FNTK_DUALS, and its class in python/fastntk/activations.py.
#pragma once
#include "vmath.h"

#define FNTK_DUALS(X) \
  X(ABRelu, "abrelu") \
  X(Erf, "erf")

namespace fntk {
namespace FNTK_ISA {

// The correlation of a pair: u = 1 - rho, and w = min(u, 2 - u), which stays accurate at both ends.
template <class T>
struct Correlation {
  T u, w, a;  // a = |rho|
  bool near;  // rho >= 0, w == u
};

template <class T>
FNTK_HD Correlation<T> correlation(T u) {
  const bool near = u <= T(1);
  const T w = at_least_zero(select(near, u, T(2) - u));
  return {u, w, T(1) - w, near};
}

// A power of two that brings q h^2 near 1, so that products of two variances stay in double's range.
FNTK_HD double half_scale(double q) {
  const double big = 3.273390607896142e150, mid = 1.809251394333066e75;  // 2^500, 2^250
  return select(q > 1e80, select(q > 1e230, 1 / big, 1 / mid), select(q < 1e-80, select(q < 1e-230, big, mid), 1.0));
}

// From covariances; q12 outside [-r, r] counts as the nearer end, a zero variance as rho = 0.
template <class T>
FNTK_HD Correlation<T> correlation(T q11, T q12, T q22) {
  T p11 = q11, p12 = q12, p22 = q22;
  if constexpr (std::is_same_v<T, double>) {
    const double h1 = half_scale(q11), h2 = half_scale(q22);
    p11 = q11 * h1 * h1;
    p12 = q12 * h1 * h2;
    p22 = q22 * h2 * h2;
  }
  const double r = sqrt(double(p11)) * sqrt(double(p22));
  const double c = magnitude(double(p12));
  const double bottom = r * (r + c);
  const double det = at_least_zero(difference_of_products(p11, p22, p12, p12));
  const double w = select(bottom == 0.0, 1.0, det / select(bottom == 0.0, 1.0, bottom));
  const double a = c / select(r == 0.0, 1.0, r);
  const bool near = !(q12 < T(0));
  return {T(select(near, w, 2.0 - w)), T(w), T(select(a > 1.0, 1.0, a)), near};
}

template <class T>
struct Dual {
  T u, rho, kdot;
};

// phi(x) = a min(x, 0) + b max(x, 0): Relu (0, 1), LeakyRelu (alpha, 1), Abs (-1, 1), identity (1, 1).
// With cos(theta) = 1 - w, A = theta / pi, B = (sin theta - theta cos theta) / pi: the rectifier's normalised dual has
// defect u - B for rho >= 0 and 1 - B below, its kdot is (1 - A) / 2 and A / 2; a b x + (b - a)^2 relu mixes that
// with the identity. Cho & Saul 2009 (NeurIPS), eqs. 3-6; defect form derived. u', rho', kdot: a few eps, both ends.
template <class T>
struct ABRelu {
  static constexpr int n_params = 2, n_rows = 0;
  struct Row {};
  T mix;          // 2 a b / (a^2 + b^2)
  T rest;         // 1 - mix
  T slope;        // a b
  T half_jump2;   // (b - a)^2 / 2
  T mean_square;  // (a^2 + b^2) / 2

  explicit FNTK_HD ABRelu(const double* p) {
    const double a = p[0], b = p[1], sum = a * a + b * b;
    mix = T(sum > 0 ? 2 * a * b / sum : 1);
    rest = T(sum > 0 ? (b - a) * (b - a) / sum : 0);
    slope = T(a * b);
    half_jump2 = T((b - a) * (b - a) / 2);
    mean_square = T(sum / 2);
  }
  FNTK_HD T variance(T q) const { return mean_square * q; }
  FNTK_HD Row row(T) const { return {}; }
  static FNTK_HD Row load(const T* const*, long) { return {}; }
  template <class R>
  static FNTK_HD void store(const Row&, R* const*, long) {}

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row&, const Row&) const {
    const T s = sqrt(c.w);
    T angle, moment;
    if constexpr (std::is_same_v<T, float>) {
      angle = s * horner(c.w, FNTK_ANGLE_FLOAT);
      moment = s * c.w * horner(c.w, FNTK_MOMENT_FLOAT);
    } else {
      angle = s * horner(c.w, FNTK_ANGLE_DOUBLE);
      moment = s * c.w * horner(c.w, FNTK_MOMENT_DOUBLE);
    }
    const T base = select(c.near, c.u, fma(mix, c.u, rest));
    Dual<T> d;
    d.u = at_least_zero(fma(-rest, moment, base));
    d.rho = select(c.near, T(1) - d.u, fma(rest, moment, -mix * c.a));
    d.kdot = fma(half_jump2, select(c.near, T(1) - angle, angle), slope);
    return d;
  }
};

// phi(x) = erf(x) (scales and offsets are affine ops around it). Williams 1997, "Computing with infinite networks",
// eq. 11: k = (2/pi) asin(2 q12 / sqrt((1 + 2 q11)(1 + 2 q22))). With A_i = atan(2 q_i / s_i), s_i = sqrt(1 + 4 q_i),
// and A12 likewise, the defect needs X = (A1 + A2) / 2 - A12, and
//   tan X = (8 det + (s1 - s2)^2 / 2) / (2 q1 s2 + 2 q2 s1 + 4 q12 sqrt(S2)),   S2 = 1 + 2 (q1 + q2) + 4 det,
// has no cancelling term for q12 >= 0 with s = 1 + t, t = 4 q / (1 + s) (derived: cos 2 A12 - cos(A1 + A2) = 2 sin X
// sin((A1 + A2) / 2 + A12)).
template <class T>
struct Erf {
  static constexpr int n_params = 0, n_rows = 5;
  struct Row {
    T a, over_a, t, g, over_g;  // sqrt(q), t = s - 1, g = sqrt(A); the reciprocals are 0 for q = 0
  };
  explicit FNTK_HD Erf(const double*) {}
  FNTK_HD T variance(T q) const { return T(0.63661977236758134308) * arctangent(q, sqrt(q + T(0.25))); }
  FNTK_HD Row row(T q) const {
    const T half = sqrt(q + T(0.25)), a = sqrt(q), g = sqrt(arctangent(q, half));
    const bool dead = g == T(0);
    return {a, select(dead, T(0), T(1) / select(dead, T(1), a)), q / (T(0.25) + T(0.5) * half), g,
            select(dead, T(0), T(1) / select(dead, T(1), g))};
  }
  static FNTK_HD Row load(const T* const* rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i]};
  }
  template <class R>
  static FNTK_HD void store(const Row& row, R* const* rows, long i) {
    rows[0][i] = R(row.a);
    rows[1][i] = R(row.over_a);
    rows[2][i] = R(row.t);
    rows[3][i] = R(row.g);
    rows[4][i] = R(row.over_g);
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const T pi_2 = T(1.5707963267948966192);
    // Divided by r, or by m = max(r, 1), before anything is squared: neither small nor large variances leave the range.
    const T r = x1.a * x2.a, inverse = x1.over_a * x2.over_a;
    const bool large = r > T(1);
    const T m = select(large, r, T(1)), over = select(large, inverse, T(1));
    const T sine2 = c.w * (T(2) - c.w);
    const T ends = x1.a * over * x1.a + x2.a * over * x2.a;
    const T root = m * sqrt(fma(T(4) * square(r * over), sine2, fma(T(2) * ends, over, over * over)));
    const T step = x1.t - x2.t;
    const T top = fma(T(8) * r, sine2, T(0.5) * (step * x1.over_a * (step * x2.over_a)));
    const T bottom = T(2) * (x1.a * x2.over_a * (T(1) + x2.t) + x2.a * x1.over_a * (T(1) + x1.t)) + T(4) * c.a * root;
    const T cov = r * c.a;  // |q12|
    const T product = x1.g * x2.g, spread = square(x1.g - x2.g);
    const bool close = (c.u < T(0.5)) & (spread < T(0.25) * product);  // else A12 itself loses nothing
    const T angle = arctangent(select(close, top, T(2) * cov), select(close, bottom, root));
    const T scale = x1.over_g * x2.over_g;
    const T direct = arctangent(T(2) * cov, root) * scale;
    const T apart = fma(select(c.near, -angle, angle), scale, T(1));
    Dual<T> d;
    d.u = select(product == T(0), T(1), select(close, at_least_zero((angle - T(0.5) * spread) * scale), apart));
    d.rho = select(c.near, direct, -direct);
    d.kdot = T(2) / (pi_2 * root);
    return d;
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
