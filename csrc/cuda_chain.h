// Convolutions of 3 x 3 taps, each with its rectifier, in registers: lane = place along the inner axes, rows of the
// defect and of the NTK one register each, neighbours by shuffles, whole depth without memory but for the tables.
//
// One text for a warp and, with 32 numbers for each of its own, for the host. Layers go without scales: planes are kept
// divided by what the layers before would have multiplied them by, and tables bring each layer's own numbers to that
// (ChainLayer). With s = sqrt(w), w = 1 - rho, the rectifier makes of the defect r w the defect r w (1 - s Q(w)) / 2
// and of the NTK half of its (1 - s P(w)): duals.h, arc().
#pragma once
#include "image_code.h"
#include "vmath.h"

namespace fntk {

namespace FNTK_ISA {

// 32 numbers that do the same.
template <class T>
struct Wide {
  T v[32];
  Wide() = default;
  FNTK_HD Wide(T x) {
    for (T& own : v) own = x;
  }
};
#define FNTK_WIDE(sign)                                               \
  template <class T>                                                  \
  FNTK_HD Wide<T> operator sign(const Wide<T>& a, const Wide<T>& b) { \
    Wide<T> c;                                                        \
    for (int x = 0; x < 32; ++x) c.v[x] = a.v[x] sign b.v[x];         \
    return c;                                                         \
  }
FNTK_WIDE(+)
FNTK_WIDE(-)
FNTK_WIDE(*)
#undef FNTK_WIDE
template <class T>
FNTK_HD Wide<T> operator-(const Wide<T>& a) {
  Wide<T> c;
  for (int x = 0; x < 32; ++x) c.v[x] = -a.v[x];
  return c;
}
template <class T>
FNTK_HD Wide<T> fma(const Wide<T>& a, const Wide<T>& b, const Wide<T>& c) {
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
  static FNTK_HD void plane(const T* in, long lanes, Number& out) {
    for (int x = 0; x < 32; ++x) out.v[x] = x < lanes ? in[x] : T(0);
  }
  static FNTK_HD void put(const Number& in, long lanes, T* out) {
    for (int x = 0; x < lanes; ++x) out[x] = in.v[x];
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
  static __device__ __forceinline__ Pointer pointer(const T* base, Index lane, long scale) {
    return base + lane * scale;
  }
  template <class E>
  static __device__ __forceinline__ Index index(const E* from) {
    return int(from[own()]);
  }
  static __device__ __forceinline__ Number number(const T* from) { return from[own()]; }
  template <int n>
  static __device__ __forceinline__ void load(Pointer p, long at, Number (&out)[n]) {
    if constexpr (n == 4 && sizeof(T) == sizeof(float)) {
      const float4 found = __ldg(reinterpret_cast<const float4*>(p + at));
      out[0] = found.x, out[1] = found.y, out[2] = found.z, out[3] = found.w;
    } else {
      using Two = std::conditional_t<sizeof(T) == sizeof(float), float2, double2>;
      for (int k = 0; k < n; k += 2) {
        const Two found = __ldg(reinterpret_cast<const Two*>(p + at + k));
        out[k] = found.x, out[k + 1] = found.y;
      }
    }
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
  static __device__ __forceinline__ void plane(const T* in, long lanes, Number& out) {
    out = own() < lanes ? in[own()] : T(0);
  }
  static __device__ __forceinline__ void put(Number in, long lanes, T* out) {
    if (own() < lanes) out[own()] = in;
  }
};
#endif

// c0 + c1 z + ..., of numbers of one kind.
template <class T, class Number, class... C>
FNTK_HD Number polynomial(const Number& z, C... c) {
  return horner(z, Number(T(c))...);
}

// What each lane reads beside itself.
template <class Lanes>
struct Sides {
  typename Lanes::Index first, second;
  typename Lanes::Number first_weight, second_weight;
};

template <class Lanes>
struct RowSums {  // along the inner axes; and 1 / (s s')
  typename Lanes::Number v, t, inverse;
};

// Row y: what lies on it, and its first four numbers in both tables: coordinates, their factor, 1 / s.
template <class Lanes>
FNTK_HD RowSums<Lanes> row_sums(const typename Lanes::Pointer& a, const typename Lanes::Pointer& b, long at,
                                const Sides<Lanes>& sides, const typename Lanes::Number& v,
                                const typename Lanes::Number& t) {
  using Number = typename Lanes::Number;
  Number p[4], q[4];
  Lanes::load(a, at, p);
  Lanes::load(b, at, q);
  const Number one = p[0] - q[0], two = p[1] - q[1];
  Number sum = fma(sides.first_weight, Lanes::shuffle(v, sides.first), v);
  sum = fma(sides.second_weight, Lanes::shuffle(v, sides.second), sum);
  Number theta = fma(sides.first_weight, Lanes::shuffle(t, sides.first), t);
  theta = fma(sides.second_weight, Lanes::shuffle(t, sides.second), theta);
  return {fma(p[2] * q[2], fma(two, two, one * one), sum), theta, p[3] * q[3]};
}

#if defined(__CUDA_ARCH__)
#define FNTK_UNROLL _Pragma("unroll")
#else
#define FNTK_UNROLL
#endif

// One layer. `first`, `second`: bit y where row y has the row at the first (above, VALID: below) and at the second
// distance (below, VALID: two below). Tables of R + rows rows, so that the second image's never wrap.
template <class Lanes, int R, bool bias, int mode>
FNTK_HD void chain_layer(const ChainLayer& layer, const typename Lanes::Pointer& a, const typename Lanes::Pointer& b,
                         const typename Lanes::Pointer& bias_a, const typename Lanes::Pointer& bias_b, long lanes,
                         int rows, const Sides<Lanes>& sides, uint32_t first, uint32_t second,
                         typename Lanes::Number (&v)[R], typename Lanes::Number (&t)[R]) {
  using T = typename Lanes::Value;
  using Number = typename Lanes::Number;
  const long stride = 8 * lanes;
  const Number alpha = Number(T(layer.alpha)), beta = Number(T(layer.beta)), unit = Number(T(1));
  RowSums<Lanes> before = {}, top = {}, here = row_sums<Lanes>(a, b, 0, sides, v[0], t[0]), next = {}, after = {};
  if constexpr (mode == kCircularRows) {
    Number last_v = v[R - 1], last_t = t[R - 1];
    if (rows != R) {
      FNTK_UNROLL
      for (int y = 0; y < R; ++y)
        if (y + 1 == rows) last_v = v[y], last_t = t[y];
    }
    before = row_sums<Lanes>(a, b, (rows - 1) * stride, sides, last_v, last_t);
    top = here;
  }
  if constexpr (mode == kValidRows && R > 1) next = row_sums<Lanes>(a, b, stride, sides, v[1], t[1]);
  FNTK_UNROLL
  for (int y = 0; y < R; ++y) {
    Number sum = here.v, theta = here.t;
    if constexpr (mode == kValidRows) {
      if (y + 2 < R)
        after = row_sums<Lanes>(a, b, (y + 2) * stride, sides, v[y + 2 < R ? y + 2 : y], t[y + 2 < R ? y + 2 : y]);
      if (first >> y & 1u) sum = sum + next.v, theta = theta + next.t;
      if (second >> y & 1u) sum = sum + after.v, theta = theta + after.t;
    } else {
      if (y + 1 < R)
        next = row_sums<Lanes>(a, b, (y + 1) * stride, sides, v[y + 1 < R ? y + 1 : y], t[y + 1 < R ? y + 1 : y]);
      if constexpr (mode == kCircularRows) {
        sum = sum + before.v, theta = theta + before.t;
        if (y + 1 == rows)
          sum = sum + top.v, theta = theta + top.t;
        else
          sum = sum + next.v, theta = theta + next.t;
      } else {
        if (y > 0 && (first >> y & 1u)) sum = sum + before.v, theta = theta + before.t;
        if (y + 1 < R && (second >> y & 1u)) sum = sum + next.v, theta = theta + next.t;
      }
    }
    Number p[4], q[4];
    Lanes::load(a, y * stride + 4, p);
    Lanes::load(b, y * stride + 4, q);
    const Number one = p[0] - q[0], two = p[1] - q[1];
    sum = fma(p[2] * q[2], fma(two, two, one * one), sum);
    if constexpr (bias) {
      Number g[2], h[2];
      Lanes::load(bias_a, y * 2 * lanes, g);
      Lanes::load(bias_b, y * 2 * lanes, h);
      const Number apart = g[0] - h[0];
      sum = fma(g[1] * h[1], apart * apart, sum);
    }
    theta = fma(alpha, p[3] * q[3] - sum, theta);
    if constexpr (bias) theta = theta + beta;
    const Number w = sum * here.inverse, s = Lanes::root(w);
    if constexpr (std::is_same_v<T, float>) {
      v[y] = sum * fma(-s, polynomial<T>(w, FNTK_MOMENT_FLOAT), unit);
      t[y] = fma(-(s * polynomial<T>(w, FNTK_ANGLE_FLOAT)), theta, theta);
    } else {
      v[y] = sum * fma(-s, polynomial<T>(w, FNTK_MOMENT_DOUBLE), unit);
      t[y] = fma(-(s * polynomial<T>(w, FNTK_ANGLE_DOUBLE)), theta, theta);
    }
    before = here;
    here = next;
    if constexpr (mode == kValidRows) next = after;
  }
}

// All layers of a chain for one displacement along axis 0, from planes of one slot to those of another or the same.
template <class Lanes, int R, bool bias, int mode>
FNTK_HD void run_chain(const char* code, const GridCode& g, const StepCode& step, long group, long shift_at, int shift,
                       const typename Lanes::Value* chain1, const typename Lanes::Value* chain2,
                       const typename Lanes::Value* in, typename Lanes::Value* out, long plane_size) {
  using T = typename Lanes::Value;
  using Number = typename Lanes::Number;
  const long lanes = g.lanes;
  const int rows = int(g.rows);
  const auto* layers = reinterpret_cast<const ChainLayer*>(code + step.chain_layers);
  const auto* places = reinterpret_cast<const int32_t*>(code + step.chain_lanes) + group * 128;
  const auto* weights = reinterpret_cast<const T*>(code + step.chain_weights) + group * 64;
  const auto* edges = reinterpret_cast<const uint32_t*>(code + step.chain_edges) + 2 * shift_at;
  const Sides<Lanes> sides = {Lanes::index(places), Lanes::index(places + 32), Lanes::number(weights),
                              Lanes::number(weights + 32)};
  const auto own = Lanes::index(places + 64), other = Lanes::index(places + 96);
  const uint32_t first = edges[0], second = edges[1];
  Number v[R], t[R];
  FNTK_UNROLL
  for (int y = 0; y < R; ++y) {
    v[y] = t[y] = Number(T(0));
    if (y >= rows) continue;
    Lanes::plane(in + y * lanes, lanes, v[y]);
    Lanes::plane(in + 2 * plane_size + y * lanes, lanes, t[y]);
  }
  for (int k = 0; k < step.chain; ++k) {
    const ChainLayer& layer = layers[k];
    if (layer.rescale != 1) {
      const Number scale = Number(T(layer.rescale));
      FNTK_UNROLL
      for (int y = 0; y < R; ++y) v[y] = v[y] * scale, t[y] = t[y] * scale;
    }
    const long bias_at = layer.table + (R + rows) * 8 * lanes;
    const auto a = Lanes::pointer(chain1 + layer.table, own, 8);
    const auto b = Lanes::pointer(chain2 + layer.table + shift * 8 * lanes, other, 8);
    const auto bias_a = Lanes::pointer(chain1 + bias_at, own, 2);
    const auto bias_b = Lanes::pointer(chain2 + bias_at + shift * 2 * lanes, other, 2);
    chain_layer<Lanes, R, bias, mode>(layer, a, b, bias_a, bias_b, lanes, rows, sides, first, second, v, t);
  }
  const Number scale = Number(T(step.chain_scale));
  FNTK_UNROLL
  for (int y = 0; y < R; ++y) {
    if (y >= rows) continue;
    Lanes::put(v[y] * scale, lanes, out + y * lanes);
    Lanes::put(t[y] * scale, lanes, out + 2 * plane_size + y * lanes);
  }
}

}  // namespace FNTK_ISA
}  // namespace fntk
