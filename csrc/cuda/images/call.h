// What kernels of images are given, and who runs them: a block, a warp, or the host.
#pragma once
#include "cuda/images/code.h"
#include "cuda/run.h"
#include "images/sinks.h"
#include "math/elements.h"

namespace fntk {

constexpr int kMaxImageOutputs = 64;

template <class T>
struct ImageLaunch {  // the kernel's argument
  const char* code;
  GridCode grid;
  long links;  // LinkCode, in code
  const T *tables1, *tables2;
  const T *chains1, *chains2;
  long table_size, chain_size;
  const int64_t* pairs;   // images of both tables; kSame, kDiagonal
  const double* lengths;  // what both images were divided by, multiplied
  long n_pairs;
  double* linked;  // pairs x pair_doubles
  long pair_doubles;
  double* lost;  // pairs x lost_units x 2
  long lost_units;
  T* scratch;
  T* planes[kMaxImageOutputs][2];  // pairs x size each, null: not wanted
  long sizes[kMaxImageOutputs];
};

// Runs a grid that has chains (cuda/images/chains.h); `scratch_size`: numbers at c.scratch.
template <class T>
void launch_chains(const ImageLaunch<T>& c, long scratch_size, bool backwards, const Place& place);

constexpr int kStretch = 16;  // rows of a column that one thread takes

constexpr int64_t kSame = 1, kDiagonal = 2;  // one image twice; of a symmetric Gram's diagonal

#if defined(__CUDACC__)
#define FNTK_TEAM __host__ __device__
#else
#define FNTK_TEAM inline
#endif

namespace FNTK_ISA {

// Teams: each(n, work) deals out a pass and ends when all have done their part, places(rows, lanes, work) that of a
// plane, work(y, x), strides(n, work) those of which a thread takes one after the other, work(k, whether it is the
// first one, which is first(n)); meet() waits for what each one has written on its own.
//
// All of a team's work on the host; backwards, to show that no element waits for another one of its pass.
struct HostTeam {
  static constexpr bool rolls = true;  // windows in one pass (cuda/images/roll.h)
  bool backwards = false;
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
    for (long k = 0; k < n; ++k) work(int(backwards ? n - 1 - k : k));
  }
  template <class Work>
  FNTK_TEAM void places(int rows, int lanes, const Work& work) const {
    each(long(rows) * lanes, [&](int k) { work(k / lanes, k % lanes); });
  }
  FNTK_TEAM int first(int n) const { return backwards ? n - 1 : 0; }
  template <class Work>
  FNTK_TEAM void strides(int n, const Work& work) const {
    each(n, [&](int k) { work(k, k == first(n)); });
  }
  FNTK_TEAM void meet() const {}
};

struct HostWarp : HostTeam {
  static constexpr bool rolls = false;
};

#if defined(__CUDA_ARCH__)
// Those of one thread: it divides once.
template <class Work>
__device__ void own_places(int thread, int threads, int rows, int lanes, const Work& work) {
  const int dy = threads / lanes, dx = threads - dy * lanes;
  int y = thread / lanes, x = thread - y * lanes;
  while (y < rows) {
    work(y, x);
    y += dy;
    x += dx;
    if (x >= lanes) x -= lanes, ++y;
  }
}
#endif

struct BlockTeam {
  static constexpr bool rolls = true;
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
#if defined(__CUDA_ARCH__)
    for (int k = int(threadIdx.x); k < n; k += int(blockDim.x)) work(k);
#endif
    meet();
  }
  template <class Work>
  FNTK_TEAM void places(int rows, int lanes, const Work& work) const {
#if defined(__CUDA_ARCH__)
    own_places(int(threadIdx.x), int(blockDim.x), rows, lanes, work);
#endif
    meet();
  }
  FNTK_TEAM int first(int) const {
#if defined(__CUDA_ARCH__)
    return int(threadIdx.x);
#else
    return 0;
#endif
  }
  template <class Work>
  FNTK_TEAM void strides(int n, const Work& work) const {
#if defined(__CUDA_ARCH__)
    const int thread = int(threadIdx.x);
    FNTK_ROLLED
    for (int k = thread; k < n; k += int(blockDim.x)) work(k, k == thread);
#endif
    meet();
  }
  FNTK_TEAM void meet() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
};

struct TilesTeam : BlockTeam {
  static constexpr bool rolls = false;  // registers belong to chains
};

struct WarpTeam {
  static constexpr bool rolls = false;  // registers belong to chains
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
#if defined(__CUDA_ARCH__)
    for (int k = int(threadIdx.x % 32); k < n; k += 32) work(k);
#endif
    meet();
  }
  template <class Work>
  FNTK_TEAM void places(int rows, int lanes, const Work& work) const {
#if defined(__CUDA_ARCH__)
    own_places(int(threadIdx.x % 32), 32, rows, lanes, work);
#endif
    meet();
  }
  FNTK_TEAM void meet() const {
#if defined(__CUDA_ARCH__)
    __syncwarp();
#endif
  }
};

template <class T>
FNTK_HD T spread(int n, const T* a, const T* b, long lanes, long x) {
  if (n == 0) return T(0);
  T more = T(0);
  for (int k = 0; k < n; ++k)
    more = fma(a[k * lanes + x] - b[k * lanes + x], a[k * lanes + x] - b[k * lanes + x], more);
  return (a[n * lanes + x] * b[n * lanes + x]) * more;
}

}  // namespace FNTK_ISA
}  // namespace fntk
