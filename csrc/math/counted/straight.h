// Functions of straight pieces, kinks anywhere.
#pragma once
#include "math/counted/counted.h"

namespace fntk {
namespace FNTK_ISA {

// Any function of straight pieces, seen from 0: its slope there, and corners, kinks at +-a with jumps right and left.
// Of kinks h of one input and k of the other, in deviations, those on one side count by S, those on different sides by
// O; kdot loses S I(|h - k|, h + k) + O I(h + k, |h - k|) on the way from rho = 1, and on that from rho = -1 the roles
// and signs of S and O change (network/activations/straight.py has it all). With cos theta = 1 - w,
//   I = 1 / (2 pi) int_0^theta exp(-alpha^2 / (4 x) - beta^2 / (4 (2 - x))) dt,  x = 1 - cos t,
// is a sum over L_n(beta^2 / 8) (w / 2)^n i_n: Laguerre's polynomials of order -1/2, i_n = int_0^1 y^2n exp(-tau^2 /
// y^2) dy, tau^2 = alpha^2 / (4 w); both from one n to the next. For E = int_0^w I dw, i_n - i_(n+1) stands for i_n.
// Derived (Sheppard 1899 has the integral over t).
//
// Parameters: the slope at 0-; of each corner, in ascending order, a, the jump on the right and that on the left.
// Rows: mean and deviation over their root mean square, the deviation, the mean less phi(0), slope / 2 + sum (right -
// left) P(z > h); of each corner h, exp(-h^2 / 4), P(z > h), E (z - h)+, E (z - h)+^2; 1 / the root mean square.
template <class T>
struct Straight {
  static constexpr bool positive = false, homogeneous = false, brief = false;
  static constexpr bool kSingle = std::is_same_v<T, float>;
  static constexpr int kMost = 8, kShared = 5, kOwn = 5;
  static constexpr int kTerms = kSingle ? 14 : 38, kEach = 5, kWeights = 4;
  static FNTK_HD int corners(int n_params) { return (n_params - 1) / 3; }
  static int n_rows(int n_params) { return kShared + kOwn * corners(n_params) + 1; }
  static bool takes(const double* params, int n) {
    if (n < 4 || (n - 1) % 3 != 0 || corners(n) > kMost) return false;
    for (int p = 0; p < corners(n); ++p)
      if (!(params[1 + 3 * p] >= 0) || (p > 0 && !(params[1 + 3 * p] > params[3 * p - 2]))) return false;
    return true;
  }
  // Numbers of each term of the sums; the slope, whether the first corner is at 0; for corners p <= q S, O and half of
  // what the even and the odd parts count.
  static FNTK_HD int n_constants(int n_params) {
    const int n = corners(n_params);
    return kTerms * kEach + 2 + kWeights * (n * (n + 1) / 2);
  }
  static void constants(const double* params, int n_params, T* out) {
    double factorial = 1;
    for (int n = 0; n < kTerms; ++n) {
      factorial *= n + 1;
      *out++ = T(2 * n + 0.5);
      *out++ = T(n * (n - 0.5));
      *out++ = T(1 / (factorial * (2 * n + 3)));
      *out++ = T(-2.0 / ((n + 1.0) * (2 * n + 3)));
      *out++ = T(n + 1);
    }
    *out++ = T(params[0]);
    *out++ = T(params[1] == 0);
    for (int p = 0; p < corners(n_params); ++p)
      for (int q = p; q < corners(n_params); ++q) {
        const double *one = params + 2 + 3 * p, *two = params + 2 + 3 * q;
        const double even = (one[0] + one[1]) * (two[0] + two[1]) / 2, odd = (one[0] - one[1]) * (two[0] - two[1]) / 2;
        *out++ = T(even + odd);
        *out++ = T(even - odd);
        *out++ = T(even);
        *out++ = T(odd);
      }
  }

  const T* c;
  int n;
  FNTK_HD Straight(const T* own, int n_params) : c(own), n(corners(n_params)) {}

