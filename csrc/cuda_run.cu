#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>

#define FNTK_ISA cuda
#include "check.h"
#include "cuda_pair.h"
#include "cuda_run.h"

namespace fntk {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears it for the next call
  throw std::runtime_error(text("CUDA: ", what, ": ", cudaGetErrorString(status)));
}

// Device memory of one call, or plain host memory where the device is kOnHost.
template <class E>
class Buffer {
 public:
  Buffer(size_t count, int device) : host_(device == kOnHost), count_(count) {
    if (host_)
      memory_.resize(count);
    else if (count)
      check(cudaMalloc(&data_, count * sizeof(E)), "cudaMalloc");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept
      : host_(other.host_), count_(other.count_), memory_(std::move(other.memory_)), data_(other.data_) {
    other.data_ = nullptr;
  }
  ~Buffer() {
    if (data_) cudaFree(data_);
  }
  E* data() { return host_ ? memory_.data() : data_; }
  void upload(const E* from, size_t count, size_t offset = 0) {
    if (host_)
      std::copy_n(from, count, memory_.data() + offset);
    else if (count)
      check(cudaMemcpy(data_ + offset, from, count * sizeof(E), cudaMemcpyHostToDevice), "copy to the device");
  }
  void download(E* to) {
    if (host_)
      std::copy_n(memory_.data(), count_, to);
    else if (count_)
      check(cudaMemcpy(to, data_, count_ * sizeof(E), cudaMemcpyDeviceToHost), "copy from the device");
  }

 private:
  bool host_;
  size_t count_;
  std::vector<E> memory_;
  E* data_ = nullptr;
};

constexpr int kMaxInputs = kMaxSlots, kMaxOutputs = 64, kThreads = 256;

template <class T>
struct Launch {  // everything a thread needs; travels as the kernel's argument
  const DeviceOp* ops;
  int n_ops, n_inputs;
  DeviceInput<T> inputs[kMaxInputs];
  DeviceRows<T> rows1, rows2;
  long row1, row2, lines, cols, above;  // pairs with j + above < i are left out
  bool diagonal;
  T* out;  // n_outputs x 3 planes of lines x cols
};

template <class T>
struct StorePair {
  T* out;
  long plane, place;
  FNTK_HD void operator()(int output, T nngp, T theta, T defect) const {
    T* first = out + 3 * output * plane + place;
    first[0] = nngp;
    first[plane] = theta;
    first[2 * plane] = defect;
  }
};

template <class T, int Slots>
FNTK_HD void one_pair(const Launch<T>& launch, long i, long j) {
  if (j + launch.above < i) return;
  // On the diagonal the column's row moves with the line.
  const long row2 = launch.row2 + (launch.diagonal ? i : 0);
  const StorePair<T> store = {launch.out, launch.lines * launch.cols, i * launch.cols + j};
  FNTK_ISA::run_pair<T, Slots>(launch.ops, launch.n_ops, launch.inputs, launch.n_inputs, launch.rows1, launch.rows2,
                               launch.row1, row2, i, j, launch.cols, store);
}

template <class T, int Slots>
__global__ void pairs_kernel(const Launch<T> launch) {
  const long j = long(blockIdx.x) * kThreads + threadIdx.x;
  if (j < launch.cols)
    for (long i = blockIdx.y; i < launch.lines; i += gridDim.y) one_pair<T, Slots>(launch, i, j);
}

template <class T, int Slots>
void launch_pairs(const Launch<T>& launch, int device) {
  if (device == kOnHost) {
    for (long i = 0; i < launch.lines; ++i)
      for (long j = 0; j < launch.cols; ++j) one_pair<T, Slots>(launch, i, j);
    return;
  }
  const dim3 grid(unsigned((launch.cols + kThreads - 1) / kThreads), unsigned(std::min(launch.lines, 65535L)));
  pairs_kernel<T, Slots><<<grid, kThreads>>>(launch);
  check(cudaGetLastError(), "launch of the pair program");
  check(cudaDeviceSynchronize(), "pair program");
}

std::vector<DeviceOp> device_ops(const Program& program) {
  std::vector<DeviceOp> ops;
  for (const Op& op : program.ops) {
    FNTK_CHECK(op.src.size() <= kMaxSources && op.params.size() <= kMaxParams, op.name, " is too wide for CUDA");
    DeviceOp own = {};
    own.code = op.code;
    own.dst = op.dst;
    own.n_src = int(op.src.size());
    own.first_row = op.first_row;
    std::copy(op.src.begin(), op.src.end(), own.src);
    std::copy(op.params.begin(), op.params.end(), own.params);
    ops.push_back(own);
  }
  return ops;
}

// One batch's plane, packed row by row.
template <class E>
Buffer<E> upload(const Plane<const E>& plane, long batch, long lines, long cols, int device) {
  Buffer<E> buffer(plane ? size_t(lines * cols) : 0, device);
  if (plane)
    for (long i = 0; i < lines; ++i) buffer.upload(plane.at(batch, i, 0), size_t(cols), size_t(i * cols));
  return buffer;
}

}  // namespace

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
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    found.push_back({properties.name, properties.major, properties.minor, properties.totalGlobalMem});
  }
  if (found.empty()) reason = "the driver reports no device";
  return found;
}

