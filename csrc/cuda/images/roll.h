// Passes over whole columns of a plane, whose slots hold the numbers of a place side by side and a place of zeros
// behind each row: windows that keep displacements, and nonlinearities. A thread takes a lane and a stretch of its
// rows, goes from row to row by adding to its pointers, and reads tables in fours (Records).
#pragma once
#include "cuda/images/call.h"

namespace fntk {
namespace FNTK_ISA {

// Four numbers side by side.
template <class T>
FNTK_HD void load_quad(const T* from, T* out) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const float4 found = *reinterpret_cast<const float4*>(from);
    out[0] = found.x, out[1] = found.y, out[2] = found.z, out[3] = found.w;
  } else {
    const double2 first = *reinterpret_cast<const double2*>(from), second = reinterpret_cast<const double2*>(from)[1];
    out[0] = first.x, out[1] = first.y, out[2] = second.x, out[3] = second.y;
  }
#else
  for (int k = 0; k < kQuad; ++k) out[k] = from[k];
#endif
}
template <class T>
FNTK_HD void load_pair(const T* from, T* out) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const float2 found = *reinterpret_cast<const float2*>(from);
    out[0] = found.x, out[1] = found.y;
  } else {
    const double2 found = *reinterpret_cast<const double2*>(from);
    out[0] = found.x, out[1] = found.y;
  }
#else
  for (int k = 0; k < 2; ++k) out[k] = from[k];
#endif
}

// Numbers of a place. p is there in form both_defects alone.
template <class T>
struct Sums {
  T v, t, p;
};
template <Form form, class T>
FNTK_HD Sums<T> load_place(const T* from) {
  T of[kQuad] = {};
  if constexpr (form == Form::both_defects)
    load_quad(from, of);
  else
    load_pair(from, of);
  return {of[0], of[1], of[2]};
}
template <Form form, class T>
FNTK_HD void add(Sums<T>& to, const Sums<T>& more) {
  to.v += more.v;
  to.t += more.t;
  if constexpr (form == Form::both_defects) to.p += more.p;
}

// Rows of one image's records, one after the other; those of the second image start anew behind the last one.
template <class T>
struct RecordWalk {
  const T* at;
  long row, quad;  // numbers in a row, and between quads of a lane
  template <int n>
  FNTK_HD void load(int first, T (&out)[n]) const {
    FNTK_UNROLL
    for (int k = 0; k < n / kQuad; ++k) load_quad(at + (first + k) * quad, out + k * kQuad);
  }
};

// What both images' walks of a pass have in common: row y of the first one, and the row of the second one that it
// meets.
template <class T>
struct Records2 {
  RecordWalk<T> a, b;
  int other, rows;
  FNTK_HD void next() {
    a.at += a.row;
    b.at += b.row;
    if (++other == rows) other = 0, b.at -= rows * b.row;
  }
};

// A window of NI taps along the inner axes and NO along axis 0. Every number that is read is added as often as it
// counts, which is once: sums along the inner axes, row by row, then `sums` of the rows above that await this one.
template <class T, Form form, int NI, int NO>
struct Roll {
  static constexpr int kInner = NI > 1 ? quads_of(NI) : 0, kSpread = NO > 1 ? NO : 0, kOuter = quads_of(kSpread + 3),
                       kQuads = kInner + kOuter;
  static constexpr bool tables = form != Form::cov;
  Weights<T> weights;
  bool bias, wraps;
  int rows, low, shift;
  long row_size;
  const T* in;
  T* out;
  const int32_t *reads, *row_reads;  // of the lane; of all rows
  long reads_step;                   // lanes
  RecordWalk<T> a, b;                // row 0, at the lane's places