  template <class N, int W>
  struct Lens {  // of I and E what does not depend on kinks: 1 - |rho|, its half and square, its root, 1 / (2 root)
    N w[W], half[W], square[W], root[W], over[W];
  };
  // Adds weight I and weight E of W pairs, each times `top`.
  template <class N, int W>
  FNTK_HD void add_lens(const Lens<N, W>& at, T weight, const N (&alpha)[W], const N (&beta)[W], const N (&top)[W],
                        N (&less)[W], N (&bent)[W]) const {
    N front[W], T2[W], down[W], moment[W], before[W], now[W], I[W], fall[W];
    for (int i = 0; i < W; ++i) {
      N tau = alpha[i] * at.over[i];
      front[i] = at.root[i] * top[i] * decayed<N, T>(fma(tau, tau, T(-0.125) * (alpha[i] * alpha[i])));
      const N most = all_lanes<N>(T(8.6));
      tau = pick<N>(tau < most, tau, most);
      T2[i] = tau * tau;
      down[i] = T(-0.125) * (beta[i] * beta[i]) * at.half[i];
      const N x = T(68.0 / 43) - T(5 * 111.0 / 86) / (tau + T(2.5));
      if constexpr (kSingle)
        moment[i] = horner_wide<T>(x, FNTK_EDGE_FLOAT);
      else
        moment[i] = horner_wide<T>(x, FNTK_EDGE_DOUBLE);
      before[i] = I[i] = fall[i] = N{};
      now[i] = all_lanes<N>(T(1));
    }
    const T* own = c;
    for (int k = 0; k < kTerms; ++k, own += kEach) {
      const N d = all_lanes<N>(own[3]), first = all_lanes<N>(own[2]);
      for (int i = 0; i < W; ++i) {
        const N after = fma(T2[i] * moment[i], d, first);
        I[i] = fma(now[i], moment[i], I[i]);
        fall[i] = fma(now[i] * own[4], after, fall[i]);
        const N next =
            fma(fma(at.half[i], all_lanes<N>(own[0]), down[i]), now[i], -(at.square[i] * own[1]) * before[i]);
        before[i] = now[i];
        now[i] = next;
        moment[i] = after;
      }
    }
    const T scale = weight * T(0.22507907903927651);  // 1 / (sqrt(2) pi)
    for (int i = 0; i < W; ++i) {
      const N size = front[i] * scale;
      less[i] = fma(size, I[i], less[i]);
      bent[i] = fma(at.w[i] * size, I[i] - fall[i], bent[i]);
    }
  }

  template <class N, int W>
  struct Part {  // of kinks: E (z - h)+ (z - k)+, P(z > max(h, k)), X, what kdot and k lose
    N both[W], beyond[W], X[W], less[W], bent[W];
  };
  // Corner p of the first inputs with corner q of the second ones.
  template <class N, int W, class Rows>
  FNTK_ONCE void corner(int p, int q, const T* weights, const Lens<N, W>& at, const End<N> (&x)[W], const Rows& rows,
                        Part<N, W>& found) const {
    const int r1 = kShared + kOwn * p, r2 = kShared + kOwn * q;
    N alpha[W], beta[W], top[W];
    for (int i = 0; i < W; ++i) {
      const N h = rows.template one<N>(r1, i), k = rows.template two<N>(r2, i), total = h + k;
      const Mask<N> above = h > k;
      const N step = pick<N>(above, h - k, k - h);
      top[i] = rows.template one<N>(r1 + 1, i) * rows.template two<N>(r2 + 1, i);
      const N P1 = rows.template one<N>(r1 + 2, i), P2 = rows.template two<N>(r2 + 2, i);
      found.beyond[i] = pick<N>(P1 < P2, P1, P2);
      const N f1 = rows.template one<N>(r1 + 3, i), f2 = rows.template two<N>(r2 + 3, i);
      const N s1 = rows.template one<N>(r1 + 4, i), s2 = rows.template two<N>(r2 + 4, i);
      found.both[i] = fma(step, pick<N>(above, f1, f2), pick<N>(above, s1, s2));
      const N low = fma(-step, pick<N>(above, f2, f1), pick<N>(above, s2, s1));
      // X: nearby places by the first terms of int (1 - v^2) cosh(.. v) exp(-.. v^2) dv
      const N cube = step * step, c2 = cube * (total * total) * T(0.0625);
      const N even =
          fma(c2, fma(c2, fma(c2, all_lanes<N>(T(1.0 / 15120)), all_lanes<N>(T(1.0 / 280))), all_lanes<N>(T(0.1))),
              fma(cube, all_lanes<N>(T(0.1)), all_lanes<N>(T(1))));
      const N series = T(-0.066490380066905457) * (cube * step) * top[i] * even;  // 1 / (6 sqrt(2 pi))
      const N X = pick<N>(step < all_lanes<N>(kSingle ? T(0.125) : T(0.01)), series, low - found.both[i]);
      // Kinks that lie in one order in both inputs have none.
      found.X[i] = p < q ? pick<N>(above, X, N{}) : p > q ? pick<N>(h < k, X, N{}) : X;
      alpha[i] = pick<N>(x[i].near, step, total);
      beta[i] = pick<N>(x[i].near, total, step);
      found.less[i] = found.bent[i] = N{};
    }
    const bool zero = c[kTerms * kEach + 1] != T(0);
    if (zero && p == 0 && q == 0) {  // both kinks at 0: the rectifier's
      const T weight = T(0.5) * (weights[0] + weights[1]);
      for (int i = 0; i < W; ++i) {
        N angle, moment;
        if constexpr (kSingle) {
          angle = horner_wide<T>(at.w[i], FNTK_ANGLE_FLOAT);
          moment = horner_wide<T>(at.w[i], FNTK_MOMENT_FLOAT);
        } else {
          angle = horner_wide<T>(at.w[i], FNTK_ANGLE_DOUBLE);
          moment = horner_wide<T>(at.w[i], FNTK_MOMENT_DOUBLE);
        }
        found.less[i] = weight * at.root[i] * angle;
        found.bent[i] = weight * at.root[i] * at.w[i] * moment;
      }
      return;
    }
    // With one kink at 0 alpha = beta.
    const bool once = zero && (p == 0 || q == 0);
    for (int turn = 0; turn < 2; ++turn) {
      const T weight = once ? (turn ? T(0) : weights[0] + weights[1]) : weights[turn];
      if (weight != T(0)) add_lens(at, weight, alpha, beta, top, found.less, found.bent);
      for (int i = 0; i < W; ++i) {
        const N other = alpha[i];
        alpha[i] = beta[i];
        beta[i] = other;
      }
    }
  }

