// Products with matrices over pairs of positions, unit by unit: compiled once per instruction set, with contraction on.
#include "dense/mix.h"

#include <algorithm>

#include "common/transpose.h"
#include "dense/window.h"
#include "math/ops.h"

namespace fntk {
namespace FNTK_ISA {

#if defined(FNTK_SHUFFLES)
template <class T>
using Vector = typename Square<T>::V;
#else
template <class T>
using Vector = T;
#endif

// L lines and V vectors of c = a b over k, or c += a b where it is not the first; whole vectors, the last ones too.
template <int L, int V, class T>
FNTK_HD void strip(const T* a, long a_stride, const T* b, long b_stride, long k, bool first, T* c, long c_stride) {
  using W = Vector<T>;
  constexpr int N = int(sizeof(W) / sizeof(T));
  W sums[L][V];
  for (int l = 0; l < L; ++l)
    for (int v = 0; v < V; ++v) {
      sums[l][v] = W{};
      if (!first) std::memcpy(&sums[l][v], c + l * c_stride + v * N, sizeof(W));
    }
  for (long i = 0; i < k; ++i) {
    W columns[V];
    for (int v = 0; v < V; ++v) std::memcpy(&columns[v], b + i * b_stride + v * N, sizeof(W));
    for (int l = 0; l < L; ++l)
      for (int v = 0; v < V; ++v) sums[l][v] += a[l * a_stride + i] * columns[v];
  }
  for (int l = 0; l < L; ++l)
    for (int v = 0; v < V; ++v) std::memcpy(c + l * c_stride + v * N, &sums[l][v], sizeof(W));
}

template <int L, class T>
FNTK_HD void lines_of(const T* a, long a_stride, const T* b, long b_stride, long k, bool first, T* c, long c_stride,
                      long columns) {
  constexpr long N = long(sizeof(Vector<T>) / sizeof(T));
  long j = 0;
  for (; j + 4 * N <= columns; j += 4 * N) strip<L, 4>(a, a_stride, b + j, b_stride, k, first, c + j, c_stride);
  for (; j + 2 * N <= columns; j += 2 * N) strip<L, 2>(a, a_stride, b + j, b_stride, k, first, c + j, c_stride);
  for (; j < columns; j += N) strip<L, 1>(a, a_stride, b + j, b_stride, k, first, c + j, c_stride);
}

template <class T>
void add_product(const T* a, long a_stride, const T* b, long b_stride, long lines, long k, bool first, T* c,
                 long c_stride, long columns) {
  long l = 0;
  for (; l + 4 <= lines; l += 4)
    lines_of<4>(a + l * a_stride, a_stride, b, b_stride, k, first, c + l * c_stride, c_stride, columns);
  for (; l < lines; ++l)
    lines_of<1>(a + l * a_stride, a_stride, b, b_stride, k, first, c + l * c_stride, c_stride, columns);
}

// The same for lines of which few numbers are not 0.
template <class T>
void add_sparse(const T* a, long a_stride, const T* b, long b_stride, long lines, long k, bool first, T* c,
                long c_stride, long columns) {
  for (long l = 0; l < lines; ++l) {
    T* out = c + l * c_stride;
    if (first) std::fill_n(out, columns, T(0));
    for (long i = 0; i < k; ++i) {
      const T factor = a[l * a_stride + i];
      if (factor == T(0)) continue;
      const T* in = b + i * b_stride;
      FNTK_LANES
      for (long j = 0; j < columns; ++j) out[j] += factor * in[j];
    }
  }
}

template <class T>
bool few(const T* a, long a_stride, long lines, long k) {
  long count = 0;
  for (long l = 0; l < lines; ++l)
    for (long i = 0; i < k; ++i) count += a[l * a_stride + i] != T(0);
  return 4 * count < lines * k;
}

template <class T>
void take(const T* in, long n, MixOf what, T* out) {
  if (what == kRest) {
    FNTK_LANES
    for (long k = 0; k < n; ++k) out[k] = select(in[k] < T(0), T(-1) - in[k], T(1) - in[k]);
  } else if (what == kNear) {
    FNTK_LANES
    for (long k = 0; k < n; ++k) out[k] = select(in[k] < T(0), T(2) + in[k], in[k]);
  } else if (what == kFar) {
    FNTK_LANES
    for (long k = 0; k < n; ++k) out[k] = select(in[k] < T(0), -in[k], T(2) - in[k]);
  } else {
    for (long k = 0; k < n; ++k) out[k] = in[k];
  }
}

template <class T>
bool any_below(const T* v, long n, T least) {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;  // of T's width, or this loop stays scalar
  Flag some = 0;
  for (long k = 0; k < n; ++k) some |= select(magnitude(v[k]) < least, Flag(1), Flag(0));
  return some != 0;
}

// What stands in lines of sums, as the result has it; padding stays far from 0. `same`: of an equal pair the entry of a
// position with itself in the first line, one further on in the next; else -1.
template <class T>
void finish(const Mix<T>& m, long image, long other, long same, T* sums, long lines, long stride) {
  if (m.of_sum == kAsIs) return;
  take(sums, lines * stride, m.of_sum, sums);
  bool any = false;
  if (same < 0 && m.close != nullptr) any = any_below(sums, lines * stride, m.least);
  for (long l = 0; same >= 0 && l < lines; ++l) {
    T* line = sums + l * stride;
    const long at = same + l;
    line[at] = T(0);
    any = any || any_below(line, at, m.least) || any_below(line + at + 1, stride - at - 1, m.least);
  }
  if (any && m.close != nullptr) m.close[image * m.n2 + other] = 1;
}

template <class T>
void mix_unit(const Mix<T>& m, const MixUnit<T>& u) {
  const long columns = mix_columns(m), width = u.count * m.before;
  const long used = std::min(columns, round_up(width, long(sizeof(Vector<T>) / sizeof(T))));
  T *copy = u.buffer, *rows = copy + kMixLines * columns, *block = rows + kMixLines * columns;
  const long own = m.batches > 1 ? u.batch : 0;
  const T* left = m.left + ((own + u.image) * m.behind + u.line) * m.before;
  const T* end = m.source.at(m.batches - 1, m.n1 * m.before - 1, m.n2 * m.before);
  for (long p = 0; p < m.before; p += kMixLines) {
    const long some = std::min(kMixLines, m.before - p);
    const T* source = m.source.at(u.batch, u.image * m.before + p, u.first * m.before);
    long stride = m.source.stride;
    if (m.in != kAsIs || source + (some - 1) * stride + used > end) {
      for (long l = 0; l < some; ++l) take(source + l * stride, width, m.in, copy + l * columns);
      source = copy;
      stride = columns;
    }
    const auto add = few(left + p, m.before, u.lines, some) ? add_sparse<T> : add_product<T>;
    add(left + p, m.before, source, stride, u.lines, some, p == 0, rows, columns, used);
  }
  for (long k = 0; k < u.count; ++k) {
    const long other = u.first + k;
    const bool equal = m.equal && m.equal[u.image * m.n2 + other];
    if (!m.full) {
      for (long l = 0; l < u.lines; ++l) {
        const long q = u.line + l;
        const T *own_rows = rows + l * columns + k * m.before,
                *matrix = m.right + ((own + other) * m.behind + q) * m.before;
        T sums[16] = {};
        long p = 0;
        for (; p + 16 <= m.before; p += 16)
          for (int s = 0; s < 16; ++s) sums[s] += own_rows[p + s] * matrix[p + s];
        for (int s = 0; p + s < m.before; ++s) sums[s] += own_rows[p + s] * matrix[p + s];
        for (int half = 8; half > 0; half /= 2)
          for (int s = 0; s < half; ++s) sums[s] += sums[s + half];
        finish(m, u.image, other, equal ? 0 : -1, sums, 1, 1);
        *m.out.at(q, own + u.image, other) = sums[0];
        if (m.symmetric && other != u.image) *m.out.at(q, other, u.image) = sums[0];
      }
      continue;
    }
    const T* matrix = m.right + (own + other) * m.before * m.padded;
    for (long p = 0; p < m.before; p += kMixLines) {
      const long some = std::min(kMixLines, m.before - p);
      add_product(rows + k * m.before + p, columns, matrix + p * m.padded, m.padded, u.lines, some, p == 0, block,
                  m.padded, m.padded);
    }
    finish(m, u.image, other, equal ? u.line : -1, block, u.lines, m.padded);
    for (long l = 0; l < u.lines; ++l) {
      const T* sums = block + l * m.padded;
      T* out = m.out.at(u.batch, u.image * m.behind + u.line + l, other * m.behind);
      if (k + 1 < u.count && 2 * m.behind > m.padded) {  // what stands behind comes next: 16 numbers at a time
        for (long c = 0; c < m.padded; c += 16) std::memcpy(out + c, sums + c, 16 * sizeof(T));
      } else {
        std::memcpy(out, sums, size_t(m.behind) * sizeof(T));
      }
    }
    if (!m.symmetric || other == u.image) continue;
    for (long c = 0; c < m.behind; ++c) {
      T* out = m.out.at(u.batch, other * m.behind + c, u.image * m.behind + u.line);
      for (long l = 0; l < u.lines; ++l) out[l] = block[l * m.padded + c];
    }
  }
}

template void mix_unit<float>(const Mix<float>&, const MixUnit<float>&);
template void mix_unit<double>(const Mix<double>&, const MixUnit<double>&);

}  // namespace FNTK_ISA
}  // namespace fntk
