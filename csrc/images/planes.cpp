// Plane loops of images/program.h over math/duals.h: compiled once per instruction set, into its own namespace.
#include <cstring>

#include "images/counted.h"
#include "images/program.h"
#include "images/sinks.h"
#include "images/together.h"
#include "math/elements.h"

namespace fntk {
namespace FNTK_ISA {

// ---------------------------------------------------------------- windows

constexpr long kRing = 8;  // rows of sums along the inner axes that are kept

// Three taps along the inner axes, three along axis 0, at any distances below kRing. In place.
template <class T, int kR, Form form, bool bias, class Sink>
void conv3(const PlaneArgs<T>& args) {
  const PlaneArgs<T> c = args;  // a copy: nothing written below can change it
  const long lanes = lane_count<kR>(c.lanes), size = 3 * lanes;
  const long s1 = c.shift_in[1], s2 = c.shift_in[2], o1 = c.shift_out[1], o2 = c.shift_out[2];
  const long ahead = o1 > o2 ? (o1 > 0 ? o1 : 0) : (o2 > 0 ? o2 : 0);
  T* const ring = c.scratch;
  T* const zero = c.scratch + kRing * size;
  for (long x = 0; x < size; ++x) zero[x] = T(0);
  const T *m1 = c.mask_in + lanes, *m2 = c.mask_in + 2 * lanes;
  const T *v = c.src[0], *p = c.src[1], *t = c.src[2];
  TableWalk<T> first(c.a, c.b, c.stride, c), second(c.a + 3 * lanes, c.b + 3 * lanes, c.stride, c);
  Sink sink(c, lanes);
  const auto row = [&](long y) { return y < 0 || y >= c.rows ? zero : ring + (y & (kRing - 1)) * size; };
  long done = 0;
  for (long y = 0; y < c.rows; ++y) {
    for (; done < c.rows && done <= y + ahead; ++done) {
      T *hv = row(done), *hp = hv + lanes, *ht = hp + lanes;
      const T *a = first.a, *b = first.b;
      FNTK_LANES
      for (long x = 0; x < lanes; ++x) {  // vectorised: 12 + 32 per cheap dual
        T sum = fma(m2[x], v[x + s2], fma(m1[x], v[x + s1], v[x]));
        if constexpr (form != Form::cov) {
          const T one = a[x] - b[x], two = a[lanes + x] - b[lanes + x];
          const T factor = a[2 * lanes + x] * b[2 * lanes + x], square = fma(two, two, one * one);
          sum = fma(factor, square, sum);
          if constexpr (form == Form::both_defects)
            hp[x] = fma(factor, square, fma(m2[x], p[x + s2], fma(m1[x], p[x + s1], p[x])));
        }
        hv[x] = sum;
        ht[x] = fma(m2[x], t[x + s2], fma(m1[x], t[x + s1], t[x]));
      }
      v += lanes;
      p += lanes;
      t += lanes;
      first.next();
    }
    const T *h0 = row(y), *h1 = row(y + o1), *h2 = row(y + o2);
    const T w1 = c.mask_out[c.rows + y], w2 = c.mask_out[2 * c.rows + y];
    const T *a = second.a, *b = second.b;
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) {  // vectorised: 12 + 32 per cheap dual
      T sum = fma(w2, h2[x], fma(w1, h1[x], h0[x])), plus = T(0);
      const T theta = fma(w2, h2[2 * lanes + x], fma(w1, h1[2 * lanes + x], h0[2 * lanes + x]));
      if constexpr (form != Form::cov) {
        const T one = a[x] - b[x], two = a[lanes + x] - b[lanes + x];
        const T factor = a[2 * lanes + x] * b[2 * lanes + x], square = fma(two, two, one * one);
        sum = fma(factor, square, sum);
        if constexpr (form == Form::both_defects)
          plus = fma(factor, square, fma(w2, h2[lanes + x], fma(w1, h1[lanes + x], h0[lanes + x])));
      }
      finish<T, form, bias>(sink, c.weights, a + 3 * lanes, b + 3 * lanes, lanes, x, sum, plus, theta);
    }
    second.next();
    sink.next();
  }
}

// out += mask in, along lanes
template <class T>
void add_masked(long lanes, const T* mask, const T* in, T* out) {
  FNTK_LANES
  for (long x = 0; x < lanes; ++x) out[x] = fma(mask[x], in[x], out[x]);  // vectorised: 6
}
template <class T>
void add_scaled(long lanes, T weight, const T* in, T* out) {
  FNTK_LANES
  for (long x = 0; x < lanes; ++x) out[x] = fma(weight, in[x], out[x]);  // vectorised: 6
}

// out += f f' |S - S'|^2 for `n` coordinates and the factor behind them; `more` is overwritten.
template <class T>
void add_spread(long lanes, int n, const T* a, const T* b, T* more, T* out, T* also) {
  if (n == 0) return;
  for (long x = 0; x < lanes; ++x) more[x] = T(0);
  for (int k = 0; k < n; ++k) {
    const T *first = a + k * lanes, *second = b + k * lanes;
    FNTK_LANES
    for (long x = 0; x < lanes; ++x)
      more[x] = fma(first[x] - second[x], first[x] - second[x], more[x]);  // vectorised: 2
  }
  const T *first = a + n * lanes, *second = b + n * lanes;
  FNTK_LANES
  for (long x = 0; x < lanes; ++x) {  // vectorised: 2
    const T value = (first[x] * second[x]) * more[x];
    out[x] += value;
    also[x] += value;
  }
}

template <class T, Form form, bool bias>
void finish_row(const PlaneArgs<T>& c, long y, const T* a, const T* b, const T* sums) {
  const long lanes = lane_count<0>(c.lanes);
  const Store<T> sink = store_at(c, y, lanes);
  const Weights<T> weights = c.weights;
  FNTK_LANES
  for (long x = 0; x < lanes; ++x)  // vectorised: 12
    finish<T, form, bias>(sink, weights, a, b, lanes, x, sums[x], sums[lanes + x], sums[2 * lanes + x]);
}

// Any taps. Scratch: three planes, and two rows of sums.
template <class T, Form form>
void conv(const PlaneArgs<T>& c) {
  const long lanes = lane_count<0>(c.lanes), size = 3 * lanes;
  T* const sums = c.scratch + c.rows * size;
  T* const more = sums + size;
  for (long y = 0; y < c.rows; ++y) {
    T* h = c.scratch + y * size;
    for (int plane = 0; plane < 3; ++plane) {
      T* out = h + plane * lanes;
      for (long x = 0; x < lanes; ++x) out[x] = T(0);
      if (plane == 1 && form != Form::both_defects) continue;
      for (int k = 0; k < c.n_in; ++k)
        add_masked(lanes, c.mask_in + k * lanes, c.src[plane] + y * lanes + c.shift_in[k], out);
    }
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    if constexpr (form != Form::cov) add_spread(lanes, c.coords_in, rows.a, rows.b, more, h, h + lanes);
  }
  for (long y = 0; y < c.rows; ++y) {
    for (long x = 0; x < size; ++x) sums[x] = T(0);
    for (int k = 0; k < c.n_out; ++k) {
      const T weight = c.mask_out[k * c.rows + y];
      if (weight == T(0)) continue;
      add_scaled(size, weight, c.scratch + (y + c.shift_out[k]) * size, sums);
    }
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    const T *a = rows.a + stage_arrays(c.coords_in) * lanes, *b = rows.b + stage_arrays(c.coords_in) * lanes;
    if constexpr (form != Form::cov) add_spread(lanes, c.coords_out, a, b, more, sums, sums + lanes);
    a += stage_arrays(c.coords_out) * lanes;
    b += stage_arrays(c.coords_out) * lanes;
    if (c.bias)
      finish_row<T, form, true>(c, y, a, b, sums);
    else
      finish_row<T, form, false>(c, y, a, b, sums);
  }
}

// ---------------------------------------------------------------- links

// Sums over the taps of a window with strides, in src: what `conv` does behind its sums. Scratch: four rows.
template <class T, Form form>
void land_conv(const PlaneArgs<T>& c) {
  const long lanes = lane_count<0>(c.lanes);
  T *sums = c.scratch, *more = c.scratch + 3 * lanes;
  for (long y = 0; y < c.rows; ++y) {
    for (int plane = 0; plane < 3; ++plane)
      for (long x = 0; x < lanes; ++x) sums[plane * lanes + x] = c.src[plane][y * lanes + x];  // vectorised: 6
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    if constexpr (form != Form::cov) add_spread(lanes, c.coords_in, rows.a, rows.b, more, sums, sums + lanes);
    const T *a = rows.a + stage_arrays(c.coords_in) * lanes, *b = rows.b + stage_arrays(c.coords_in) * lanes;
    if (c.bias)
      finish_row<T, form, true>(c, y, a, b, sums);
    else
      finish_row<T, form, false>(c, y, a, b, sums);
  }
}

// Sums over all pairs of taps, in src.
template <class T, Form form>
void land_pool(const PlaneArgs<T>& args) {
  const PlaneArgs<T> c = args;
  const long lanes = lane_count<0>(c.lanes);
  for (long y = 0; y < c.rows; ++y) {
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    const T *a = rows.a, *b = rows.b;
    const Store<T> sink = store_at(c, y, lanes);
    const T *v = c.src[0] + y * lanes, *p = c.src[1] + y * lanes, *t = c.src[2] + y * lanes;
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) {  // vectorised: 6
      const Pooled<T> found = pooled<T, form>(a, b, lanes, x, v[x], p[x]);
      if constexpr (form != Form::cov) {
        c.lost[x] += found.lost;
        c.lost[lanes + x] += found.all;
      }
      sink.template put<form>(x, found.value, found.plus, found.weight * t[x]);
    }
  }
}

