// Compiled once per instruction set, into its own namespace: vectors are the formulas' numbers (math/wide.h), so
// nothing is left to the vectoriser.
#include "dense/counted.h"

#include "math/counted.h"

namespace fntk {
namespace FNTK_ISA {

namespace {

constexpr int kSideBySide = 2;  // vectors: one alone would wait for its own results, four do not fit

// Row arrays of one line and of the columns from `j` on, of which `left` are there.
template <class T>
struct LineRows {
  const T* const* rows1;
  const T* const* rows2;
  long i, j, left;
  template <class N>
  FNTK_HD N one(int k, int) const {
    return all_lanes<N>(rows1[k][i]);
  }
  template <class N>
  FNTK_HD N two(int k, int vector) const {
    constexpr long lanes = long(sizeof(N) / sizeof(T));
    const T* from = rows2[k] + j + vector * lanes;
    if (left >= (vector + 1) * lanes) return read<N>(from);
    N found = {};
    std::memcpy(&found, from, size_t(left - vector * lanes) * sizeof(T));
    return found;
  }
};

// W vectors of a line from column k on. Planes can be read and written to the end of a vector; row arrays cannot.
template <class N, int W, bool ntk, class Phi, class T>
FNTK_HD void columns(const Phi& phi, const LineRows<T>& rows, const T* v, const T* theta, T* v_out, T* theta_out) {
  constexpr long lanes = long(sizeof(N) / sizeof(T));
  End<N> x[W];
  Ends<N, W> found;
  for (int i = 0; i < W; ++i) x[i] = end_of(read<N>(v + i * lanes));
  phi.template pairs<ntk>(x, rows, found);
  for (int i = 0; i < W; ++i) {
    write(found.v[i], v_out + i * lanes);
    if constexpr (ntk) write(read<N>(theta + i * lanes) * found.kdot[i], theta_out + i * lanes);
  }
}

template <bool ntk, template <class> class Phi, class T>
void lines(const OpView<T>& op, const Block<T>& b) {
  using N = Many<T>;
  constexpr long lanes = long(sizeof(N) / sizeof(T));
  T own[kMaxConstants];
  Phi<T>::constants(op.params, op.n_params, own);
  const Phi<T> phi(own, op.n_params);
  for (int line = 0; line < b.lines; ++line) {
    LineRows<T> rows = {op.rows1, op.rows2, b.i0 + line, b.j0 + line * b.col_step, b.cols};
    const T *v = b.v(op.src[0]) + line * b.stride, *theta = b.theta(op.src[0]) + line * b.stride;
    T *v_out = b.v(op.dst) + line * b.stride, *theta_out = b.theta(op.dst) + line * b.stride;
    if (b.cols == 1) {  // of a diagonal: lines are one number long
      columns<T, 1, ntk>(phi, rows, v, theta, v_out, theta_out);
      continue;
    }
    for (long k = 0; k < b.cols;) {
      const long at = k;
      if (rows.left > lanes) {
        columns<N, kSideBySide, ntk>(phi, rows, v + at, theta + at, v_out + at, theta_out + at);
        k += kSideBySide * lanes;
      } else {
        columns<N, 1, ntk>(phi, rows, v + at, theta + at, v_out + at, theta_out + at);
        k += lanes;
      }
      rows.j += k - at;
      rows.left -= k - at;
    }
  }
}

}  // namespace

template <template <class> class Phi, class T>
void counted(const OpView<T>& op, const Block<T>& b) {
  if (b.ntk)
    lines<true, Phi>(op, b);
  else
    lines<false, Phi>(op, b);
}

#define FNTK_INSTANTIATE(Phi, name)                                             \
  template void counted<Phi, float>(const OpView<float>&, const Block<float>&); \
  template void counted<Phi, double>(const OpView<double>&, const Block<double>&);
FNTK_COUNTED(FNTK_INSTANTIATE)

}  // namespace FNTK_ISA
}  // namespace fntk
