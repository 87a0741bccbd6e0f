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

// A number that the compiler does not make again wherever it is asked for: it waits in a register.
FNTK_HD long held(long x) {
#if defined(__CUDA_ARCH__)
  long same;
  asm("mov.b64 %0, %1;" : "=l"(same) : "l"(x));
  return same;
#else
  return x;
#endif
}
template <class T>
FNTK_HD void advance(T*& p, long bytes) {
  p = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + uintptr_t(bytes));
}

// Both images' records of a lane, row by row.
template <class T>
struct RecordWalk {
  const T *a, *b;
  long bytes;  // of a row
  FNTK_HD void next() {
    advance(a, bytes);
    advance(b, bytes);
  }
  // Quads from `from` on.
  template <int n>
  FNTK_HD void load(int from, T (&first)[n], T (&second)[n]) const {
    FNTK_UNROLL
    for (int k = 0; k < n / kQuad; ++k) {
      load_quad(a + (from + k) * kRecordLanes * kQuad, first + k * kQuad);
      load_quad(b + (from + k) * kRecordLanes * kQuad, second + k * kQuad);
    }
  }
};

// Rows of one lane: begin on, `count` of them.
struct Column {
  int begin, count, x;
  int at;                // its first place, in numbers of a slot
  int block1, block2;    // of both images' records
  int within1, within2;  // numbers within these
};

// What becomes of a place's numbers: a slot takes them as they are, or behind a nonlinearity.
struct Kept {
  static constexpr int kQuads = 0;
  template <Form form, bool known, class T>
  FNTK_HD void put(T* const (&to)[3], const T*, const T*, T v, T p, T t, T) const {
    Store<T>(to[0], to[1], to[2]).template put<form>(0, v, p, t);
  }
};
template <template <class> class Phi, class T, bool cov>
struct Bent {
  static constexpr int kQuads = quads_of(2 + Phi<T>::n_rows);
  Phi<T> phi;
  template <Form form, bool known>
  FNTK_HD void put(T* const (&to)[3], const T* a, const T* b, T v, T p, T t, T r) const {
    if constexpr (form != Form::cov)
      Apply<Phi, T, cov, true>(phi, a, b, to, 1).template put<form, known>(0, v, p, t, r);
  }
};
// What follows the sums, for what comes then.
template <class T>
struct Caught {
  T* of;
  template <Form form, bool known = false>
  FNTK_HD void put(long, T v, T p, T t, T r = T(0)) const {
    of[0] = v, of[1] = p, of[2] = t, of[3] = r;
  }
};

// A window of NI taps along the inner axes and NO along axis 0. Every number that is read counts once: sums along the
// inner axes, row by row, are added to those of the rows that still await this one, and the first of them is done.
template <class T, Form form, int NI, int NO, class Then>
struct Roll {
  static constexpr int kInner = NI > 1 ? quads_of(NI) : 0, kSpread = NO > 1 ? NO : 0, kOuter = quads_of(kSpread + 3),
                       kQuads = kInner + kOuter + Then::kQuads;
  static constexpr bool tables = form != Form::cov;
  Then then;
  Weights<T> weights;
  bool bias, wraps;
  int rows, low;
  long row_size;
  const T* in;  // at the first place that is done
  T* out;
  const int32_t *reads, *row_reads;  // of the lane; from the first row on
  RecordWalk<T> records;             // from that row on, of what is read `low` rows before and of what is then done