// ---------------------------------------------------------------- the others

// Unit pixel vectors u, then s: s s' (1 - u u') = s s' |u - u'|^2 / 2.
template <class T, Form form>
void input(const PlaneArgs<T>& c) {
  const long lanes = lane_count<0>(c.lanes);
  T *minus = c.scratch, *plus = c.scratch + lanes;
  for (long y = 0; y < c.rows; ++y) {
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    for (long x = 0; x < lanes; ++x) minus[x] = plus[x] = T(0);
    for (int k = 0; k < c.channels; ++k) {
      const T *a = rows.a + k * lanes, *b = rows.b + k * lanes;
      FNTK_LANES
      for (long x = 0; x < lanes; ++x) {  // vectorised: 6
        add_channel<T, form>(a[x], b[x], minus[x], plus[x]);
      }
    }
    const T *a = rows.a + c.channels * lanes, *b = rows.b + c.channels * lanes;
    const Store<T> sink = store_at(c, y, lanes);
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) {  // vectorised: 6
      put_input<T, form>(sink, x, a[x] * b[x], minus[x], plus[x]);
    }
  }
}

// Arrays: the sources' coordinates, one fewer than there are, and their factor.
template <class T, Form form>
void sum(const PlaneArgs<T>& c) {
  const long lanes = lane_count<0>(c.lanes);
  T *sums = c.scratch, *more = c.scratch + 3 * lanes;
  for (long y = 0; y < c.rows; ++y) {
    for (long x = 0; x < 3 * lanes; ++x) sums[x] = T(0);
    for (int k = 0; k < c.n_src; ++k)
      for (int plane = 0; plane < 3; ++plane)
        if (plane != 1 || form == Form::both_defects)
          add_scaled(lanes, T(1), c.sources[3 * k + plane] + y * lanes, sums + plane * lanes);
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    if constexpr (form != Form::cov) add_spread(lanes, c.n_src - 1, rows.a, rows.b, more, sums, sums + lanes);
    const Store<T> sink = store_at(c, y, lanes);
    for (long x = 0; x < lanes; ++x)
      sink.template put<form>(x, sums[x], sums[lanes + x], sums[2 * lanes + x]);  // vectorised: 4
  }
}

