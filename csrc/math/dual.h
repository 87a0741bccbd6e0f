// What a nonlinearity is: one struct each, by families in math/duals/, compiled for every instruction set, for CUDA and
// for one scalar.
//
// A pair of inputs enters with its signed defect v: 1 - rho for rho = q12 / sqrt(q11 q22) >= 0, and -(1 + rho) below.
// It keeps the digits that a rounded covariance has lost near rho = 1 and rho = -1 (kdot ~ 1 - sqrt(2 (1 - rho)) / pi
// there). For phi with variance map V(q) = E phi(sqrt(q) z)^2 a struct gives
//   row_names        of what the pair formula needs of one input: row arrays, made in Python, which load() reads
//   pair(c, x1, x2)  v' of rho' = k / sqrt(V(q11) V(q22)), rho' without cancellation, kdot = E phi'(.) phi'(.)
//   positive         rho' >= 0 always, which spares the next op the question
//   homogeneous      V(q) = mean_square q
//   cheap            few enough instructions to be done in the same pass as a 3 x 3 window
//   part             where there is such a member: near() says for rho = 1 - w >= 0 which part of a defect it keeps
// pair() is symmetric in x1 and x2 to the last bit, returns v' = 0 for v = 0 and equal rows, and any finite number
// where a variance is 0. Only the members a caller reads are computed: everything inlines.
//
// To add one: a struct and its line in its family's header, its class in python/fastntk/network/activations/.
#pragma once
#include <array>
#include <limits>

#include "math/vmath.h"

namespace fntk {

// Names of the numbers that a nonlinearity reads of one input, in their order.
template <size_t n>
using Names = std::array<const char*, n>;

namespace FNTK_ISA {

// The correlation of a pair: w = 1 - |rho| and a = |rho|, which are accurate at both ends, and the sign.
template <class T>
struct Correlation {
  T w, a;
  bool near;  // rho >= 0
};

template <class T>
FNTK_HD Correlation<T> correlation(T v) {
  const T w = magnitude(v);
  return {w, T(1) - w, !(v < T(0))};
}

// A power of two that brings q h^2 near 1, so that products of two variances stay in double's range.
FNTK_HD double half_scale(double q) {
  const double big = 3.273390607896142e150, mid = 1.809251394333066e75;  // 2^500, 2^250
  return select(q > 1e80, select(q > 1e230, 1 / big, 1 / mid), select(q < 1e-80, select(q < 1e-230, big, mid), 1.0));
}

// From covariances; q12 outside [-r, r] by rounding counts as the nearer end, beyond that as NaN; a zero variance as
// rho = 0.
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
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double rounding = std::is_same_v<T, float> ? 3.5e-4 : 1.5e-8;
  return {T(select(a > 1 + rounding, nan, w)), T(select(a > 1.0, 1.0, a)), near};
}

template <class T>
struct Dual {
  T v, rho, kdot;
};

// Of a pair with rho >= 0: the part of s s' - K that is kept, and kdot. N: numbers side by side (math/wide.h).
template <class N>
struct Near {
  N kept, kdot;
};

// k and kdot for covariances q, from row arrays of both arguments at i: the nonlinearity's own, then sqrt(V).
template <class T>
struct CovarianceDual {
  T k, kdot;
};

template <class Phi, class T, class Rows>
FNTK_HD CovarianceDual<T> covariance_dual(const Phi& phi, T q11, T q12, T q22, const Rows& rows1, const Rows& rows2,
                                          long i) {
  const Dual<T> d = phi.pair(correlation(q11, q12, q22), Phi::load(rows1, i), Phi::load(rows2, i));
  return {rows1[Phi::n_rows][i] * rows2[Phi::n_rows][i] * d.rho, d.kdot};
}

// With cos(theta) = 1 - w: theta / pi and (sin theta - theta cos theta) / pi. Of the rectifier's normalised dual the
// latter is what rho = 1 - w gains and what is left of rho = w - 1; its kdot is (1 - theta / pi) / 2 and theta / pi
// / 2. Cho & Saul 2009 (NeurIPS), eqs. 3-6; this form derived.
template <class T>
struct Arc {
  T angle, moment;
};

template <class T>
FNTK_HD Arc<T> arc(T w) {
  const T s = defect_root(w);
  if constexpr (std::is_same_v<T, float>)
    return {s * horner(w, FNTK_ANGLE_FLOAT), s * w * horner(w, FNTK_MOMENT_FLOAT)};
  else
    return {s * horner(w, FNTK_ANGLE_DOUBLE), s * w * horner(w, FNTK_MOMENT_DOUBLE)};
}

}  // namespace FNTK_ISA
}  // namespace fntk
