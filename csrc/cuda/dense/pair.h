// Some pairs of inputs, one thread's, through one step of a program: host and device run this same text, so that
// machines without a GPU test it.
#pragma once
#include <cstring>

#include "common/ops.h"
#include "cuda/dense/steps.h"
#include "math/counted.h"
#include "math/duals.h"
#include "math/ops.h"

namespace fntk {

constexpr int kMaxSlots = 8;

// A step and what its formulas need of its parameters, made on the host.
template <class T>
struct Constants {
  T w2, g;
  T phi[8];  // the nonlinearity's struct (math/duals.h), byte by byte
};

struct DeviceStep : Step {
  Constants<float> single;
  Constants<double> exact;
  long single_at, exact_at;  // of a counted nonlinearity: where its constants lie, in bytes from here
  template <class T>
  FNTK_HD const T* counted_constants() const {
    const long at = std::is_same_v<T, float> ? single_at : exact_at;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + at);
  }
  template <class T>
  FNTK_HD const Constants<T>& constants() const {
    if constexpr (std::is_same_v<T, float>)
      return single;
    else
      return exact;
  }
};

namespace FNTK_ISA {

template <class T>
void set_constants(const Step& step, Constants<T>& c) {
  c = {T(step.dense[0]), T(step.dense[3]), {}};
  int code = kFirstDual;
#define FNTK_CONSTANTS(Phi, name)                                                     \
  if (step.head.code == code++) {                                                     \
    static_assert(sizeof(Phi<T>) <= sizeof(c.phi) && alignof(Phi<T>) <= alignof(T) && \
                  std::is_trivially_copyable_v<Phi<T>>);                              \
    const Phi<T> phi(step.phi);                                                       \
    std::memcpy(c.phi, &phi, sizeof(phi));                                            \
  }
  FNTK_DUALS(FNTK_CONSTANTS)
#undef FNTK_CONSTANTS
}

template <class T, int P>
struct Pack {  // P numbers of a thread
  T at[P];
};

// The pair state of P pairs.
template <class T, int P>
struct Pairs {
  Pack<T, P> v, theta;
};

// Rows: lines(k), row array k at each pair's line, a Pack; column(k), at the column they share.

// The Dense layer. positive: rho >= 0.
template <bool Ntk, bool positive, int kind, class T, int P, class Rows>
FNTK_HD void dense_pairs(const Constants<T>& c, const Rows& rows, int row, Pairs<T, P>& x) {
  if constexpr (kind == kNoDense) return;
  [[maybe_unused]] Pack<T, P> std1 = {};
  [[maybe_unused]] T std2 = T(0);
  if constexpr (Ntk || kind == kGuard) {
    std1 = rows.lines(row);
    std2 = rows.column(row);
  }
  if constexpr (Ntk) FNTK_UNROLL
  for (int p = 0; p < P; ++p)
    x.theta.at[p] =
        dense_theta(c.w2, c.g, std1.at[p], std2, positive ? T(1) - x.v.at[p] : rho_of(x.v.at[p]), x.theta.at[p]);
  if constexpr (kind == kGuard) FNTK_UNROLL
  for (int p = 0; p < P; ++p) x.v.at[p] = guarded_defect(std1.at[p], std2, x.v.at[p]);
  if constexpr (kind == kBias) {
    const Pack<T, P> C1 = rows.lines(row + 1), S1 = rows.lines(row + 2);
    const T C2 = rows.column(row + 1), S2 = rows.column(row + 2);
    FNTK_UNROLL
    for (int p = 0; p < P; ++p) x.v.at[p] = bias_defect<T, positive>(C1.at[p], C2, S1.at[p], S2, x.v.at[p]);
  }
}

// The same by row numbers in two parts: of networks that pull near inputs apart.
template <bool Ntk, class T, int P, class Rows>
FNTK_HD void fine_dense_pairs(const Constants<T>& c, const Rows& rows, int row, Pairs<T, P>& x) {
  dense_pairs<Ntk, false, kPlain>(c, rows, row, x);
  const Pack<T, P> C1 = rows.lines(row + 1), S1 = rows.lines(row + 2);
  const Pack<T, P> C1_low = rows.lines(row + 3), S1_low = rows.lines(row + 4);
  const Shares<T> two = {rows.column(row + 1), rows.column(row + 2), rows.column(row + 3), rows.column(row + 4)};
  FNTK_UNROLL
  for (int p = 0; p < P; ++p)
    x.v.at[p] = fine_bias_defect(Shares<T>{C1.at[p], S1.at[p], C1_low.at[p], S1_low.at[p]}, two, x.v.at[p]);
}

template <class T, int P, class Rows>
struct LineRows {  // one pair's line, as Phi::load reads row arrays
  const Rows& rows;
  int row, p;
  struct Row {
    T value;
    FNTK_HD T operator[](long) const { return value; }
  };
  FNTK_HD Row operator[](int r) const { return {rows.lines(row + r).at[p]}; }
};
template <class T, class Rows>
struct ColumnRows {
  const Rows& rows;
  int row;
  struct Row {
    T value;
    FNTK_HD T operator[](long) const { return value; }
  };
  FNTK_HD Row operator[](int r) const { return {rows.column(row + r)}; }
};

// Begins a pair after the one before it: in float32, where a thread has four, formulas with numbers of their own take
// so many registers that a compiler which mixes the pairs spills some.
FNTK_HD void apart([[maybe_unused]] float& x) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+f"(x));
#endif
}
FNTK_HD void apart(double&) {}

