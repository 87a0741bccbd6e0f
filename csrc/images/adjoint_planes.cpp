// Plane loops of the reverse pass (images/adjoint.h): compiled once per instruction set, into its own namespace.
#include "images/adjoint.h"
#include "math/differentiable.h"
#include "math/duals.h"
#include "math/jet.h"

namespace fntk {
namespace FNTK_ISA {
namespace {

// Row y of planes, of tables, and of accumulators, whose second image stands displaced.
struct At {
  long plane, other;
  const double *a, *b;
  FNTK_HD At(const BackArgs& c, long y)
      : plane(y * c.lanes), other((y + c.shift < c.rows ? y + c.shift : y + c.shift - c.rows) * c.lanes) {
    a = c.a + y * c.stride;
    b = c.b + other / c.lanes * c.stride;
  }
};

// What cotangents of a sum over taps, A^T P and A^T T, are to the source.
template <bool defect, bool ntk>
void to_source(const BackArgs& c, long y, const double* on_k, const double* on_theta) {
  const At at(c, y);
  const long lanes = c.lanes;
  double *P = c.P_out + at.plane, *T = ntk ? c.T_out + at.plane : nullptr;
  if constexpr (!ntk) {
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) P[x] = fma(c.w2, on_k[x], P[x]);  // vectorised: 2
  } else {
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) {  // vectorised: 2
      P[x] = fma(c.w2, on_k[x], fma(c.f, on_theta[x], P[x]));
      T[x] = fma(c.w2, on_theta[x], T[x]);
    }
    if constexpr (defect) {
      double *first = c.first + at.plane, *second = c.second + at.other;
      FNTK_LANES
      for (long x = 0; x < lanes; ++x) {  // vectorised: 1
        const double half = 0.5 * c.f * on_theta[x];
        first[x] += half;
        second[x] += half;
      }
    }
  }
  if (!c.totals) return;
  const double *v = c.v + at.plane, *t = c.t + at.plane;
  double *of_k = c.totals, *of_theta = c.totals + 2 * c.total_stride, *crossed = c.totals + 3 * c.total_stride;
  FNTK_LANES
  for (long x = 0; x < lanes; ++x) {  // vectorised: 4
    double k = v[x], moved = v[x];
    if constexpr (defect) {
      const double s1 = at.a[x], s2 = at.b[x];
      k = s1 * s2 - v[x];
      moved = -fma(0.5 * (s1 - s2), s1 - s2, v[x]);
    }
    of_k[x] = fma(c.over_taps * on_k[x], moved, of_k[x]);
    if constexpr (ntk) {
      of_theta[x] = fma(c.over_taps * on_theta[x], t[x], of_theta[x]);
      crossed[x] = fma(c.over_taps * on_theta[x], k, crossed[x]);
    }
  }
}

template <class Rows>
void each_row(const BackArgs& c, const Rows& rows) {
  for (long y = 0; y < c.rows; ++y) {
    const double *on_k, *on_theta;
    rows(y, on_k, on_theta);
    if (c.defects[0])
      c.T ? to_source<true, true>(c, y, on_k, on_theta) : to_source<true, false>(c, y, on_k, on_theta);
    else
      c.T ? to_source<false, true>(c, y, on_k, on_theta) : to_source<false, false>(c, y, on_k, on_theta);
  }
}

void weights(const BackArgs& c) {
  each_row(c, [&](long y, const double*& on_k, const double*& on_theta) {
    on_k = c.P + y * c.lanes;
    on_theta = c.T ? c.T + y * c.lanes : nullptr;
  });
}

// The transpose of images/planes.cpp's conv: along axis 0, then along the inner axes. Scratch: sums in the middle of
// three rows, so that reads beyond their ends find zeros.
void window_of(const BackArgs& c, long y, const double* in, double* sums, double* out) {
  const long lanes = c.lanes;
  for (long x = 0; x < lanes; ++x) sums[x] = out[x] = 0;
  for (int k = 0; k < c.n_out; ++k) {
    const long from = y - c.shift_out[k];
    if (from < 0 || from >= c.rows) continue;
    const double weight = c.mask_out[k * c.rows + from], *row = in + from * lanes;
    if (weight == 0) continue;
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) sums[x] = fma(weight, row[x], sums[x]);  // vectorised: 1
  }
  for (int k = 0; k < c.n_in; ++k) {
    const double *mask = c.mask_in + k * lanes, *from = sums - c.shift_in[k];
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) out[x] = fma(mask[x], from[x], out[x]);  // vectorised: 1
  }
}

