// A number with N partial derivatives, double throughout: a nonlinearity's text (math/duals.h) run on it gives its
// derivatives. Comparisons look at the value; select() takes the derivatives of what it takes. Where a slope is
// infinite (a root at 0) it counts as 0.
#pragma once
#include "math/dual.h"

namespace fntk {
namespace FNTK_ISA {

template <int N>
struct Jet {
  double v;
  double d[N];

  constexpr Jet() : v(0), d{} {}
  constexpr Jet(double value) : v(value), d{} {}  // a constant
  friend FNTK_HD bool operator<(const Jet& a, const Jet& b) { return a.v < b.v; }
  friend FNTK_HD bool operator>(const Jet& a, const Jet& b) { return a.v > b.v; }
  friend FNTK_HD bool operator<=(const Jet& a, const Jet& b) { return a.v <= b.v; }
  friend FNTK_HD bool operator==(const Jet& a, const Jet& b) { return a.v == b.v; }
};

// The value, and slope_a da + slope_b db.
template <int N>
FNTK_HD Jet<N> chain(double value, double slope, const Jet<N>& a) {
  Jet<N> y(value);
  for (int k = 0; k < N; ++k) y.d[k] = slope * a.d[k];
  return y;
}
template <int N>
FNTK_HD Jet<N> chain(double value, double slope_a, const Jet<N>& a, double slope_b, const Jet<N>& b) {
  Jet<N> y(value);
  for (int k = 0; k < N; ++k) y.d[k] = fma(slope_a, a.d[k], slope_b * b.d[k]);
  return y;
}

template <int N>
FNTK_HD Jet<N> operator+(const Jet<N>& a, const Jet<N>& b) {
  Jet<N> y(a.v + b.v);
  for (int k = 0; k < N; ++k) y.d[k] = a.d[k] + b.d[k];
  return y;
}
template <int N>
FNTK_HD Jet<N> operator-(const Jet<N>& a, const Jet<N>& b) {
  Jet<N> y(a.v - b.v);
  for (int k = 0; k < N; ++k) y.d[k] = a.d[k] - b.d[k];
  return y;
}
template <int N>
FNTK_HD Jet<N> operator-(const Jet<N>& a) {
  Jet<N> y(-a.v);
  for (int k = 0; k < N; ++k) y.d[k] = -a.d[k];
  return y;
}
template <int N>
FNTK_HD Jet<N> operator*(const Jet<N>& a, const Jet<N>& b) {
  return chain(a.v * b.v, b.v, a, a.v, b);
}
template <int N>
FNTK_HD Jet<N> operator/(const Jet<N>& a, const Jet<N>& b) {
  const double over = 1 / b.v, y = a.v * over;
  return chain(y, over, a, -y * over, b);
}
template <int N>
FNTK_HD Jet<N> fma(const Jet<N>& a, const Jet<N>& b, const Jet<N>& c) {
  Jet<N> y(fma(a.v, b.v, c.v));
  for (int k = 0; k < N; ++k) y.d[k] = fma(a.v, b.d[k], fma(b.v, a.d[k], c.d[k]));
  return y;
}
template <int N>
FNTK_HD Jet<N> sqrt(const Jet<N>& a) {
  const double y = sqrt(a.v);
  return chain(y, select(y == 0.0, 0.0, 0.5 / select(y == 0.0, 1.0, y)), a);
}
template <bool steep = true, int N>
FNTK_HD Jet<N> arctangent(const Jet<N>& y, const Jet<N>& x) {
  const double square = fma(y.v, y.v, x.v * x.v);
  const double over = select(square == 0.0, 0.0, 1 / select(square == 0.0, 1.0, square));
  return chain(arctangent<steep>(y.v, x.v), x.v * over, y, -y.v * over, x);
}
template <int N>
FNTK_HD Decay<Jet<N>> decay(const Jet<N>& x) {
  const Decay<double> e = decay(x.v);
  return {chain(e.left, -e.left, x), chain(e.lost, e.left, x)};
}

// d angle / dw = 1 / (pi sin theta), and the moment's slope is theta / pi: the angle.
template <int N>
FNTK_HD Arc<Jet<N>> arc(const Jet<N>& w) {
  const Arc<double> t = arc(w.v);
  const double sine = sqrt(w.v * (2 - w.v));
  const double slope = select(sine == 0.0, 0.0, 0.31830988618379067154 / select(sine == 0.0, 1.0, sine));
  return {chain(t.angle, slope, w), chain(t.moment, t.angle, w)};
}

// What a nonlinearity's pair formula reads, with derivatives in w, and in ln q of both sides where it has rows: d[0],
// d[1] and d[2].

constexpr double kTiny = 7.888609052210118e-31;  // 16 eps^2: below it a pair lies at rho = +-1

// A row array of one side.
template <class Number, int side>
struct JetRow {
  const double *value, *slope;
  FNTK_HD Number operator[](long k) const {
    Number y(value[k]);
    y.d[side] = slope[k];
    return y;
  }
};

template <class Number>
FNTK_HD Correlation<Number> jet_correlation(double v) {
  const double w = magnitude(v), moves = select(w > kTiny, 1.0, 0.0);
  Correlation<Number> c;
  c.w = Number(w);
  c.w.d[0] = moves;
  c.a = Number(1 - w);
  c.a.d[0] = -moves;
  c.near = !(v < 0.0);
  return c;
}

}  // namespace FNTK_ISA
}  // namespace fntk