// A nonlinearity and the Dense layer behind it.
template <template <class> class Phi, bool Ntk, int kind, class T, int P, class Rows>
FNTK_HD void dual_pairs(const DeviceStep& step, const Rows& rows, Pairs<T, P>& x) {
  const Constants<T>& c = step.constants<T>();
  const Phi<T>& phi = *reinterpret_cast<const Phi<T>*>(c.phi);
  const int row = step.head.row;
  const auto x2 = Phi<T>::load(ColumnRows<T, Rows>{rows, row}, 0);
  FNTK_UNROLL
  for (int p = 0; p < P; ++p) {
    const auto x1 = Phi<T>::load(LineRows<T, P, Rows>{rows, row, p}, 0);
    T v = x.v.at[p];
    if constexpr (Phi<T>::n_rows > 0) apart(v);
    const Dual<T> d = phi.pair(correlation(v), x1, x2);
    x.v.at[p] = d.v;
    if constexpr (Ntk) x.theta.at[p] *= d.kdot;
  }
  dense_pairs<Ntk, Phi<T>::positive, kind>(c, rows, row + Phi<T>::n_rows, x);
}

template <template <class> class Phi, bool Ntk, class T, int P, class Rows>
FNTK_HD void dual_step(const StepHead& head, const DeviceStep& step, const Rows& rows, Pairs<T, P>& x) {
  if (head.after == kBias)
    dual_pairs<Phi, Ntk, kBias>(step, rows, x);
  else if (head.after == kPlain)
    dual_pairs<Phi, Ntk, kPlain>(step, rows, x);
  else if (head.after == kGuard)
    dual_pairs<Phi, Ntk, kGuard>(step, rows, x);
  else
    dual_pairs<Phi, Ntk, kNoDense>(step, rows, x);
}

// A nonlinearity or a Dense layer of its own, on the accumulator. Every: others than cheap ones too.
template <bool Ntk, bool Every, class T, int P, class Rows>
FNTK_HD void pair_step(const StepHead& head, const DeviceStep& step, const Rows& rows, Pairs<T, P>& x) {
  if (head.code == kDense) {
    const Constants<T>& c = step.constants<T>();
    if (head.after == kBias)
      dense_pairs<Ntk, false, kBias>(c, rows, head.row, x);
    else if (head.after == kGuard)
      dense_pairs<Ntk, false, kGuard>(c, rows, head.row, x);
    else if (head.after == kFine)
      fine_dense_pairs<Ntk>(c, rows, head.row, x);
    else
      dense_pairs<Ntk, false, kPlain>(c, rows, head.row, x);
    return;
  }
  int code = kFirstDual - 1;
#define FNTK_STEP(Phi, name)            \
  ++code;                               \
  if constexpr (Every || Phi<T>::cheap) \
    if (head.code == code) return dual_step<Phi, Ntk>(head, step, rows, x);
  FNTK_DUALS(FNTK_STEP)
#undef FNTK_STEP
}