// Array: s.
template <class T, Form form>
void to_cov(const PlaneArgs<T>& c) {
  const long lanes = lane_count<0>(c.lanes);
  for (long y = 0; y < c.rows; ++y) {
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    const T *v = c.src[0] + y * lanes, *p = c.src[1] + y * lanes, *t = c.src[2] + y * lanes;
    const Store<T> sink = store_at(c, y, lanes);
    for (long x = 0; x < lanes; ++x) {
      T r = T(0);
      if constexpr (form != Form::cov) r = rows.a[x] * rows.b[x];
      const T k = covariance_of<T, form>(v[x], form == Form::both_defects ? p[x] : T(0), r);
      sink.template put<Form::cov>(x, k, T(0), t[x]);
    }
  }
}
template <class T>
void to_both(const PlaneArgs<T>& c) {
  const long lanes = lane_count<0>(c.lanes);
  for (long y = 0; y < c.rows; ++y) {
    const TableRows<T> rows(c.a, c.b, c.stride, c, y);
    const T *v = c.src[0] + y * lanes, *t = c.src[2] + y * lanes;
    const Store<T> sink = store_at(c, y, lanes);
    for (long x = 0; x < lanes; ++x)
      sink.template put<Form::both_defects>(x, v[x], T(2) * rows.a[x] * rows.b[x] - v[x], t[x]);
  }
}

template <template <class> class Phi, class T, Form form, bool cov>
void dual(const PlaneArgs<T>& args) {
  const PlaneArgs<T> c = args;
  const long lanes = lane_count<0>(c.lanes);
  Apply<Phi, T, cov, true> sink(c, lanes);
  for (long y = 0; y < c.rows; ++y) {
    const T *v = c.src[0] + y * lanes, *p = c.src[1] + y * lanes, *t = c.src[2] + y * lanes;
    FNTK_LANES
    for (long x = 0; x < lanes; ++x)  // vectorised: 8 per dual
      sink.template put<form, false>(x, v[x], form == Form::both_defects ? p[x] : T(0), t[x], T(0));
    sink.next();
  }
}

template <class T>
void add(long n, const T* in, double* out) {
  FNTK_LANES
  for (long k = 0; k < n; ++k) out[k] += double(in[k]);  // vectorised: 2
}

