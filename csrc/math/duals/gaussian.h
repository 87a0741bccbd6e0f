// Gaussian functions: a bell, and a wave within one.
#pragma once
#include "math/dual.h"

#define FNTK_GAUSSIANS(X) \
  X(Gaussian, "gaussian") \
  X(Gabor, "gabor")

namespace fntk {
namespace FNTK_ISA {

// Of x_i = -2 b q_i > -1/2, p_i = x_i / (1 + x_i): exp(b x^2) has rho_G^2 = f1 f2 / B, f_i^2 = 1 - p_i^2,
// B = 1 - p1 p2 rho^2, and 1 - rho_G^4 = [(p1 - p2)^2 + p1 p2 S (U + B)] / B^2, S = 1 - rho^2, U = 1 - p1 p2 (an
// integral of exponentials of quadratic forms; this form derived). No term is negative, and quotients by B stay below
// 2. p1 - p2 is the difference of the smallest of p_i, 1 - p_i and 1 + p_i.
template <class T>
struct Bells {
  T U, step, over, share, defect4, rho, v;  // step: p1 - p2; over: 1 / B; share: p1 p2 S / B; v: 1 - rho_G
};

template <class T>
FNTK_HD Bells<T> bells(const Correlation<T>& c, T p1, T p2, T less1, T less2, T more1, T more2, T f1, T f2) {
  Bells<T> g;
  const T both = p1 + p2, lost = (p1 * p2) * (c.w * (T(2) - c.w));
  g.U = T(0.5) * (less1 * more2 + less2 * more1);
  g.step = select(both < T(1), select(both > T(-1), p1 - p2, more1 - more2), less2 - less1);
  const T B = g.U + lost;
  g.over = T(1) / B;
  g.share = lost * g.over;
  g.defect4 = fma(g.share, (g.U + B) * g.over, square(g.step * g.over));
  const T rho2 = f1 * f2 * g.over, rho = sqrt(rho2);
  g.v = g.defect4 / ((T(1) + rho2) * (T(1) + rho));
  g.rho = select(g.v < T(0.25), T(1) - g.v, rho);
  return g;
}

// phi(x) = a exp(b x^2). v', rho', kdot: a few eps, both ends.
template <class T>
struct Gaussian {
  static constexpr int n_params = 2, n_rows = 5;
  static constexpr Names<n_rows> row_names = {"p", "less", "more", "f", "slope"};
  static constexpr bool positive = true, homogeneous = false, cheap = false;
  static constexpr T mean_square = T(0);
  struct Row {
    T p, less, more, f, slope;  // p, 1 - p, 1 + p, f, |2 a b| sqrt(q) (1 + 2 x)^(-3/4)
  };
  T a, b;
  explicit FNTK_HD Gaussian(const double* p) : a(T(p[0])), b(T(p[1])) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i]};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const Bells<T> g = bells(c, x1.p, x2.p, x1.less, x2.less, x1.more, x2.more, x1.f, x2.f);
    const T kdot = (x1.slope * x2.slope) * (c.a * (square(g.rho) * g.rho));
    return {g.v, g.rho, select(c.near, kdot, -kdot)};
  }
};

// sum_k z^k / (2 k + n)!, k = 0 .. last: sinh(y) / y of z = y^2 for n = 1, cosh(y) for n = 0.
template <int n, int last, class T>
FNTK_HD T hyperbolic(T z) {
  T sum = T(1);
  if constexpr (last > 0) sum = fma(z * T(1.0 / ((n + 1) * (n + 2))), hyperbolic<n + 2, last - 1>(z), sum);
  return sum;
}