// Row arrays of one of a thread's pairs, as a counted nonlinearity reads them: where they lie, since no number of them
// would be staged for sure.
template <class Rows>
struct RowsOfPair {
  const Rows& rows;
  int row, p;
  template <class T>
  FNTK_HD T one(int k, int) const {
    return rows.line(row + k, p);
  }
  template <class T>
  FNTK_HD T two(int k, int) const {
    return rows.column(row + k);
  }
};

template <template <class> class Phi, bool Ntk, class T, int P, class Rows>
FNTK_HD void counted_pairs(const DeviceStep& step, const Rows& rows, Pairs<T, P>& x) {
  const Phi<T> phi(step.counted_constants<T>(), step.n_params);
  FNTK_UNROLL
  for (int p = 0; p < P; ++p) {
    T v = x.v.at[p];
    apart(v);
    const End<T> ends[1] = {end_of(v)};
    Ends<T, 1> found;
    phi.template pairs<Ntk>(ends, RowsOfPair<Rows>{rows, step.head.row, p}, found);
    x.v.at[p] = found.v[0];
    if constexpr (Ntk) x.theta.at[p] *= found.kdot[0];
  }
}

template <bool Ntk, class T, int P, class Rows>
FNTK_HD void counted_step(const StepHead& head, const DeviceStep& step, const Rows& rows, Pairs<T, P>& x) {
  int code = kFirstCounted;
#define FNTK_STEP(Phi, name) \
  if (head.code == code++) return counted_pairs<Phi, Ntk>(step, rows, x);
  FNTK_COUNTED(FNTK_STEP)
#undef FNTK_STEP
}

// Sums of independent branches, part by part (math/ops.h).
template <class T, int P>
struct Sum {
  Pack<T, P> minus, plus, theta;

  FNTK_HD void clear() { minus = plus = theta = {}; }
  template <class Rows>
  FNTK_HD void add(const Rows& rows, int row, const Pairs<T, P>& part) {
    const Pack<T, P> p1 = rows.lines(row);
    const T p2 = rows.column(row);
    FNTK_UNROLL
    for (int p = 0; p < P; ++p) {
      const T v = part.v.at[p], w = magnitude(v);
      const bool near = !(v < T(0));
      minus.at[p] += part_defect(p1.at[p], p2, select(near, w, T(2) - w));
      plus.at[p] += part_defect(p1.at[p], p2, select(near, T(2) - w, w));
      theta.at[p] += part.theta.at[p];
    }
  }
  FNTK_HD Pairs<T, P> pairs() const {
    Pairs<T, P> x;
    FNTK_UNROLL
    for (int p = 0; p < P; ++p) x.v.at[p] = sum_defect(minus.at[p], plus.at[p]);
    x.theta = theta;
    return x;
  }
};

template <class T, int P>
FNTK_HD Pairs<T, P> choose(bool condition, const Pairs<T, P>& yes, const Pairs<T, P>& no) {
  Pairs<T, P> x;
  FNTK_UNROLL
  for (int p = 0; p < P; ++p) {
    x.v.at[p] = select(condition, yes.v.at[p], no.v.at[p]);
    x.theta.at[p] = select(condition, yes.theta.at[p], no.theta.at[p]);
  }
  return x;
}
FNTK_HD double choose(bool condition, double yes, double no) { return select(condition, yes, no); }

// Slots are chosen value by value: an array that is indexed at run time would lie in local memory.
template <class V, int Slots>
struct SlotFile {
  V values[Slots];
  FNTK_HD V get(int slot) const {
    V found = values[0];
    FNTK_UNROLL
    for (int s = 1; s < Slots; ++s) found = choose(slot == s, values[s], found);
    return found;
  }
  FNTK_HD void put(int slot, const V& value) {
    FNTK_UNROLL
    for (int s = 0; s < Slots; ++s) values[s] = choose(slot == s, value, values[s]);
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
