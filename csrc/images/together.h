// Windows of 3 x 3 taps, as SAME places them, and behind them a nonlinearity that keeps a part of each defect, for
// images/planes.cpp: several displacements, or pairs, row by row, so that tables are read while they are in the first
// cache. Vectors are the formulas' numbers (math/wide.h).
#pragma once
#include <utility>

#include "images/sinks.h"
#include "math/elements.h"
#include "math/wide.h"

namespace fntk {
namespace FNTK_ISA {

#if defined(__GNUC__) && defined(__AVX2__)
#define FNTK_TOGETHER 1

// Numbers `first`, `first` + 1, ... of two vectors side by side.
template <class T, int first, size_t... k>
FNTK_HD Many<T> from_both(Many<T> a, Many<T> b, std::index_sequence<k...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (first + int(k))...);
#else
  using Bits = typename BitsOf<T>::type;
  return __builtin_shuffle(a, b, Bits{(first + typename BitsOf<T>::Own(k))...});
#endif
}

constexpr long kAhead = 2;  // rows that tables are asked for before their turn

template <class T, int lanes>
struct Together {
  using N = Many<T>;
  using Bits = typename BitsOf<T>::type;
  static constexpr int step = int(sizeof(N) / sizeof(T)), count = lanes / step;
  static constexpr int alike = count % 2 == 0 ? 2 : 1;  // vectors that share coefficients
  static constexpr long size = 2 * lanes;               // of a row of sums: defects, NTK
  static constexpr long stride = 7 * lanes;             // 3 + 3 arrays of the window, s
  static constexpr long after = 2 * lanes;              // 1 / s, s

  Bits left[count], right[count];  // where the neighbour is read
  N w, wt;

  FNTK_HD explicit Together(const PlaneArgs<T>& c) : w(all_lanes<N>(c.weights.w)), wt(all_lanes<N>(c.weights.wt)) {
    for (int k = 0; k < count; ++k) {
      left[k] = read<N>(c.mask_in + lanes + k * step) != N{};
      right[k] = read<N>(c.mask_in + 2 * lanes + k * step) != N{};
    }
  }

  // Ask for a row of tables.
  static FNTK_HD void fetch(const T* of, const T* behind, long y) {
    constexpr long line = 64 / long(sizeof(T));
    for (long x = 0; x < stride; x += line) __builtin_prefetch(of + y * stride + x, 0, 2);
    for (long x = 0; x < after; x += line) __builtin_prefetch(behind + y * after + x, 0, 2);
  }

  // sum + f f' |S - S'|^2, two coordinates and the factor behind them
  static FNTK_HD N spread(const T* a, const T* b, N sum) {
    const N one = read<N>(a) - read<N>(b), two = read<N>(a + lanes) - read<N>(b + lanes);
    return fma(read<N>(a + 2 * lanes) * read<N>(b + 2 * lanes), fma(two, two, one * one), sum);
  }

  // Sums along the inner axis.
  FNTK_HD void inner(const T* v, const T* t, const T* a, const T* b, T* out) const {
    const std::make_index_sequence<size_t(step)> places;
    const auto beside = [&](int k, N before, N here, N behind) {
      const N one = from_both<T, step - 1>(before, here, places), two = from_both<T, 1>(here, behind, places);
      return (here + (N)((Bits)one & left[k])) + (N)((Bits)two & right[k]);
    };
    N v0 = {}, v1 = read<N>(v), t0 = {}, t1 = read<N>(t);
    for (int k = 0; k < count; ++k) {
      const int x = k * step;
      const N v2 = k + 1 < count ? read<N>(v + x + step) : N{}, t2 = k + 1 < count ? read<N>(t + x + step) : N{};
      write(spread(a + x, b + x, beside(k, v0, v1, v2)), out + x);
      write(beside(k, t0, t1, t2), out + lanes + x);
      v0 = v1, v1 = v2, t0 = t1, t1 = t2;
    }
  }

  // Sums of three such rows, and what follows them; cov: K behind it. Weights: alpha = 1, beta = 0.
  template <class Phi, bool cov>
  FNTK_HD void outer(const T* const* h, const T* a, const T* b, const T* i1, const T* i2, T* v, T* t) const {
    for (int first = 0; first < count; first += alike) {
      N r[alike], sum[alike], theta[alike], defect[alike];
      for (int k = 0; k < alike; ++k) {
        const int x = (first + k) * step;
        const N total = (read<N>(h[0] + lanes + x) + read<N>(h[1] + lanes + x)) + read<N>(h[2] + lanes + x);
        sum[k] = w * spread(a + x, b + x, (read<N>(h[0] + x) + read<N>(h[1] + x)) + read<N>(h[2] + x));
        r[k] = read<N>(a + 3 * lanes + x) * read<N>(b + 3 * lanes + x);
        theta[k] = fma(wt, total, r[k] - sum[k]);
        defect[k] = sum[k] * (read<N>(i1 + x) * read<N>(i2 + x));
      }
      Near<N> of[alike];
      Phi::template near<N, alike>(defect, of);
      for (int k = 0; k < alike; ++k) {
        const int x = (first + k) * step;
        const N kept = sum[k] * of[k].kept;
        write(cov ? Phi::mean_square * r[k] - kept : kept, v + x);
        write(theta[k] * of[k].kdot, t + x);
      }
    }
  }
};

template <class Phi, class T, int lanes, bool cov>
void together(const PlaneArgs<T>& args) {
  using Rows = Together<T, lanes>;
  constexpr long size = Rows::size;
  const Rows loops(args);
  const long rows = args.rows;
  const int n = args.n_items;
  const PlaneItem<T>* const items = args.items;
  T *const zero = args.scratch, *const ring = zero + size;
  for (long x = 0; x < size; ++x) zero[x] = T(0);
  const auto sums = [&](int item, long y) { return ring + (item * kKept + (y & (kKept - 1))) * size; };
  for (long y = 0; y <= rows; ++y) {  // a row ahead along the inner axis
    for (int k = 0; k < n && y < rows; ++k) {
      const PlaneItem<T>& at = items[k];
      const long other = met(y, at.shift, rows);
      if (at.fetch_a) Rows::fetch(at.a, at.after_a, y + kAhead);
      if (at.fetch_b) Rows::fetch(at.b, at.after_b, y + kAhead);
      loops.inner(at.v_in + y * lanes, at.t_in + y * lanes, at.a + y * Rows::stride, at.b + other * Rows::stride,
                  sums(k, y));
    }
    for (int k = 0; k < n && y > 0; ++k) {
      const PlaneItem<T>& at = items[k];
      const long own = y - 1, other = met(own, at.shift, rows);
      const T* const h[3] = {sums(k, own), at.mask_out[rows + own] == T(0) ? zero : sums(k, own - 1),
                             at.mask_out[2 * rows + own] == T(0) ? zero : sums(k, y)};
      loops.template outer<Phi, cov>(h, at.a + own * Rows::stride + 3 * lanes, at.b + other * Rows::stride + 3 * lanes,
                                     at.after_a + own * Rows::after, at.after_b + other * Rows::after,
                                     at.v + own * lanes, at.t + own * lanes);
    }
  }
}

template <class Phi, class = void>
constexpr bool has_near = false;
template <class Phi>
constexpr bool has_near<Phi, std::enable_if_t<Phi::part>> = true;
#endif

}  // namespace FNTK_ISA
}  // namespace fntk
