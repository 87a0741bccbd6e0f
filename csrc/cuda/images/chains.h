// Launches of grids with chains (cuda/images/chain.h) for one dtype. Compiled so that the assembler keeps the text's
// order of instructions (CMakeLists.txt): in its own it would move loads ahead until registers do not hold them.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#define FNTK_ISA cuda
#include "common/check.h"
#include "cuda/check.h"
#include "cuda/images/chain.h"
#include "cuda/images/tiles.h"
#include "cuda/images/unit.h"

namespace fntk {
namespace {

template <class T>
constexpr int kChainThreads = sizeof(T) == sizeof(float) ? 512 : 256;  // 128 and 255 registers a thread

// What lies between chains.
template <class T, class Team>
struct Between {
  using Unit = FNTK_ISA::ImageUnit<T, Team>;
  static FNTK_TEAM bool to_chain(Unit& unit) { return unit.to_chain(); }
  static FNTK_TEAM void end_chain(Unit& unit) { unit.end_chain(); }
};

template <class Lanes, int R, bool bias, int mode, class Steps, class T>
FNTK_TEAM void run_chains(typename Steps::Unit& unit, const ImageLaunch<T>& c) {
  while (Steps::to_chain(unit)) {
    FNTK_ISA::run_chain<Lanes, R, bias, mode>(unit, c);
    Steps::end_chain(unit);
  }
}

// The same in functions of their own, so that a chain's registers are its alone: what outlives it lies in `unit`.
template <class T>
struct Apart {
  using Unit = FNTK_ISA::ImageUnit<T, FNTK_ISA::WarpTeam>;
  // Begins the warp's next unit; false: there is none. A block is a pair and a group for each of its warps, which then
  // read the same rows of tables at about the same time.
  static __device__ __noinline__ bool following(Unit& unit) {
    const GridCode& g = unit.c.grid;
    const int warps = int(blockDim.x / 32), warp = int(threadIdx.x / 32), chunks = (g.n_groups + warps - 1) / warps;
    unit.scratch = unit.c.scratch + (blockIdx.x * long(warps) + warp) * g.scratch;
    for (; blockIdx.x + unit.turn < unit.c.n_pairs * chunks; unit.turn += gridDim.x) {
      unit.pair = (blockIdx.x + unit.turn) / chunks;
      unit.group = (blockIdx.x + unit.turn) % chunks * warps + warp;
      if (unit.group >= g.n_groups) continue;
      unit.turn += gridDim.x;
      unit.begin();
      return true;
    }
    return false;
  }
  static __device__ __noinline__ bool to_chain(Unit& unit) { return unit.to_chain(); }
  static __device__ __noinline__ void end_chain(Unit& unit) { unit.end_chain(); }
};

template <class T, int R, bool bias, int mode>
__global__ void __launch_bounds__(kChainThreads<T>) chain_kernel(const __grid_constant__ ImageLaunch<T> c) {
  typename Apart<T>::Unit unit = {FNTK_ISA::WarpTeam(), c, nullptr, 0, 0};
  while (Apart<T>::following(unit)) run_chains<FNTK_ISA::WarpLanes<T>, R, bias, mode, Apart<T>>(unit, c);
}

template <class T>
struct TilesApart {
  using Unit = FNTK_ISA::ImageUnit<T, FNTK_ISA::TilesTeam>;
  static __device__ __noinline__ void begin(Unit& unit) { unit.begin(); }
  static __device__ __noinline__ bool to_chain(Unit& unit) { return unit.to_chain(); }
  static __device__ __noinline__ void end_chain(Unit& unit) { unit.end_chain(); }
};

// A block is a unit, its warps are tiles.
template <class T, bool bias>
__global__ void __launch_bounds__(32 * kMaxTiles<T>) tiles_kernel(const __grid_constant__ ImageLaunch<T> c) {
  __shared__ T space[2 * kMaxTiles<T> * kTileNumbers];
  using Steps = TilesApart<T>;
  for (long k = blockIdx.x; k < c.n_pairs * c.grid.n_groups; k += gridDim.x) {
    typename Steps::Unit unit = {FNTK_ISA::TilesTeam(), c, c.scratch + blockIdx.x * c.grid.scratch, k / c.grid.n_groups,
                                 k % c.grid.n_groups};
    Steps::begin(unit);
    while (Steps::to_chain(unit)) {
      FNTK_ISA::BlockTiles<FNTK_ISA::WarpLanes<T>> tiles;
      tiles.space = space;
      FNTK_ISA::run_tiles<FNTK_ISA::WarpLanes<T>, bias>(tiles, unit, c);
      Steps::end_chain(unit);
    }
  }
}

template <class T, bool bias>
void launch_tiles(const ImageLaunch<T>& c, long scratch_size, bool backwards, const Place& place) {
  const GridCode& g = c.grid;
  const int tiles = g.tile_rows * g.tile_columns;
  if (place.device == kOnHost) {
    using Lanes = FNTK_ISA::HostLanes<T>;
    using Steps = Between<T, FNTK_ISA::HostWarp>;
    std::vector<FNTK_ISA::Tile<Lanes>> own(static_cast<size_t>(tiles));
    std::vector<T> space(static_cast<size_t>(2 * tiles * kTileNumbers));
    FNTK_ISA::HostTiles<Lanes> all = {own.data(), tiles, space.data()};
    for (long k = 0; k < c.n_pairs * g.n_groups; ++k) {
      typename Steps::Unit unit = {{{backwards}}, c, c.scratch, k / g.n_groups, k % g.n_groups};
      unit.begin();
      while (Steps::to_chain(unit)) {
        FNTK_ISA::run_tiles<Lanes, bias>(all, unit, c);
        Steps::end_chain(unit);
      }
    }
    return;
  }
  const long room = scratch_size / g.scratch;
  FNTK_CHECK(room > 0, "scratch for ", scratch_size, " numbers, ", g.scratch, " are needed");
  const unsigned blocks = unsigned(std::min({c.n_pairs * long(g.n_groups), room, 65535L}));
  tiles_kernel<T, bias><<<blocks, unsigned(32 * tiles), 0, static_cast<cudaStream_t>(place.stream)>>>(c);
  cuda_check(cudaGetLastError(), "tiles of images", "launch");
}

template <int R, bool bias, int mode>
struct Chain {
  static constexpr int rows = R, meet = mode;
  static constexpr bool biased = bias;
};

template <int R, bool bias, class Work>
void with_mode(int mode, const Work& work) {
  if (mode == kSameRows)
    work(Chain<R, bias, kSameRows>());
  else if (mode == kValidRows)
    work(Chain<R, bias, kValidRows>());
  else
    work(Chain<R, bias, kCircularRows>());
}

// work(Chain) for the chains of a grid.
template <class T, class Work>
void with_chain(const GridCode& g, const Work& work) {
  const auto with_rows = [&](auto rows) {
    if (g.chain_bias)
      with_mode<decltype(rows)::value, true>(g.chain_mode, work);
    else
      with_mode<decltype(rows)::value, false>(g.chain_mode, work);
  };
  if (g.chain_rows == 16)
    with_rows(std::integral_constant<int, 16>());
  else if constexpr (sizeof(T) == sizeof(float))
    with_rows(std::integral_constant<int, 32>());
}

}  // namespace

template <class T>
void launch_chains(const ImageLaunch<T>& c, long scratch_size, bool backwards, const Place& place) {
  const GridCode& g = c.grid;
  if (g.tile_rows * g.tile_columns > 1)
    return g.chain_bias ? launch_tiles<T, true>(c, scratch_size, backwards, place)
                        : launch_tiles<T, false>(c, scratch_size, backwards, place);
  with_chain<T>(g, [&](auto chain) {
    using C = decltype(chain);
    if (place.device == kOnHost) {
      for (long k = 0; k < c.n_pairs * g.n_groups; ++k) {
        using Steps = Between<T, FNTK_ISA::HostWarp>;
        typename Steps::Unit unit = {{{backwards}}, c, c.scratch, k / g.n_groups, k % g.n_groups};
        unit.begin();
        run_chains<FNTK_ISA::HostLanes<T>, C::rows, C::biased, C::meet, Steps>(unit, c);
      }
      return;
    }
    const long warps = std::min<long>(kChainThreads<T> / 32, g.n_groups), chunks = (g.n_groups + warps - 1) / warps;
    const long room = scratch_size / (g.scratch * warps);
    FNTK_CHECK(room > 0, "scratch for ", scratch_size, " numbers, ", g.scratch * warps, " are needed");
    const unsigned blocks = unsigned(std::min({c.n_pairs * chunks, room, 65535L}));
    chain_kernel<T, C::rows, C::biased, C::meet>
        <<<blocks, unsigned(32 * warps), 0, static_cast<cudaStream_t>(place.stream)>>>(c);
    cuda_check(cudaGetLastError(), "chains of images", "launch");
  });
}

}  // namespace fntk
