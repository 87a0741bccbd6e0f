// Sines and cosines.
#pragma once
#include "math/duals/exponential.h"

#define FNTK_PERIODIC(X) \
  X(Cosine, "cosine")    \
  X(Sine, "sine")        \
  X(Wave, "wave")

namespace fntk {
namespace FNTK_ISA {

// Which numbers of one input a wave reads that has an odd part, an even part, or both.
template <bool odd, bool even>
constexpr auto wave_rows() {
  if constexpr (odd && even)
    return Names<10>{"z", "z_low", "E", "E_low", "g", "h", "odd", "odd_low", "even", "even_low"};
  else
    return Names<5>{"z", "z_low", "E", "E_low", odd ? "g" : "h"};
}

// phi(x) = a (cos sin(b x) + sin cos(b x)) of two numbers, cos and sin, or with cos or sin alone. The odd and the even
// part share no Hermite polynomial: their duals add up. With x_i = b^2 q_i, E = exp(-x), z = sqrt(x), X = z1 z2, d = 1
// - exp(-(x1 + x2) / 2 + X |rho|), D likewise of -|rho|, P = d (2 - d) D (2 - D):
// - even: rho_e = (2 - d - D) h1 h2, h = (1 + E^2)^(-1/2), and 1 - rho_e^2 = (P + (E1 - E2)^2) (h1 h2)^2: no negative
//   term;
// - odd: rho_o = (D - d) g1 g2, g = (1 - E^2)^(-1/2). Small x: rho_o = |rho| exp(-M) with M the mean of L(x) =
//   log(sinh(x) / x) less L(X |rho|), a series in what is no difference of nearly equal numbers. Else 1 - rho_o^2 = (P
//   - (E1 - E2)^2) (g1 g2)^2 where P (g1 g2)^2 is small, and what is left is large.
// All derived.
template <class T, bool with_odd, bool with_even>
struct WaveOf {
  static constexpr bool both = with_odd && with_even, single = std::is_same_v<T, float>;
  static constexpr int n_params = both ? 4 : 2, n_rows = both ? 10 : 5;
  static constexpr Names<n_rows> row_names = wave_rows<with_odd, with_even>();
  static constexpr bool positive = !with_odd, homogeneous = false, cheap = false;
  static constexpr T mean_square = T(0);
  static constexpr T small_z = single ? T(0.59) : T(0.3);  // below it the series has all digits
  struct Row {
    T z, z_low, E, E_low, g, h, odd, odd_low, even, even_low;
  };
  T of_total, of_fall;  // a^2 b^2 / 2 times cos^2 and sin^2
  explicit FNTK_HD WaveOf(const double* p) {
    const double half = p[0] * p[0] * p[1] * p[1] / 2;
    of_total = T(half * (both ? p[2] * p[2] : double(with_odd)));
    of_fall = T(half * (both ? p[3] * p[3] : double(with_even)));
  }
  template <class Rows>
  static FNTK_HD Row load(const Rows& rows, long i) {
    T fifth = rows[4][i];
    if constexpr (single) fifth = select(fifth < 1e38f, fifth, 1e38f);  // g of a variance next to 0
    if constexpr (both)
      return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], fifth,
              rows[5][i], rows[6][i], rows[7][i], rows[8][i], rows[9][i]};
    else
      return {rows[0][i], rows[1][i], rows[2][i], rows[3][i], fifth, fifth, T(0), T(0), T(0), T(0)};
  }

