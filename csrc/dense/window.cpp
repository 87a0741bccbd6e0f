// Windows over pairs of positions, line by line: compiled once per instruction set, see dense/blocks.cpp.
#include "dense/window.h"

#include "math/ops.h"

namespace fntk {
namespace FNTK_ISA {

// 1 - rho of a part, or 1 + rho.
template <bool far, class T>
FNTK_HD T side_of(T v) {
  const T other = T(2) - magnitude(v);
  return far ? select(v < T(0), -v, other) : select(v < T(0), other, v);
}

// N taps at once: what sums up stays in registers meanwhile. p stands for p sqrt(2) of math/ops.h.
template <int N, bool far, class T>
void add_parts(const Tap<T>* taps, int cols, T* sums) {
  const T* v[N];
  const T* p2[N];
  T p1[N];
  for (int n = 0; n < N; ++n) v[n] = taps[n].v, p2[n] = taps[n].p2, p1[n] = taps[n].p1;
  FNTK_LANES
  for (int k = 0; k < cols; ++k) {  // vectorised: 8
    T sum = sums[k];
    for (int n = 0; n < N; ++n) {
      const T d = p1[n] - p2[n][k];
      sum = fma(T(2) * p1[n] * p2[n][k], side_of<far>(v[n][k]), fma(d, d, sum));
    }
    sums[k] = sum;
  }
}

template <int N, bool masked, class T>
void add_thetas(const Tap<T>* taps, int cols, T* sums) {
  const T* theta[N];
  const T* seen[N];
  for (int n = 0; n < N; ++n) theta[n] = taps[n].theta, seen[n] = taps[n].seen;
  FNTK_LANES
  for (int k = 0; k < cols; ++k) {  // vectorised: 8
    T sum = sums[k];
    for (int n = 0; n < N; ++n) {
      if constexpr (masked)
        sum += select(seen[n][k] > T(0), theta[n][k], T(0));
      else
        sum += theta[n][k];
    }
    sums[k] = sum;
  }
}

template <bool far, class T>
void sum_parts(const WindowLine<T>& line, int cols, T* sums) {
  const T bias1 = line.bias1, whole = far ? T(4) * bias1 : T(0);
  const T* bias2 = line.bias2;
  FNTK_LANES
  for (int k = 0; k < cols; ++k) {  // vectorised: 4
    const T d = bias1 - bias2[k];
    sums[k] = fma(whole, bias2[k], d * d);
  }
  for (int n = 0; n < line.n_apart; ++n) {
    const T* p2 = line.apart[n];
    FNTK_LANES
    for (int k = 0; k < cols; ++k)  // vectorised: 4
      sums[k] = fma(p2[k], p2[k], sums[k]);
  }
  int n = 0;
  for (; n + 3 <= line.n_taps; n += 3) add_parts<3, far>(line.taps + n, cols, sums);
  for (; n < line.n_taps; ++n) add_parts<1, far>(line.taps + n, cols, sums);
}

template <class T>
void window_line(const WindowLine<T>& line, int cols, T* v, T* theta) {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  sum_parts<false>(line, cols, v);
  Flag far = 0;
  FNTK_LANES
  for (int k = 0; k < cols; ++k)  // vectorised: 1 (not doubles of SSE2)
    far |= select(v[k] > T(1.25), Flag(1), Flag(0));
  if (far) {  // 2 minus the sum has lost digits of 1 + rho
    T plus[kMaxCols];
    sum_parts<true>(line, cols, plus);
    FNTK_LANES
    for (int k = 0; k < cols; ++k)  // vectorised: 2
      v[k] = sum_defect(v[k], plus[k]);
  } else {
    FNTK_LANES
    for (int k = 0; k < cols; ++k)  // vectorised: 2
      v[k] = sum_defect(v[k], T(2) - v[k]);
  }
  if (!theta) return;
  for (int k = 0; k < cols; ++k) theta[k] = T(0);
  if (line.n_taps == 0 || !line.taps[0].theta) return;
  int n = 0;
  if (line.taps[0].seen) {
    for (; n + 3 <= line.n_taps; n += 3) add_thetas<3, true>(line.taps + n, cols, theta);
    for (; n < line.n_taps; ++n) add_thetas<1, true>(line.taps + n, cols, theta);
  } else {
    for (; n + 3 <= line.n_taps; n += 3) add_thetas<3, false>(line.taps + n, cols, theta);
    for (; n < line.n_taps; ++n) add_thetas<1, false>(line.taps + n, cols, theta);
  }
}

template <class T>
void mix_unit(const Mix<T>& call, const MixUnit<T>& unit);  // dense/mix.cpp

extern const PositionKernels<float> positions_float;
extern const PositionKernels<double> positions_double;
const PositionKernels<float> positions_float = {window_line<float>, mix_unit<float>};
const PositionKernels<double> positions_double = {window_line<double>, mix_unit<double>};

}  // namespace FNTK_ISA
}  // namespace fntk
