// Running a program on one tile of pairs on a CUDA device, host arrays in and out.
#pragma once
#include <string>
#include <vector>

#include "rows.h"

namespace fntk {

struct CudaDevice {
  std::string name;
  int major, minor;
  size_t memory;
};

// Devices of this machine; empty, with the driver's words in `reason`, where there is none.
std::vector<CudaDevice> cuda_devices(std::string& reason);

constexpr int kOnHost = -1;  // as `device`: the same program text, pair by pair on the host, for tests

// Fills nngp, ntk and defect of each output (null planes are left out). Throws std::runtime_error that names the CUDA
// call.
template <class T>
void cuda_run(const Program& program, const RowTable<T>& rows1, const RowTable<T>& rows2, const Tile& tile,
              const std::vector<PairInput<T>>& inputs, const std::vector<PairOutput<T>>& outputs, int device);

}  // namespace fntk
