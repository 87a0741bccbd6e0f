// Status of CUDA calls, and the device in whose name they are made.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>

#include "common/check.h"
#include "cuda/run.h"

namespace fntk {

inline void cuda_check(cudaError_t status, const char* work, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears it for the next call, unless the device is lost
  throw std::runtime_error(
      text("CUDA: ", work, ": ", what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")"));
}

// Makes a device current, and the one before it again at the end.
class DeviceScope {
 public:
  DeviceScope(int device, const char* work) {
    cuda_check(cudaGetDevice(&before_), work, "cudaGetDevice");
    if (device == before_) return;
    cuda_check(cudaSetDevice(device), work, "cudaSetDevice");
    changed_ = true;
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();  // a lost device shows in the next call
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

constexpr long kMaxBlocks = 0x7fffffff;

// launch(blocks, stream) on the device, on_host() without one; nothing where there are no blocks.
template <class Launch, class OnHost>
void cuda_work(const Place& place, const char* work, long blocks, const Launch& launch, const OnHost& on_host) {
  if (blocks == 0) return;
  if (place.device == kOnHost) return on_host();
  FNTK_CHECK(blocks <= kMaxBlocks, work, ": ", blocks, " blocks of threads are more than one launch takes");
  const DeviceScope scope(place.device, work);
  launch(unsigned(blocks), static_cast<cudaStream_t>(place.stream));
  cuda_check(cudaGetLastError(), work, "launch");
}

}  // namespace fntk
