// What the binding calls: a program on one tile of pairs, unit rows, dual maps.
#pragma once
#include <string>
#include <vector>

#include "common/isa.h"
#include "common/ops.h"
#include "common/parallel.h"
#include "dense/window.h"

namespace fntk {

// `windows`: one for each input, or none. `hidden`, batch x lines, or null: lines of which nothing is asked: they get
// the covariance 0.
template <class T>
void run(const Program& program, const std::vector<double>& numbers, const RowTable<T>& rows1, const RowTable<T>& rows2,
         const Tile& tile, const std::vector<PairInput<T>>& inputs, const std::vector<Window<T>>& windows,
         const std::vector<PairOutput<T>>& outputs, const uint8_t* hidden, const Isa& isa, int threads,
         const Interrupt& interrupt);

// Unit rows x / |x| (0 for zero rows) in panels, each batch padded to whole panels, and the norms in double.
template <class T>
void pack(const T* x, long batches, long n, long d, T* panels, double* norms, const Isa& isa, int threads,
          const Interrupt& interrupt);

// k and kdot for n covariances q, from row arrays of both arguments: the nonlinearity's own, then sqrt(V).
template <class T>
struct DualCall {
  std::string name;
  std::vector<double> params;
  long n;
  const T *q11, *q12, *q22;
  RowTable<T> rows1, rows2;
  T *k, *kdot;
};
template <class T>
void dual_map(const DualCall<T>& call, const Isa& isa, int threads, const Interrupt& interrupt);

}  // namespace fntk