  template <bool slope, class N, int W, class Rows>
  FNTK_APART void pairs(const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) const {
    const T* own = c + kTerms * kEach;
    const T steep = own[0];
    Lens<N, W> at;
    N kdot[W], fall[W], even[W], odd[W], square[W];
    for (int i = 0; i < W; ++i) {
      const N least = all_lanes<N>(kSingle ? T(1e-15) : T(1e-145));
      at.w[i] = x[i].w;
      at.half[i] = T(0.5) * x[i].w;
      at.square[i] = at.half[i] * at.half[i];
      at.root[i] = defect_root(x[i].w);
      at.over[i] = T(0.5) / pick<N>(at.root[i] < least, least, at.root[i]);
      kdot[i] = odd[i] = steep * (rows.template one<N>(4, i) + rows.template two<N>(4, i));
      fall[i] = x[i].w * kdot[i];
      even[i] = -(rows.template one<N>(3, i) * rows.template two<N>(3, i));
      square[i] = N{};
    }
    own += 2;
    for (int p = 0; p < n; ++p)
      for (int q = p; q < n; ++q, own += kWeights) {
        Part<N, W> part;
        corner(p, q, own, at, x, rows, part);
        if (p < q) {
          Part<N, W> other;
          corner(q, p, own, at, x, rows, other);
          for (int i = 0; i < W; ++i) {
            part.both[i] = part.both[i] + other.both[i];
            part.beyond[i] = part.beyond[i] + other.beyond[i];
            part.X[i] = part.X[i] + other.X[i];
            part.less[i] = part.less[i] + other.less[i];
            part.bent[i] = part.bent[i] + other.bent[i];
          }
        }
        const T S = own[0], O = own[1], times = p < q ? T(2) * S : S;
        const int r1 = kShared + kOwn * p, r2 = kShared + kOwn * q + 3;
        for (int i = 0; i < W; ++i) {
          const N step = rows.template one<N>(r1, i) - rows.template two<N>(r1, i);
          const N moved = rows.template one<N>(r2, i) - rows.template two<N>(r2, i);
          even[i] = fma(part.both[i], all_lanes<N>(own[2]), even[i]);
          odd[i] = fma(part.both[i], all_lanes<N>(own[3]), odd[i]);
          square[i] = fma(fma(-step, moved, part.X[i]), all_lanes<N>(times), square[i]);
          const N gain = pick<N>(x[i].near, part.beyond[i] * S, part.beyond[i] * -O);
          const N less = pick<N>(x[i].near, part.less[i], -part.less[i]);
          const N bent = pick<N>(x[i].near, part.bent[i], -part.bent[i]);
          kdot[i] = kdot[i] + (gain - less);
          fall[i] = fall[i] + fma(x[i].w, gain, -bent);
        }
      }
    for (int i = 0; i < W; ++i) {
      const int last = kShared + kOwn * n;
      const N over = rows.template one<N>(last, i) * rows.template two<N>(last, i);
      const N m1 = rows.template one<N>(0, i), m2 = rows.template two<N>(0, i), mean = m1 - m2;
      const N share = rows.template one<N>(1, i) - rows.template two<N>(1, i);
      const N spread = rows.template one<N>(2, i) - rows.template two<N>(2, i);
      const N gain = rows.template one<N>(3, i) - rows.template two<N>(3, i);
      const N own_gap = fma(-spread, spread, fma(-gain, gain, square[i])) * over;
      N gap = T(0.5) * fma(mean, mean, fma(share, share, own_gap));
      gap = pick<N>(gap < N{}, N{}, gap);
      const N lost = fall[i] * over, of_even = fma(m1, m2, even[i] * over), of_odd = odd[i] * over;
      N minus = pick<N>(x[i].near, gap + lost, fma(of_odd, all_lanes<N>(T(2)), gap - lost));
      const N plus = pick<N>(x[i].near, T(2) - minus, fma(of_even, all_lanes<N>(T(2)), gap + lost));
      minus = pick<N>(minus < N{}, N{}, minus);
      found.v[i] = pick<N>(minus > plus, signed_wide<N, T>(Mask<N>{}, plus), minus);
      if constexpr (slope) found.kdot[i] = kdot[i];
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
