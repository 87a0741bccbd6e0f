// Hermite series of functions with a kink at 0.
#pragma once
#include "math/counted/names.h"
#include "math/counted/series.h"

namespace fntk {
namespace FNTK_ISA {

// A short series as Series has it, and what the kink adds in closed form. Of each parity there are `orders` hinges, |x|
// and |x|^3 or x |x| and x^3 |x|, with rows h_0, h_1; H of hinges (0, 0), (0, 1), (1, 1) are products of rows of both
// inputs, h_0 h_1' + h_1 h_0' of the second. Each term is p_l = +-g_l(q1) g_l(q2) - sum c_l H, and H times the duals of
// unit variances are added. With M_n of RectifiedMonomial, rho >= 0, what the duals lose and their slopes are
//   |u| |v|:      w - 2 M_1,                         1 - 2 M_0;
//   |u| |v|^3:    3 w - 12 N,                        3 - 12 N',   N = 3/4 M_2 (1 - w) + 5/4 M_3;
//   |u v|^3:      27 w - 18 w^2 + 6 w^3 - 30 M_3,    27 - 9 (what u |u| v |v| loses);
//   u |u| v |v|:  4 w - 2 w^2 + 6 M_2,               4 (1 - w + 2 M_1);
//   u |u| v^3 |v|:   24 w - 12 w^2 + 96 (5/12 M_3 (1 - w) + 35/48 M_4),       8 (3 - what |u| |v|^3 loses);
//   u^3 |u| v^3 |v|: 240 w - 216 w^2 + 96 w^3 - 24 w^4 + 210 M_4,             16 (15 - what |u v|^3 loses).
//
// Parameters: the degrees as of Series; c_l of each for each H; coefficients of M_0, M_1, .. for float and for double
// each. Rows: g of each degree, h of either parity, e.
template <class T, int orders>
struct OfHinges {
  static constexpr bool positive = false, homogeneous = false, brief = false;
  static constexpr int kPairs = 2 * orders - 1, kArcs = kPairs + 2;  // products H of a parity; M_n
  static constexpr int kSingle = 8, kExact = 18, kBoth = kSingle + kExact;
  static constexpr int kOwn = std::is_same_v<T, float> ? kSingle : kExact;
  static FNTK_HD int terms(int n_params) { return (n_params - kArcs * kBoth) / (1 + kPairs); }
  static int n_rows(int n_params) { return terms(n_params) + 2 * orders + 1; }
  static bool takes(const double* params, int n) {
    return n > kArcs * kBoth && (n - kArcs * kBoth) % (1 + kPairs) == 0 && Series<T>::takes(params, terms(n));
  }
  static FNTK_HD int n_constants(int n_params) {
    const int n = terms(n_params);
    return Series<T>::n_constants(n) + kPairs * (n + 2) + kArcs * kOwn;
  }
  static void constants(const double* params, int n_params, T* out) {
    const int n = terms(n_params);
    Series<T>::constants(params, n, out);
    out += Series<T>::n_constants(n);
    double left[2][3] = {{1, 3, 15}, {3, 15, 105}};  // of the hinges' own at rho = 1
    for (int k = 0; k < n; ++k)
      for (int h = 0; h < kPairs; ++h) {
        const double part = params[n + h * n + k];
        out[k * kPairs + h] = T(part);
        left[int(magnitude(params[k])) % 2][h] -= part;
      }
    out += kPairs * n;
    for (int parity = 0; parity < 2; ++parity)
      for (int h = 0; h < kPairs; ++h) *out++ = T(left[parity][h] * (h == 1 ? 2 : 1));
    for (int which = 0; which < kArcs; ++which)
      for (int k = 0; k < kOwn; ++k)
        *out++ = T(params[n * (1 + kPairs) + which * kBoth + (kOwn == kSingle ? 0 : kSingle) + k]);
  }

  Series<T> series;
  const T* part;
  FNTK_HD OfHinges(const T* own, int n_params)
      : series(own, terms(n_params)), part(own + Series<T>::n_constants(terms(n_params))) {}

