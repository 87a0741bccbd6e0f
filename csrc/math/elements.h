// Formulas of one number of a plane, for the plane loops (images/planes.cpp) and for devices (cuda/images/unit.h).
//
// A sum of independent parts o with standard deviations a_o, b_o in the two images, and s, s' of the sum, obeys
//   s s' - sum K_o = sum (a_o b_o - K_o) + s s' |A - B|^2 / 2,   A = a / s and B = b / s' unit vectors,
// with no cancelling term, and the same for s s' + K. |A - B|^2 = (1 + A_c)(1 + B_c) |S - S'|^2 with the stereographic
// coordinates S_o = A_o / (1 + A_c), o != c: tables hold one coordinate less than there are parts, and behind them the
// factor s (1 + A_c) / sqrt(2). Windows are two such sums: along the inner axes, then along axis 0.
#pragma once
#include "math/duals.h"
#include "math/forms.h"

namespace fntk {
namespace FNTK_ISA {

FNTK_HD int stage_arrays(int coords) { return coords > 0 ? coords + 1 : 0; }

// What follows the sums over the taps: scale, bias, NTK. `a`, `b`: arrays behind those of both stages.
template <class T, Form form, bool bias, class Sink>
FNTK_HD void finish(const Sink& sink, const Weights<T>& c, const T* a, const T* b, long lanes, long x, T v, T p, T t) {
  if constexpr (form == Form::cov) {
    const T k = fma(c.w, v, c.b2);
    sink.template put<form>(x, k, T(0), fma(c.wt, t, fma(c.alpha, k, c.beta)));
  } else {
    v = c.w * v;
    if constexpr (form == Form::both_defects) p = c.w * p;
    if constexpr (bias) {
      const T more = (a[lanes + x] * b[lanes + x]) * square(a[x] - b[x]);
      v = v + more;
      // the constant part's own s s' + K is 2 b2
      if constexpr (form == Form::both_defects) p = p + (more + T(2) * c.b2);
      a += 2 * lanes;
      b += 2 * lanes;
    }
    const T r = a[x] * b[x];
    sink.template put<form, true>(x, v, p, fma(c.wt, t, fma(c.alpha, r - v, c.beta)), r);
  }
}

// Pooling adds correlated parts: with S = sum s, M = sum (s s' - K) of the image
// with itself, t^2 = S^2 - M the variance of the sum, and d = S - t,
//   t t' - sum K = sum (s s' - K) - ((M + M') / 2 - (S - S') (d - d') + (d - d')^2 / 2),   t t' + sum K likewise:
// 0 for windows that are equal bit for bit. M grows with S^2, t t' - sum K with S S': windows of two sizes would cancel
// all of it, so each is first brought to 1 <= S < 2 by a power of two, e, which changes no digit. Arrays: weight; S e,
// M e^2, d e, e and weight / e; for cov the weight alone. What is left of a difference is lost for the next
// nonlinearity's sqrt(1 - rho) where it is below a thousandth of (M / S^2)^2.
template <class T>
struct Pooled {
  T weight, value, plus;
  T lost, all;  // weighted S S' where a difference has lost its digits; weighted S S'
};

template <class T, Form form>
FNTK_HD Pooled<T> pooled(const T* a, const T* b, long lanes, long x, T v, T p) {
  Pooled<T> found = {a[x] * b[x], T(0), T(0), T(0), T(0)};
  if constexpr (form == Form::cov) {
    found.value = found.weight * v;
  } else {
    const T s1 = a[lanes + x], s2 = b[lanes + x], e = a[3 * lanes + x] - b[3 * lanes + x];
    const T mean = T(0.5) * (a[2 * lanes + x] + b[2 * lanes + x]);
    const T rest = e * ((s1 - s2) - T(0.5) * e);
    const T e1 = a[4 * lanes + x], e2 = b[4 * lanes + x], f1 = a[5 * lanes + x], f2 = b[5 * lanes + x];
    const bool blank = s1 * s2 == T(0);  // no variance: nothing to differ
    const T least = T(1e-3) * mean * mean;
    const T value = select(blank, T(0), ((v * e1) * e2 - mean) + rest);
    found.all = (f1 * s1) * (f2 * s2);
    found.lost = select(value * s1 * s2 < least, select(value == T(0), T(0), found.all), T(0));
    found.value = (f1 * at_least_zero(value)) * f2;
    if constexpr (form == Form::both_defects) {
      const T plus = select(blank, T(0), ((p * e1) * e2 - mean) + rest);
      found.lost += select(plus * s1 * s2 < least, select(plus == T(0), T(0), found.all), T(0));
      found.plus = (f1 * at_least_zero(plus)) * f2;
    }
  }
  return found;
}

// Unit pixel vectors u, then s: s s' (1 - u u') = s s' |u - u'|^2 / 2.
template <class T, Form form>
FNTK_HD void add_channel(T a, T b, T& minus, T& plus) {
  minus = fma(a - b, a - b, minus);
  plus = form == Form::cov ? fma(a, b, plus) : fma(a + b, a + b, plus);
}

template <class T, Form form, class Sink>
FNTK_HD void put_input(const Sink& sink, long x, T r, T minus, T plus) {
  if constexpr (form == Form::cov)
    sink.template put<form>(x, r * plus, T(0), T(0));
  else
    sink.template put<form>(x, T(0.5) * r * minus, T(0.5) * r * plus, T(0));
}

// K, where r = s s'.
template <class T, Form form>
FNTK_HD T covariance_of(T v, T p, T r) {
  if constexpr (form == Form::cov)
    return v;
  else if constexpr (form == Form::defect)
    return r - v;
  else
    return select(p < v, p - r, r - v);
}

}  // namespace FNTK_ISA
}  // namespace fntk
