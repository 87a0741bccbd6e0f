// Nonlinearities whose parameters are counted at run time: their pair formula has a loop inside, so it is generic in
// its number (math/wide.h), and takes W numbers at a time, whose chains of operations run side by side.
//
// A struct gives
//   brief                  few enough instructions to stand in every loop over planes
//   n_rows(n_params)       numbers of one input, as row arrays
//   constants(params, n)   what the formula reads of the parameters, of the formula's own type, made once
//   pairs<slope>           v' and, where `slope`, kdot of W numbers; rows.one(k, i), rows.two(k, i): row array k of
//   both
//                          inputs of number i
#pragma once
#include "math/wide.h"

namespace fntk {

constexpr int kMaxCounted = 768;    // parameters of one of them
constexpr int kMaxConstants = 896;  // numbers that a formula makes of them
constexpr int kMaxFactors = 20;     // of powers: degrees below 2^20

namespace FNTK_ISA {

template <class N>
struct End {  // of a pair: w = 1 - |rho|, and rho >= 0
  N w;
  Mask<N> near;
};
template <class N>
FNTK_HD End<N> end_of(N v) {
  const Mask<N> far = v < N{};
  return {pick<N>(far, -v, v), !far};
}

template <class N, int W>
struct Ends {  // v' and kdot
  N v[W], kdot[W];
};

// v' where rho' is the sum of an even and an odd part: `gap` is 1 - rho' at rho = 1; of each part its value there and
// what it has lost at a = |rho|.
template <class N, class T>
FNTK_HD N defect_of_parts(Mask<N> near, N gap, N even_fall, N even, N odd_fall, N odd) {
  const N odd_left = T(2) * odd - odd_fall, even_left = T(2) * even - even_fall;
  N minus = (gap + even_fall) + pick<N>(near, odd_fall, odd_left);       // 1 - rho'
  const N plus = (gap + even_left) + pick<N>(near, odd_left, odd_fall);  // 1 + rho'
  minus = pick<N>(minus < N{}, N{}, minus);
  return pick<N>(minus > plus, signed_wide<N, T>(Mask<N>{}, plus), minus);
}

// c0 + c1 x + c2 x^2 + ...
template <class T, class N, int W>
FNTK_HD void polynomial(const T* c, int n, const N (&x)[W], N (&found)[W]) {
  for (int i = 0; i < W; ++i) found[i] = N{};
  for (int k = n - 1; k >= 0; --k)
    for (int i = 0; i < W; ++i) found[i] = fma(x[i], found[i], all_lanes<N>(c[k]));
}

}  // namespace FNTK_ISA
}  // namespace fntk
