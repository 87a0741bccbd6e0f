// Transposition in registers: mirroring a symmetric Gram element by element costs as much as four layers.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "math/vmath.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FNTK_SHUFFLES 1
#endif
#endif

namespace fntk {
namespace FNTK_ISA {

#if defined(FNTK_SHUFFLES)
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Square {
  static constexpr int N = kVectorBytes / int(sizeof(T));
  typedef T V __attribute__((vector_size(kVectorBytes)));

  // Exchange the off-diagonal H x H blocks of two rows that lie H apart.
  template <int H, int... K>
  static FNTK_HD void exchange(V& a, V& b, std::integer_sequence<int, K...>) {
    const V low = __builtin_shufflevector(a, b, ((K & H) ? N + K - H : K)...);
    const V high = __builtin_shufflevector(a, b, ((K & H) ? N + K : K + H)...);
    a = low;
    b = high;
  }
  template <int H>
  static FNTK_HD void stages(V* rows) {
    if constexpr (H < N) {
      for (int i = 0; i < N; ++i)
        if (!(i & H)) exchange<H>(rows[i], rows[i + H], std::make_integer_sequence<int, N>());
      stages<2 * H>(rows);
    }
  }
  // Past the caches, to an aligned address: the mirror image lies in far rows, which would be read before they are
  // written (a third of the whole call at n = 4000).
  static FNTK_HD void stream(T* out, V v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(reinterpret_cast<float*>(out), (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(reinterpret_cast<float*>(out), (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps(reinterpret_cast<float*>(out), (__m128)v);
#else
    std::memcpy(out, &v, sizeof(V));
#endif
  }
  template <bool Stream>
  static FNTK_HD void transpose(const T* in, long in_stride, T* out, long out_stride) {
    V rows[N];
    for (int i = 0; i < N; ++i) std::memcpy(&rows[i], in + i * in_stride, sizeof(V));
    stages<1>(rows);
    for (int i = 0; i < N; ++i) {
      if (Stream)
        stream(out + i * out_stride, rows[i]);
      else
        std::memcpy(out + i * out_stride, &rows[i], sizeof(V));
    }
  }
};
#endif

// out[c][r] = in[r][c] where c >= r + skip (skip <= -rows: everywhere).
template <class T>
void transpose(const T* in, long in_stride, T* out, long out_stride, long rows, long cols, long skip) {
  const auto scalar = [&](long r0, long r1, long c0, long c1) {
    for (long c = c0; c < c1; ++c) {
      const long end = c - skip + 1 < r1 ? c - skip + 1 : r1;
      for (long r = r0; r < end; ++r) out[c * out_stride + r] = in[r * in_stride + c];
    }
  };
#if defined(FNTK_SHUFFLES)
  constexpr long N = Square<T>::N;
  const bool far = cols * out_stride * long(sizeof(T)) > (1L << 21);
  const bool aligned = (reinterpret_cast<uintptr_t>(out) | uintptr_t(out_stride) * sizeof(T)) % kVectorBytes == 0;
  for (long c = 0; c < cols; c += N)
    for (long r = 0; r < rows; r += N) {
      const bool whole = c + N <= cols && r + N <= rows && c >= r + N - 1 + skip;
      if (whole && far && aligned)
        Square<T>::template transpose<true>(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
      else if (whole)
        Square<T>::template transpose<false>(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
      else
        scalar(r, r + N < rows ? r + N : rows, c, c + N < cols ? c + N : cols);
    }
#if defined(__SSE2__)
  _mm_sfence();
#endif
#else
  scalar(0, rows, 0, cols);
#endif
}

}  // namespace FNTK_ISA
}  // namespace fntk
