// Launches of cuda/images/unit.h for one dtype; without a device, the same text in plain loops.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#define FNTK_ISA cuda
#include "common/check.h"
#include "cuda/check.h"
#include "cuda/images/run.h"
#include "cuda/images/unit.h"

namespace fntk {
namespace {

constexpr int kElementThreads = 256, kLeastThreads = 64;

// Blocks on a multiprocessor that registers must leave room for; 0: as the compiler thinks best.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kElementBlocks = 1;  // it would spill for more
#else
constexpr int kElementBlocks = 0;
#endif

constexpr size_t kShared = 48 << 10;  // bytes of a block that need no asking

cudaStream_t stream_of(const Place& place) { return static_cast<cudaStream_t>(place.stream); }

constexpr const char* kWork = "kernels of images";

template <bool Every, class T, class Team>
FNTK_TEAM void run_unit(const Team& team, const ImageLaunch<T>& c, T* scratch, long index) {
  FNTK_ISA::ImageUnit<T, Team, Every> unit = {team, c, scratch, index / c.grid.n_groups, index % c.grid.n_groups};
  unit.begin();
  unit.to_chain();
}

template <class T, bool Every>
__global__ void __launch_bounds__(kElementThreads, kElementBlocks)
    grid_kernel(const __grid_constant__ ImageLaunch<T> c, bool shared) {
  extern __shared__ double2 space[];
  T* const scratch = shared ? reinterpret_cast<T*>(space) : c.scratch + blockIdx.x * c.grid.scratch;
  for (long k = blockIdx.x; k < c.n_pairs * c.grid.n_groups; k += gridDim.x)
    run_unit<Every>(FNTK_ISA::BlockTeam(), c, scratch, k);
}

// One number of a link's planes, p x groups x rows x lanes of the target: what all groups of the source add to it.
template <class T>
FNTK_HD void gather_link(const ImageLaunch<T>& c, const LinkCode& l, long pair, long at) {
  double* const linked = c.linked + pair * c.pair_doubles;
  const long lane = at % l.target_lanes, line = at / l.target_lanes;
  const long row = line % l.n_rows, group = line / l.n_rows % (l.size / (l.n_rows * l.target_lanes)), p = at / l.size;
  const int32_t* start = reinterpret_cast<const int32_t*>(c.code + l.column_start) + group * l.target_lanes + lane;
  const int32_t* from = reinterpret_cast<const int32_t*>(c.code + l.columns);
  const double* sums = linked + l.sums;
  double sum = 0;
  for (int k = start[0]; k < start[1]; ++k)
    sum += sums[((from[2 * k] * 3 + p) * l.n_rows + row) * l.lanes + from[2 * k + 1]];
  linked[l.planes + at] = sum;
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    gather_kernel(const __grid_constant__ ImageLaunch<T> c, const __grid_constant__ LinkCode link) {
  const long all = 3 * link.size;
  for (long k = blockIdx.x * long(kElementThreads) + threadIdx.x; k < c.n_pairs * all; k += gridDim.x * kElementThreads)
    gather_link(c, link, k / all, k % all);
}

// ---------------------------------------------------------------- tables of chains

template <class T>
struct ChainTables {  // one layer of n images
  const ChainLayer* layer;
  const T* tables;
  T* chains;
  long table_size, chain_size, rows, lanes, held, n;
  long size;  // numbers of one image
};

template <class T>
FNTK_HD void chain_number(const ChainTables<T>& c, long at) {
  const ChainLayer& layer = *c.layer;
  const long in_image = at % c.size, image = at / c.size;
  const long quads = layer.n_arrays > 8 ? kChainQuads<true> : kChainQuads<false>;
  const long k = in_image / kChainQuad % quads * 4 + in_image % 4, line = in_image / (quads * kChainQuad);
  const long x = (line / c.held * kChainLanes + in_image / 4 % kChainLanes) % c.lanes, row = line % c.held % c.rows;
  double value = 0;
  if (k < layer.n_arrays)
    value = double(c.tables[image * c.table_size + layer.arrays[k] + row * layer.strides[k] + x]) * layer.factors[k];
  constexpr double most = sizeof(T) == sizeof(float) ? 1e18 : 1e150;  // both images' product is a number of T
  c.chains[image * c.chain_size + layer.table + in_image] = T(k == kChainInverse && value > most ? most : value);
}

template <class T>
__global__ void __launch_bounds__(kElementThreads) chain_tables_kernel(const ChainTables<T> c) {
  const long all = c.n * c.size;
  for (long k = blockIdx.x * long(kElementThreads) + threadIdx.x; k < all; k += gridDim.x * kElementThreads)
    chain_number(c, k);
}

// ---------------------------------------------------------------- records

template <class T>
FNTK_HD void record_number(const ChainTables<T>& c, const Records& own, long at) {
  const long image = at / c.size, in_image = at % c.size, line = in_image / (kRecordLanes * kQuad),
             quad = line % own.quads;
  const long block = line / own.quads, blocks = own.lanes / kRecordLanes, y = block / blocks - own.back[quad];
  const long row = y < 0 ? y + own.rows : y < own.rows ? y : y - own.rows;
  const long x = block % blocks * kRecordLanes + in_image / kQuad % kRecordLanes;
  const int array = own.arrays[quad * kQuad + in_image % kQuad];
  const T* table = c.tables + image * c.table_size + own.from[quad] + row * own.stride[quad] + x;
  // rows beyond one turn are nobody's
  const bool none = array < 0 || row < 0 || row >= own.rows;
  c.chains[image * c.chain_size + own.to + in_image] = none ? T(0) : table[array * own.lanes];
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    records_kernel(const ChainTables<T> c, const __grid_constant__ Records own) {
  const long all = c.n * c.size;
  for (long k = blockIdx.x * long(kElementThreads) + threadIdx.x; k < all; k += gridDim.x * kElementThreads)
    record_number(c, own, k);
}

unsigned blocks_for(long work) { return unsigned(std::max(1L, std::min(work, 65535L))); }

// ---------------------------------------------------------------- one call

template <class T>
void run_grid(const ImageLaunch<T>& c, const ImagePairsCall<T>& call, const Place& place) {
  const GridCode& g = c.grid;
  const long units = c.n_pairs * g.n_groups;
  if (units == 0 || g.n_shifts == 0) return;
  if (g.chain_rows) return launch_chains(c, call.scratch_size, call.backwards, place);
  const FNTK_ISA::HostTeam team = {call.backwards};
  if (place.device == kOnHost) {
    for (long k = 0; k < units; ++k)
      g.every ? run_unit<true>(team, c, c.scratch, k) : run_unit<false>(team, c, c.scratch, k);
    return;
  }
  const size_t bytes = size_t(g.scratch) * sizeof(T);
  const bool shared = bytes <= kShared;
  const long room = shared ? units : call.scratch_size / g.scratch;
  FNTK_CHECK(room > 0, "scratch for ", call.scratch_size, " numbers, ", g.scratch, " are needed");
  const unsigned blocks = blocks_for(std::min(units, room));
  const size_t space = shared ? bytes : 0;
  const long columns = ((g.rows + kStretch - 1) / kStretch + 1) * g.lanes;
  const unsigned threads = unsigned(std::clamp<long>((columns + 31) / 32 * 32, kLeastThreads, kElementThreads));
  if (g.every)
    grid_kernel<T, true><<<blocks, threads, space, stream_of(place)>>>(c, shared);
  else
    grid_kernel<T, false><<<blocks, threads, space, stream_of(place)>>>(c, shared);
  cuda_check(cudaGetLastError(), kWork, "launch");
}

template <class T>
void run_link(const ImageLaunch<T>& c, const LinkCode& link, const Place& place) {
  const long all = c.n_pairs * 3 * link.size;
  if (all == 0) return;
  if (place.device == kOnHost) {
    for (long k = 0; k < all; ++k) gather_link(c, link, k / (3 * link.size), k % (3 * link.size));
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
  for (size_t k = call.first_grid; k < call.last_grid; ++k) {
    c.grid = code.grids[k];
    run_grid(c, call, place);
    for (int link : code.links_of[k]) run_link(c, code.links[size_t(link)], place);
  }
}

template <class T>
void chain_tables(const ImageCode& code, const ChainTablesCall<T>& call, const Place& place) {
  for (const ChainTable& own : code.chains) {
    const int n_arrays = reinterpret_cast<const ChainLayer*>(code.bytes.data() + own.layer)->n_arrays;
    const long blocks = (own.lanes + kChainLanes - 1) / kChainLanes,
               size = blocks * own.held * (n_arrays > 8 ? kChainQuads<true> : kChainQuads<false>)*kChainQuad,
               all = call.n * size;
    const auto* layer = reinterpret_cast<const ChainLayer*>(call.code + own.layer);
    const ChainTables<T> c = {layer,    call.tables, call.chains, call.table_size, code.chain_size,
                              own.rows, own.lanes,   own.held,    call.n,          size};
    if (place.device == kOnHost) {
      for (long k = 0; k < all; ++k) chain_number(c, k);
      continue;
    }
    chain_tables_kernel<<<blocks_for((all + kElementThreads - 1) / kElementThreads), kElementThreads, 0,
                          stream_of(place)>>>(c);
    cuda_check(cudaGetLastError(), kWork, "launch");
  }
  for (const Records& own : code.records) {
    if (size_t(own.grid) < call.first_grid || size_t(own.grid) >= call.last_grid) continue;
    const long size = own.size(), all = call.n * size;
    const ChainTables<T> c = {nullptr, call.tables, call.chains, call.table_size, code.chain_size,
                              0,       0,           0,           call.n,          size};
    if (place.device == kOnHost) {
      for (long k = 0; k < all; ++k) record_number(c, own, k);
      continue;
    }
    records_kernel<<<blocks_for((all + kElementThreads - 1) / kElementThreads), kElementThreads, 0, stream_of(place)>>>(
        c, own);
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
  if (call.n == 0) return;
  if (place.device == kOnHost) return chain_tables(code, call, place);
  const DeviceScope scope(place.device, kWork);
  chain_tables(code, call, place);
}

}  // namespace fntk
