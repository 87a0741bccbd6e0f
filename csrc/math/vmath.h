// Scalar arithmetic that every instruction set and CUDA compile from this one text.
//
// Rules: templates on T in {float, double}; no branch with a side effect, only select(); no libm call but sqrt and fma;
// everything lives in the namespace of its instruction set, so that no two objects share a weak symbol.
// Contraction is off: where a fused multiply-add is wanted, the text says fma().
#pragma once
#include <cstdint>
#include <type_traits>

#include "math/coefficients.h"

#if defined(__CUDACC__)
#define FNTK_HD __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define FNTK_HD __forceinline
#else
#define FNTK_HD inline __attribute__((always_inline))
#endif

// CUDA's text run on the host fuses too, if need be by libm: the same bits as on a device.
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__) || defined(__CUDA_ARCH__) || \
    (defined(__CUDACC__) && !defined(_MSC_VER))
#define FNTK_HAS_FMA 1
#endif

// Before a loop whose iterations do not depend on each other.
#if defined(__clang__)
#define FNTK_LANES _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FNTK_LANES _Pragma("GCC ivdep")
#else
#define FNTK_LANES __pragma(loop(ivdep))
#endif

// On a device, before a loop whose arrays are to lie in registers; before one whose code is long and rarely runs.
#if defined(__CUDA_ARCH__)
#define FNTK_UNROLL _Pragma("unroll")
#define FNTK_NO_UNROLL _Pragma("unroll 1")
#else
#define FNTK_UNROLL
#define FNTK_NO_UNROLL
#endif

#ifndef FNTK_ISA
#define FNTK_ISA generic
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#include <cmath>
#include <cstring>
#endif

namespace fntk {
namespace FNTK_ISA {

#if defined(_MSC_VER) && !defined(__clang__)
FNTK_HD float sqrt(float x) { return std::sqrt(x); }
FNTK_HD double sqrt(double x) { return std::sqrt(x); }
#else
FNTK_HD float sqrt(float x) { return __builtin_sqrtf(x); }
FNTK_HD double sqrt(double x) { return __builtin_sqrt(x); }
#endif

// a b + c, rounded once where the machine can do it in one instruction.
#if defined(FNTK_HAS_FMA)
FNTK_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FNTK_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
FNTK_HD float fma(float a, float b, float c) { return a * b + c; }
FNTK_HD double fma(double a, double b, double c) { return a * b + c; }
#endif

template <class T>
FNTK_HD T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}

// Comparisons are false for NaN, so the argument that may be NaN stands where a false comparison returns it.
template <class T>
FNTK_HD T at_least_zero(T x) {
  return select(x < T(0), T(0), x);
}

template <class T>
FNTK_HD T magnitude(T x) {
  return select(x < T(0), -x, x);
}

// v of a pair with |rho| = 1 - w: w, or -w for rho < 0, never -0.
template <class T>
FNTK_HD T signed_defect(bool near, T w) {
  return select(near, w, select(w > T(1e-37), -w, T(-1e-37)));
}

// Square root of a defect, 0 <= w <= 2; below 1e-37 any small number will do. CUDA takes the compiler's own sequence
// without its branch for numbers out of range, which would keep several pairs from running side by side.
#if defined(__CUDACC__)
// 1 / sqrt(w) to 22 bits, of double to 20; finite for w = 0.
FNTK_HD float rough_inverse_root(float w) {
  w = select(w > 1.2e-38f, w, 1.2e-38f);
#if defined(__CUDA_ARCH__)
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(w));
  return y;
#else
  return float((1 - 1e-7) / sqrt(double(w)));
#endif
}
FNTK_HD double rough_inverse_root(double w) {
#if defined(__CUDA_ARCH__)
  const int high = __double2hiint(w), least = 0x00200000;  // all that the instruction reads, so a cheap comparison does
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(__hiloint2double(high > least ? high : least, 0)));
  return y;
#else
  return (1 - 7e-7) / sqrt(select(w > 1e-300, w, 1e-300));
#endif
}
FNTK_HD float defect_root(float w) {
  const float y = rough_inverse_root(w), s = w * y;
  return fma(fma(-s, s, w), 0.5f * y, s);
}
FNTK_HD double defect_root(double w) {
  double y = rough_inverse_root(w);
  const double e = fma(-w, y * y, 1.0);
  y = fma(e * y, fma(e, 0.375, 0.5), y);
  const double s = w * y;
  return fma(fma(-s, s, w), 0.5 * y, s);
}
#else
template <class T>
FNTK_HD T defect_root(T w) {
  return sqrt(w);
}
#endif

template <class T>
FNTK_HD T rho_of(T v) {
  const T a = T(1) - magnitude(v);
  return select(v < T(0), -a, a);
}

template <class T>
FNTK_HD T square(T x) {
  return x * x;
}

// A row number in two parts, of which the high one has float's digits.
template <class T>
FNTK_HD T whole(T high, T low) {
  if constexpr (std::is_same_v<T, float>)
    return high;
  else
    return high + low;
}

