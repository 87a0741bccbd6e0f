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

constexpr int kStretch = 16;  // rows of a column that one thread takes: 18 sums for 16

constexpr int64_t kSame = 1, kDiagonal = 2;  // one image twice; of a symmetric Gram's diagonal

#if defined(__CUDA_ARCH__)
#define FNTK_ROLLED _Pragma("unroll 1")
#else
#define FNTK_ROLLED
#endif

#if defined(__CUDACC__)
#define FNTK_TEAM __host__ __device__
#else
#define FNTK_TEAM inline
#endif

namespace FNTK_ISA {

// Teams: each(n, work) deals out a pass and ends when all have done their part; meet() waits for what each one has
// written on its own.
//
// All of a team's work on the host; backwards, to show that no element waits for another one of its pass.
struct HostTeam {
  static constexpr bool rolls = true;  // windows of three rows in one pass
  bool backwards = false;
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
    for (long k = 0; k < n; ++k) work(int(backwards ? n - 1 - k : k));
  }
  FNTK_TEAM void meet() const {}
};

struct HostWarp : HostTeam {
  static constexpr bool rolls = false;
};

struct BlockTeam {
  static constexpr bool rolls = true;
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
#if defined(__CUDA_ARCH__)
    for (int k = int(threadIdx.x); k < n; k += int(blockDim.x)) work(k);
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

// What takes an element: the planes of a slot, behind the nonlinearity that is fused with the convolution.
template <class T>
struct Behind {
  const StepCode* after;  // null: none
  Store<T> planes;
  const T *a, *b;  // its tables
  long lanes;
  template <Form form, bool known = false>
  FNTK_HD void put(long x, T v, T p, T t, T r = T(0)) const {
    if (form == Form::cov || !after) return planes.template put<form>(x, v, p, t);
    if constexpr (form != Form::cov) {
      int index = -1;
#define FNTK_APPLY(Phi, name)  \
  ++index;                     \
  if constexpr (Phi<T>::cheap) \
    if (after->dual == index) apply<Phi, form, known>(x, v, p, t, r);
      FNTK_DUALS(FNTK_APPLY)
#undef FNTK_APPLY
    }
  }
  template <template <class> class Phi, Form form, bool known>
  FNTK_HD void apply(long x, T v, T p, T t, T r) const {
    const Phi<T> phi(after->params);
    T* const out[3] = {planes.v, planes.p, planes.t};
    if (after->out == int(Form::cov))
      Apply<Phi, T, true, true>(phi, a, b, out, lanes).template put<form, known>(x, v, p, t, r);
    else
      Apply<Phi, T, false, true>(phi, a, b, out, lanes).template put<form, known>(x, v, p, t, r);
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
