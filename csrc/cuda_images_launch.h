// Launches of cuda_images.h and cuda_chain.h for one dtype; without a device, the same text in plain loops.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#define FNTK_ISA cuda
#include "check.h"
#include "cuda_chain.h"
#include "cuda_check.h"
#include "cuda_images.h"
#include "cuda_images_run.h"

namespace fntk {
namespace {

constexpr int kElementThreads = 256, kChainThreads = 128;
constexpr size_t kShared = 48 << 10;  // bytes of a block that need no asking

cudaStream_t stream_of(const Place& place) { return static_cast<cudaStream_t>(place.stream); }

constexpr const char* kWork = "kernels of images";

template <class T, class Team>
FNTK_TEAM void run_unit(const Team& team, const ImageLaunch<T>& c, T* scratch, long index) {
  FNTK_ISA::ImageUnit<T, Team> unit = {team, c, scratch, index / c.grid.n_groups, index % c.grid.n_groups};
  unit.begin();
  for (int s = 0; s < c.grid.n_shifts; ++s) {
    unit.set_shift(s);
    for (int k = 0; k < c.grid.n_steps; ++k) unit.run_step(unit.step(k));
  }
  unit.end();
}

template <class T>
__global__ void __launch_bounds__(kElementThreads) grid_kernel(const __grid_constant__ ImageLaunch<T> c, bool shared) {
  extern __shared__ double space[];
  T* const scratch = shared ? reinterpret_cast<T*>(space) : c.scratch + blockIdx.x * c.grid.scratch;
  for (long k = blockIdx.x; k < c.n_pairs * c.grid.n_groups; k += gridDim.x)
    run_unit(FNTK_ISA::BlockTeam(), c, scratch, k);
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    gather_kernel(const __grid_constant__ ImageLaunch<T> c, const __grid_constant__ LinkCode link) {
  const long all = 3 * link.size;
  for (long k = blockIdx.x * long(kElementThreads) + threadIdx.x; k < c.n_pairs * all; k += gridDim.x * kElementThreads)
    FNTK_ISA::gather_link(c, link, k / all, k % all);
}

// ---------------------------------------------------------------- chains

// A unit of a grid with chains; `steps(unit, from, to)` runs the others.
template <class Lanes, int R, bool bias, int mode, class T, class Team, class Steps>
FNTK_TEAM void run_chains(const Team& team, const ImageLaunch<T>& c, T* scratch, long index, const Steps& steps) {
  FNTK_ISA::ImageUnit<T, Team> unit = {team, c, scratch, index / c.grid.n_groups, index % c.grid.n_groups};
  unit.begin();
  for (int s = 0; s < c.grid.n_shifts; ++s) {
    unit.set_shift(s);
    for (int k = 0; k < c.grid.n_steps;) {
      int next = k;
      while (next < c.grid.n_steps && unit.step(next).chain == 0) ++next;
      if (next > k) steps(unit, k, next);
      if (next == c.grid.n_steps) break;
      const StepCode& step = unit.step(next);
      FNTK_ISA::run_chain<Lanes, R, bias, mode>(
          c.code, c.grid, step, unit.group, s, unit.shift, c.chains1 + unit.first() * c.chain_size,
          c.chains2 + unit.second() * c.chain_size, unit.plane(unit.source(step), 0), unit.plane(step.dst, 0),
          unit.plane_size());
      team.each(0, [](int) {});
      unit.end_chain(step);
      k = next + 2 * step.chain;
    }
  }
  unit.end();
}

template <class T, class Team>
struct RunSteps {
  FNTK_TEAM void operator()(FNTK_ISA::ImageUnit<T, Team>& unit, int from, int to) const {
    for (int k = from; k < to; ++k) unit.run_step(unit.step(k));
  }
};

// Apart from the chain, so that its registers are the chain's alone.
template <class T>
__device__ __noinline__ void warp_steps(FNTK_ISA::ImageUnit<T, FNTK_ISA::WarpTeam>& unit, int from, int to) {
  RunSteps<T, FNTK_ISA::WarpTeam>()(unit, from, to);
}
template <class T>
struct CallSteps {
  FNTK_TEAM void operator()(FNTK_ISA::ImageUnit<T, FNTK_ISA::WarpTeam>& unit, int from, int to) const {
#if defined(__CUDA_ARCH__)
    warp_steps<T>(unit, from, to);
#endif
  }
};

template <class T, int R, bool bias, int mode>
__global__ void __launch_bounds__(kChainThreads, R * sizeof(T) > 64 ? 4 : 6)
    chain_kernel(const __grid_constant__ ImageLaunch<T> c) {
  const long warps = gridDim.x * (kChainThreads / 32);
  const long warp = blockIdx.x * (kChainThreads / 32) + threadIdx.x / 32;
  for (long k = warp; k < c.n_pairs * c.grid.n_groups; k += warps)
    run_chains<FNTK_ISA::WarpLanes<T>, R, bias, mode>(FNTK_ISA::WarpTeam(), c, c.scratch + warp * c.grid.scratch, k,
                                                      CallSteps<T>());
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
  if (g.chain_rows == 8)
    with_rows(std::integral_constant<int, 8>());
  else if (g.chain_rows == 16)
    with_rows(std::integral_constant<int, 16>());
  else if constexpr (sizeof(T) == sizeof(float))
    with_rows(std::integral_constant<int, 32>());
}

template <class T>
struct ChainTables {  // one layer of n images
  const ChainLayer* layer;
  const T* tables;
  T* chains;
  long table_size, chain_size, rows, lanes, n;
  int held, n_arrays;
};

template <class T>
FNTK_HD void chain_number(const ChainTables<T>& c, long at) {
  const ChainLayer& layer = *c.layer;
  const long of_image = (c.held + c.rows) * c.lanes * c.n_arrays, image = at / of_image;
  const int k = int(at % c.n_arrays);
  const long place = at % of_image / c.n_arrays, x = place % c.lanes, row = place / c.lanes;
  const T* in = c.tables + image * c.table_size + layer.arrays[k] + row % c.rows * layer.strides[k] + x;
  T* out = c.chains + image * c.chain_size + layer.table;
  out[k < 8 ? place * 8 + k : (c.held + c.rows) * c.lanes * 8 + place * 2 + k - 8] = T(double(*in) * layer.factors[k]);
}

template <class T>
__global__ void __launch_bounds__(kElementThreads) chain_tables_kernel(const ChainTables<T> c) {
  const long all = c.n * (c.held + c.rows) * c.lanes * c.n_arrays;
  for (long k = blockIdx.x * long(kElementThreads) + threadIdx.x; k < all; k += gridDim.x * kElementThreads)
    chain_number(c, k);
}

unsigned blocks_for(long work) { return unsigned(std::max(1L, std::min(work, 65535L))); }

// ---------------------------------------------------------------- one call

template <class T>
void run_grid(const ImageLaunch<T>& c, const ImagePairsCall<T>& call, const Place& place) {
  const GridCode& g = c.grid;
  const long units = c.n_pairs * g.n_groups;
  if (units == 0 || g.n_shifts == 0) return;
  const FNTK_ISA::HostTeam team = {call.backwards};
  if (g.chain_rows) {
    with_chain<T>(g, [&](auto chain) {
      using C = decltype(chain);
      if (place.device == kOnHost) {
        for (long k = 0; k < units; ++k)
          run_chains<FNTK_ISA::HostLanes<T>, C::rows, C::biased, C::meet>(team, c, c.scratch, k,
                                                                          RunSteps<T, FNTK_ISA::HostTeam>());
        return;
      }
      constexpr long warps = kChainThreads / 32;
      const long room = call.scratch_size / (g.scratch * warps);
      FNTK_CHECK(room > 0, "scratch for ", call.scratch_size, " numbers, ", g.scratch * warps, " are needed");
      const unsigned blocks = blocks_for(std::min((units + warps - 1) / warps, room));
      chain_kernel<T, C::rows, C::biased, C::meet><<<blocks, kChainThreads, 0, stream_of(place)>>>(c);
      cuda_check(cudaGetLastError(), kWork, "launch");
    });
    return;
  }
  if (place.device == kOnHost) {
    for (long k = 0; k < units; ++k) run_unit(team, c, c.scratch, k);
    return;
  }
  const size_t bytes = size_t(g.scratch) * sizeof(T);
  const bool shared = bytes <= kShared;
  const long room = shared ? units : call.scratch_size / g.scratch;
  FNTK_CHECK(room > 0, "scratch for ", call.scratch_size, " numbers, ", g.scratch, " are needed");
  grid_kernel<T>
      <<<blocks_for(std::min(units, room)), kElementThreads, shared ? bytes : 0, stream_of(place)>>>(c, shared);
  cuda_check(cudaGetLastError(), kWork, "launch");
}

template <class T>
void run_link(const ImageLaunch<T>& c, const LinkCode& link, const Place& place) {
  const long all = c.n_pairs * 3 * link.size;
  if (all == 0) return;
  if (place.device == kOnHost) {
    for (long k = 0; k < all; ++k) FNTK_ISA::gather_link(c, link, k / (3 * link.size), k % (3 * link.size));
    return;
  }
  gather_kernel<T>
      <<<blocks_for((all + kElementThreads - 1) / kElementThreads), kElementThreads, 0, stream_of(place)>>>(c, link);
  cuda_check(cudaGetLastError(), kWork, "launch");
}

template <class T>
void image_pairs(const ImageCode& code, const ImagePairsCall<T>& call, const Place& place) {
  ImageLaunch<T> c = {};
  c.code = call.code;
  c.links = code.links_at;
  c.tables1 = call.tables1;
  c.tables2 = call.tables2;
  c.chains1 = call.chains1;
  c.chains2 = call.chains2;
  c.table_size = call.table_size;
  c.chain_size = code.chain_size;
  c.pairs = call.pairs;
  c.lengths = call.lengths;
  c.n_pairs = call.n;
  c.linked = call.linked;
  c.pair_doubles = code.pair_doubles;
  c.lost = call.lost;
  c.lost_units = code.lost_units;
  c.scratch = call.scratch;
  for (size_t k = 0; k < call.planes.size(); ++k) {
    c.sizes[k] = code.sizes[k];
    for (size_t p = 0; p < 2; ++p) c.planes[k][p] = call.planes[k][p];
  }
  for (size_t k = 0; k < code.grids.size(); ++k) {
    c.grid = code.grids[k];
    run_grid(c, call, place);
    for (int link : code.links_of[k]) run_link(c, code.links[size_t(link)], place);
  }
}

template <class T>
void chain_tables(const ImageCode& code, const ChainTablesCall<T>& call, const Place& place) {
  for (const ChainTable& own : code.chains) {
    const int n_arrays = reinterpret_cast<const ChainLayer*>(code.bytes.data() + own.layer)->n_arrays;
    const ChainTables<T> c = {reinterpret_cast<const ChainLayer*>(call.code + own.layer),
                              call.tables,
                              call.chains,
                              call.table_size,
                              code.chain_size,
                              own.rows,
                              own.lanes,
                              call.n,
                              own.held,
                              n_arrays};
    const long all = call.n * (own.held + own.rows) * own.lanes * n_arrays;
    if (place.device == kOnHost) {
      for (long k = 0; k < all; ++k) chain_number(c, k);
      continue;
    }
    chain_tables_kernel<<<blocks_for((all + kElementThreads - 1) / kElementThreads), kElementThreads, 0,
                          stream_of(place)>>>(c);
    cuda_check(cudaGetLastError(), kWork, "launch");
  }
}

}  // namespace

template <class T>
void cuda_image_pairs(const ImageCode& code, const ImagePairsCall<T>& call, const Place& place) {
  FNTK_CHECK(call.planes.size() <= size_t(kMaxImageOutputs), "the CUDA backend writes ", kMaxImageOutputs,
             " outputs of images, given ", call.planes.size());
  if (call.n == 0) return;
  if (place.device == kOnHost) return image_pairs(code, call, place);
  const DeviceScope scope(place.device, kWork);
  image_pairs(code, call, place);
}

template <class T>
void cuda_chain_tables(const ImageCode& code, const ChainTablesCall<T>& call, const Place& place) {
  if (call.n == 0 || code.chains.empty()) return;
  if (place.device == kOnHost) return chain_tables(code, call, place);
  const DeviceScope scope(place.device, kWork);
  chain_tables(code, call, place);
}

}  // namespace fntk
