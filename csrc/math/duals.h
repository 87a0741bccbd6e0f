// THE mathematics of the nonlinearities: one struct each, compiled for every instruction set, for CUDA and for one
// scalar.
//
// A pair of inputs enters with its signed defect v: 1 - rho for rho = q12 / sqrt(q11 q22) >= 0, and -(1 + rho) below.
// It keeps the digits that a rounded covariance has lost near rho = 1 and rho = -1 (kdot ~ 1 - sqrt(2 (1 - rho)) / pi
// there). For phi with variance map V(q) = E phi(sqrt(q) z)^2 a struct gives
//   variance(q)      V(q)
//   row(q)           what the pair formula needs of one input: n_rows numbers that load() and store() keep in row
//   arrays pair(c, x1, x2)  v' of rho' = k / sqrt(V(q11) V(q22)), rho' without cancellation, kdot = E phi'(.) phi'(.)
//   positive         rho' >= 0 always, which spares the next op the question
//   homogeneous      V(q) = mean_square q
// pair() is symmetric in x1 and x2 to the last bit, returns v' = 0 for v = 0 and equal rows, and any finite number
// where a variance is 0. Only the members a caller reads are computed: everything inlines.
//
// To add a nonlinearity: a struct here, its line in FNTK_DUALS, and its class in python/fastntk/activations.py.
#pragma once
#include <limits>

#include "math/vmath.h"

#define FNTK_DUALS(X) \
  X(Relu, "relu")     \
  X(ABRelu, "abrelu") \
  X(Erf, "erf")

namespace fntk {

#define FNTK_ONE_DUAL(Phi, name) +1
constexpr int kDuals = FNTK_DUALS(FNTK_ONE_DUAL);
#undef FNTK_ONE_DUAL

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

// k and kdot of phi(sqrt(scale) x) for covariances q.
template <class T>
struct CovarianceDual {
  T k, kdot;
};

template <class Phi, class T>
FNTK_HD CovarianceDual<T> covariance_dual(const Phi& phi, T scale, T q11, T q12, T q22) {
  const T q1 = scale * q11, q2 = scale * q22;
  const Dual<T> d = phi.pair(correlation(q11, q12, q22), phi.row(q1), phi.row(q2));
  return {sqrt(phi.variance(q1)) * sqrt(phi.variance(q2)) * d.rho, d.kdot};
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

// phi(x) = max(x, 0). v', rho', kdot: a few eps, both ends.
template <class T>
struct Relu {
  static constexpr int n_params = 0, n_rows = 0;
  static constexpr bool positive = true, homogeneous = true;
  static constexpr T mean_square = T(0.5);
  struct Row {};
  explicit FNTK_HD Relu(const double*) {}
  FNTK_HD T variance(T q) const { return mean_square * q; }
  FNTK_HD Row row(T) const { return {}; }
  template <class Rows>
  static FNTK_HD Row load(const Rows&, long) {
    return {};
  }
  template <class R>
  static FNTK_HD void store(const Row&, R* const*, long) {}

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row&, const Row&) const {
    const Arc<T> t = arc(c.w);
    Dual<T> d;
    d.v = select(c.near, c.w, T(1)) - t.moment;  // the moment is below w / 3
    d.rho = select(c.near, T(1) - d.v, t.moment);
    d.kdot = T(0.5) * select(c.near, T(1) - t.angle, t.angle);
    return d;
  }
};

// phi(x) = a min(x, 0) + b max(x, 0): LeakyRelu (alpha, 1), Abs (-1, 1), identity (1, 1). It is a b x + (b - a)^2 relu
// in the dual: rho' = mix rho + rest rho'_relu. v', rho', kdot: a few eps, both ends.
template <class T>
struct ABRelu {
  static constexpr int n_params = 2, n_rows = 0;
  static constexpr bool positive = false, homogeneous = true;
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
  FNTK_HD T variance(T q) const { return mean_square * q; }
  FNTK_HD Row row(T) const { return {}; }
  template <class Rows>
  static FNTK_HD Row load(const Rows&, long) {
    return {};
  }
  template <class R>
  static FNTK_HD void store(const Row&, R* const*, long) {}

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
  static constexpr bool positive = false, homogeneous = false;
  static constexpr T mean_square = T(0);
  // Sines below which the first terms of L give 1 - |rho'| to rounding, and above which the other two ways do.
  static constexpr T small = std::is_same_v<T, float> ? T(0.2) : T(0.01);
  // The least number, added where variances beyond the range would give 0 / 0 for kdot.
  static constexpr T least = std::is_same_v<T, float> ? T(1.5e-45) : T(5e-324);
  struct Row {
    T h, n, t, g, over_g;  // sqrt(sin A), 1 / sqrt(1 + 2 q), n (sqrt(1 + 4 q) - 1), sqrt(A), 1 / g or 0
  };
  struct Angle {
    T sine, n, half, cosine;  // cosine = n half, half^2 = 1 + sine
    bool large;
  };
  explicit FNTK_HD Erf(const double*) {}
  static FNTK_HD Angle angle(T q) {
    const T y = T(0.5) / (T(0.5) + q), n = sqrt(y);
    const bool large = q > T(0.5);
    const T sine = select(large, T(1) - y, T(2) * q * y), half = sqrt(T(1) + sine);
    return {sine, n, half, n * half, large};
  }
  FNTK_HD T variance(T q) const {
    const Angle x = angle(q);
    return T(0.63661977236758134308) * arctangent(x.sine, x.cosine);
  }
  FNTK_HD Row row(T q) const {
    const Angle x = angle(q);
    const T g = sqrt(arctangent(x.sine, x.cosine));
    const bool dead = g == T(0);
    const T t = select(x.large, x.half - x.n, T(4) * q * square(x.n) / (x.n + x.half));
    return {sqrt(x.sine), x.n, t, g, select(dead, T(0), T(1) / select(dead, T(1), g))};
  }
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i]};
  }
  template <class R>
  static FNTK_HD void store(const Row& row, R* const* rows, long i) {
    rows[0][i] = R(row.h);
    rows[1][i] = R(row.n);
    rows[2][i] = R(row.t);
    rows[3][i] = R(row.g);
    rows[4][i] = R(row.over_g);
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
