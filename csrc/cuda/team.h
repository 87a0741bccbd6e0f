// Threads of a block and lanes of a warp, for text that a device and, one thread after the other, the host execute.
//
// On the device each thread runs the text once. On the host a block is a loop over its threads between two barriers,
// and what a warp does together its one caller does alone, summing in the same order.
#pragma once
#include "math/vmath.h"

namespace fntk {

constexpr int kWarp = 32, kThreads = 256;  // of a block

namespace FNTK_ISA {

// States: 1 on the device, kThreads on the host.
template <class State, int States>
struct Team {
  State states[States];

  template <class Work>
  FNTK_HD void each(const Work& work) {
#if defined(__CUDA_ARCH__)
    work(int(threadIdx.x), states[0]);
#else
    for (int t = 0; t < States; ++t) work(t, states[t]);
#endif
  }
  FNTK_HD void barrier() {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
};

// work(lane) by the whole warp for each lane whose flag is set.
template <class Work>
FNTK_HD void each_flagged(bool flag, int lane, const Work& work) {
#if defined(__CUDA_ARCH__)
  for (unsigned flagged = __ballot_sync(~0u, flag); flagged; flagged &= flagged - 1) work(__ffs(int(flagged)) - 1);
  (void)lane;
#else
  if (flag) work(lane);
#endif
}

FNTK_HD bool from_lane(bool value, int lane) {
#if defined(__CUDA_ARCH__)
  return __shfl_sync(~0u, int(value), lane) != 0;
#else
  (void)lane;
  return value;
#endif
}

// work(k) for k = 0 .. count - 1, dealt out to the lanes.
template <class Work>
FNTK_HD void over_lanes(long count, const Work& work) {
#if defined(__CUDA_ARCH__)
  for (long k = threadIdx.x % kWarp; k < count; k += kWarp) work(k);
#else
  for (long k = 0; k < count; ++k) work(k);
#endif
}

// The reductions of a row of `count` numbers: lane l gathers numbers l, l + 32, ... by add(k, before), then halves are
// joined, the same order as in dense/blocks.cpp. Every lane has the result.
template <class Add, class Join>
FNTK_HD double reduce(long count, const Add& add, const Join& join) {
#if defined(__CUDA_ARCH__)
  double own = 0;
  for (long k = threadIdx.x % kWarp; k < count; k += kWarp) own = add(k, own);
  for (int half = kWarp / 2; half > 0; half /= 2) own = join(own, __shfl_down_sync(~0u, own, half));
  return __shfl_sync(~0u, own, 0);
#else
  double own[kWarp] = {};
  for (long k = 0; k < count; ++k) own[k % kWarp] = add(k, own[k % kWarp]);
  for (int half = kWarp / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) own[l] = join(own[l], own[l + half]);
  return own[0];
#endif
}

struct Plus {
  FNTK_HD double operator()(double a, double b) const { return a + b; }
};
struct Larger {  // a where b is NaN
  FNTK_HD double operator()(double a, double b) const { return select(a < b, b, a); }
};

}  // namespace FNTK_ISA
}  // namespace fntk
