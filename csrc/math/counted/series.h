// Hermite series: any function whose coefficients each input brings along.
#pragma once
#include "math/counted/counted.h"

namespace fntk {
namespace FNTK_ISA {

// phi with Hermite coefficients a_l(q) = E phi(sqrt(q) z) h_l(z) at K degrees, g_l = a_l / sqrt(V): with the terms
// p_l = g_l(q1) g_l(q2), which may count with a sign,
//   1 - rho' = sum p_l (1 - rho^l) + apart,  apart = sum (g_l(q1) - g_l(q2))^2 / 2,
//   kdot = e1 e2 sum l p_l rho^(l - 1),  e = sqrt(V / q)
// (Poole et al. 2016, arXiv:1606.05340, have the covariances; this form is derived). No term cancels another, and the
// sum is 0 for rho = 1 and equal rows: with |g| = 1 a series that ends is a kernel of its own.
//
// Parameters: the degrees, even ones in ascending order, then odd ones; below 0 where the term counts negatively.
// Rows: g of each degree, then e.
//
// Powers: U = 1 - a^m and Q = a^m = 1 - U for m = l - 1, from one degree to the next by factors 1 - u_i = a^(2^i) of
// the distance's digits, u_0 = w, u_(i + 1) = u_i (2 - u_i): what is near 1 is never rounded, so U keeps its digits
// for w -> 0, and Q those that the rounding of a = 1 - w would take from a high power.
template <class T>
struct Series {
  static constexpr bool positive = false, homogeneous = false, brief = false;
  static int n_rows(int n_params) { return n_params + 1; }
  // Whole degrees, even ones first, each parity in ascending order.
  static bool takes(const double* params, int n) {
    int last = -1;
    for (int k = 0; k < n; ++k) {
      const double size = magnitude(params[k]);
      if (!(size < double(1 << kMaxFactors)) || size != double(int(size))) return false;
      const int l = int(size);
      const bool turn = l % 2 == 1 && last >= 0 && last % 2 == 0;  // the first odd one behind even ones
      if (!turn && last >= 0 && (l % 2 != last % 2 || l <= last)) return false;
      last = l;
    }
    return n > 0;
  }
  // Factors of powers, even terms; of each term its degree and how far its power lies beyond the one before.
  static FNTK_HD int n_constants(int n_params) { return 2 + 2 * n_params; }
  static void constants(const double* params, int n, T* out) {
    int factors = 2, even = 0, at = 0;
    for (int k = 0; k < n; ++k) {
      const int l = int(magnitude(params[k]));
      if (l % 2 == 0)
        even = k + 1;
      else if (k == even)
        at = 0;
      const int by = l > 0 ? l - 1 - at : 0;
      if (l > 0) at = l - 1;
      while (by >> factors) ++factors;
      out[2 + 2 * k] = T(params[k]);
      out[3 + 2 * k] = T(by);
    }
    out[0] = T(factors);
    out[1] = T(even);
  }

  const T* c;
  int n;
  FNTK_HD Series(const T* own, int n_params) : c(own), n(n_params) {}

  // On a device a table that is indexed at run time would lie in memory: factors are made anew.
#if defined(__CUDACC__)
  static constexpr int kTable = 2;
#else
  static constexpr int kTable = kMaxFactors;
#endif
  template <class N, int W>
  static FNTK_HD void multiply(const N (&factor)[W], N (&U)[W], N (&Q)[W]) {
    for (int i = 0; i < W; ++i) {
      U[i] = fma(Q[i], factor[i], U[i]);
      Q[i] = T(1) - U[i];
    }
  }
  // Q times a^by.
  template <class N, int W>
  static FNTK_HD void climb(int by, const N (&u)[kTable][W], N (&U)[W], N (&Q)[W]) {
    if constexpr (kTable == kMaxFactors) {
      for (int f = 0; by; by >>= 1, ++f)
        if (by & 1) multiply(u[f], U, Q);
    } else {
      if (by & 1) multiply(u[0], U, Q);
      N factor[W];
      for (int i = 0; i < W; ++i) factor[i] = u[1][i];
      while (by >>= 1) {
        if (by & 1) multiply(factor, U, Q);
        for (int i = 0; i < W; ++i) factor[i] = factor[i] * (T(2) - factor[i]);
      }
    }
  }

  template <class N, int W>
  struct Sums {  // over the terms of one parity: p, p U, l p Q
    N total[W], fall[W], slope[W];
  };

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void add(int first, int last, const N (&u)[kTable][W], const Rows& rows, Sums<N, W>& sums,
                   N (&apart)[W]) const {
    N U[W], Q[W];
    for (int i = 0; i < W; ++i) {
      sums.total[i] = sums.fall[i] = sums.slope[i] = U[i] = N{};
      Q[i] = all_lanes<N>(T(1));
    }
    for (int k = first; k < last; ++k) {
      const T degree = c[2 + 2 * k];
      climb(int(c[3 + 2 * k]), u, U, Q);
      const T times = magnitude(degree);
      N p[W], step[W], more[W];
      for (int i = 0; i < W; ++i) {
        const N g1 = rows.template one<N>(k, i), g2 = rows.template two<N>(k, i);
        p[i] = g1 * g2;
        more[i] = step[i] = g1 - g2;
      }
      if (degree < T(0))
        for (int i = 0; i < W; ++i) {
          p[i] = -p[i];
          more[i] = -more[i];
        }
      for (int i = 0; i < W; ++i) {
        apart[i] = fma(step[i], more[i], apart[i]);
        sums.total[i] = sums.total[i] + p[i];
        sums.fall[i] = fma(p[i], U[i], sums.fall[i]);
        if constexpr (slope) sums.slope[i] = fma(p[i] * times, Q[i], sums.slope[i]);
      }
    }
  }
  template <bool slope, class N, int W, class Rows>
  FNTK_HD void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    N u[kTable][W], constant[W], apart[W];
    for (int i = 0; i < W; ++i) {
      u[0][i] = x[i].w;
      constant[i] = apart[i] = N{};
    }
    const int factors = kTable < int(c[0]) ? kTable : int(c[0]), even_terms = int(c[1]);
    for (int f = 1; f < factors; ++f)
      for (int i = 0; i < W; ++i) u[f][i] = u[f - 1][i] * (T(2) - u[f - 1][i]);
    const bool mean = c[2] == T(0);  // a first term of degree 0
    if (mean)
      for (int i = 0; i < W; ++i) {
        const N g1 = rows.template one<N>(0, i), g2 = rows.template two<N>(0, i);
        constant[i] = g1 * g2;
        apart[i] = (g1 - g2) * (g1 - g2);
      }
    Sums<N, W> even, odd;
    add<slope>(int(mean), even_terms, u, rows, even, apart);
    add<slope>(even_terms, n, u, rows, odd, apart);
    for (int i = 0; i < W; ++i) {
      const N w = x[i].w;
      // sums of p (1 - a^l): 1 - a^l = U + Q w
      const N even_fall = fma(w, even.total[i] - even.fall[i], even.fall[i]);
      const N odd_fall = fma(w, odd.total[i] - odd.fall[i], odd.fall[i]);
      found.v[i] = defect_of_parts<N, T>(x[i].near, T(0.5) * apart[i], even_fall, even.total[i] + constant[i], odd_fall,
                                         odd.total[i]);
      if constexpr (slope) {
        const N scale = rows.template one<N>(n, i) * rows.template two<N>(n, i);
        found.kdot[i] = scale * (odd.slope[i] + pick<N>(x[i].near, even.slope[i], -even.slope[i]));
      }
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