void window(const BackArgs& c) {
  const long lanes = c.lanes;
  double *sums = c.scratch + lanes, *of_k = c.scratch + 3 * lanes, *of_theta = c.scratch + 4 * lanes;
  for (long x = 0; x < lanes; ++x) c.scratch[x] = c.scratch[2 * lanes + x] = 0;
  each_row(c, [&](long y, const double*& on_k, const double*& on_theta) {
    window_of(c, y, c.P, sums, of_k);
    if (c.T) window_of(c, y, c.T, sums, of_theta);
    on_k = of_k;
    on_theta = of_theta;
  });
}

void input(const BackArgs& c) {
  const long size = c.rows * c.lanes;
  for (long y = 0; y < c.rows; ++y) {
    const At at(c, y);
    const double* P = c.P + at.plane;
    for (int channel = 0; channel < c.channels; ++channel) {
      const double *a = at.a + channel * c.lanes, *b = at.b + channel * c.lanes;
      double *first = c.first + 2 * channel * size + at.plane, *second = c.second + 2 * channel * size + at.other;
      FNTK_LANES
      for (long x = 0; x < c.lanes; ++x) {  // vectorised: 1
        const double moved = P[x] * (b[x] - a[x]);
        first[x] += moved;
        second[x] -= moved;
      }
    }
  }
}

void scale(const BackArgs& c) {
  for (long y = 0; y < c.rows; ++y) {
    const At at(c, y);
    const double *P = c.P + at.plane, *T = c.T ? c.T + at.plane : nullptr;
    double *P_out = c.P_out + at.plane, *T_out = c.T ? c.T_out + at.plane : nullptr;
    FNTK_LANES
    for (long x = 0; x < c.lanes; ++x) P_out[x] = at.a[x] * at.b[x] * P[x];  // vectorised: 1
    if (!T) continue;
    FNTK_LANES
    for (long x = 0; x < c.lanes; ++x) T_out[x] = at.a[x] * at.b[x] * T[x];  // vectorised: 1
  }
}

void to_both(const BackArgs& c, double factor) {
  for (long y = 0; y < c.rows; ++y) {
    const At at(c, y);
    const double* P = c.P + at.plane;
    double *first = c.first + at.plane, *second = c.second + at.other;
    FNTK_LANES
    for (long x = 0; x < c.lanes; ++x) {  // vectorised: 1
      first[x] = fma(factor, P[x], first[x]);
      second[x] = fma(factor, P[x], second[x]);
    }
  }
}
void halves(const BackArgs& c) { to_both(c, 0.5); }
void sums(const BackArgs& c) { to_both(c, 1.0); }

void pass(const BackArgs& c) {
  const long size = c.rows * c.lanes;
  FNTK_LANES
  for (long k = 0; k < size; ++k) c.P_out[k] += c.P[k];  // vectorised: 1
  if (!c.T) return;
  FNTK_LANES
  for (long k = 0; k < size; ++k) c.T_out[k] += c.T[k];  // vectorised: 1
}

void count(const BackArgs& c) {
  double *of_k = c.totals + c.total_stride, *of_theta = c.totals + 4 * c.total_stride;
  for (long y = 0; y < c.rows; ++y) {
    const double *P = c.P + y * c.lanes, *T = c.T ? c.T + y * c.lanes : nullptr;
    FNTK_LANES
    for (long x = 0; x < c.lanes; ++x) of_k[x] += P[x];  // vectorised: 1
    if (!T) continue;
    FNTK_LANES
    for (long x = 0; x < c.lanes; ++x) of_theta[x] += T[x];  // vectorised: 1
  }
}

// ---------------------------------------------------------------- nonlinearities

// Signed defects of a row, from s s' - K and s s' + K.
void defects_of(const BackArgs& c, const At& at, double* out) {
  const double *v = c.v + at.plane, *p = c.p + at.plane;
  const bool both = c.defects[1];
  FNTK_LANES
  for (long x = 0; x < c.lanes; ++x) {  // vectorised: 1
    const double i1 = at.a[x], i2 = at.b[x];
    double w = (v[x] * i1) * i2;
    const double other = both ? (p[x] * i1) * i2 : 2.0;
    const bool near = !(other < w);
    w = select(near, w, other);
    w = select(w > 1.0, 1.0, w);
    w = select(i1 == 0.0, 1.0, select(i2 == 0.0, 1.0, w));
    out[x] = signed_defect(near, w);
  }
}