template <class T>
void cuda_run(const Program& program, const RowTable<T>& rows1, const RowTable<T>& rows2, const Tile& tile,
              const std::vector<PairInput<T>>& inputs, const std::vector<PairOutput<T>>& outputs, int device) {
  FNTK_CHECK(program.n_slots <= kMaxSlots, "the CUDA backend keeps ", kMaxSlots, " slots, the network needs ",
             program.n_slots);
  FNTK_CHECK(outputs.size() <= kMaxOutputs, "the CUDA backend writes ", kMaxOutputs, " outputs, given ",
             outputs.size());
  if (device != kOnHost) check(cudaSetDevice(device), "cudaSetDevice");
  const std::vector<DeviceOp> ops = device_ops(program);
  Buffer<DeviceOp> device_program(ops.size(), device);
  device_program.upload(ops.data(), ops.size());
  Buffer<T> table1(rows1.data.size(), device), table2(rows2.data.size(), device);
  table1.upload(rows1.data.data(), rows1.data.size());
  table2.upload(rows2.data.data(), rows2.data.size());
  const size_t plane = size_t(tile.lines * tile.cols);
  Buffer<T> result(3 * outputs.size() * plane, device);
  std::vector<T> host(3 * outputs.size() * plane);

  for (long batch = 0; batch < tile.batches; ++batch) {
    Launch<T> launch = {};
    launch.ops = device_program.data();
    launch.n_ops = int(ops.size());
    launch.n_inputs = int(inputs.size());
    std::vector<Buffer<T>> kept;
    std::vector<Buffer<double>> kept_norms;
    for (size_t k = 0; k < inputs.size(); ++k) {
      const PairInput<T>& input = inputs[k];
      const auto device_plane = [&](const Plane<const T>& p, long lines, long cols) -> const T* {
        if (!p) return nullptr;
        kept.push_back(upload(p, batch, lines, cols, device));
        return kept.back().data();
      };
      const auto device_norms = [&](const Plane<const double>& p, long count) -> const double* {
        if (!p) return nullptr;
        kept_norms.push_back(upload(p, batch, 1, count, device));
        return kept_norms.back().data();
      };
      DeviceInput<T>& own = launch.inputs[k];
      own.product = device_plane(input.product, tile.lines, tile.cols);
      own.defect = device_plane(input.defect, tile.lines, tile.cols);
      own.theta = device_plane(input.theta, tile.lines, tile.cols);
      own.raw1 = device_plane(input.raw1, tile.lines, input.d);
      own.raw2 = device_plane(input.raw2, tile.cols, input.d);
      own.norms1 = device_norms(input.norms1, tile.lines);
      own.norms2 = device_norms(input.norms2, tile.cols);
      own.d = input.d;
      own.close = input.close;
      if (!own.product && !own.defect) {  // the diagonal: every pair is (x, x)
        const std::vector<T> zeros(plane, T(0));
        kept.emplace_back(plane, device);
        kept.back().upload(zeros.data(), plane);
        own.defect = kept.back().data();
      }
    }
    launch.rows1 = {table1.data(), rows1.n};
    launch.rows2 = {table2.data(), rows2.n};
    launch.row1 = tile.row1 + batch * tile.n1;
    launch.row2 = tile.row2 + batch * tile.n2;
    launch.lines = tile.lines;
    launch.cols = tile.cols;
    launch.above = tile.symmetric ? tile.j0 - tile.i0 : tile.lines;
    launch.diagonal = tile.diagonal;
    launch.out = result.data();
    if (program.n_slots == 1)
      launch_pairs<T, 1>(launch, device);
    else
      launch_pairs<T, kMaxSlots>(launch, device);
    result.download(host.data());

    const long B = tile.batch0 + batch;
    for (size_t k = 0; k < outputs.size(); ++k)
      for (size_t p = 0; p < 3; ++p) {
        const Plane<T>& out = outputs[k].planes[p];
        const T* from = host.data() + (3 * k + p) * plane;
        if (!out) continue;
        for (long i = 0; i < tile.lines; ++i)
          for (long j = 0; j < tile.cols; ++j) {
            if (j + launch.above < i) continue;
            const long I = tile.i0 + i, J = tile.j0 + j;
            *out.at(B, I, J) = from[i * tile.cols + j];
            if (tile.symmetric) *out.at(B, J, I) = from[i * tile.cols + j];
          }
      }
  }
}

#define FNTK_INSTANTIATE(T)                                                                      \
  template void cuda_run<T>(const Program&, const RowTable<T>&, const RowTable<T>&, const Tile&, \
                            const std::vector<PairInput<T>>&, const std::vector<PairOutput<T>>&, int);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