  FNTK_HD Dual<T> pair(const Correlation<T>& c, const Row& x1, const Row& x2) const {
    const T z1 = whole(x1.z, x1.z_low), z2 = whole(x2.z, x2.z_low), X = z1 * z2;
    const T z_step = step(x1.z, x1.z_low, x2.z, x2.z_low), E_step = step(x1.E, x1.E_low, x2.E, x2.E_low);
    const Decay<T> low = decay(fma(X, c.w, T(0.5) * square(z_step)));
    const T fall = low.left * em1(T(2) * X * c.a), d = low.lost, D = d + fall, total = fma(T(2), low.left, -fall);
    const T P = (d * (T(2) - d)) * (D * (T(2) - D));
    const T step2 = square(E_step), g = x1.g * x2.g, h = x1.h * x2.h;

    const T rho_even = total * h, even = (P + step2) * square(h) / (T(1) + rho_even);

    const T sum = fma(z1, z1, square(z2)), apart = z_step * (z1 + z2), least = square(X * c.a);
    const T less = fma(square(X), c.w * (T(2) - c.w), T(0.5) * square(apart)), across = square(T(0.5) * apart * sum);
    const bool small = select(z1 < z2, z2, z1) < small_z;
    const T M = mean_less(least + less, less, least, across), drop = c.a * lost(select(small, M, T(0)));
    const T rho_odd = select(small, c.a - drop, fall * g), Pg = P * g * g;
    const T direct = at_least_zero(Pg - step2 * g * g) / (T(1) + rho_odd);
    const T odd = select(small, c.w + drop, select(Pg < T(0.25), direct, T(1) - rho_odd));

    Dual<T> r;
    const T toward_fall = select(c.near, fall, -fall);
    if constexpr (!with_even) {
      const T rho = select(rho_odd < T(0.5), rho_odd, T(1) - odd);
      r = {signed_defect(c.near, odd), select(c.near, rho, -rho), of_total * total};
    } else if constexpr (!with_odd) {
      r = {even, select(rho_even < T(0.5), rho_even, T(1) - even), of_fall * toward_fall};
    } else {
      const T odd_step = step(x1.odd, x1.odd_low, x2.odd, x2.odd_low);
      const T even_step = step(x1.even, x1.even_low, x2.even, x2.even_low);
      const T of_odd = whole(x1.odd, x1.odd_low) * whole(x2.odd, x2.odd_low);
      const T of_even = whole(x1.even, x1.even_low) * whole(x2.even, x2.even_low);
      const T shares = T(0.5) * fma(odd_step, odd_step, square(even_step)), above = T(1) + rho_odd;
      const T minus = fma(of_odd, select(c.near, odd, above), fma(of_even, even, shares));
      const T plus = fma(of_odd, select(c.near, above, odd), fma(of_even, T(1) + rho_even, shares));
      const T rho = fma(of_odd, select(c.near, rho_odd, -rho_odd), of_even * rho_even);
      r.v = signed_defect(!(rho < T(0)), select(rho < T(0), plus, minus));
      r.rho = select(magnitude(rho) < T(0.5), rho, select(rho < T(0), plus - T(1), T(1) - minus));
      r.kdot = fma(of_total, total, of_fall * toward_fall);
    }
    return r;
  }

 private:
  // (L(y1) + L(y2)) / 2 - L(least) of M = (y1 + y2) / 2, less = M - least, across = ((y1 - y2) / 2)^2, for squares y.
  static FNTK_HD T mean_less(T M, T less, T least, T across) {
    const T l1 = T(1.0 / 6), l2 = T(-1.0 / 180), l3 = T(1.0 / 2835), l4 = T(-1.0 / 37800), l5 = T(1.0 / 467775);
    const T both = M + least, product = M * least, squares = fma(both, both, -product);  // M^2 + M least + least^2
    T slope = fma(l4 * both, squares - product, fma(l3, squares, fma(l2, both, l1)));
    T curve = fma(l4, fma(T(6) * M, M, across), fma(T(3) * l3, M, l2));
    if constexpr (!single) {
      slope = fma(l5, fma(squares, squares - product, -square(product)), slope);
      curve = fma(T(5) * l5 * M, fma(T(2) * M, M, across), curve);
    }
    return fma(less, slope, across * curve);
  }
  // 1 - exp(-x) of the x that there are for small z.
  static FNTK_HD T lost(T x) { return x * horner(x, T(1), T(-1.0 / 2), T(1.0 / 6), T(-1.0 / 24), T(1.0 / 120)); }
};

template <class T>
using Sine = WaveOf<T, true, false>;
template <class T>
using Cosine = WaveOf<T, false, true>;
template <class T>
using Wave = WaveOf<T, true, true>;

}  // namespace FNTK_ISA
}  // namespace fntk