  // A column's rows from `begin` on, `count` of them.
  FNTK_HD void column(int begin, int count) const {
    const long bytes = held(row_size * long(sizeof(T)));
    const T* from[NI];
    {
      const T* first = in;
      advance(first, (wraps && begin <= low ? rows - low : -low) * bytes);
      FNTK_UNROLL
      for (int k = 0; k < NI; ++k) from[k] = first, advance(from[k], reads[k]);
    }
    T* to = out;
    RecordWalk<T> own = records;
    own.bytes = held(own.bytes);
    const int32_t* read_by = row_reads;
    Sums<T> sums[NO] = {};
    FNTK_ROLLED
    for (int left = count + NO - 1; left > 0; --left) {
      const int bits = *read_by++;
      if (bits == (1 << NO) - 1) {
        const Sums<T> read = row(from, own);
        FNTK_UNROLL
        for (int k = NO - 1; k > 0; --k) sums[k] = sums[k - 1], add<form>(sums[k], read);
        sums[0] = read;
      } else {
        if (bits & kTurns) {
          FNTK_UNROLL
          for (int k = 0; k < NI; ++k) advance(from[k], -rows * bytes);
        }
        const int done = count + NO - 1 - left;  // of those that the row is read by, the ones of this stretch
        const int wanted = bits & ((2 << done) - 1) & ~((1 << (done >= count ? done - count + 1 : 0)) - 1) & ~kTurns;
        Sums<T> read = {T(0), T(0), T(0)};
        if (wanted) read = row(from, own);
        FNTK_UNROLL
        for (int k = NO - 1; k >= 0; --k) {
          sums[k] = k > 0 ? sums[k > 0 ? k - 1 : 0] : Sums<T>{T(0), T(0), T(0)};
          if (wanted >> k & 1) add<form>(sums[k], read);
        }
      }
      if (left <= count) {
        put(to, own, sums[NO - 1]);
        advance(to, bytes);
      }
      if constexpr (tables) own.next();
      FNTK_UNROLL
      for (int k = 0; k < NI; ++k) advance(from[k], bytes);
    }
  }

 private:
  FNTK_HD Sums<T> row(const T* const (&from)[NI], const RecordWalk<T>& own) const {
    Sums<T> found = load_place<form>(from[0]);
    FNTK_UNROLL
    for (int k = 1; k < NI; ++k) add<form>(found, load_place<form>(from[k]));
    if constexpr (tables && NI > 1) {
      T first[kInner * kQuad], second[kInner * kQuad];
      own.load(0, first, second);
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
  FNTK_HD void put(T* to, const RecordWalk<T>& own, Sums<T> found) const {
    T* const planes[3] = {to, to + 2, to + 1};
    if constexpr (tables) {
      constexpr int n = kOuter * kQuad;
      T a[n + Then::kQuads * kQuad], b[n + Then::kQuads * kQuad];
      own.load(kInner, a, b);
      if constexpr (NO > 1) {
        const T more = apart<NO>(a, b);
        found.v += more;
        if constexpr (form == Form::both_defects) found.p += more;
      }
      T of[4];
      const Caught<T> sink = {of};
      if (bias)
        finish<T, form, true>(sink, weights, a + kSpread, b + kSpread, 1, 0, found.v, found.p, found.t);
      else
        finish<T, form, false>(sink, weights, a + kSpread + 2, b + kSpread + 2, 1, 0, found.v, found.p, found.t);
      then.template put<form, true>(planes, a + n, b + n, of[0], of[1], of[2], of[3]);
    } else {
      finish<T, form, false>(Store<T>(planes[0], planes[1], planes[2]), weights, nullptr, nullptr, 1, 0, found.v, T(0),
                             found.t);
    }
  }
};

// A nonlinearity alone, from a slot to another or the same.
template <class T, Form form, class Then>
struct Single {
  Then then;
  long row_size;
  // `count` rows.
  FNTK_HD void column(const T* in, T* out, RecordWalk<T> records, int count) const {
    const long bytes = held(row_size * long(sizeof(T)));
    records.bytes = held(records.bytes);
    FNTK_ROLLED
    for (int left = count; left > 0; --left) {
      const Sums<T> own = load_place<form>(in);
      T a[Then::kQuads * kQuad], b[Then::kQuads * kQuad];
      records.load(0, a, b);
      T* const planes[3] = {out, out + 2, out + 1};
      then.template put<form, false>(planes, a, b, own.v, own.p, own.t, T(0));
      advance(in, bytes);
      advance(out, bytes);
      records.next();
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
