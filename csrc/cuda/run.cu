#define FNTK_ISA cuda
#include <memory>

#include "common/ops.h"
#include "cuda/check.h"
#include "cuda/dense/block.h"
#include "math/lengths.h"

namespace fntk {

std::vector<CudaDevice> cuda_devices(std::string& reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  std::vector<CudaDevice> found;
  if (status != cudaSuccess) {
    cudaGetLastError();
    reason = cudaGetErrorString(status);
    return found;
  }
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    cuda_check(cudaGetDeviceProperties(&properties, device), "devices", "cudaGetDeviceProperties");
    found.push_back({properties.name, properties.major, properties.minor, properties.totalGlobalMem});
  }
  if (found.empty()) reason = "the driver reports no device";
  return found;
}

namespace {

template <class T>
long append_constants(const DeviceStep& step, const double* params, std::string& code) {
  std::vector<T> own(kMaxConstants);
  int index = kFirstCounted, n = 0;
#define FNTK_OWN(Phi, name)                                         \
  if (step.head.code == index++) {                                  \
    n = FNTK_ISA::Phi<T>::n_constants(step.n_params);               \
    FNTK_ISA::Phi<T>::constants(params, step.n_params, own.data()); \
  }
  FNTK_COUNTED(FNTK_OWN)
#undef FNTK_OWN
  code.resize((code.size() + sizeof(T) - 1) / sizeof(T) * sizeof(T));
  const size_t place = code.size();
  code.append(reinterpret_cast<const char*>(own.data()), size_t(n) * sizeof(T));
  return long(place);
}

// Behind the steps, for each that has some: what the formulas of counted nonlinearities read.
void append_constants(const std::vector<double>& numbers, std::string& code) {
  const size_t steps = code.size() / sizeof(DeviceStep);
  for (size_t k = 0; k < steps; ++k) {
    DeviceStep own;
    const size_t at = k * sizeof(own);
    std::memcpy(static_cast<void*>(&own), code.data() + at, sizeof(own));
    if (own.head.code < kFirstCounted || own.head.code >= kInput) continue;
    own.single_at = append_constants<float>(own, numbers.data() + own.first_param, code) - long(at);
    own.exact_at = append_constants<double>(own, numbers.data() + own.first_param, code) - long(at);
    std::memcpy(code.data() + at, static_cast<const void*>(&own), sizeof(own));
  }
}

}  // namespace

std::string device_code(const Program& program, const std::vector<double>& numbers) {
  FNTK_CHECK(program.n_slots <= kMaxSlots, "the CUDA backend keeps ", kMaxSlots, " slots, the network needs ",
             program.n_slots, " (branches held at once)");
  FNTK_CHECK(program.n_outputs <= kMaxOutputs, "the CUDA backend writes ", kMaxOutputs, " outputs a call, given ",
             program.n_outputs);
  std::string code;
  for (const Step& step : encode(program, numbers, kStagedRows)) {
    DeviceStep own = {};
    static_cast<Step&>(own) = step;
    FNTK_ISA::set_constants(step, own.single);
    FNTK_ISA::set_constants(step, own.exact);
    code.append(reinterpret_cast<const char*>(&own), sizeof(own));
  }
  append_constants(numbers, code);
  return code;
}

// ---------------------------------------------------------------- unit rows: a warp for each

namespace {

template <class T>
FNTK_HD void normalise_row(const NormaliseCall<T>& call, long row) {
  const long b = row / call.n, i = row % call.n;
  const T* x = FNTK_ISA::place(call.x, b, i, 0);
  T* unit = FNTK_ISA::place(call.units, b, i, 0);
  const auto sum = [&](double scale) {
    const auto add = [&](long k, double before) {
      const double t = double(x[k]) * scale;
      return FNTK_ISA::fma(t, t, before);
    };
    return FNTK_ISA::reduce(call.d, add, FNTK_ISA::Plus());
  };
  const auto largest = [&] {
    const auto add = [&](long k, double before) {
      return FNTK_ISA::Larger()(before, FNTK_ISA::magnitude(double(x[k])));
    };
    return FNTK_ISA::reduce(call.d, add, FNTK_ISA::Larger());
  };
  const FNTK_ISA::Length length = FNTK_ISA::length_of(sum, largest);
  FNTK_ISA::over_lanes(call.d, [&](long k) { unit[k] = T(double(x[k]) * length.first * length.second); });
  FNTK_ISA::over_lanes(1, [&](long) { *FNTK_ISA::place(call.norms, b, 0, i) = length.norm; });
}

template <class T>
__global__ void __launch_bounds__(kThreads) normalise_kernel(const __grid_constant__ NormaliseCall<T> call) {
  const long row = (long(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (row < call.batches * call.n) normalise_row(call, row);
}

}  // namespace

template <class T>
void cuda_normalise(const NormaliseCall<T>& call, const Place& place) {
  const long rows = call.batches * call.n, step = kThreads / kWarp;
  cuda_work(
      place, "normalise", (rows + step - 1) / step,
      [&](unsigned blocks, cudaStream_t stream) { normalise_kernel<T><<<blocks, kThreads, 0, stream>>>(call); },
      [&] {
        for (long row = 0; row < rows; ++row) normalise_row(call, row);
      });
}

// ---------------------------------------------------------------- dual maps: a thread for each entry

namespace {

template <class Phi, class T>
struct DualLaunch {
  Phi phi;
  Strided<const T> q11, q12, q22;
  RowTable<T> rows1, rows2;
  Strided<T> k, kdot;
  long n;
};

template <class Phi, class T>
FNTK_HD void one_dual(const DualLaunch<Phi, T>& launch, long i) {
  const auto q = [i](const Strided<const T>& array) { return array.data[i * array.stride]; };
  const auto d =
      FNTK_ISA::covariance_dual(launch.phi, q(launch.q11), q(launch.q12), q(launch.q22), launch.rows1, launch.rows2, i);
  launch.k.data[i * launch.k.stride] = d.k;
  launch.kdot.data[i * launch.kdot.stride] = d.kdot;
}

template <class Phi, class T>
__global__ void __launch_bounds__(kThreads) dual_kernel(const __grid_constant__ DualLaunch<Phi, T> launch) {
  const long i = long(blockIdx.x) * kThreads + threadIdx.x;
  if (i < launch.n) one_dual(launch, i);
}

template <class Phi, class T>
void run_dual(const CudaDualCall<T>& call, const Place& place) {
  const DualLaunch<Phi, T> launch = {
      Phi(call.params.data()), call.q11, call.q12, call.q22, call.rows1, call.rows2, call.k, call.kdot, call.n};
  cuda_work(
      place, "dual", (call.n + kThreads - 1) / kThreads,
      [&](unsigned blocks, cudaStream_t stream) { dual_kernel<<<blocks, kThreads, 0, stream>>>(launch); },
      [&] {
        for (long i = 0; i < call.n; ++i) one_dual(launch, i);
      });
}

}  // namespace

template <class T>
void cuda_dual(const CudaDualCall<T>& call, const Place& place) {
  check_parameters(code_of(call.name), call.params.size());
#define FNTK_RUN_DUAL(Phi, called) \
  if (call.name == called) return run_dual<FNTK_ISA::Phi<T>>(call, place);
  FNTK_DUALS(FNTK_RUN_DUAL)
#undef FNTK_RUN_DUAL
}

#define FNTK_INSTANTIATE(T)                                               \
  template void cuda_normalise<T>(const NormaliseCall<T>&, const Place&); \
  template void cuda_dual<T>(const CudaDualCall<T>&, const Place&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