// Lines of tables, run by run. Runs are copied in whole pieces, and what that writes behind a run the next one
// corrects.
template <class T>
void gather(long lines, long lanes, const T* in, const LaneRun* runs, long n_runs, T* out) {
  for (long k = 0; k < lines; ++k, in += lanes, out += lanes) {
    const bool last = k + 1 == lines;
    for (long r = 0; r < n_runs; ++r) {
      const LaneRun run = runs[r];
      const T* const from = in + run.from;
      T* const to = out + run.to;
      if (last) {
        for (long x = 0; x < run.count; ++x) to[x] = from[x];
        continue;
      }
      for (long x = 0; x < run.count; x += kPiece) std::memcpy(to + x, from + x, kPiece * sizeof(T));
    }
  }
}

template <template <class> class Phi, class T>
void register_dual(PlaneKernels<T>& k, int index) {
  constexpr Form one = Form::defect, both = Form::both_defects;
#define FNTK_FUSED(cov, bias)                                                                   \
  k.fused[index][0][cov][bias][0] = conv3<T, 0, one, bias, Apply<Phi, T, cov, false>>;          \
  k.fused[index][0][cov][bias][1] = conv3<T, kFastLanes, one, bias, Apply<Phi, T, cov, false>>; \
  k.fused[index][1][cov][bias][0] = conv3<T, 0, both, bias, Apply<Phi, T, cov, false>>;         \
  k.fused[index][1][cov][bias][1] = conv3<T, kFastLanes, both, bias, Apply<Phi, T, cov, false>>;
  if constexpr (Phi<T>::cheap) {
    FNTK_FUSED(false, false)
    FNTK_FUSED(false, true)
    FNTK_FUSED(true, false)
    FNTK_FUSED(true, true)
  }
#undef FNTK_FUSED
#if defined(FNTK_TOGETHER)
  if constexpr (has_near<Phi<T>>) {
    k.together[index][0][0] = together<Phi<T>, T, 16, false>;
    k.together[index][0][1] = together<Phi<T>, T, kFastLanes, false>;
    k.together[index][1][0] = together<Phi<T>, T, 16, true>;
    k.together[index][1][1] = together<Phi<T>, T, kFastLanes, true>;
  }
#endif
  k.dual[index][0][0] = dual<Phi, T, one, false>;
  k.dual[index][0][1] = dual<Phi, T, one, true>;
  k.dual[index][1][0] = dual<Phi, T, both, false>;
  k.dual[index][1][1] = dual<Phi, T, both, true>;
}

template <template <class> class Phi, class T>
void register_counted(PlaneKernels<T>& k, int index) {
  k.dual[index][0][0] = counted_plane<Phi, T, Form::defect, false>;
  k.dual[index][0][1] = counted_plane<Phi, T, Form::defect, true>;
  k.dual[index][1][0] = counted_plane<Phi, T, Form::both_defects, false>;
  k.dual[index][1][1] = counted_plane<Phi, T, Form::both_defects, true>;
}

template <class T, Form form>
void register_form(PlaneKernels<T>& k) {
  constexpr int index = int(form);
  k.conv3[index][0] = conv3<T, 0, form, false, Store<T>>;
  k.conv3[index][1] = conv3<T, 0, form, true, Store<T>>;
  k.conv[index] = conv<T, form>;
  k.input[index] = input<T, form>;
  k.land_conv[index] = land_conv<T, form>;
  k.land_pool[index] = land_pool<T, form>;
  k.sum[index] = sum<T, form>;
  k.to_cov[index] = to_cov<T, form>;
}

template <class T>
PlaneKernels<T> make_plane_kernels() {
  static_assert(kDuals + kCounted <= kMaxDuals, "as many nonlinearities as there are places for their loops");
  PlaneKernels<T> k = {};
  register_form<T, Form::cov>(k);
  register_form<T, Form::defect>(k);
  register_form<T, Form::both_defects>(k);
  k.to_both = to_both<T>;
  k.add = add<T>;
  k.gather = gather<T>;
  int index = 0;
#define FNTK_REGISTER(Phi, name) register_dual<Phi, T>(k, index++);
  FNTK_DUALS(FNTK_REGISTER)
#undef FNTK_REGISTER
#define FNTK_REGISTER(Phi, name) register_counted<Phi, T>(k, index++);
  FNTK_COUNTED(FNTK_REGISTER)
#undef FNTK_REGISTER
  return k;
}

extern const PlaneKernels<float> planes_float;
extern const PlaneKernels<double> planes_double;
const PlaneKernels<float> planes_float = make_plane_kernels<float>();
const PlaneKernels<double> planes_double = make_plane_kernels<double>();

}  // namespace FNTK_ISA
}  // namespace fntk