template <template <class> class Phi>
void dual(const BackArgs& given) {
  const BackArgs c = given;  // a copy: nothing written below can change it
  constexpr int n = Phi<double>::n_rows, n_rows = n > 0 ? n : 1;
  using Number = Jet<(n > 0 ? 3 : 1)>;  // derivatives in w, and in ln q of both sides
  const Phi<Number> phi(c.params);
  const long lanes = c.lanes;
  double *const defect = c.scratch, *const zeros = defect + lanes, *const nowhere = zeros + lanes;
  for (long x = 0; x < 2 * lanes; ++x) zeros[x] = 0;
  for (long y = 0; y < c.rows; ++y) {
    const At at(c, y);
    defects_of(c, at, defect);
    const double *v = c.v + at.plane, *P = c.P + at.plane, *a = at.a, *b = at.b;
    // where there is no NTK, zeros that go nowhere
    const double *T = c.T ? c.T + at.plane : zeros, *t = c.T ? c.t + at.plane : zeros;
    double *P_out = c.P_out + at.plane, *T_out = c.T ? c.T_out + at.plane : nowhere;
    double *first = c.first + at.plane, *second = c.second + at.other;
    JetRow<Number, n ? 1 : 0> rows1[n_rows] = {};
    JetRow<Number, n ? 2 : 0> rows2[n_rows] = {};
    for (int r = 0; r < n; ++r) {
      rows1[r] = {a + (4 + r) * lanes, a + (4 + n + r) * lanes};
      rows2[r] = {b + (4 + r) * lanes, b + (4 + n + r) * lanes};
    }
    FNTK_LANES
    for (long x = 0; x < lanes; ++x) {
      const Correlation<Number> r = jet_correlation<Number>(defect[x]);
      const Dual<Number> d = phi.pair(r, Phi<Number>::load(rows1, x), Phi<Number>::load(rows2, x));
      const double i1 = a[x], i2 = b[x], s1 = a[lanes + x], s2 = b[lanes + x];
      const double S1 = a[2 * lanes + x], S2 = b[2 * lanes + x], pull1 = a[3 * lanes + x], pull2 = b[3 * lanes + x];
      const double kddot = (select(r.near, -d.kdot.d[0], d.kdot.d[0]) * i1) * i2, flow = T[x] * t[x];
      const double on_k = fma(d.kdot.v, P[x], kddot * flow);
      const double gap = s1 - s2, gap1 = fma(s1, gap, v[x]), gap2 = fma(-s2, gap, v[x]);
      const double after = S1 * S2, behind = S1 - S2, across = after * select(d.v.v < 0.0, 2 + d.v.v, d.v.v);
      const double far1 = pull1 * fma(S1, behind, across), far2 = pull2 * fma(-S2, behind, across);
      double term1 = 0.5 * fma(on_k, gap1, -far1 * P[x]), term2 = 0.5 * fma(on_k, gap2, -far2 * P[x]);
      if constexpr (n > 0) {
        const double lean = -after * P[x];
        term1 += fma(lean, d.v.d[1], flow * d.kdot.d[1]);
        term2 += fma(lean, d.v.d[2], flow * d.kdot.d[2]);
      }
      first[x] = fma(term1 * i1, i1, first[x]);
      second[x] = fma(term2 * i2, i2, second[x]);
      P_out[x] += on_k;
      T_out[x] = fma(d.kdot.v, T[x], T_out[x]);
    }
  }
}

BackKernels make_back_kernels() {
  BackKernels k = {};
  int index = 0;
#define FNTK_REGISTER(Phi, name) k.dual[index++] = dual<Phi>;
  FNTK_DIFFERENTIABLE(FNTK_REGISTER)
#undef FNTK_REGISTER
  static_assert(kDifferentiable <= kMaxBackDuals, "as many nonlinearities as there are places for their loops");
  k.weights = weights;
  k.window = window;
  k.input = input;
  k.scale = scale;
  k.halves = halves;
  k.sums = sums;
  k.pass = pass;
  k.count = count;
  return k;
}

}  // namespace

extern const BackKernels back_planes;
const BackKernels back_planes = make_back_kernels();

}  // namespace FNTK_ISA
}  // namespace fntk