  template <class N, int W>
  struct Hinges {  // of one parity: products of rows, what each dual loses, its slope
    N H[kPairs][W], fall[kPairs][W], slope[kPairs][W];
  };

  // p_l of term k, and its share of what differing rows cost.
  template <class N, int W, class Rows>
  FNTK_HD void term(int k, bool negative, const Rows& rows, const Hinges<N, W>& own, N (&p)[W], N (&apart)[W]) const {
    N step[W], more[W];
    for (int i = 0; i < W; ++i) {
      const N g1 = rows.template one<N>(k, i), g2 = rows.template two<N>(k, i);
      p[i] = g1 * g2;
      more[i] = step[i] = g1 - g2;
    }
    if (negative)
      for (int i = 0; i < W; ++i) {
        p[i] = -p[i];
        more[i] = -more[i];
      }
    for (int i = 0; i < W; ++i) {
      for (int h = 0; h < kPairs; ++h) p[i] = fma(own.H[h][i], all_lanes<N>(-part[k * kPairs + h]), p[i]);
      apart[i] = fma(step[i], more[i], apart[i]);
    }
  }

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void add(int first, int last, const N (&u)[Series<T>::kTable][W], const Rows& rows, const Hinges<N, W>& own,
                   typename Series<T>::template Sums<N, W>& sums, N (&apart)[W]) const {
    N U[W], Q[W], p[W];
    for (int i = 0; i < W; ++i) {
      sums.total[i] = sums.fall[i] = sums.slope[i] = U[i] = N{};
      Q[i] = all_lanes<N>(T(1));
    }
    for (int k = first; k < last; ++k) {
      const T degree = series.c[2 + 2 * k];
      Series<T>::climb(int(series.c[3 + 2 * k]), u, U, Q);
      const T times = magnitude(degree);
      term(k, degree < T(0), rows, own, p, apart);
      for (int i = 0; i < W; ++i) {
        sums.total[i] = sums.total[i] + p[i];
        sums.fall[i] = fma(p[i], U[i], sums.fall[i]);
        if constexpr (slope) sums.slope[i] = fma(p[i] * times, Q[i], sums.slope[i]);
      }
    }
  }

  // The duals of hinges by M_n.
  template <class N, int W>
  FNTK_HD void duals(const N (&w)[W], const T* arcs, Hinges<N, W>& even, Hinges<N, W>& odd) const {
    N m[kArcs][W];
    for (int n = 0; n < kArcs; ++n) polynomial(arcs + n * kOwn, kOwn, w, m[n]);
    for (int i = 0; i < W; ++i) {
      const N x = w[i], a = T(1) - x;
      N power = defect_root(x);
      for (int n = 0; n < kArcs; ++n) {
        m[n][i] = power * m[n][i];
        power = power * x;
      }
      const N bent = fma(x, T(4) - T(2) * x, T(6) * m[2][i]);
      even.fall[0][i] = x - T(2) * m[1][i];
      even.slope[0][i] = T(1) - T(2) * m[0][i];
      odd.fall[0][i] = bent;
      odd.slope[0][i] = T(4) * (a + T(2) * m[1][i]);
      if constexpr (orders > 1) {
        const N cubic = x * (T(27) - x * (T(18) - T(6) * x)) - T(30) * m[3][i];
        const N mixed = fma(T(0.75) * m[2][i], a, T(1.25) * m[3][i]), once = fma(m[1][i], a, T(1.5) * m[2][i]);
        even.fall[1][i] = T(3) * x - T(12) * mixed;
        even.slope[1][i] = T(3) - T(12) * once;
        even.fall[2][i] = cubic;
        even.slope[2][i] = T(27) - T(9) * bent;
        odd.fall[1][i] = fma(x, T(24) - T(12) * x, fma(T(40) * m[3][i], a, T(70) * m[4][i]));
        odd.slope[1][i] = T(24) * a + T(96) * mixed;
        odd.fall[2][i] = fma(x, T(240) - x * (T(216) - x * (T(96) - T(24) * x)), T(210) * m[4][i]);
        odd.slope[2][i] = T(16) * (T(15) - cubic);
      }
    }
  }

