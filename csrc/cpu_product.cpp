// The product of unit rows for few features, fused into the tile: for d <= kInsideFeatures a BLAS call costs more in
// dispatch, in a round trip through memory and in threads left spinning than the product itself. Larger d goes to BLAS.
//
// Compiled once per instruction set, with contraction on: each entry is one chain of fused multiply-adds over the
// features in order, so it depends neither on the tile nor on which of the two rows comes first.
#include "program.h"
#include "transpose.h"

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

// packed[k][c] = unit[c][k], columns up to `stride` filled with zeros.
template <class T>
void pack(const T* unit, long cols, long d, T* packed, long stride) {
  transpose(unit, d, packed, stride, cols, d, -cols);
  for (long k = 0; k < d; ++k)
    for (long c = cols; c < stride; ++c) packed[k * stride + c] = T(0);
}

template <class T, int Lines>
void product_lines(const T* unit, long d, const T* packed, long stride, T* out) {
  using V = Vector<T>;
  constexpr int N = int(sizeof(V) / sizeof(T));
  for (long c = 0; c < stride; c += kVectors * N) {
    V sums[Lines][kVectors];
    for (int l = 0; l < Lines; ++l)
      for (int v = 0; v < kVectors; ++v) sums[l][v] = V{};
    for (long k = 0; k < d; ++k) {
      V right[kVectors];
      for (int v = 0; v < kVectors; ++v) std::memcpy(&right[v], packed + k * stride + c + v * N, sizeof(V));
      for (int l = 0; l < Lines; ++l)
        for (int v = 0; v < kVectors; ++v) sums[l][v] += unit[l * d + k] * right[v];
    }
    for (int l = 0; l < Lines; ++l)
      for (int v = 0; v < kVectors; ++v) std::memcpy(out + l * stride + c + v * N, &sums[l][v], sizeof(V));
  }
}

// out[l][c] = unit[l] . packed column c; stride is a multiple of 64 elements, lines at most 4.
template <class T>
void product(const T* unit, int lines, long d, const T* packed, long stride, T* out) {
  if (lines == 4) return product_lines<T, 4>(unit, d, packed, stride, out);
  for (int l = 0; l < lines; ++l) product_lines<T, 1>(unit + l * d, d, packed, stride, out + l * stride);
}

extern const Products<float> products_float;
extern const Products<double> products_double;
const Products<float> products_float = {pack<float>, product<float>};
const Products<double> products_double = {pack<double>, product<double>};

}  // namespace FNTK_ISA
}  // namespace fntk
