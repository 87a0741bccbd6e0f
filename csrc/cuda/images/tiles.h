// Chains (cuda/images/chain.h) of planes that one warp's registers do not hold: tiles of 16 rows and up to 32 lanes, a
// warp each, of one block. Before each layer every tile shows its ends and its first and last rows to those around it;
// they read them as what lies beyond their own.
#pragma once
#include "cuda/images/call.h"
#include "cuda/images/chain.h"

namespace fntk {
namespace FNTK_ISA {

template <class Lanes>
struct Around {
  using T = typename Lanes::Value;
  using Number = typename Lanes::Number;
  static constexpr bool tiles = true;
  const T* shown;  // by this tile
  int above, below;
  typename Lanes::Index other;
  Number weight;
  FNTK_HD Number beyond(int plane, int y, const Number& sum) const {
    const int tile = y < 0 ? above : y < kTileRows ? 0 : below, row = y < 0 ? kTileRows - 1 : y % kTileRows;
    return fma(weight, Lanes::gather(shown + tile + plane * kTileRows + row, other), sum);
  }
  FNTK_HD Number row(int plane, int y) const {
    const int tile = y < 0 ? above : below, last = y < 0 ? 1 : 0;
    return Lanes::number(shown + tile + kTileRowsAt + (2 * last + plane) * kChainLanes);
  }
};

template <class Lanes>
struct Tile {
  typename Lanes::Number v[kTileRows], t[kTileRows];
  Sides<Lanes> sides;
  typename Lanes::Index other;
  typename Lanes::Number weight;
  typename Lanes::Pointer a, b;
};

// Where a tile lies.
struct TilePlace {
  int line, column, begin, width, live;  // its first row; lanes of most tiles, its own
  FNTK_HD TilePlace(const GridCode& g, int tile)
      : line(tile / g.tile_columns),
        column(tile - line * g.tile_columns),
        begin(line * kTileRows),
        width((g.tile_lanes + g.tile_columns - 1) / g.tile_columns),
        live(column + 1 < g.tile_columns ? width : g.tile_lanes - column * width) {}
};

// All of a unit's tiles, on the host.
template <class Lanes>
struct HostTiles {
  Tile<Lanes>* all;
  int n;
  typename Lanes::Value* space;
  FNTK_TEAM typename Lanes::Value* shown() const { return space; }
  template <class Work>
  FNTK_TEAM void each(const Work& work) const {
    for (int k = n; k-- > 0;) work(k, all[k]);
  }
  FNTK_TEAM void barrier() const {}
};

#if defined(__CUDACC__)
// A warp's own, on the device.
template <class Lanes>
struct BlockTiles {
  Tile<Lanes> own;
  typename Lanes::Value* space;
  __device__ __forceinline__ typename Lanes::Value* shown() { return space; }
  template <class Work>
  __device__ __forceinline__ void each(const Work& work) {
    work(int(threadIdx.x / 32), own);
  }
  __device__ __forceinline__ void barrier() const { __syncthreads(); }
};
#endif

// As run_chain, of all tiles together.
template <class Lanes, bool bias, class Tiles, class Unit, class Launch>
FNTK_TEAM void run_tiles(Tiles& tiles, Unit& unit, const Launch& c) {
  using T = typename Lanes::Value;
  using Number = typename Lanes::Number;
  using Own = Tile<Lanes>;
  const GridCode& g = c.grid;
  constexpr long row = kChainQuads<bias> * kChainQuad;
  const auto step = [&]() -> const StepCode& {
    return reinterpret_cast<const StepCode*>(c.code + g.steps)[Lanes::anew(unit.next)];
  };
  tiles.each([&](int tile, Own& own) {
    const TilePlace at(g, tile);
    const StepCode& s = step();
    const long group = unit.group * g.tile_columns + at.column, rows = g.rows;
    const auto* places = reinterpret_cast<const int32_t*>(c.code + s.chain_lanes) + group * kChainPlaces * kChainLanes;
    const auto* weights = reinterpret_cast<const T*>(c.code + s.chain_weights) + group * kChainWeights * kChainLanes;
    own.sides = sides_of<Lanes>(places, weights);
    own.other = Lanes::index(places + kOtherTile * kChainLanes);
    own.weight = Lanes::number(weights + kTileWeight * kChainLanes);
    // the row before its first one is read, too
    const long table = reinterpret_cast<const ChainLayer*>(c.code + s.chain_layers)->table + row;
    const long first = (at.begin + rows - 1) % rows, other = (at.begin + rows - 1 + unit.shift) % rows;
    own.a = Lanes::pointer(unit.chain1() + table + first * row, Lanes::index(places + kOwnTable * kChainLanes), 4);
    own.b = Lanes::pointer(unit.chain2() + table + other * row, Lanes::index(places + kOtherTable * kChainLanes), 4);
    const T* in = unit.scratch + (3 * unit.source(s) * rows + at.begin) * g.lanes + at.column * at.width;
    const long planes = (s.chain_signs ? 1 : 2) * rows * g.lanes;
    FNTK_UNROLL
    for (int y = 0; y < kTileRows; ++y) {
      own.v[y] = own.t[y] = Number(T(0));
      if (at.begin + y >= rows) continue;
      Lanes::plane(in + y * g.lanes, at.live, own.v[y]);
      Lanes::plane(in + y * g.lanes + planes, at.live, own.t[y]);
    }
  });
  Lanes::renew(unit.numbers, reinterpret_cast<const T*>(c.code + step().chain_numbers));
  Lanes::renew(unit.shown, 0);
  bool signs = step().chain_signs;
  for (;;) {
    T numbers[kChainNumbers];
    Lanes::template same<4>(Lanes::anew(unit.numbers), numbers);
    if (numbers[kRescale] == T(0)) break;
    tiles.each([&](int tile, Own& own) {
      if (numbers[kRescale] != T(1)) {
        const Number scale = Number(numbers[kRescale]);
        FNTK_UNROLL
        for (int y = 0; y < kTileRows; ++y) own.v[y] = own.v[y] * scale, own.t[y] = own.t[y] * scale;
      }
      T* const out = tiles.shown() + Lanes::anew(unit.shown) + tile * kTileNumbers;
      const int last = TilePlace(g, tile).live - 1;
      Lanes::put_ends(own.v, last, out, kTileEnds);
      Lanes::put_ends(own.t, last, out + kTileRows, kTileEnds);
      Lanes::put(own.v[0], kChainLanes, out + kTileRowsAt);
      Lanes::put(own.t[0], kChainLanes, out + kTileRowsAt + kChainLanes);
      Lanes::put(own.v[kTileRows - 1], kChainLanes, out + kTileRowsAt + 2 * kChainLanes);
      Lanes::put(own.t[kTileRows - 1], kChainLanes, out + kTileRowsAt + 3 * kChainLanes);
    });
    tiles.barrier();
    const auto run = [&](auto begins) {
      tiles.each([&](int tile, Own& own) {
        const int line = TilePlace(g, tile).line, numbers_of = g.tile_columns * kTileNumbers, last = g.tile_rows - 1;
        const Around<Lanes> around = {tiles.shown() + Lanes::anew(unit.shown) + tile * kTileNumbers,
                                      line > 0 ? -numbers_of : last * numbers_of,
                                      line < last ? numbers_of : -last * numbers_of, own.other, own.weight};
        const uint32_t edges =
            reinterpret_cast<const uint32_t*>(c.code + step().chain_edges)[unit.shift_at * g.tile_rows + line];
        chain_layer<Lanes, kTileRows, bias, kSameRows, decltype(begins)::value>(
            numbers, own.a, own.b, int(g.rows), own.sides, around, edges, 0u, own.v, own.t);
        Lanes::advance(own.a, g.tile_columns * g.chain_held * row);
        Lanes::advance(own.b, g.tile_columns * g.chain_held * row);
      });
    };
    if (signs)
      run(std::true_type());
    else
      run(std::false_type());
    signs = false;
    Lanes::renew(unit.numbers, Lanes::anew(unit.numbers) + kChainNumbers);
    // tiles that are ahead show the next layer elsewhere
    const int size = g.tile_rows * g.tile_columns * kTileNumbers;
    Lanes::renew(unit.shown, size - Lanes::anew(unit.shown));
  }
  tiles.each([&](int tile, Own& own) {
    const TilePlace at(g, tile);
    const auto scale = Number(T(step().chain_scale));
    T* out = unit.scratch + (3 * step().dst * g.rows + at.begin) * g.lanes + at.column * at.width;
    const long planes = 2 * g.rows * g.lanes, empty = at.column + 1 < g.tile_columns ? 0 : g.lanes - g.tile_lanes;
    FNTK_UNROLL
    for (int y = 0; y < kTileRows; ++y) {
      if (at.begin + y >= g.rows) continue;
      Lanes::put(own.v[y] * scale, at.live, out + y * g.lanes);
      Lanes::put(own.t[y] * scale, at.live, out + y * g.lanes + planes);
      Lanes::put(Number(T(0)), empty, out + y * g.lanes + at.live);
      Lanes::put(Number(T(0)), empty, out + y * g.lanes + planes + at.live);
    }
  });
  tiles.barrier();
}

}  // namespace FNTK_ISA
}  // namespace fntk