  // What the hinges add to sums of one parity: their own of rho = 1, of what is lost, of the slope.
  template <class N, int W>
  static FNTK_HD void join(const Hinges<N, W>& own, const N (&w)[W], const T (&whole)[3],
                           typename Series<T>::template Sums<N, W>& sums) {
    for (int i = 0; i < W; ++i) {
      sums.fall[i] = fma(w[i], sums.total[i] - sums.fall[i], sums.fall[i]);  // 1 - a^l = U + Q w
      for (int h = 0; h < kPairs; ++h) {
        sums.total[i] = fma(own.H[h][i], all_lanes<N>(whole[h]), sums.total[i]);
        sums.fall[i] = fma(own.H[h][i], own.fall[h][i], sums.fall[i]);
        sums.slope[i] = fma(own.H[h][i], own.slope[h][i], sums.slope[i]);
      }
    }
  }

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    const int n = series.n;
    const T *left = part + kPairs * n, *arcs = left + 2 * kPairs;
    N u[Series<T>::kTable][W], constant[W], apart[W], w[W];
    Hinges<N, W> own[2];
    for (int i = 0; i < W; ++i) {
      w[i] = u[0][i] = x[i].w;
      constant[i] = apart[i] = N{};
      for (int parity = 0; parity < 2; ++parity) {
        const int row = n + parity * orders;
        const N f1 = rows.template one<N>(row, i), f2 = rows.template two<N>(row, i), f_step = f1 - f2;
        own[parity].H[0][i] = f1 * f2;
        apart[i] = fma(f_step * left[parity * kPairs], f_step, apart[i]);
        if constexpr (orders > 1) {
          const N s1 = rows.template one<N>(row + 1, i), s2 = rows.template two<N>(row + 1, i), s_step = s1 - s2;
          own[parity].H[1][i] = fma(f1, s2, f2 * s1);
          own[parity].H[2][i] = s1 * s2;
          apart[i] =
              fma(s_step, fma(f_step, all_lanes<N>(left[parity * kPairs + 1]), s_step * left[parity * kPairs + 2]),
                  apart[i]);
        }
      }
    }
    const int factors = Series<T>::kTable < int(series.c[0]) ? Series<T>::kTable : int(series.c[0]);
    for (int f = 1; f < factors; ++f)
      for (int i = 0; i < W; ++i) u[f][i] = u[f - 1][i] * (T(2) - u[f - 1][i]);
    const bool mean = series.c[2] == T(0);  // a first term of degree 0
    if (mean) term(0, false, rows, own[0], constant, apart);
    typename Series<T>::template Sums<N, W> even, odd;
    add<slope>(int(mean), int(series.c[1]), u, rows, own[0], even, apart);
    add<slope>(int(series.c[1]), n, u, rows, own[1], odd, apart);
    duals(w, arcs, own[0], own[1]);
    const T whole[2][3] = {{T(1), T(3), T(15)}, {T(3), T(15), T(105)}};
    join(own[0], w, whole[0], even);
    join(own[1], w, whole[1], odd);
    for (int i = 0; i < W; ++i) {
      const N gap = T(0.5) * apart[i];
      found.v[i] = defect_of_parts<N, T>(x[i].near, pick<N>(gap < N{}, N{}, gap), even.fall[i],
                                         even.total[i] + constant[i], odd.fall[i], odd.total[i]);
      if constexpr (slope) {
        const N scale = rows.template one<N>(n + 2 * orders, i) * rows.template two<N>(n + 2 * orders, i);
        found.kdot[i] = scale * (odd.slope[i] + pick<N>(x[i].near, even.slope[i], -even.slope[i]));
      }
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
