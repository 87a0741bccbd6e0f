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

// Lines x Vectors sums in registers, for columns first .. first + Vectors N of every line.
template <class T, int Lines, int Vectors>
FNTK_HD void product_square(const T* unit, long d, const T* packed, long stride, T* out) {
  using V = Vector<T>;
  constexpr int N = int(sizeof(V) / sizeof(T));
  V sums[Lines][Vectors];
  for (int l = 0; l < Lines; ++l)
    for (int v = 0; v < Vectors; ++v) sums[l][v] = V{};
  for (long k = 0; k < d; ++k) {
    V right[Vectors];
    for (int v = 0; v < Vectors; ++v) std::memcpy(&right[v], packed + k * stride + v * N, sizeof(V));
    for (int l = 0; l < Lines; ++l)
      for (int v = 0; v < Vectors; ++v) sums[l][v] += unit[l * d + k] * right[v];
  }
  for (int l = 0; l < Lines; ++l)
    for (int v = 0; v < Vectors; ++v) std::memcpy(out + l * stride + v * N, &sums[l][v], sizeof(V));
}

template <class T, int Lines>
void product_lines(const T* unit, long d, const T* packed, long cols, long stride, T* out) {
  constexpr long N = sizeof(Vector<T>) / sizeof(T);
  long c = 0;
  for (; c + kVectors * N <= cols; c += kVectors * N)
    product_square<T, Lines, kVectors>(unit, d, packed + c, stride, out + c);
  for (; c < cols; c += N) product_square<T, Lines, 1>(unit, d, packed + c, stride, out + c);
}

// out[l][c] = unit[l] . packed column c for c < cols; both may be read and written up to the next multiple of 16.
template <class T>
void product(const T* unit, long lines, long d, const T* packed, long cols, long stride, T* out) {
  long l = 0;
  for (; l + 4 <= lines; l += 4) product_lines<T, 4>(unit + l * d, d, packed, cols, stride, out + l * stride);
  for (; l < lines; ++l) product_lines<T, 1>(unit + l * d, d, packed, cols, stride, out + l * stride);
}

extern const Products<float> products_float;
extern const Products<double> products_double;
const Products<float> products_float = {pack<float>, product<float>};
const Products<double> products_double = {pack<double>, product<double>};

}  // namespace FNTK_ISA
}  // namespace fntk
