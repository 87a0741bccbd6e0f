// Block loops over math/duals.h and the linear ops: compiled once per instruction set, into its own namespace.
//
// Every loop marked `vectorised: N` must be vectorised at this object's full width in N instances (N per dual where it
// says so); csrc/cmake/check_vectorised.py fails the build otherwise. Loops cannot fail and do not allocate.
#include "common/program.h"
#include "common/transpose.h"
#include "dense/counted.h"
#include "math/duals.h"
#include "math/ops.h"

namespace fntk {
namespace FNTK_ISA {

// One line of dense, params (w2, b2, f, g). Rows: sqrt(f q); with a bias also C and S (math/ops.h), fine: and the rest
// of both.
enum class Shift { none, guard, bias, fine };  // what dense does to the defect

template <class T>
Shift shift_of(const OpView<T>& op) {
  if (op.kind == kFine) return Shift::fine;
  return op.kind == kBias ? Shift::bias : op.kind == kGuard ? Shift::guard : Shift::none;
}

template <class T, Shift shift>
struct Dense {
  T w2, g, std1, C1, S1;
  const T *std2, *C2, *S2;

  FNTK_HD Dense(const OpView<T>& op, long i, long j)
      : w2(T(op.params[0])),
        g(T(op.params[3])),
        std1(op.rows1[0][i]),
        C1(0),
        S1(0),
        std2(op.rows2[0] + j),
        C2(nullptr),
        S2(nullptr) {
    if constexpr (shift == Shift::bias) {
      C1 = op.rows1[1][i];
      S1 = op.rows1[2][i];
      C2 = op.rows2[1] + j;
      S2 = op.rows2[2] + j;
    }
  }
  FNTK_HD T theta(T before, T rho, long k) const { return dense_theta(w2, g, std1, std2[k], rho, before); }
  template <bool positive>
  FNTK_HD T defect(T before, long k) const {
    if constexpr (shift == Shift::bias) return bias_defect<T, positive>(C1, C2[k], S1, S2[k], before);
    if constexpr (shift == Shift::guard) return guarded_defect(std1, std2[k], before);
    return before;
  }
};

template <class T>
struct Dense<T, Shift::fine> {
  T w2, g, std1;
  Shares<T> own;
  const T *std2, *C2, *S2, *C2_low, *S2_low;

  FNTK_HD Dense(const OpView<T>& op, long i, long j)
      : w2(T(op.params[0])),
        g(T(op.params[3])),
        std1(op.rows1[0][i]),
        own{op.rows1[1][i], op.rows1[2][i], op.rows1[3][i], op.rows1[4][i]},
        std2(op.rows2[0] + j),
        C2(op.rows2[1] + j),
        S2(op.rows2[2] + j),
        C2_low(op.rows2[3] + j),
        S2_low(op.rows2[4] + j) {}
  FNTK_HD T theta(T before, T rho, long k) const { return dense_theta(w2, g, std1, std2[k], rho, before); }
  template <bool>
  FNTK_HD T defect(T before, long k) const {
    return fine_bias_defect(own, Shares<T>{C2[k], S2[k], C2_low[k], S2_low[k]}, before);
  }
};

template <class T, Shift shift>
void dense_lines(const OpView<T>& op, const Block<T>& b) {
  for (int line = 0; line < b.lines; ++line) {
    const Dense<T, shift> dense(op, b.i0 + line, b.j0 + line * b.col_step);
    const T* v = b.v(op.src[0]) + line * b.stride;
    T* v_out = b.v(op.dst) + line * b.stride;
    if (b.ntk) {
      const T* theta = b.theta(op.src[0]) + line * b.stride;
      T* theta_out = b.theta(op.dst) + line * b.stride;
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 8
        theta_out[k] = dense.theta(theta[k], rho_of(v[k]), k);
    }
    if (shift != Shift::none || v != v_out) {
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 8
        v_out[k] = dense.template defect<false>(v[k], k);
    }
  }
}

template <class T>
void dense(const OpView<T>& op, const Block<T>& b) {
  switch (shift_of(op)) {
    case Shift::none:
      return dense_lines<T, Shift::none>(op, b);
    case Shift::guard:
      return dense_lines<T, Shift::guard>(op, b);
    case Shift::bias:
      return dense_lines<T, Shift::bias>(op, b);
    case Shift::fine:
      return dense_lines<T, Shift::fine>(op, b);
  }
}

// Means of parts: what a part adds to 1 - rho and to 1 + rho beside what it is worth alone (math/ops.h).
template <class T>
struct Means {
  T apart[kMaxCols] = {}, together[kMaxCols] = {};  // sums of m1 - m2 and of m1 + m2