  // The rows from begin on, before end.
  FNTK_HD void column(int begin, int end) const {
    int y = begin - low;  // the row that is read, and that of the second image
    if (wraps && y < 0) y += rows;
    int other = y + shift < rows ? y + shift : y + shift - rows;
    if (wraps && other < 0) other += rows;
    const T* from[NI];
    FNTK_UNROLL
    for (int k = 0; k < NI; ++k) from[k] = in + y * row_size + reads[k * reads_step];
    Records2<T> inner = {{a.at + y * a.row, a.row, a.quad}, {b.at + other * b.row, b.row, b.quad}, other, rows};
    const int own_other = begin + shift < rows ? begin + shift : begin + shift - rows;
    Records2<T> outer = {{a.at + begin * a.row + kInner * a.quad, a.row, a.quad},
                         {b.at + own_other * b.row + kInner * b.quad, b.row, b.quad},
                         own_other,
                         rows};
    T* to = out + begin * row_size;
    const int32_t* read_by = row_reads + begin;
    Sums<T> sums[NO] = {};
    FNTK_ROLLED
    for (int left = end - begin + NO - 1; left > 0; --left) {
      const int bits = *read_by++;
      Sums<T> own = {T(0), T(0), T(0)};
      if (bits) own = row(from, inner);
      if (bits == (1 << NO) - 1) {
        FNTK_UNROLL
        for (int k = NO - 1; k > 0; --k) sums[k] = sums[k - 1], add<form>(sums[k], own);
        sums[0] = own;
      } else {
        FNTK_UNROLL
        for (int k = NO - 1; k >= 0; --k) {
          sums[k] = k > 0 ? sums[k > 0 ? k - 1 : 0] : Sums<T>{T(0), T(0), T(0)};
          if (bits >> k & 1) add<form>(sums[k], own);
        }
      }
      if (left <= end - begin) {
        put(to, outer, sums[NO - 1]);
        to += row_size;
        if constexpr (tables) outer.next();
      }
      if constexpr (tables) inner.next();
      const bool turns = wraps && ++y == rows;
      FNTK_UNROLL
      for (int k = 0; k < NI; ++k) from[k] += row_size;
      if (turns) {
        y = 0;
        if constexpr (tables) inner.a.at -= rows * a.row;
        FNTK_UNROLL
        for (int k = 0; k < NI; ++k) from[k] -= rows * row_size;
      }
    }
  }

 private:
  FNTK_HD Sums<T> row(const T* const (&from)[NI], const Records2<T>& inner) const {
    Sums<T> found = load_place<form>(from[0]);
    FNTK_UNROLL
    for (int k = 1; k < NI; ++k) add<form>(found, load_place<form>(from[k]));
    if constexpr (tables && NI > 1) {
      T first[kInner * kQuad], second[kInner * kQuad];
      inner.a.load(0, first);
      inner.b.load(0, second);
      const T more = apart<NI>(first, second);
      found.v += more;
      if constexpr (form == Form::both_defects) found.p += more;
    }
    return found;
  }
  // n - 1 coordinates and their factor.
  template <int n>
  static FNTK_HD T apart(const T* first, const T* second) {
    T more = square(first[0] - second[0]);
    FNTK_UNROLL
    for (int k = 1; k < n - 1; ++k) more = fma(first[k] - second[k], first[k] - second[k], more);
    return (first[n - 1] * second[n - 1]) * more;
  }
  FNTK_HD void put(T* to, const Records2<T>& outer, Sums<T> found) const {
    const Store<T> sink(to, to + 2, to + 1);
    if constexpr (tables) {
      T first[kOuter * kQuad], second[kOuter * kQuad];
      outer.a.load(0, first);
      outer.b.load(0, second);
      if constexpr (NO > 1) {
        const T more = apart<NO>(first, second);
        found.v += more;
        if constexpr (form == Form::both_defects) found.p += more;
      }
      if (bias)
        finish<T, form, true>(sink, weights, first + kSpread, second + kSpread, 1, 0, found.v, found.p, found.t);
      else
        finish<T, form, false>(sink, weights, first + kSpread + 2, second + kSpread + 2, 1, 0, found.v, found.p,
                               found.t);
    } else {
      finish<T, form, false>(sink, weights, nullptr, nullptr, 1, 0, found.v, T(0), found.t);
    }
  }
};

// A nonlinearity, from a slot to another or the same.
template <template <class> class Phi, class T, Form form, bool cov>
struct Bent {
  static constexpr int kQuads = quads_of(2 + Phi<T>::n_rows);
  Phi<T> phi;
  long row_size;
  FNTK_HD void column(const T* in, T* out, Records2<T> rows, int count) const {
    FNTK_ROLLED
    for (int left = count; left > 0; --left) {
      const Sums<T> own = load_place<form>(in);
      T first[kQuads * kQuad], second[kQuads * kQuad];
      rows.a.load(0, first);
      rows.b.load(0, second);
      T* const to[3] = {out, out + 2, out + 1};
      Apply<Phi, T, cov, true>(phi, first, second, to, 1).template put<form, false>(0, own.v, own.p, own.t, T(0));
      in += row_size;
      out += row_size;
      rows.next();
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
