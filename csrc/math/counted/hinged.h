// Hermite series of functions with a kink at 0.
#pragma once
#include "math/counted/series.h"

namespace fntk {
namespace FNTK_ISA {

// A short series as Series has it, and what the kink adds in closed form: with rows h of the part |x| (parity 0) and of
// the part x |x| (parity 1), H = h(q1) h(q2) of a term's parity, each term is p_l = +-g_l(q1) g_l(q2) - c_l H, and H
// times E |u| |v| or E u |u| v |v| of unit variances is added. With M_n of RectifiedMonomial, rho >= 0:
//   1 - E |u| |v|     = w - 2 M_1,                  its slope is 1 - 2 M_0;
//   3 - E u |u| v |v| = 4 (w - w^2 / 2) + 6 M_2,    its slope is 4 (1 - w + 2 M_1).
//
// Parameters: the degrees as of Series; c_l of each; coefficients of M_0, M_1, M_2, for float and for double each.
// Rows: g of each degree, h of either parity, e.
template <class T>
struct Hinged {
  static constexpr bool positive = false, homogeneous = false;
  static constexpr int kSingle = 8, kExact = 18, kBoth = kSingle + kExact;
  static constexpr int kOwn = std::is_same_v<T, float> ? kSingle : kExact;
  static FNTK_HD int terms(int n_params) { return (n_params - 3 * kBoth) / 2; }
  static int n_rows(int n_params) { return terms(n_params) + 3; }
  static bool takes(const double* params, int n) {
    return n > 3 * kBoth && n % 2 == 0 && Series<T>::takes(params, terms(n));
  }
  static FNTK_HD int n_constants(int n_params) {
    const int n = terms(n_params);
    return Series<T>::n_constants(n) + n + 2 + 3 * kOwn;
  }
  static void constants(const double* params, int n_params, T* out) {
    const int n = terms(n_params);
    Series<T>::constants(params, n, out);
    out += Series<T>::n_constants(n);
    double left[2] = {1, 3};  // of the hinges' own at rho = 1
    for (int k = 0; k < n; ++k) {
      out[k] = T(params[n + k]);
      left[int(magnitude(params[k])) % 2] -= params[n + k];
    }
    out[n] = T(left[0]);
    out[n + 1] = T(left[1]);
    for (int which = 0; which < 3; ++which)
      for (int k = 0; k < kOwn; ++k)
        out[n + 2 + which * kOwn + k] = T(params[2 * n + which * kBoth + (kOwn == kSingle ? 0 : kSingle) + k]);
  }

  Series<T> series;
  const T* part;
  FNTK_HD Hinged(const T* own, int n_params)
      : series(own, terms(n_params)), part(own + Series<T>::n_constants(terms(n_params))) {}

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void add(int first, int last, const N (&u)[Series<T>::kTable][W], const Rows& rows, const N (&H)[W],
                   typename Series<T>::template Sums<N, W>& sums, N (&apart)[W]) const {
    N U[W], Q[W];
    for (int i = 0; i < W; ++i) {
      sums.total[i] = sums.fall[i] = sums.slope[i] = U[i] = N{};
      Q[i] = all_lanes<N>(T(1));
    }
    for (int k = first; k < last; ++k) {
      const T degree = series.c[2 + 2 * k], less = -part[k], sign = degree < T(0) ? T(-1) : T(1);
      Series<T>::climb(int(series.c[3 + 2 * k]), u, U, Q);
      const T times = magnitude(degree);
      for (int i = 0; i < W; ++i) {
        const N g1 = rows.template one<N>(k, i), g2 = rows.template two<N>(k, i), step = g1 - g2;
        const N p = fma(H[i], all_lanes<N>(less), sign * g1 * g2);
        apart[i] = fma(step, sign * step, apart[i]);
        sums.total[i] = sums.total[i] + p;
        sums.fall[i] = fma(p, U[i], sums.fall[i]);
        if constexpr (slope) sums.slope[i] = fma(p * times, Q[i], sums.slope[i]);
      }
    }
  }

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    const int n = series.n;
    const T *left = part + n, *arcs = left + 2;
    N u[Series<T>::kTable][W], constant[W], apart[W], H[2][W], w[W], arc[3][W];
    for (int i = 0; i < W; ++i) {
      w[i] = u[0][i] = x[i].w;
      constant[i] = apart[i] = N{};
      for (int parity = 0; parity < 2; ++parity) {
        const N h1 = rows.template one<N>(n + parity, i), h2 = rows.template two<N>(n + parity, i);
        H[parity][i] = h1 * h2;
        apart[i] = fma((h1 - h2) * left[parity], h1 - h2, apart[i]);
      }
    }
    const int factors = Series<T>::kTable < int(series.c[0]) ? Series<T>::kTable : int(series.c[0]);
    for (int f = 1; f < factors; ++f)
      for (int i = 0; i < W; ++i) u[f][i] = u[f - 1][i] * (T(2) - u[f - 1][i]);
    for (int which = 0; which < 3; ++which) polynomial(arcs + which * kOwn, kOwn, w, arc[which]);
    const bool mean = series.c[2] == T(0);  // a first term of degree 0
    if (mean)
      for (int i = 0; i < W; ++i) {
        const N g1 = rows.template one<N>(0, i), g2 = rows.template two<N>(0, i);
        constant[i] = fma(H[0][i], all_lanes<N>(-part[0]), g1 * g2);
        apart[i] = fma(g1 - g2, g1 - g2, apart[i]);
      }
    typename Series<T>::template Sums<N, W> even, odd;
    add<slope>(int(mean), int(series.c[1]), u, rows, H[0], even, apart);
    add<slope>(int(series.c[1]), n, u, rows, H[1], odd, apart);
    for (int i = 0; i < W; ++i) {
      const N root = defect_root(w[i]);
      const N m0 = root * arc[0][i], m1 = root * w[i] * arc[1][i], m2 = root * w[i] * w[i] * arc[2][i];
      const N flat = w[i] - T(2) * m1, bent = fma(w[i], T(4) - T(2) * w[i], T(6) * m2);
      const N even_fall = fma(H[0][i], flat, fma(w[i], even.total[i] - even.fall[i], even.fall[i]));
      const N odd_fall = fma(H[1][i], bent, fma(w[i], odd.total[i] - odd.fall[i], odd.fall[i]));
      const N gap = T(0.5) * apart[i];
      found.v[i] = defect_of_parts<N, T>(x[i].near, pick<N>(gap < N{}, N{}, gap), even_fall,
                                         (even.total[i] + constant[i]) + H[0][i], odd_fall,
                                         fma(H[1][i], all_lanes<N>(T(3)), odd.total[i]));
      if constexpr (slope) {
        const N scale = rows.template one<N>(n + 2, i) * rows.template two<N>(n + 2, i);
        const N even_slope = fma(H[0][i], T(1) - T(2) * m0, even.slope[i]);
        const N odd_slope = fma(H[1][i], T(4) * ((T(1) - w[i]) + T(2) * m1), odd.slope[i]);
        found.kdot[i] = scale * (odd_slope + pick<N>(x[i].near, even_slope, -even_slope));
      }
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