  void add(T m1, const T* m2, int cols, T* minus, T* plus) {
    FNTK_LANES
    for (int k = 0; k < cols; ++k) {  // vectorised: 2
      const T d = m1 - m2[k], t = m1 + m2[k];
      minus[k] = fma(d, apart[k], minus[k]);
      plus[k] = fma(t, together[k], plus[k]);
      apart[k] += d;
      together[k] += t;
    }
  }
};

// Independent branches: covariances add. Rows: p of each source, and behind it the mean where there are some.
template <class T>
void sum(const OpView<T>& op, const Block<T>& b) {
  T plus[kMaxCols];  // 1 + rho; 1 - rho gathers in the destination
  const int step = op.kind == kMeans ? 2 : 1;
  for (int line = 0; line < b.lines; ++line) {
    const long i = b.i0 + line, j = b.j0 + line * b.col_step;
    T* minus = b.v(op.dst) + line * b.stride;
    T* theta_out = b.theta(op.dst) + line * b.stride;
    for (int k = 0; k < b.cols; ++k) minus[k] = plus[k] = T(0);
    if (b.ntk)
      for (int k = 0; k < b.cols; ++k) theta_out[k] = T(0);
    for (int s = 0; s < op.n_src; ++s) {
      const T* v = b.v(op.src[s]) + line * b.stride;
      const T* theta = b.theta(op.src[s]) + line * b.stride;
      const T p1 = op.rows1[s * step][i];
      const T* p2 = op.rows2[s * step] + j;
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k) {  // vectorised: 2
        const T w = magnitude(v[k]), rest = T(2) - w;
        const bool near = !(v[k] < T(0));
        minus[k] += part_defect(p1, p2[k], select(near, w, rest));
        plus[k] += part_defect(p1, p2[k], select(near, rest, w));
      }
      if (!b.ntk) continue;
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 2
        theta_out[k] += theta[k];
    }
    if (op.kind == kMeans) {
      Means<T> means;
      for (int s = 0; s < op.n_src; ++s)
        means.add(op.rows1[2 * s + 1][i], op.rows2[2 * s + 1] + j, b.cols, minus, plus);
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 2
        minus[k] = at_least_zero(minus[k]);
    }
    FNTK_LANES
    for (int k = 0; k < b.cols; ++k)  // vectorised: 2
      minus[k] = sum_defect(minus[k], plus[k]);
  }
}

// Each input divided by its deviation over channels. Row: 1 / deviation.
template <class T>
void norm(const OpView<T>& op, const Block<T>& b) {
  for (int line = 0; line < b.lines; ++line) {
    const T* v = b.v(op.src[0]) + line * b.stride;
    T* v_out = b.v(op.dst) + line * b.stride;
    if (v != v_out)
      for (int k = 0; k < b.cols; ++k) v_out[k] = v[k];
    if (!b.ntk) continue;
    const T gain1 = op.rows1[0][b.i0 + line];
    const T* gain2 = op.rows2[0] + b.j0 + line * b.col_step;
    const T* theta = b.theta(op.src[0]) + line * b.stride;
    T* theta_out = b.theta(op.dst) + line * b.stride;
    FNTK_LANES
    for (int k = 0; k < b.cols; ++k)  // vectorised: 2
      theta_out[k] = gain1 * gain2[k] * theta[k];
  }
}

// Independent branches, multiplied: covariances multiply, and NTKs as derivatives of a product do. Rows: deviations.
template <class T>
void product(const OpView<T>& op, const Block<T>& b) {
  T all[kMaxCols];  // the covariance of the sources so far
  for (int line = 0; line < b.lines; ++line) {
    const long i = b.i0 + line, j = b.j0 + line * b.col_step;
    T* v_out = b.v(op.dst) + line * b.stride;
    T* theta_out = b.theta(op.dst) + line * b.stride;
    for (int k = 0; k < b.cols; ++k) {
      all[k] = T(1);
      v_out[k] = T(0);
    }
    if (b.ntk)
      for (int k = 0; k < b.cols; ++k) theta_out[k] = T(0);
    for (int s = 0; s < op.n_src; ++s) {
      const T* v = b.v(op.src[s]) + line * b.stride;
      const T* theta = b.theta(op.src[s]) + line * b.stride;
      const T std1 = op.rows1[s][i];
      const T* std2 = op.rows2[s] + j;
      if (b.ntk) {
        FNTK_LANES
        for (int k = 0; k < b.cols; ++k) {  // vectorised: 2
          const T own = covariance(std1, std2[k], v[k]);
          theta_out[k] = fma(theta_out[k], own, all[k] * theta[k]);
          all[k] *= own;
        }
      }
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 2
        v_out[k] = product_defect(v_out[k], v[k]);
    }
  }
}

// Row: standard deviation of the slot.
template <class T>
void store(const OpView<T>& op, const Block<T>& b) {
  for (int line = 0; line < b.lines; ++line) {
    const T* v = b.v(op.src[0]) + line * b.stride;
    const T* theta = b.theta(op.src[0]) + line * b.stride;
    if (op.out[0]) {
      const T std1 = op.rows1[0][b.i0 + line];
      const T* std2 = op.rows2[0] + b.j0 + line * b.col_step;
      T* out = op.out[0] + line * op.out_stride[0];
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 2
        out[k] = covariance(std1, std2[k], v[k]);
    }
    for (int plane = 1; plane < 3; ++plane) {
      if (!op.out[plane]) continue;
      const T* in = plane == 1 ? theta : v;
      T* out = op.out[plane] + line * op.out_stride[plane];
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 2
        out[k] = in[k];
    }
  }
}

// What follows a nonlinearity in the same pass: nothing, or the Dense layer behind it (`next`), in place.
template <class T>
struct Nothing {
  FNTK_HD Nothing(const OpView<T>&, long, long) {}
  FNTK_HD T theta(T before, T, long) const { return before; }
  template <bool>
  FNTK_HD T defect(T before, long) const {
    return before;
  }
};

template <template <class> class Phi, class Next, class T>
void dual_lines(const OpView<T>& op, const OpView<T>& next, const Block<T>& b) {
  const Phi<T> phi(op.params);
  constexpr int n_rows = Phi<T>::n_rows > 0 ? Phi<T>::n_rows : 1;
  for (int line = 0; line < b.lines; ++line) {
    const long i = b.i0 + line, j = b.j0 + line * b.col_step;
    const Next after(next, i, j);
    const T* rows2[n_rows];
    for (int r = 0; r < Phi<T>::n_rows; ++r) rows2[r] = op.rows2[r] + j;
    const auto x1 = Phi<T>::load(op.rows1, i);
    const T* v = b.v(op.src[0]) + line * b.stride;
    T* v_out = b.v(op.dst) + line * b.stride;
    if (b.ntk) {
      const T* theta = b.theta(op.src[0]) + line * b.stride;
      T* theta_out = b.theta(op.dst) + line * b.stride;
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k) {  // vectorised: 8 per dual
        const Dual<T> d = phi.pair(correlation(v[k]), x1, Phi<T>::load(rows2, k));
        theta_out[k] = after.theta(theta[k] * d.kdot, Phi<T>::positive ? T(1) - d.v : rho_of(d.v), k);
        v_out[k] = after.template defect<Phi<T>::positive>(d.v, k);
      }
    } else {
      FNTK_LANES
      for (int k = 0; k < b.cols; ++k)  // vectorised: 8 per dual
        v_out[k] =
            after.template defect<Phi<T>::positive>(phi.pair(correlation(v[k]), x1, Phi<T>::load(rows2, k)).v, k);
    }
  }
}

