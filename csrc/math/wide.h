// Numbers that a formula with loops of its own is generic in: T itself, or as many of T as a register holds.
//
// The compiler turns a loop over lanes into vectors where nothing but arithmetic stands in it; a formula whose length
// is known at run time has a loop inside, and takes the vectors as its numbers instead.
#pragma once
#include <cstring>

#include "math/vmath.h"

#if defined(__SSE2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace fntk {
namespace FNTK_ISA {

#if defined(__GNUC__) && !defined(__CUDACC__)
#if defined(__AVX512F__)
constexpr int kManyBytes = 64;
#elif defined(__AVX2__)
constexpr int kManyBytes = 32;
#else
constexpr int kManyBytes = 16;
#endif

template <class T>
struct ManyOf {
  typedef T type __attribute__((vector_size(kManyBytes)));
};
template <class T>
using Many = typename ManyOf<T>::type;

#if defined(__AVX512F__)  // the plain square roots of GCC 12 warn of themselves
FNTK_HD Many<float> fma(Many<float> a, Many<float> b, Many<float> c) {
  return (Many<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
FNTK_HD Many<double> fma(Many<double> a, Many<double> b, Many<double> c) {
  return (Many<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
FNTK_HD Many<float> sqrt(Many<float> x) { return (Many<float>)_mm512_maskz_sqrt_ps(__mmask16(-1), (__m512)x); }
FNTK_HD Many<double> sqrt(Many<double> x) { return (Many<double>)_mm512_maskz_sqrt_pd(__mmask8(-1), (__m512d)x); }
#elif defined(__AVX2__) && defined(__FMA__)
FNTK_HD Many<float> fma(Many<float> a, Many<float> b, Many<float> c) {
  return (Many<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
FNTK_HD Many<double> fma(Many<double> a, Many<double> b, Many<double> c) {
  return (Many<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
FNTK_HD Many<float> sqrt(Many<float> x) { return (Many<float>)_mm256_sqrt_ps((__m256)x); }
FNTK_HD Many<double> sqrt(Many<double> x) { return (Many<double>)_mm256_sqrt_pd((__m256d)x); }
#else
#if defined(FNTK_HAS_FMA)
template <class V, class T>
FNTK_HD V each_fma(V a, V b, V c) {
  for (int k = 0; k < int(sizeof(V) / sizeof(T)); ++k) a[k] = fma(T(a[k]), T(b[k]), T(c[k]));
  return a;
}
FNTK_HD Many<float> fma(Many<float> a, Many<float> b, Many<float> c) { return each_fma<Many<float>, float>(a, b, c); }
FNTK_HD Many<double> fma(Many<double> a, Many<double> b, Many<double> c) {
  return each_fma<Many<double>, double>(a, b, c);
}
#else
FNTK_HD Many<float> fma(Many<float> a, Many<float> b, Many<float> c) { return a * b + c; }
FNTK_HD Many<double> fma(Many<double> a, Many<double> b, Many<double> c) { return a * b + c; }
#endif
#if defined(__SSE2__)
FNTK_HD Many<float> sqrt(Many<float> x) { return (Many<float>)_mm_sqrt_ps((__m128)x); }
FNTK_HD Many<double> sqrt(Many<double> x) { return (Many<double>)_mm_sqrt_pd((__m128d)x); }
#else
FNTK_HD Many<float> sqrt(Many<float> x) {
  for (int k = 0; k < 4; ++k) x[k] = sqrt(float(x[k]));
  return x;
}
FNTK_HD Many<double> sqrt(Many<double> x) {
  for (int k = 0; k < 2; ++k) x[k] = sqrt(double(x[k]));
  return x;
}
#endif
#endif
FNTK_HD Many<float> defect_root(Many<float> w) { return sqrt(w); }
FNTK_HD Many<double> defect_root(Many<double> w) { return sqrt(w); }

// Integers of the size of each of a register's numbers.
template <class T>
struct BitsOf {
  using Own = std::conditional_t<std::is_same_v<T, float>, std::int32_t, std::int64_t>;
  typedef Own type __attribute__((vector_size(kManyBytes)));
};
#else
template <class T>
using Many = T;
template <class T>
struct BitsOf {
  using type = std::conditional_t<std::is_same_v<T, float>, std::int32_t, std::int64_t>;
};
#endif

// Before a long function of which every caller would otherwise hold a copy; on a device that takes registers too.
#if defined(__CUDACC__)
#define FNTK_ONCE __host__ __device__ __noinline__
#define FNTK_APART FNTK_ONCE  // on a device alone
#elif defined(__GNUC__)
#define FNTK_ONCE __attribute__((noinline))
#else
#define FNTK_ONCE __declspec(noinline)
#endif
#if !defined(FNTK_APART)
#define FNTK_APART FNTK_HD
#endif

// What a comparison of numbers gives: bool, or one answer a lane.
template <class N>
using Mask = decltype(N() < N());

template <class N>
FNTK_HD N pick(Mask<N> condition, N yes, N no) {
  return condition ? yes : no;
}

template <class N, class T>
FNTK_HD N all_lanes(T x) {
  return N{} + x;
}

// N numbers from an address of any alignment.
template <class N, class T>
FNTK_HD N read(const T* from) {
  if constexpr (std::is_same_v<N, T>) {
    return *from;
  } else {
    N x;
    std::memcpy(&x, from, sizeof(N));
    return x;
  }
}
template <class N, class T>
FNTK_HD void write(N x, T* to) {
  if constexpr (std::is_same_v<N, T>)
    *to = x;
  else
    std::memcpy(to, &x, sizeof(N));
}

// v of 1 - |rho| = w, as signed_defect() of math/vmath.h.
template <class N, class T>
FNTK_HD N signed_wide(Mask<N> near, N w, T least = T(1e-37)) {
  const N floor = all_lanes<N>(least);
  return pick<N>(near, w, -pick<N>(w > floor, w, floor));
}

// c0 + c1 z + c2 z^2 + ..., as horner().
template <class T, class N, class Last>
FNTK_HD N horner_wide(N, Last last) {
  return all_lanes<N>(T(last));
}
template <class T, class N, class First, class... Rest>
FNTK_HD N horner_wide(N z, First first, Rest... rest) {
  return fma(z, horner_wide<T>(z, rest...), all_lanes<N>(T(first)));
}

// The same times `scale`, of n numbers z, coefficient by coefficient.
template <class T, int n, class N, class Last>
FNTK_HD void horner_each(const N*, N* found, T scale, Last last) {
  for (int k = 0; k < n; ++k) found[k] = all_lanes<N>(scale * T(last));
}
template <class T, int n, class N, class First, class... Rest>
FNTK_HD void horner_each(const N* z, N* found, T scale, First first, Rest... rest) {
  horner_each<T, n>(z, found, scale, rest...);
  for (int k = 0; k < n; ++k) found[k] = fma(z[k], found[k], all_lanes<N>(scale * T(first)));
}

// exp(-x) for x >= 0, as decay() has it.
template <class N, class T>
FNTK_HD N decayed(N x) {
  if constexpr (std::is_same_v<N, T>) {
    return decay(x).left;
  } else {
    using Bits = typename BitsOf<T>::type;
    constexpr bool single = std::is_same_v<T, float>;
    const T shift = single ? T(12582912.0) : T(6755399441055744.0);
    const T high = single ? T(0.693145751953125) : T(0.693147180369123816490);
    const T low = single ? T(1.428606820309417e-6) : T(1.90821492927058770002e-10);
    const N most = all_lanes<N>(single ? T(87.3) : T(708.3));
    const Mask<N> beyond = x > most;
    x = pick<N>(beyond, most, x);
    const N shifted = fma(x, all_lanes<N>(T(-1.44269504088896340736)), all_lanes<N>(shift)), minus_n = shifted - shift;
    const N scale = (N)(((Bits)shifted << (single ? 23 : 52)) + (Bits)all_lanes<N>(T(1)));
    const N r = fma(minus_n, all_lanes<N>(low), fma(minus_n, all_lanes<N>(high), x));
    N p;
    if constexpr (single)
      p = horner_wide<T>(r, FNTK_EXP_FLOAT);
    else
      p = horner_wide<T>(r, FNTK_EXP_DOUBLE);
    const N e = fma(-r * r, p, r);
    return pick<N>(beyond, N{}, fma(-scale, e, scale));
  }
}

}  // namespace FNTK_ISA
}  // namespace fntk
