// Convolutions of 3 x 3 taps, each with its rectifier, in registers: lane = place along the inner axes, rows of the
// defect and of the NTK one register each, neighbours by shuffles, whole depth without memory but for the tables.
//
// One text for a warp and, with 32 numbers for each of its own, for the host. Layers go without scales: planes are kept
// divided by what the layers before would have multiplied them by, and tables bring each layer's own numbers to that
// (ChainLayer). With s = sqrt(w), w = 1 - rho, the rectifier makes of the defect r w the defect r w (1 - s Q(w)) / 2
// and of the NTK half of its (1 - s P(w)): math/duals.h, arc(). Behind the input, which may have rho < 0, registers
// hold r - K and r + K: the lesser is r w of |rho|, and there is no NTK yet.
#pragma once
#include "cuda/images/code.h"
#include "cuda/lanes.h"

namespace fntk {

namespace FNTK_ISA {

// c0 + c1 z + ...: a loop for a host's compiler, which takes minutes over so many lanes in one expression.
template <class T, class Number, class... C>
FNTK_HD Number polynomial(const Number& z, C... c) {
#if defined(__CUDA_ARCH__)
  return horner(z, Number(T(c))...);
#else
  constexpr int n = sizeof...(C);
  const T of[n] = {T(c)...};
  Number found = Number(of[n - 1]);
  for (int k = n - 2; k >= 0; --k) found = fma(z, found, Number(of[k]));
  return found;
#endif
}

// What each lane reads beside itself.
template <class Lanes>
struct Sides {
  typename Lanes::Index first, second;
  typename Lanes::Number first_weight, second_weight;
};

template <class Lanes>
FNTK_HD Sides<Lanes> sides_of(const int32_t* places, const typename Lanes::Value* weights) {
  return {Lanes::index(places + kFirstRead * kChainLanes), Lanes::index(places + kSecondRead * kChainLanes),
          Lanes::number(weights + kFirstWeight * kChainLanes), Lanes::number(weights + kSecondWeight * kChainLanes)};
}

// Nothing around what a warp holds (Around in cuda/images/tiles.h: other tiles).
template <class Lanes>
struct Alone {
  using Number = typename Lanes::Number;
  static constexpr bool tiles = false;
  FNTK_HD Number beyond(int, int, const Number& sum) const { return sum; }
  FNTK_HD Number row(int, int) const { return Number(typename Lanes::Value(0)); }
};

template <class Lanes>
struct RowSums {  // along the inner axes, t: NTK or r + K; and 1 / (s s')
  typename Lanes::Number v, t, inverse;
};

// Four numbers of a row in both images' tables, and what is made of them: f f' and |S - S'|^2 of two coordinates and
// their factor, and the last ones' product.
template <class Lanes>
struct Quads {
  using Number = typename Lanes::Number;
  Number p[4], q[4], factor, square, last;
  FNTK_HD void load(const typename Lanes::Pointer& a, const typename Lanes::Pointer& b, long at) {
    Lanes::load(a, at, p);
    Lanes::load(b, at, q);
  }
  FNTK_HD void reduce() {
    const Number one = p[0] - q[0], two = p[1] - q[1];
    square = fma(two, two, one * one);
    factor = p[2] * q[2];
    last = p[3] * q[3];
  }
};

template <class Lanes>
FNTK_HD typename Lanes::Number beside(const Sides<Lanes>& sides, const typename Lanes::Number& v) {
  return fma(sides.second_weight, Lanes::shuffle(v, sides.second),
             fma(sides.first_weight, Lanes::shuffle(v, sides.first), v));
}

template <bool signs, class Lanes, class Around>
FNTK_HD RowSums<Lanes> row_sums(const Quads<Lanes>& reduced, const Sides<Lanes>& sides, const Around& around, int y,
                                const typename Lanes::Number& v, const typename Lanes::Number& t) {
  const typename Lanes::Number other = around.beyond(1, y, beside(sides, t));
  return {fma(reduced.factor, reduced.square, around.beyond(0, y, beside(sides, v))),
          signs ? fma(reduced.factor, reduced.square, other) : other, reduced.last};
}

// arc() of math/duals.h, without its factors s and s w.
template <class Lanes>
struct Bend {
  typename Lanes::Number moment, angle;
};

template <class Lanes, class Number = typename Lanes::Number>
FNTK_HD Bend<Lanes> bend(const Number& w) {
  using T = typename Lanes::Value;
  if constexpr (std::is_same_v<T, float>) {
    const Number u = Lanes::root(Number(T(2)) - w);
    return {polynomial<T>(u, FNTK_MOMENT_HALF_FLOAT), polynomial<T>(u, FNTK_ANGLE_HALF_FLOAT)};
  } else {
    return {polynomial<T>(w, FNTK_MOMENT_DOUBLE), polynomial<T>(w, FNTK_ANGLE_DOUBLE)};
  }
}

// The first rectifier of all, of r - K and r + K; theta: the NTK of what it rectifies.
template <class Lanes, class Number = typename Lanes::Number>
FNTK_HD void rectify_signs(const Number& r, const Number& inverse, const Number& minus, const Number& plus,
                           const Number& theta, Number& v, Number& t) {
  const Number lesser = Lanes::if_less(plus, minus, plus, minus);
  const Number w = lesser * inverse, s = Lanes::root(w);
  const Bend<Lanes> of = bend<Lanes>(w);
  const Number gone = (s * of.angle) * theta;
  v = fma(-(lesser * s), of.moment, Lanes::if_less(plus, minus, r, minus));
  t = Lanes::if_less(plus, minus, gone, theta - gone);
}

// One layer. Bit y of `first`: rows y - 1 and y meet (VALID: row y reads row y + 1, CIRCULAR: it is the last one), of
// `second`: VALID, row y reads row y + 2. Tables have 2 R rows, so that the second image's never wrap. signs: t holds
// r + K when it begins, and `numbers` wait in memory.
// Where a table is asked for, and how many rows ahead, is what keeps it in registers: the compiler follows the order of
// the text (CMakeLists.txt). Bits are taken in groups, as many as there are predicates to hold them.
template <class Lanes, int R, bool bias, int mode, bool signs, class Around>
FNTK_HD void chain_layer(const typename Lanes::Value (&numbers)[kChainNumbers], const typename Lanes::Pointer& a,
                         const typename Lanes::Pointer& b, int rows, const Sides<Lanes>& sides, const Around& around,
                         uint32_t first, uint32_t second, typename Lanes::Number (&v)[R],
                         typename Lanes::Number (&t)[R]) {
  using T = typename Lanes::Value;
  using Number = typename Lanes::Number;
  constexpr long stride = kChainQuads<bias> * kChainQuad;
  constexpr int ahead = mode == kValidRows ? 2 : 1, group = mode == kSameRows ? 7 : 6;
  constexpr bool asks_late = signs || mode != kCircularRows, tiles = Around::tiles;
  constexpr int end = tiles ? R + 1 : R;  // of the rows that are read
  const Number alpha = Number(numbers[kAlpha]), unit = Number(T(1));
  Number beta = Number(T(0));
  if constexpr (bias) beta = Number(numbers[kBeta]);
  RowSums<Lanes> before = {}, top = {}, here, next = {}, found = {};
  Quads<Lanes> inner, outer;
  if constexpr (mode == kCircularRows) {
    Number last_v = v[R - 1], last_t = t[R - 1];
    if (rows != R) {
      FNTK_UNROLL
      for (int y = 0; y < R; ++y)
        if (y + 1 == rows) last_v = v[y], last_t = t[y];
    }
    inner.load(a, b, (rows - 1) * stride);
    inner.reduce();
    before = row_sums<signs>(inner, sides, around, rows - 1, last_v, last_t);
  }
  if constexpr (tiles) {
    inner.load(a, b, -stride);
    inner.reduce();
    before = row_sums<signs>(inner, sides, around, -1, around.row(0, -1), around.row(1, -1));
  }
  inner.load(a, b, 0);
  inner.reduce();
  here = row_sums<signs>(inner, sides, around, 0, v[0], t[0]);
  top = here;
  inner.load(a, b, stride);
  if constexpr (mode == kValidRows) {
    inner.reduce();
    next = row_sums<signs>(inner, sides, around, 1, v[1], t[1]);
    inner.load(a, b, 2 * stride);
  }
  FNTK_UNROLL
  for (int y = 0; y < R; ++y) {
    if constexpr (signs)
      if (y > 0 && y + ahead < end) inner.load(a, b, (y + ahead) * stride);
    if (y + ahead < end) inner.reduce();
    if constexpr (!asks_late) outer.load(a, b, y * stride + kChainQuad);
    if (y + ahead < R)
      found = row_sums<signs>(inner, sides, around, y + ahead, v[y + ahead < R ? y + ahead : y],
                              t[y + ahead < R ? y + ahead : y]);
    else if (y + ahead < end)
      found = row_sums<signs>(inner, sides, around, R, around.row(0, R), around.row(1, R));
    Number g[2], h[2];
    if constexpr (bias) {
      Lanes::load(a, y * stride + 2 * kChainQuad, g);
      Lanes::load(b, y * stride + 2 * kChainQuad, h);
    }
    if constexpr (asks_late) outer.load(a, b, y * stride + kChainQuad);
    outer.reduce();
    Number sum = fma(outer.factor, outer.square, here.v);
    Number theta = signs ? fma(outer.factor, outer.square, here.t) : fma(outer.p[3], outer.q[3], here.t);
    if constexpr (mode == kSameRows) {
      if (y > 0 && y % group == 0) first = Lanes::apart(first >> group);
      if (y > 0 || tiles) Lanes::add_if(first & 1u << y % group, sum, before.v, theta, before.t);
      if (y + 1 < end) Lanes::add_if(first & 2u << y % group, sum, found.v, theta, found.t);
    } else if constexpr (mode == kValidRows) {
      if (y > 0 && y % group == 0) first = Lanes::apart(first >> group), second = Lanes::apart(second >> group);
      if (y + 1 < R) Lanes::add_if(first & 1u << y % group, sum, next.v, theta, next.t);
      if (y + 2 < R) Lanes::add_if(second & 1u << y % group, sum, found.v, theta, found.t);
    } else {
      const bool wraps = first >> y & 1u;
      sum = (sum + before.v) + (wraps ? top.v : found.v);
      theta = (theta + before.t) + (wraps ? top.t : found.t);
    }
    if constexpr (bias) {
      const Number apart = g[0] - h[0], factor = g[1] * h[1], square = apart * apart;
      sum = fma(factor, square, sum);
      if constexpr (signs) theta = fma(factor, square, theta + Number(Lanes::anew(numbers[kConstant])));
    }
    if constexpr (!signs && asks_late)
      if (y + ahead + 1 < end) inner.load(a, b, (y + ahead + 1) * stride);
    if constexpr (signs) {
      const Number r = outer.last, minus = sum, plus = theta;
      theta = Number(Lanes::anew(numbers[kAlpha])) * Lanes::if_less(plus, minus, plus - r, r - minus);
      if constexpr (bias) theta = theta + Number(Lanes::anew(numbers[kBeta]));
      rectify_signs<Lanes>(r, here.inverse, minus, plus, theta, v[y], t[y]);
    } else {
      theta = fma(-alpha, sum, theta);
      if constexpr (bias) theta = theta + beta;
      const Number w = sum * here.inverse, s = Lanes::root(w);
      const Bend<Lanes> of = bend<Lanes>(w);
      v[y] = sum * fma(-s, of.moment, unit);
      t[y] = fma(-(s * of.angle), theta, theta);
    }
    if constexpr (!asks_late)
      if (y + ahead + 1 < R) inner.load(a, b, (y + ahead + 1) * stride);
    before = here;
    here = mode == kValidRows ? next : found;
    if constexpr (mode == kValidRows) next = found;
  }
}

// All layers of a chain for one displacement along axis 0 of a unit (cuda/images/unit.h), from planes to planes. What
// is asked for anew waits in memory, not in registers.
template <class Lanes, int R, bool bias, int mode, class Unit, class Launch>
FNTK_HD void run_chain(Unit& unit, const Launch& c) {
  using T = typename Lanes::Value;
  using Number = typename Lanes::Number;
  const auto step = [&]() -> const StepCode& {
    return reinterpret_cast<const StepCode*>(c.code + c.grid.steps)[Lanes::anew(unit.next)];
  };
  const int rows = int(c.grid.rows), lanes = int(c.grid.lanes);
  Number v[R], t[R];
  {
    const T* in = Lanes::anew(unit.scratch) + 3 * unit.source(step()) * rows * lanes;
    const int other = step().chain_signs ? 1 : 2;
    FNTK_UNROLL
    for (int y = 0; y < R; ++y) {
      v[y] = t[y] = Number(T(0));
      if (y >= rows) continue;
      Lanes::plane(in + y * lanes, lanes, v[y]);
      Lanes::plane(in + (other * rows + y) * lanes, lanes, t[y]);
    }
  }
  {
    const long row = kChainQuads<bias> * kChainQuad;
    const auto* places =
        reinterpret_cast<const int32_t*>(c.code + step().chain_lanes) + unit.group * kChainPlaces * kChainLanes;
    const auto* weights =
        reinterpret_cast<const T*>(c.code + step().chain_weights) + unit.group * kChainWeights * kChainLanes;
    const Sides<Lanes> sides = sides_of<Lanes>(places, weights);
    const long table = reinterpret_cast<const ChainLayer*>(c.code + step().chain_layers)->table;
    auto a = Lanes::pointer(unit.chain1() + table, Lanes::index(places + kOwnTable * kChainLanes), 4);
    auto b =
        Lanes::pointer(unit.chain2() + table + unit.shift * row, Lanes::index(places + kOtherTable * kChainLanes), 4);
    const auto run = [&](const T(&numbers)[kChainNumbers], auto signs) {
      chain_layer<Lanes, R, bias, mode, decltype(signs)::value>(
          numbers, a, b, rows, sides, Alone<Lanes>(), Lanes::anew(unit.edges[0]), Lanes::anew(unit.edges[1]), v, t);
      Lanes::advance(a, 2 * R * row);
      Lanes::advance(b, 2 * R * row);
      Lanes::renew(unit.numbers, Lanes::anew(unit.numbers) + kChainNumbers);
    };
    Lanes::renew(unit.numbers, reinterpret_cast<const T*>(c.code + step().chain_numbers));
    if (step().chain_signs) {
      for (int k = 0; k < kChainNumbers; ++k) Lanes::renew(unit.first_numbers[k], Lanes::anew(unit.numbers)[k]);
      run(unit.first_numbers, std::true_type());
    }
    for (;;) {
      T numbers[kChainNumbers];
      Lanes::template same<bias ? 4 : 2>(Lanes::anew(unit.numbers), numbers);
      if (numbers[kRescale] == T(0)) break;
      if (numbers[kRescale] != T(1)) {
        const Number scale = Number(numbers[kRescale]);
        FNTK_UNROLL
        for (int y = 0; y < R; ++y) v[y] = v[y] * scale, t[y] = t[y] * scale;
      }
      run(numbers, std::false_type());
    }
  }
  const Number scale = Number(T(step().chain_scale));
  T* out = Lanes::anew(unit.scratch) + 3 * step().dst * rows * lanes;
  FNTK_UNROLL
  for (int y = 0; y < R; ++y) {
    if (y >= rows) continue;
    Lanes::put(v[y] * scale, lanes, out + y * lanes);
    Lanes::put(t[y] * scale, lanes, out + (2 * rows + y) * lanes);
  }
  unit.team.meet();  // what follows reads other lanes' places
}

}  // namespace FNTK_ISA
}  // namespace fntk