template <template <class> class Phi, class T>
void dual(const OpView<T>& op, const Block<T>& b) {
  if (op.next == nullptr) return dual_lines<Phi, Nothing<T>, T>(op, op, b);
  switch (shift_of(*op.next)) {
    case Shift::none:
      return dual_lines<Phi, Dense<T, Shift::none>, T>(op, *op.next, b);
    case Shift::guard:
      return dual_lines<Phi, Dense<T, Shift::guard>, T>(op, *op.next, b);
    case Shift::bias:
      return dual_lines<Phi, Dense<T, Shift::bias>, T>(op, *op.next, b);
    case Shift::fine:  // never in the same pass (common/ops.cpp)
      return;
  }
}

template <template <class> class Phi, class T>
void dual_map(long n, const T* q11, const T* q12, const T* q22, const RowTable<T>& table1, const RowTable<T>& table2,
              const double* params, T* k_out, T* kdot_out) {
  const Phi<T> phi(params);
  const T *rows1[Phi<T>::n_rows + 1], *rows2[Phi<T>::n_rows + 1];
  for (int r = 0; r <= Phi<T>::n_rows; ++r) rows1[r] = table1[r], rows2[r] = table2[r];
  FNTK_LANES
  for (long k = 0; k < n; ++k) {  // vectorised: 2 per dual
    const CovarianceDual<T> d = covariance_dual(phi, q11[k], q12[k], q22[k], rows1, rows2, k);
    k_out[k] = d.k;
    kdot_out[k] = d.kdot;
  }
}

