// Powers and rectified powers.
#pragma once
#include "math/counted/counted.h"

namespace fntk {
namespace FNTK_ISA {

// phi(x) = x^d or any other whose rho' = f(rho) = sum C_l rho^l, C_l >= 0, has powers of one parity (and kdot's the
// other): 1 - f(a) = w sum_j a^j (sum_{l > j} C_l). No term cancels. Parameters: 1 for odd f, 0 for even f; the sums
// over l > j for j = 0 .. d - 1; the coefficients of kdot / (e1 e2), of which there are d too. Row: e.
template <class T>
struct Monomial {
  static constexpr bool positive = false, homogeneous = false, brief = true;
  static int n_rows(int) { return 1; }
  static bool takes(const double*, int n_params) { return n_params % 2 == 1; }
  static FNTK_HD int n_constants(int n_params) { return n_params; }
  static void constants(const double* params, int n, T* out) {
    for (int k = 0; k < n; ++k) out[k] = T(params[k]);
  }

  const T* c;
  int d;
  FNTK_HD Monomial(const T* own, int n_params) : c(own), d((n_params - 1) / 2) {}

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    const bool odd = c[0] != T(0);
    N a[W], value[W];
    for (int i = 0; i < W; ++i) a[i] = T(1) - x[i].w;
    polynomial(c + 1, d, a, value);
    for (int i = 0; i < W; ++i) {
      const N fall = x[i].w * value[i];
      found.v[i] = odd ? signed_wide<N, T>(x[i].near, fall) : fall;
    }
    if constexpr (slope) {
      polynomial(c + 1 + d, d, a, value);
      for (int i = 0; i < W; ++i) {
        const N scale = rows.template one<N>(0, i) * rows.template two<N>(0, i);
        found.kdot[i] = scale * (odd ? value[i] : pick<N>(x[i].near, value[i], -value[i]));
      }
    }
  }
};

// phi(x) = x^n for x >= 0, else 0; n = 0 is the step. With f_n and 1 - f_n(a) = w F_n(a) of x^n as above and
// M_n(w) = w^(n + 1/2) m_n(w), which is rho' where rho = w - 1 (Cho & Saul 2009, NeurIPS, eq. 4 has J_n; derived:
// M_0 = theta / pi at cos theta = 1 - w, dM_n/dw = n^2 M_(n - 1) / (2n - 1)):
//   rho >= 0: v' = w F_n + (-1)^n M_n,  kdot = e1 e2 (f_(n - 1)(a) + (-1)^n M_(n - 1));
//   rho < 0:  v' = 1 - M_n,             kdot = e1 e2 M_(n - 1);  kdot = 0 for n = 0, as Neural Tangents has it.
// Parameters: n; the n coefficients of F_n and of f_(n - 1); m_n and m_(n - 1), for float and for double each.
template <class T>
struct RectifiedMonomial {
  static constexpr bool positive = true, homogeneous = false, brief = true;
  static constexpr int kSingle = 8, kExact = 18, kBoth = kSingle + kExact;
  static constexpr int kOwn = std::is_same_v<T, float> ? kSingle : kExact;
  static int n_rows(int) { return 1; }
  static bool takes(const double*, int n_params) { return n_params > 2 * kBoth && n_params % 2 == 1; }
  static FNTK_HD int n_constants(int n_params) { return n_params - 2 * (kBoth - kOwn); }
  static void constants(const double* params, int n_params, T* out) {
    const int n = (n_params - 1 - 2 * kBoth) / 2, head = 1 + 2 * n;
    for (int k = 0; k < head; ++k) out[k] = T(params[k]);
    for (int which = 0; which < 2; ++which)
      for (int k = 0; k < kOwn; ++k)
        out[head + which * kOwn + k] = T(params[head + which * kBoth + (kOwn == kSingle ? 0 : kSingle) + k]);
  }

  const T* c;
  int n;
  FNTK_HD RectifiedMonomial(const T* own, int n_params) : c(own), n((n_params - 1 - 2 * kBoth) / 2) {}

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    const T sign = n % 2 == 0 ? T(1) : T(-1);
    const T *moment = c + 1 + 2 * n, *lower = moment + kOwn;
    N a[W], w[W], power[W], value[W], rest[W];
    for (int i = 0; i < W; ++i) {
      w[i] = x[i].w;
      a[i] = T(1) - w[i];
      power[i] = defect_root(w[i]);
    }
    for (int k = 0; k < n - 1; ++k)
      for (int i = 0; i < W; ++i) power[i] = power[i] * w[i];
    if constexpr (slope) {
      polynomial(lower, kOwn, w, rest);
      polynomial(c + 1 + n, n, a, value);
      for (int i = 0; i < W; ++i) {
        const N low = power[i] * rest[i];
        const N found_slope = pick<N>(x[i].near, fma(all_lanes<N>(sign), low, value[i]), low);
        found.kdot[i] = n == 0 ? T(0) * w[i] : rows.template one<N>(0, i) * rows.template two<N>(0, i) * found_slope;
      }
    }
    polynomial(moment, kOwn, w, rest);
    polynomial(c + 1, n, a, value);
    for (int i = 0; i < W; ++i) {
      const N high = (n == 0 ? power[i] : power[i] * w[i]) * rest[i];
      found.v[i] = pick<N>(x[i].near, fma(w[i], value[i], sign * high), T(1) - high);
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
