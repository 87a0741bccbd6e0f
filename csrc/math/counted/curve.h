// Maps of the correlation alone, by polynomials in s = sqrt(w).
#pragma once
#include "math/counted/counted.h"

namespace fntk {
namespace FNTK_ISA {

// Any phi where all inputs have one variance q: rho' and kdot are functions of rho, the sum of an even and an odd part.
// Those of kdot q / V are polynomials in s = sqrt(w), w = 1 - |rho|, which hold kinks too (the rectifier's part has
// w^(3/2)); what rho' loses is their integral over w, term by term: c_j s^j gives 2 c_j s^j w / (j + 2). Derived.
//
// Parameters: the odd part's share of rho' at rho = 1, the number of its coefficients; these, then the even part's.
// Row: e = sqrt(V / q).
template <class T>
struct Curve {
  static constexpr bool positive = false, homogeneous = false, brief = true;
  static int n_rows(int) { return 1; }
  static bool takes(const double* params, int n) {
    return n >= 2 && params[0] >= 0 && params[0] <= 1 && params[1] >= 0 && params[1] <= n - 2;
  }
  // Both shares, the number of odd coefficients, all of them, and of their integrals.
  static FNTK_HD int n_constants(int n_params) { return 3 + 2 * (n_params - 2); }
  static void constants(const double* params, int n, T* out) {
    const int odd = int(params[1]), all = n - 2;
    out[0] = T(params[0]);
    out[1] = T(1 - params[0]);
    out[2] = T(odd);
    for (int k = 0; k < all; ++k) {
      const int power = k < odd ? k : k - odd;
      out[3 + k] = T(params[2 + k]);
      out[3 + all + k] = T(2 * params[2 + k] / (power + 2));
    }
  }

  const T* c;
  int n;
  FNTK_HD Curve(const T* own, int n_params) : c(own), n(n_params - 2) {}

  template <bool slope, class N, int W, class Rows>
  FNTK_HD void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    const int n_odd = int(c[2]), n_even = n - n_odd;
    N s[W], odd[W], even[W];
    for (int i = 0; i < W; ++i) s[i] = defect_root(x[i].w);
    polynomial(c + 3 + n, n_odd, s, odd);
    polynomial(c + 3 + n + n_odd, n_even, s, even);
    for (int i = 0; i < W; ++i)
      found.v[i] = defect_of_parts<N, T>(x[i].near, N{}, x[i].w * even[i], all_lanes<N>(c[1]), x[i].w * odd[i],
                                         all_lanes<N>(c[0]));
    if constexpr (slope) {
      polynomial(c + 3, n_odd, s, odd);
      polynomial(c + 3 + n_odd, n_even, s, even);
      for (int i = 0; i < W; ++i)
        found.kdot[i] =
            rows.template one<N>(0, i) * rows.template two<N>(0, i) * (odd[i] + pick<N>(x[i].near, even[i], -even[i]));
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
