// What the binding calls: instruction sets, and running a program on one tile of pairs.
#pragma once
#include <string>
#include <vector>

#include "rows.h"

namespace fntk {

struct Isa {
  const char* name;
  bool available;  // compiled in and offered by this processor
  const Kernels<float>* kernels_float;
  const Kernels<double>* kernels_double;
  const Products<float>* products_float;
  const Products<double>* products_double;
  template <class T>
  const Kernels<T>& kernels() const;
  template <class T>
  const Products<T>& products() const;
};

// Slowest first; the last available one is the default.
const std::vector<Isa>& isas();
const Isa& find_isa(const std::string& name);

template <class T>
struct Plane {  // batch x lines x cols, columns adjacent; null: absent
  T* data = nullptr;
  long batch_stride = 0, stride = 0;
  explicit operator bool() const { return data != nullptr; }
  T* at(long b, long i, long j) const { return data + b * batch_stride + i * stride + j; }
};

template <class T>
struct PairInput {              // of one tile
  Plane<const T> unit1, unit2;  // unit rows of d features, or
  Plane<const T> defect;        // u itself, or neither: u = 0
  Plane<const T> product;       // of the unit rows; absent: made here (d <= kInsideFeatures)
  Plane<const T> theta;         // absent: 0
  long d = 0;
  T close = 0;  // defects below it come from the difference of the unit rows
};

template <class T>
struct PairOutput {  // of the whole result: nngp, ntk, defect
  Plane<T> planes[3];
};

struct Tile {
  long batch0, batches, i0, lines, j0, cols;  // where it stands in the result
  long row1, row2;                            // its first line and column in the row tables
  long n1, n2;                                // rows from one batch to the next in the row tables
  bool symmetric;                             // pairs on and above the diagonal are computed and mirrored
  bool diagonal;                              // lines pair with themselves: cols == 1
};

template <class T>
void run(const Program& program, const RowTable<T>& rows1, const RowTable<T>& rows2, const Tile& tile,
         const std::vector<PairInput<T>>& inputs, const std::vector<PairOutput<T>>& outputs, const Isa& isa,
         int threads, const Interrupt& interrupt);

// unit = x / |x| row by row (0 for zero rows) and q = |x|^2 / d in double; x: n rows of d.
template <class T>
void normalise(const T* x, long n, long d, long stride, T* unit, double* q, const Isa& isa, int threads,
               const Interrupt& interrupt);

template <class T>
void dual_map(const std::string& name, const std::vector<double>& params, long n, const T* q11, const T* q12,
              const T* q22, T* k, T* kdot, const Isa& isa, int threads, const Interrupt& interrupt);

}  // namespace fntk
