// The Gaussian error linear unit.
#pragma once
#include "math/dual.h"

#define FNTK_GELU(X) X(Gelu, "gelu")

namespace fntk {
namespace FNTK_ISA {

// phi(x) = x Phi(x). Tsuchida et al. 2021 (AAAI; arXiv:2002.08517); this form derived. Everything divided by
// r = sqrt(q1 q2), so that what is left for large variances (a rectifier) and small ones (x / 2) is of order 1. With
// sin A_i = q_i / (1 + q_i), y_i = 1 / (1 + q_i), sin A12 = sqrt(sin A1 sin A2), sin B = a sin A12, a = |rho|:
//   2 pi k / r = pi rho / 2 + E,  E = a B + sin A12 (a^2 y1 y2 / cos B + cos B)
//   2 pi kdot = pi / 2 + sgn(rho) (B + a sin A12 / cos B (y1 y2 / cos^2 B + y1 + y2)).
// With g = sqrt(V / q), 2 pi g1 g2 (1 - rho') is what differing variances cost and what rho costs:
// - U - pi (g1 - g2)^2, U = X + y1 tan A1 + y2 tan A2 - (y1 + y2) tan A12, X = (A1 + A2) / 2 - A12. For large variances
//   X is nearly lost against the rest; with M = pi/2 - (A1 + A2) / 2, D = (A1 - A2) / 2, cos^2 A12 = sin^2 M + sin^2 D,
//   U = X - sin X cos X + [2 sin M sin X (sin^2 D + (sin^2 M - sin^2 D) cos^2 A12) / (cos A12 cos D + sin A12 sin M)
//                          + sqrt(y1 y2) (sin M sin X + sin^2 D sin A12) / cos A12] / (cos M + cos D),
//   sin X = sin^2 D / (cos A12 cos M + sin A12 sin M), has no negative term.
// - pi w / 2 + (A12 - H) w + K (y1 y2 / (cos B cos A12) + y1 + y2 - (1 - H / tan H)), H = (A12 - B) / 2,
//   K = S / (cos B + cos A12), tan H = S / [(cos B + a cos A12) (1 + cos 2 H)], S = w (2 - w) sin A12.
template <class T>
struct Gelu {
  static constexpr int n_params = 0, n_rows = 6;
  static constexpr Names<n_rows> row_names = {"h", "n", "t", "half_angle", "gain", "over_g"};
  static constexpr bool positive = false, homogeneous = false, cheap = false;
  static constexpr T mean_square = T(0);
  struct Row {
    // sqrt(sin A); sine of pi/4 - A/2, and its cosine less that; A / 2; sqrt(pi) (g - 1/2); 1 / (sqrt(2 pi) g)
    T h, n, t, half_angle, gain, over_g;
  };
  explicit FNTK_HD Gelu(const double*) {}
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i], rows[5][i]};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const T half_pi = T(1.5707963267948966192), root_pi = T(1.7724538509055160273);
    const T tau = T(0.15915494309189533577);  // 1 / (2 pi)
    const T nn = T(2) * x1.n * x2.n, u1 = x1.n * x2.t, u2 = x2.n * x1.t, u = u1 + u2;
    const T cosM = fma(x1.t, x2.t, u), sinM = u + nn, sinM2 = square(sinM), sinD2 = square(u1 - u2);
    const T cos02 = sinM2 + sinD2, cos0 = sqrt(cos02), sin0 = x1.h * x2.h;  // of A12
    const T S = sin0 * (c.w * (T(2) - c.w)), cosine = sqrt(fma(sin0, S, cos02));
    const T yy = square(nn), y = cos02 + yy;  // y1 y2, y1 + y2

    const T beside = fma(cos0, cosM, sin0 * sinM), root = fma(cos0, nn, beside);
    const T sinX = sinD2 / select(beside > T(1e-37), beside, T(1e-37)), sinX2 = square(sinX);
    T lens, less;
    if constexpr (std::is_same_v<T, float>)
      lens = horner(sinX2, FNTK_LENS_FLOAT);
    else
      lens = horner(sinX2, FNTK_LENS_DOUBLE);
    lens = lens * (sinX2 * sinX);  // X - sin X cos X
    const T first = sinM * sinX, second = fma(sinD2, sin0, first);
    const T sides = (first + first) * fma(sinM2 - sinD2, cos02, sinD2);
    const T more = root * (cosM + (cosM + nn)), inverse = T(1) / (more * cos0);
    const T apart = fma(fma(sides, cos0, (nn * second) * root), inverse, lens);
    const T A12 = (x1.half_angle + x2.half_angle) - fma(sinX, fma(sin0, cosM, cos0 * sinM), lens);

    const T part = c.a * sin0, tan = S / (fma(c.a, cos0, cosine) * (T(1) + fma(part, sin0, cos0 * cosine)));
    const T tan2 = square(tan);
    if constexpr (std::is_same_v<T, float>)
      less = tan2 * horner(tan2, FNTK_HALF_ATAN_FLOAT);
    else
      less = tan2 * horner(tan2, FNTK_HALF_ATAN_DOUBLE);  // 1 - H / tan H
    const T H = fma(-tan, less, tan), B = fma(T(-2), H, A12);
    const T both = cosine + cos0, over = T(1) / (cosine * both), over_cosine = both * over, K = (S * cosine) * over;
    const T share = yy * over_cosine, ends = share * (more * inverse);
    const T fall = fma(A12 - H, c.w, K * ((ends + y) - less));
    const T even = fma(c.a, B, sin0 * fma(square(c.a), share, cosine));

    const T scale = x1.over_g * x2.over_g, spread = x1.gain - x2.gain, gains = x1.gain + x2.gain;
    const T above = scale * at_least_zero(fma(-spread, spread, fma(half_pi, c.w, apart + fall)));
    const T below = scale * fma(half_pi, c.w, even + fma(T(2) * x1.gain, x2.gain, root_pi * gains));
    const T slope = fma(part * over_cosine, fma(share, over_cosine, y), B);
    Dual<T> d;
    d.rho = scale * fma(select(c.near, half_pi, -half_pi), c.a, even);
    const T far = select(d.rho < T(0), signed_defect(false, below), T(1) - d.rho);
    d.v = select(c.near, above, far);
    d.kdot = fma(select(c.near, tau, -tau), slope, T(0.25));
    return d;
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
