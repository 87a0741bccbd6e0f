// Instruction sets: which are compiled in, which this processor has, and the loops of each.
#pragma once
#include <string>
#include <vector>

namespace fntk {

template <class T>
struct Kernels;
template <class T>
struct Products;
template <class T>
struct PlaneKernels;
template <class T>
struct PositionKernels;

struct Isa {
  const char* name;
  bool available;  // compiled in and offered by this processor
  const Kernels<float>* kernels_float;
  const Kernels<double>* kernels_double;
  const Products<float>* products_float;
  const Products<double>* products_double;
  const PlaneKernels<float>* planes_float;
  const PlaneKernels<double>* planes_double;
  const PositionKernels<float>* positions_float;
  const PositionKernels<double>* positions_double;
  template <class T>
  const Kernels<T>& kernels() const {
    if constexpr (sizeof(T) == sizeof(float))
      return *kernels_float;
    else
      return *kernels_double;
  }
  template <class T>
  const PositionKernels<T>& positions() const {
    if constexpr (sizeof(T) == sizeof(float))
      return *positions_float;
    else
      return *positions_double;
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

}  // namespace fntk
