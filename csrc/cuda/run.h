// Work on a CUDA device: pointers to its memory and a stream in, nothing allocated, nothing waited for.
//
// With kOnHost as the device the same text runs on the host, over host memory, at once: for tests. Errors of the CUDA
// runtime are std::runtime_error that names the work. The device that was current before a call is current after it.
#pragma once
#include <string>
#include <vector>

#include "common/program.h"

namespace fntk {

struct CudaDevice {
  std::string name;
  int major, minor;
  size_t memory;
};

// Devices of this machine; empty, with the driver's words in `reason`, where there is none.
std::vector<CudaDevice> cuda_devices(std::string& reason);

constexpr int kOnHost = -1;

struct Place {
  int device;
  void* stream;  // a cudaStream_t; null: the legacy default stream
};

// What device code reads of a program: steps, to be copied to the device byte by byte. Throws where the program is too
// wide for a device.
struct DeviceStep;
std::string device_code(const Program& program, const std::vector<double>& numbers);

template <class E>
struct Strided {  // one axis, in elements
  E* data = nullptr;
  long stride = 1;
};

// Unit rows x / |x| (0 for zero rows) and the norms, batches x rows; strides between batches and rows.
template <class T>
struct NormaliseCall {
  Plane<const T> x;
  Plane<T> units;
  Plane<double> norms;
  long batches, n, d;
};
template <class T>
void cuda_normalise(const NormaliseCall<T>& call, const Place& place);

// Fills nngp, ntk and defect of each output; null planes are not computed. A product may lie where an output of the
// same pairs goes.
template <class T>
struct PairsCall {
  const DeviceStep* steps;
  int n_slots;
  bool every;                // a nonlinearity among the steps is not cheap
  const T *table1, *table2;  // row arrays in the order in which the ops name them
  long rows1, rows2;         // of each table
  Tile tile;
  std::vector<PairInput<T>> inputs;
  std::vector<PairOutput<T>> outputs;
};
template <class T>
void cuda_pairs(const PairsCall<T>& call, const Place& place);

// k and kdot for covariances q, from row arrays of both arguments: the nonlinearity's own, then sqrt(V).
template <class T>
struct CudaDualCall {
  std::string name;
  std::vector<double> params;
  Strided<const T> q11, q12, q22;
  RowTable<T> rows1, rows2;
  Strided<T> k, kdot;
  long n;
};
template <class T>
void cuda_dual(const CudaDualCall<T>& call, const Place& place);

}  // namespace fntk
