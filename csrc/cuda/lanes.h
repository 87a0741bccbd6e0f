// 32 lanes of a warp, each with its number: of the device and, one text with it, of the host.
#pragma once
#include "math/vmath.h"

namespace fntk {

namespace FNTK_ISA {

// Inlined, it would cost a host's compiler minutes.
#if defined(__CUDACC__)
#define FNTK_CALLED __host__ __device__ __noinline__
#else
#define FNTK_CALLED inline
#endif

// 32 numbers that do the same.
template <class T>
struct Wide {
  T v[32];
  Wide() = default;
  FNTK_HD Wide(T x) {
    for (T& own : v) own = x;
  }
};
#define FNTK_WIDE(sign)                                                   \
  template <class T>                                                      \
  FNTK_CALLED Wide<T> operator sign(const Wide<T>& a, const Wide<T>& b) { \
    Wide<T> c;                                                            \
    for (int x = 0; x < 32; ++x) c.v[x] = a.v[x] sign b.v[x];             \
    return c;                                                             \
  }
FNTK_WIDE(+)
FNTK_WIDE(-)
FNTK_WIDE(*)
#undef FNTK_WIDE
template <class T>
FNTK_CALLED Wide<T> operator-(const Wide<T>& a) {
  Wide<T> c;
  for (int x = 0; x < 32; ++x) c.v[x] = -a.v[x];
  return c;
}
template <class T>
FNTK_CALLED Wide<T> fma(const Wide<T>& a, const Wide<T>& b, const Wide<T>& c) {
  Wide<T> d;
  for (int x = 0; x < 32; ++x) d.v[x] = fma(a.v[x], b.v[x], c.v[x]);
  return d;
}

template <class T>
struct HostLanes {
  using Value = T;
  using Number = Wide<T>;
  struct Index {
    int v[32];
  };
  struct Pointer {  // of each lane: base + lane
    const T* base;
    long lane[32];
  };
  static FNTK_HD void advance(Pointer& p, long by) { p.base += by; }
  static FNTK_HD Pointer pointer(const T* base, const Index& lanes, long scale) {
    Pointer p = {base, {}};
    for (int x = 0; x < 32; ++x) p.lane[x] = lanes.v[x] * scale;
    return p;
  }
  template <class E>
  static FNTK_HD Index index(const E* from) {
    Index found;
    for (int x = 0; x < 32; ++x) found.v[x] = int(from[x]);
    return found;
  }
  template <int n>
  static FNTK_HD void same(const T* from, T (&out)[4]) {
    for (int k = 0; k < n; ++k) out[k] = from[k];
  }
  static FNTK_HD Number number(const T* from) {
    Number found;
    for (int x = 0; x < 32; ++x) found.v[x] = from[x];
    return found;
  }
  template <int n>
  static FNTK_HD void load(const Pointer& p, long at, Number (&out)[n]) {
    for (int x = 0; x < 32; ++x)
      for (int k = 0; k < n; ++k) out[k].v[x] = p.base[at + p.lane[x] + k];
  }
  static FNTK_HD Number shuffle(const Number& v, const Index& from) {
    Number found;
    for (int x = 0; x < 32; ++x) found.v[x] = v.v[from.v[x]];
    return found;
  }
  static FNTK_HD Number root(const Number& w) {
    Number found;
    for (int x = 0; x < 32; ++x) found.v[x] = sqrt(w.v[x]);
    return found;
  }
  template <class E>
  static FNTK_HD E anew(const E& x) {
    return x;
  }
  template <class E>
  static FNTK_HD void renew(E& x, E value) {
    x = value;
  }
  static FNTK_HD uint32_t apart(uint32_t x) { return x; }
  static FNTK_HD void add_if(uint32_t bit, Number& v, const Number& more_v, Number& t, const Number& more_t) {
    if (bit) v = v + more_v, t = t + more_t;
  }
  static FNTK_HD Number if_less(const Number& a, const Number& b, const Number& then, const Number& otherwise) {
    Number found;
    for (int x = 0; x < 32; ++x) found.v[x] = a.v[x] < b.v[x] ? then.v[x] : otherwise.v[x];
    return found;
  }
  static FNTK_HD void plane(const T* in, long lanes, Number& out) {
    for (int x = 0; x < 32; ++x) out.v[x] = x < lanes ? in[x] : T(0);
  }
  static FNTK_HD void put(const Number& in, long lanes, T* out) {
    for (int x = 0; x < lanes; ++x) out[x] = in.v[x];
  }
  static FNTK_HD Number gather(const T* from, const Index& at) {
    Number found;
    for (int x = 0; x < 32; ++x) found.v[x] = from[at.v[x]];
    return found;
  }
  // Of the first lane to out, of the last one to out + other, row by row.
  template <int n>
  static FNTK_HD void put_ends(const Number (&rows)[n], int last, T* out, int other) {
    for (int y = 0; y < n; ++y) {
      out[y] = rows[y].v[0];
      if (last > 0) out[other + y] = rows[y].v[last];
    }
  }
};

#if defined(__CUDACC__)
template <class T>
struct WarpLanes {
  using Value = T;
  using Number = T;
  using Index = int;
  using Pointer = const T*;
  static __device__ __forceinline__ int own() { return int(threadIdx.x % 32); }
  static __device__ __forceinline__ void advance(Pointer& p, long by) { p += by; }
  static __device__ __forceinline__ Pointer pointer(const T* base, Index lane, long scale) {
    return base + lane * scale;
  }
  template <class E>
  static __device__ __forceinline__ Index index(const E* from) {
    return int(from[own()]);
  }
  template <int n>
  static __device__ __forceinline__ void same(Pointer from, T (&out)[4]) {
    T found[n];
    load(from, 0, found);
    for (int k = 0; k < n; ++k) out[k] = found[k];
  }
  static __device__ __forceinline__ Number number(const T* from) { return from[own()]; }
  // Volatile: loads stay where the text has them, ahead of their use.
  template <int n>
  static __device__ __forceinline__ void load(Pointer p, long at, Number (&out)[n]) {
    if constexpr (n == 4 && sizeof(T) == sizeof(float)) {
      asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3])
                   : "l"(p + at));
    } else {
      for (int k = 0; k < n; k += 2)
        if constexpr (sizeof(T) == sizeof(float))
          asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(out[k]), "=f"(out[k + 1]) : "l"(p + at + k));
        else
          asm volatile("ld.global.nc.v2.f64 {%0, %1}, [%2];" : "=d"(out[k]), "=d"(out[k + 1]) : "l"(p + at + k));
    }
  }
  template <class E>
  static __device__ __forceinline__ E anew(const E& x) {
    return *const_cast<const volatile E*>(&x);
  }
  template <class E>
  static __device__ __forceinline__ void renew(E& x, E value) {
    *const_cast<volatile E*>(&x) = value;
  }
  static __device__ __forceinline__ Number shuffle(Number v, Index from) { return __shfl_sync(~0u, v, from); }
  static __device__ __forceinline__ Number root(Number w) {
    if constexpr (sizeof(T) == sizeof(float)) {  // to 1 ulp, one instruction
      float s;
      asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(w));
      return s;
    } else {
      return sqrt(w);
    }
  }
  // The compiler does not look through it.
  static __device__ __forceinline__ uint32_t apart(uint32_t x) {
    uint32_t y;
    asm volatile("mov.b32 %0, %1;" : "=r"(y) : "r"(x));
    return y;
  }
  // Both sums under one predicate: the compiler would choose between sums, or multiply by a flag.
  static __device__ __forceinline__ void add_if(uint32_t bit, Number& v, Number more_v, Number& t, Number more_t) {
    if constexpr (sizeof(T) == sizeof(float))
      asm volatile("{.reg .pred p; setp.ne.u32 p, %4, 0; @p add.rn.f32 %0, %0, %2; @p add.rn.f32 %1, %1, %3;}"
                   : "+f"(v), "+f"(t)
                   : "f"(more_v), "f"(more_t), "r"(bit));
    else
      asm volatile("{.reg .pred p; setp.ne.u32 p, %4, 0; @p add.rn.f64 %0, %0, %2; @p add.rn.f64 %1, %1, %3;}"
                   : "+d"(v), "+d"(t)
                   : "d"(more_v), "d"(more_t), "r"(bit));
  }
  static __device__ __forceinline__ Number if_less(Number a, Number b, Number then, Number otherwise) {
    return a < b ? then : otherwise;
  }
  static __device__ __forceinline__ void plane(const T* in, long lanes, Number& out) {
    out = own() < lanes ? in[own()] : T(0);
  }
  static __device__ __forceinline__ void put(Number in, long lanes, T* out) {
    if (own() < lanes) out[own()] = in;
  }
  static __device__ __forceinline__ Number gather(const T* from, Index at) { return from[at]; }
  template <int n>
  static __device__ __forceinline__ void put_ends(const Number (&rows)[n], int last, T* out, int other) {
    if (own() != 0 && own() != last) return;
    T* const to = out + (own() == 0 ? 0 : other);
#pragma unroll
    for (int y = 0; y < n; ++y) to[y] = rows[y];
  }
};
#endif

}  // namespace FNTK_ISA
}  // namespace fntk
