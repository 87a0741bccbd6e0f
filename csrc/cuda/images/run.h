// Pairs of images on a CUDA device: pointers to its memory and a stream in, nothing allocated, nothing waited for.
#pragma once
#include <array>
#include <vector>

#include "cuda/images/code.h"
#include "cuda/run.h"

namespace fntk {

template <class T>
struct ImagePairsCall {
  const char* code;            // a copy of ImageCode::bytes; as all that follows, memory of the device
  const T *tables1, *tables2;  // images x table_size
  const T *chains1, *chains2;  // images x chain_size
  long table_size;
  const int64_t* pairs;   // n x (image of tables1, of tables2, kSame | kDiagonal)
  const double* lengths;  // n
  long n;
  double* linked;  // n x pair_doubles
  double* lost;    // n x lost_units x 2: of each unit what is lost, and of how much (math/elements.h)
  T* scratch;
  long scratch_size;
  std::vector<std::array<T*, 2>> planes;  // nngp and ntk of each output, n x size; null: not wanted
  size_t first_grid = 0, last_grid = 0;   // those from first on and before last run; links keep what others have left
  bool backwards = false;                 // on the host: elements in the opposite order
};

// Fills the planes and `lost`.
template <class T>
void cuda_image_pairs(const ImageCode& code, const ImagePairsCall<T>& call, const Place& place);

// What registers, windows in one pass and nonlinearities read of n images, from their tables.
template <class T>
struct ChainTablesCall {
  const char* code;
  const T* tables;  // n x table_size
  long table_size;
  T* chains;  // n x chain_size
  long n;
  size_t first_grid = 0, last_grid = 0;  // of windows and nonlinearities; chains are all written
};
template <class T>
void cuda_chain_tables(const ImageCode& code, const ChainTablesCall<T>& call, const Place& place);

}  // namespace fntk