// A difference to the digits of both parts: what lies between two floats matters to networks that pull near inputs
// apart.
template <class T>
FNTK_HD T step(T high1, T low1, T high2, T low2) {
  return (high1 - high2) + (low1 - low2);
}

// c0 + c1 z + c2 z^2 + ...
template <class T, class Last>
FNTK_HD T horner(T, Last last) {
  return T(last);
}
template <class T, class First, class... Rest>
FNTK_HD T horner(T z, First first, Rest... rest) {
  return fma(z, horner(z, rest...), T(first));
}

// a d - b c without the cancellation that a rounded product brings. float goes through double, where both products are
// exact; double takes Kahan's form with an exact remainder (Dekker's split where there is no fused multiply-add).
FNTK_HD double difference_of_products(float a, float d, float b, float c) {
  return double(a) * double(d) - double(b) * double(c);
}
FNTK_HD double difference_of_products(double a, double d, double b, double c) {
  const double bc = b * c;
#if defined(FNTK_HAS_FMA)
  const double remainder = fma(-b, c, bc);
  return fma(a, d, -bc) + remainder;
#else
  const auto error_of = [](double x, double y, double xy) {
    const double split = 134217729.0;  // 2^27 + 1
    const double xs = split * x, ys = split * y;
    const double xh = xs - (xs - x), yh = ys - (ys - y);
    const double xl = x - xh, yl = y - yh;
    return ((xh * yh - xy) + xh * yl + xl * yh) + xl * yl;
  };
  const double ad = a * d;
  return (ad - bc) + (error_of(a, d, ad) - error_of(b, c, bc));
#endif
}

// atan(y / x) for x, y >= 0 in [0, pi/2], 0 at y = x = 0. Relative error <= 2 eps (float and double). Not steep: for
// y / x <= 2.4 alone.
template <bool steep = true, class T>
FNTK_HD T arctangent(T y, T x) {
  const T low = T(0.41421356237309504880), high = T(2.4142135623730950488);  // tan(pi/8), tan(3 pi/8)
  const bool small = y <= low * x, large = steep && y > high * x;
  const T top = select(small, y, select(large, -x, y - x));
  const T bottom = select(small, x, select(large, y, y + x));
  const T t = top / select(bottom == T(0), T(1), bottom);
  const T offset = select(small, T(0), select(large, T(1.5707963267948966192), T(0.78539816339744830962)));
  const T z = t * t;
  T p;
  if constexpr (std::is_same_v<T, float>)
    p = horner(z, FNTK_ATAN_FLOAT);
  else
    p = horner(z, FNTK_ATAN_DOUBLE);
  return offset + t * p;
}

// The number with these bits, and the bits of a number.
template <class To, class From>
FNTK_HD To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
#if defined(_MSC_VER) && !defined(__clang__)
  std::memcpy(&to, &from, sizeof to);
#else
  __builtin_memcpy(&to, &from, sizeof to);
#endif
  return to;
}

// exp(-x) and 1 - exp(-x) for x >= 0, each with a relative error <= 1 eps, down to the smallest normal number: what
// is left beyond is 0. With x = n log 2 + r they are 2^-n (1 - e) and (1 - 2^-n) + 2^-n e, where
// e = 1 - exp(-r) = r - r^2 P(r).
template <class T>
struct Decay {
  T left, lost;
};

template <class T>
FNTK_HD Decay<T> decay(T x) {
  constexpr bool single = std::is_same_v<T, float>;
  using Bits = std::conditional_t<single, std::uint32_t, std::uint64_t>;
  constexpr int digits = single ? 23 : 52;
  // -x / log 2 plus this is rounded to an integer, which the sum's last bits hold.
  const T shift = single ? T(12582912.0) : T(6755399441055744.0);             // 1.5 2^23, 1.5 2^52
  const T high = single ? T(0.693145751953125) : T(0.693147180369123816490);  // log 2 in few enough bits for n high
  const T low = single ? T(1.428606820309417e-6) : T(1.90821492927058770002e-10);  // to be exact, and the rest
  const T most = single ? T(87.3) : T(708.3);                                      // its exponential is a normal number
  const bool beyond = x > most;
  x = select(beyond, most, x);
  const T shifted = fma(x, T(-1.44269504088896340736), shift), minus_n = shifted - shift;
  const T scale = same_bits<T>(Bits((same_bits<Bits>(shifted) << digits) + same_bits<Bits>(T(1))));
  const T r = fma(minus_n, low, fma(minus_n, high, x));
  T p;
  if constexpr (single)
    p = horner(r, FNTK_EXP_FLOAT);
  else
    p = horner(r, FNTK_EXP_DOUBLE);
  const T e = fma(-r * r, p, r);
  return {select(beyond, T(0), fma(-scale, e, scale)), fma(scale, e, T(1) - scale)};
}

// 1 - exp(-x) for x >= 0.
template <class T>
FNTK_HD T em1(T x) {
  return decay(x).lost;
}

}  // namespace FNTK_ISA
}  // namespace fntk
