// What the binding calls: instruction sets, and running a program on one tile of pairs.
#pragma once
#include <string>
#include <vector>

#include "images.h"
#include "rows.h"

namespace fntk {

struct Isa {
  const char* name;
  bool available;  // compiled in and offered by this processor
  const Kernels<float>* kernels_float;
  const Kernels<double>* kernels_double;
  const Products<float>* products_float;
  const Products<double>* products_double;
  const PlaneKernels<float>* planes_float;
  const PlaneKernels<double>* planes_double;
  template <class T>
  const Kernels<T>& kernels() const {
    if constexpr (sizeof(T) == sizeof(float))
      return *kernels_float;
    else
      return *kernels_double;
  }
  template <class T>
  const Products<T>& products() const {
    if constexpr (sizeof(T) == sizeof(float))
      return *products_float;
    else
      return *products_double;
  }
};

// Slowest first; the last available one is the default.
const std::vector<Isa>& isas();
const Isa& find_isa(const std::string& name);

template <class T>
void run(const Program& program, const RowTable<T>& rows1, const RowTable<T>& rows2, const Tile& tile,
         const std::vector<PairInput<T>>& inputs, const std::vector<PairOutput<T>>& outputs, const Isa& isa,
         int threads, const Interrupt& interrupt);

// Unit rows x / |x| (0 for zero rows) in panels, each batch padded to whole panels, and the norms in double.
template <class T>
void pack(const T* x, long batches, long n, long d, T* panels, double* norms, const Isa& isa, int threads,
          const Interrupt& interrupt);

// k and kdot of phi(sqrt(scale) x) for covariances q.
template <class T>
void dual_map(const std::string& name, const std::vector<double>& params, long n, const T* q11, const T* q12,
              const T* q22, T scale, T* k, T* kdot, const Isa& isa, int threads, const Interrupt& interrupt);

}  // namespace fntk