constexpr int kLanes = 32;  // accumulators of a reduction: one order of summation for every instruction set

template <class T>
FNTK_HD T add_lanes(T* acc) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) acc[l] += acc[l + half];
  return acc[0];
}

// |x / |x| - sign y / |y||^2 / 2, |x| >= |y| (math/ops.h).
template <class T>
double unit_distance(const T* x, double norm, const T* y, double other, double sign, long d) {
  const double t = -sign * (norm / other - 1), inverse = inverse_norm(norm);
  double acc[kLanes] = {};
  long k = 0;
  for (; k + kLanes <= d; k += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const double v = unit_difference(double(x[k + l]), double(y[k + l]), sign, t, inverse);
      acc[l] = fma(v, v, acc[l]);
    }
  for (int l = 0; k + l < d; ++l) {
    const double v = unit_difference(double(x[k + l]), double(y[k + l]), sign, t, inverse);
    acc[l] = fma(v, v, acc[l]);
  }
  return 0.5 * add_lanes(acc);
}

// 1 - |rho| of one close or opposite pair from the rows themselves.
template <class T>
T exact_defect(bool near, const RawRows<T>& x1, const T* row, double norm, long d) {
  if (row == x1.rows) return T(0);  // one row with itself
  // the longer row first, so that (i, j) and (j, i) are one computation
  const double sign = near ? 1 : -1;
  if (x1.norms[0] < norm) return T(unit_distance(row, norm, x1.rows, x1.norms[0], sign, d));
  return T(unit_distance(x1.rows, x1.norms[0], row, norm, sign, d));
}

template <class T>
void defect(long n, const T* product, T close, const RawRows<T>& x1, const RawRows<T>& x2, long d, T* v) {
  FNTK_LANES
  for (long k = 0; k < n; ++k) {  // vectorised: 2
    const bool near = !(product[k] < T(0));
    v[k] = signed_defect(near, at_least_zero(T(1) - magnitude(product[k])));
  }
  if (!x1.rows) return;
  constexpr long step = 16;  // few pairs are close: look at 16 at once
  for (long k = 0; k < n; k += step) {
    const long end = k + step < n ? k + step : n;
    using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;  // of T's width, or this loop stays scalar
    Flag some = 0;
    for (long l = k; l < end; ++l) some |= select(magnitude(v[l]) < close, Flag(1), Flag(0));
    if (!some) continue;
    for (long l = k; l < end; ++l) {
      if (!(magnitude(v[l]) < close)) continue;
      const bool near = !(v[l] < T(0));
      v[l] = signed_defect(near, exact_defect(near, x1, x2.rows + l * d, x2.norms[l], d));
    }
  }
}

template <class T>
double sum_of_squares(const T* x, double scale, long d) {
  double acc[kLanes] = {};
  long k = 0;
  for (; k + kLanes <= d; k += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const double t = double(x[k + l]) * scale;
      acc[l] = fma(t, t, acc[l]);
    }
  for (int l = 0; k + l < d; ++l) {
    const double t = double(x[k + l]) * scale;
    acc[l] = fma(t, t, acc[l]);
  }
  return add_lanes(acc);
}

template <class T>
constexpr Kernels<T> make_kernels() {
  return {{dense<T>, sum<T>, store<T>, norm<T>, product<T>,
#define FNTK_REGISTER(Phi, name) dual<Phi, T>,
           FNTK_DUALS(FNTK_REGISTER)
#undef FNTK_REGISTER
#define FNTK_REGISTER(Phi, name) counted<Phi, T>,
               FNTK_COUNTED(FNTK_REGISTER)
#undef FNTK_REGISTER
          },
          {nullptr, nullptr, nullptr, nullptr, nullptr,
#define FNTK_REGISTER(Phi, name) dual_map<Phi, T>,
           FNTK_DUALS(FNTK_REGISTER)
#undef FNTK_REGISTER
          },
          defect<T>,
          sum_of_squares<T>,
          transpose<T>};
}

// `extern` gives the constants external linkage: dense/run.cpp picks one pair of them.
extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
const Kernels<float> kernels_float = make_kernels<float>();
const Kernels<double> kernels_double = make_kernels<double>();

}  // namespace FNTK_ISA
}  // namespace fntk
