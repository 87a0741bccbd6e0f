// Inner products of unit rows, panel by panel, inside the tile. A BLAS is as fast, but its result goes through memory,
// its threads keep spinning after each call and contend with ours (a quarter of the whole at n = 4000), and a call
// costs more than a small Gram. Here each entry is a fixed sum, whatever the tile, the threads, or which row comes
// first.
//
// Compiled once per instruction set, with contraction on: products and sums are meant to fuse.
#include "common/program.h"
#include "common/transpose.h"

namespace fntk {
namespace FNTK_ISA {

#if defined(FNTK_SHUFFLES)
template <class T>
using Vector = typename Square<T>::V;
constexpr int kVectors = kVectorBytes == 64 ? 4 : 2;
#else
template <class T>
using Vector = T;
constexpr int kVectors = 8;
#endif

constexpr long kFeatures = 64;  // of a partial sum: two panels of so many features fit in L1
constexpr int kLineGroup = 4;

// out[r][c] (+)= sum over k < d of left[k][r] right[k][c], for 4 lines and one strip of columns; `step`: of `right`.
template <class T>
FNTK_HD void strip(const T* left, const T* right, long d, bool first, T* out, long stride, long step = kPanel) {
  using V = Vector<T>;
  constexpr int N = int(sizeof(V) / sizeof(T));
  V sums[kLineGroup][kVectors];
  for (int l = 0; l < kLineGroup; ++l)
    for (int v = 0; v < kVectors; ++v) sums[l][v] = V{};
  for (long k = 0; k < d; ++k) {
    V columns[kVectors];
    for (int v = 0; v < kVectors; ++v) std::memcpy(&columns[v], right + k * step + v * N, sizeof(V));
    for (int l = 0; l < kLineGroup; ++l)
      for (int v = 0; v < kVectors; ++v) sums[l][v] += left[k * kPanel + l] * columns[v];
  }
  for (int l = 0; l < kLineGroup; ++l)
    for (int v = 0; v < kVectors; ++v) {
      T* place = out + l * stride + v * N;
      if (!first) {
        V before;
        std::memcpy(&before, place, sizeof(V));
        sums[l][v] += before;
      }
      std::memcpy(place, &sums[l][v], sizeof(V));
    }
}

// out[r][c] = row r of `left` . row c of `right`, both panels of d x kPanel numbers; lines are rounded up to 4.
template <class T>
void product(const T* left, const T* right, long lines, long d, T* out, long stride) {
  constexpr long width = kVectors * long(sizeof(Vector<T>) / sizeof(T));
  static_assert(kPanel % width == 0 && kPanel % kLineGroup == 0);
  for (long k = 0; k < d; k += kFeatures) {
    const long count = d - k < kFeatures ? d - k : kFeatures;
    for (long r = 0; r < lines; r += kLineGroup)
      for (long c = 0; c < kPanel; c += width)
        strip(left + k * kPanel + r, right + k * kPanel + c, count, k == 0, out + r * stride + c, stride);
  }
}

// See Products.
template <class T>
void accumulate(const T* left, const T* right, long lines, long count, long width, T* out) {
  constexpr long strips = kVectors * long(sizeof(Vector<T>) / sizeof(T));
  static_assert(32 % strips == 0);
  for (long r = 0; r < lines; r += kLineGroup)
    for (long c = 0; c < width; c += strips)
      strip(left + r, right + c, count, false, out + r * width + c, width, width);
}

// panel[k][r] = x[r][k] scale[r] for r < rows, 0 for the other rows of the panel.
template <class T>
void pack(const T* x, const double* first, const double* second, long rows, long d, T* panel) {
  T block[kPanel * kFeatures];
  for (long k = 0; k < d; k += kFeatures) {
    const long count = d - k < kFeatures ? d - k : kFeatures;
    for (long r = 0; r < kPanel; ++r)
      for (long f = 0; f < count; ++f)
        block[r * kFeatures + f] = r < rows ? T(double(x[r * d + k + f]) * first[r] * second[r]) : T(0);
    transpose(block, kFeatures, panel + k * kPanel, kPanel, kPanel, count, -kPanel);
  }
}

extern const Products<float> products_float;
extern const Products<double> products_double;
const Products<float> products_float = {pack<float>, product<float>, nullptr};
const Products<double> products_double = {pack<double>, product<double>, accumulate<double>};

}  // namespace FNTK_ISA
}  // namespace fntk