// phi(x) = exp(-x^2) sin x. With Bells of b = -1, y_i = q_i / (1 + 4 q_i) < 1/4, C(y) = sinh(y) / y:
//   rho' = rho rho_G^3 exp(-H) C(y) / sqrt(C(y1) C(y2)),  y = |rho| rho_G^2 sqrt(y1 y2),
//   H = (p1 - p2)^2 (1 - 2 y1) (1 - 2 y2) / (4 B) + p1 p2 S (1 - y1 - y2) / (2 B) <= 1/4
// (an integral of exponentials of quadratic forms; this form derived). Each factor is 1 less something that is not
// negative. Of the last it is (C(y1) C(y2) - C(Y)^2) + (C(Y)^2 - C(y)^2), Y^2 = y1 y2, both by divided differences.
template <class T>
struct Gabor {
  static constexpr int n_params = 0, n_rows = 7;
  static constexpr Names<n_rows> row_names = {"p", "less", "f", "y", "over_c", "first", "second"};
  static constexpr bool positive = false, homogeneous = false, cheap = false;
  static constexpr T mean_square = T(0);
  static constexpr int terms = std::is_same_v<T, float> ? 3 : 6;  // of series in y^2, beside the first
  struct Row {
    T p, less, f, y, over_c, first, second;  // p, 1 - p, f, y, C(y)^(-1/2), (1 + 4 q)^(-3/4) exp(-y / 2), first p / f
  };
  explicit FNTK_HD Gabor(const double*) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i], rows[5][i], rows[6][i]};
  }

  // (C(sqrt z) - C(sqrt u)) / (z - u): sum_k [sum_j z^j u^(k - 1 - j)] / (2 k + 1)!, from k on.
  template <int k>
  static FNTK_HD T slope(T z, T u, T power, T both) {
    T sum = both;
    if constexpr (k <= terms)
      sum = fma(T(1.0 / ((2 * k + 2) * (2 * k + 3))), slope<k + 1>(z, u, power * u, fma(both, z, power * u)), both);
    return sum;
  }
  // (C(y1) C(y2) - C(Y)^2) / (y1 - y2)^2 of P = (y1 + y2)^2, z4 = 4 y1 y2, d = (y1 - y2)^2; 2 y1 y2 times the numerator
  // is cosh(y1 + y2) - cosh(2 Y) - cosh(y1 - y2) + 1. Terms by k, of 1 / (2 k)!.
  template <int k>
  static FNTK_HD T spread(T P, T z4, T d, T term, T power, T other) {
    term = fma(P, term, T(4) * (power + other));
    T sum = term;
    if constexpr (k <= terms + 1)
      sum = fma(T(1.0 / ((2 * k + 1) * (2 * k + 2))), spread<k + 1>(P, z4, d, term, power * z4, other * d), term);
    return sum;
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const T less1 = x1.less, less2 = x2.less, one = T(1);
    const Bells<T> g = bells(c, x1.p, x2.p, less1, less2, T(2) - less1, T(2) - less2, x1.f, x2.f);
    const T sides = (T(0.5) - x1.y) * (T(0.5) - x2.y), y = x1.y + x2.y, z = x1.y * x2.y, d = square(x1.y - x2.y);
    const T H = fma(square(g.step) * g.over, sides, T(0.5) * g.share * (one - y));
    T decayed;
    if constexpr (std::is_same_v<T, float>)
      decayed = horner(H, FNTK_EXP_FLOAT);
    else
      decayed = horner(H, FNTK_EXP_DOUBLE);
    decayed = fma(-H * H, decayed, H);  // 1 - exp(-H)
    const T a2 = square(c.a), rho2 = square(g.rho), yy = z * (a2 * square(rho2));
    const T lost = fma(a2, g.defect4, c.w * (T(2) - c.w));  // 1 - rho^2 rho_G^4
    const T C = hyperbolic<1, terms>(yy), CY = hyperbolic<1, terms>(z), cosh = hyperbolic<0, terms>(yy);
    const T over_C = x1.over_c * x2.over_c;
    const T ends = d * (T(1.0 / 48) * spread<2>(square(y), T(4) * z, d, T(0), one, one));
    const T inner = (z * lost) * (T(1.0 / 6) * slope<1>(z, yy, one, one)) * (CY + C);
    const T last = (ends + inner) * square(over_C) / fma(C, over_C, one);
    const T bell = g.v * fma(g.v, g.v - T(3), T(3));  // 1 - rho_G^3
    const T two = fma(bell, one - c.w, c.w), three = fma(decayed, one - two, two);
    Dual<T> found;
    found.v = signed_defect(c.near, fma(last, one - three, three));
    const T rho3 = rho2 * g.rho * (one - decayed), rho = (c.a * rho3) * (C * over_C);
    found.rho = select(c.near, rho, -rho);
    const T tilt = fma(fma(T(1.5), g.U, T(0.5) * (less1 * less2)), g.over, g.share);
    const T curved = fma(a2, fma(tilt, C, cosh), cosh);
    found.kdot = rho3 * fma((x1.first * x2.first) * (g.U * g.over), cosh, (x1.second * x2.second) * rho2 * curved);
    return found;
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
