// What takes the numbers of a row of a plane, for images/planes.cpp: a store, or the nonlinearity that is done in the
// same pass; and the tables of both images, row by row.
#pragma once
#include "images/program.h"
#include "math/duals.h"

namespace fntk {
namespace FNTK_ISA {

// Lanes come in multiples of 16; kR fixes their number for the compiler.
template <int kR>
FNTK_HD long lane_count(long lanes) {
  return kR ? kR : lanes / 16 * 16;
}

// The row of the second image that row y of the first one meets.
FNTK_HD long met(long y, long shift, long rows) { return y + shift < rows ? y + shift : y + shift - rows; }

template <class T>
struct TableRows {
  const T *a, *b;
  FNTK_HD TableRows(const T* first, const T* second, long stride, const PlaneArgs<T>& c, long y)
      : a(first + y * stride), b(second + met(y, c.shift, c.rows) * stride) {}
};

// Tables of both images row by row; those of the second start at the displacement and wrap around.
template <class T>
struct TableWalk {
  const T *a, *b, *end, *start;
  long stride;
  FNTK_HD TableWalk(const T* first, const T* second, long step, const PlaneArgs<T>& c)
      : a(first), b(second + c.shift * step), end(second + c.rows * step), start(second), stride(step) {}
  FNTK_HD TableWalk(const T* first, const T* second) : a(first), b(second), end(second), start(second), stride(0) {}
  FNTK_HD void next() {
    a += stride;
    b += stride;
    if (b == end) b = start;
  }
};

// ---------------------------------------------------------------- what takes the numbers of a row

template <class T>
struct Store {
  T *v, *p, *t;
  long lanes;
  FNTK_HD Store(const PlaneArgs<T>& c, long n) : v(c.dst[0]), p(c.dst[1]), t(c.dst[2]), lanes(n) {}
  FNTK_HD Store(T* first, T* second, T* third) : v(first), p(second), t(third), lanes(0) {}
  FNTK_HD void next() {
    v += lanes;
    p += lanes;
    t += lanes;
  }
  template <Form form, bool known = false>
  FNTK_HD void put(long x, T value, T plus, T theta, T = T(0)) const {
    v[x] = value;
    if constexpr (form == Form::both_defects) p[x] = plus;
    t[x] = theta;
  }
};

template <class T>
FNTK_HD Store<T> store_at(const PlaneArgs<T>& c, long y, long lanes) {
  Store<T> sink(c, lanes);
  sink.v += y * lanes;
  sink.p += y * lanes;
  sink.t += y * lanes;
  return sink;
}

template <class T>
struct Arrays {
  const T* first;
  long lanes;
  FNTK_HD const T* operator[](long k) const { return first + k * lanes; }
};

// Arrays: 1 / s before, s behind, the nonlinearity's own.
template <template <class> class Phi, class T, bool cov, bool guard>
struct Apply {
  Phi<T> phi;
  TableWalk<T> rows;
  T *v, *p, *t;
  long lanes;
  FNTK_HD Apply(const PlaneArgs<T>& c, long n)
      : phi(c.params), rows(c.after_a, c.after_b, c.stride_after, c), v(c.dst[0]), p(c.dst[1]), t(c.dst[2]), lanes(n) {}
  // At one place: rows of both images' tables, and of the planes.
  FNTK_HD Apply(const Phi<T>& own, const T* a, const T* b, T* const* planes, long n)
      : phi(own), rows(a, b), v(planes[0]), p(planes[1]), t(planes[2]), lanes(n) {}
  FNTK_HD void next() {
    rows.next();
    v += lanes;
    p += lanes;
    t += lanes;
  }
  // r: s s' before it, where `known`
  template <Form form, bool known>
  FNTK_HD void put(long x, T value, T plus, T theta, T r) const {
    const T *i1 = rows.a, *i2 = rows.b;
    Correlation<T> c;
    c.near = true;
    c.w = (value * i1[x]) * i2[x];
    if constexpr (form == Form::both_defects) {
      const T other = (plus * i1[x]) * i2[x];
      c.near = !(other < c.w);
      c.w = select(c.near, c.w, other);
    }
    if constexpr (form == Form::both_defects) c.w = select(c.w > T(1), T(1), c.w);
    if constexpr (guard) c.w = select(i1[x] == T(0), T(1), select(i2[x] == T(0), T(1), c.w));
    c.a = T(1) - c.w;
    const Arrays<T> own1 = {i1 + 2 * lanes, lanes}, own2 = {i2 + 2 * lanes, lanes};
    const Dual<T> d = phi.pair(c, Phi<T>::load(own1, x), Phi<T>::load(own2, x));
    if constexpr (known && Phi<T>::homogeneous)
      r = phi.mean_square * r;
    else
      r = i1[lanes + x] * i2[lanes + x];
    t[x] = theta * d.kdot;
    if constexpr (cov) {
      v[x] = r * (Phi<T>::positive ? T(1) - d.v : rho_of(d.v));
    } else if constexpr (Phi<T>::positive) {
      v[x] = r * d.v;
    } else {
      v[x] = r * select(d.v < T(0), T(2) + d.v, d.v);
      p[x] = r * select(d.v < T(0), -d.v, T(2) - d.v);
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
