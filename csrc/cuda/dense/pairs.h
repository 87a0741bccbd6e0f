// The kernels over pairs, of one dtype: cuda/dense/pairs_float.cu and cuda/dense/pairs_double.cu, which compile side by
// side.
#pragma once
#include <algorithm>
#include <memory>

#define FNTK_ISA cuda
#include "cuda/check.h"
#include "cuda/dense/block.h"

namespace fntk {

// Blocks on a multiprocessor at once: as many as leave the state its registers.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr int kMostBlocks = 2;  // three would spill there
#else
constexpr int kMostBlocks = 3;
#endif
template <class T>
constexpr int blocks_at_once(int slots) {
  return sizeof(T) == sizeof(double) ? (slots > 1 ? 1 : 2) : slots > 1 ? 2 : kMostBlocks;
}

template <class T, int Slots, int P, bool Ntk, bool Diagonal>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(Slots))
    pairs_kernel(const __grid_constant__ PairLaunch<T> launch) {
  using Block = FNTK_ISA::PairBlock<T, Slots, P, Ntk, Diagonal, false>;
  __shared__ typename Block::Shared shared;
  FNTK_ISA::Team<typename Block::Thread, 1> team;
  Block(launch, shared, blockIdx.x).run(team);
}

// Of programs with other nonlinearities than cheap ones, which take the registers of two slots.
template <class T, int Slots, int P, bool Ntk, bool Diagonal>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(Slots > 1 ? Slots : 2))
    every_kernel(const __grid_constant__ PairLaunch<T> launch) {
  using Block = FNTK_ISA::PairBlock<T, Slots, P, Ntk, Diagonal, true>;
  __shared__ typename Block::Shared shared;
  FNTK_ISA::Team<typename Block::Thread, 1> team;
  Block(launch, shared, blockIdx.x).run(team);
}

template <class T, int Slots, int P, bool Ntk, bool Diagonal, bool Every = false>
void launch_pairs(const PairLaunch<T>& launch, const Place& place) {
  using Block = FNTK_ISA::PairBlock<T, Slots, P, Ntk, Diagonal, Every>;
  const long blocks = Diagonal ? (launch.tile.lines + Block::kLines - 1) / Block::kLines
                               : launch.tile.batches * launch.squares.count * Block::kPasses;
  cuda_work(
      place, "pairs", blocks,
      [&](unsigned count, cudaStream_t stream) {
        if constexpr (Every)
          every_kernel<T, Slots, P, Ntk, Diagonal><<<count, kThreads, 0, stream>>>(launch);
        else
          pairs_kernel<T, Slots, P, Ntk, Diagonal><<<count, kThreads, 0, stream>>>(launch);
      },
      [&] {
        const auto shared = std::make_unique<typename Block::Shared>();
        const auto team = std::make_unique<FNTK_ISA::Team<typename Block::Thread, kThreads>>();
        for (long block = 0; block < blocks; ++block) Block(launch, *shared, unsigned(block)).run(*team);
      });
}

// Pairs of a thread: as many as keep the state, which grows with the slots, in registers. Every: of all nonlinearities,
// which take more of them.
template <class T>
constexpr int pairs_per_thread(int slots, bool every) {
  if (slots > 4) return sizeof(T) == sizeof(float) && !every ? 2 : 1;
  return sizeof(T) == sizeof(float) ? 4 : 2;
}

template <class T, int Slots, bool Every = false>
void launch_slots(const PairLaunch<T>& launch, bool ntk, const Place& place) {
  if (ntk)
    launch_pairs<T, Slots, pairs_per_thread<T>(Slots, Every), true, false, Every>(launch, place);
  else
    launch_pairs<T, Slots, pairs_per_thread<T>(Slots, Every), false, false, Every>(launch, place);
}

template <class T>
void cuda_pairs(const PairsCall<T>& call, const Place& place) {
  if (call.tile.batches == 0 || call.tile.lines == 0 || call.tile.cols == 0) return;
  const auto launch = std::make_unique<PairLaunch<T>>();
  launch->steps = call.steps;
  std::copy(call.inputs.begin(), call.inputs.end(), launch->inputs);
  std::copy(call.outputs.begin(), call.outputs.end(), launch->outputs);
  launch->table1 = call.table1;
  launch->table2 = call.table2;
  launch->rows1 = call.rows1;
  launch->rows2 = call.rows2;
  launch->tile = call.tile;
  launch->squares = Squares(call.tile);
  bool ntk = false;
  for (const auto& output : call.outputs) ntk = ntk || output.planes[1];
  if (call.every) {
    if (call.tile.diagonal) return launch_pairs<T, kMaxSlots, 1, true, true, true>(*launch, place);
    if (call.n_slots == 1) return launch_slots<T, 1, true>(*launch, ntk, place);
    return launch_slots<T, kMaxSlots, true>(*launch, ntk, place);
  }
  if (call.tile.diagonal) return launch_pairs<T, kMaxSlots, 1, true, true>(*launch, place);
  if (call.n_slots == 1) return launch_slots<T, 1>(*launch, ntk, place);
  if (call.n_slots == 2) return launch_slots<T, 2>(*launch, ntk, place);
  if (call.n_slots <= 4) return launch_slots<T, 4>(*launch, ntk, place);
  return launch_slots<T, kMaxSlots>(*launch, ntk, place);
}

}  // namespace fntk
