#include "dense/run.h"

#include <cmath>
#include <memory>

#include "common/check.h"
#include "common/parallel.h"
#include "dense/window_unit.h"
#include "math/lengths.h"

namespace fntk {

// ---------------------------------------------------------------- tiles of pairs

namespace {

// A unit of work is kLines x kCols pairs; a block of some lines of it, at most kPlane pairs, stays in L1 while all ops
// run over it. Columns start at multiples of kAlign, so that blocks of a symmetric unit can begin at the diagonal.
constexpr long kLines = kPanel, kCols = kMaxCols, kPlane = 1024, kAlign = 16, kDiagonal = 256;

// A worker's slots, on a cache line's boundary: a vector that straddles two costs double.
template <class T>
class State {
 public:
  void reserve(long elements) { bytes_.reset(new char[size_t(elements) * sizeof(T) + 64]()); }
  T* data() { return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(bytes_.get()) + 63) / 64 * 64); }

 private:
  std::unique_ptr<char[]> bytes_;
};

template <class T>
struct TileRun {
  struct Worker {
    State<T> state, products;
    std::vector<OpView<T>> views;
    std::vector<WindowUnit<T>> windows;
  };

  const Program& program;
  const std::vector<double>& numbers;
  const Tile& tile;
  const std::vector<PairInput<T>>& inputs;
  const std::vector<Window<T>>& windows;
  const std::vector<PairOutput<T>>& outputs;
  const uint8_t* hidden;
  const Kernels<T>& kernels;
  const Products<T>& products;
  const PositionKernels<T>& positions;
  const long product_size;  // of a unit, per input; products come in groups of lines
  const long columns;       // rows of the second side's table
  bool ntk = false;
  std::vector<const T*> pointers1, pointers2;
  std::vector<Worker> workers;

  static RawRows<T> raw_rows(const Plane<const T>& raw, const Plane<const double>& norms, long batch, long first) {
    return raw ? RawRows<T>{raw.at(batch, first, 0), norms.at(batch, 0, first)} : RawRows<T>{nullptr, nullptr};
  }
  TileRun(const Program& p, const std::vector<double>& n, const RowTable<T>& rows1, const RowTable<T>& rows2,
          const Tile& t, const std::vector<PairInput<T>>& in, const std::vector<Window<T>>& moved,
          const std::vector<PairOutput<T>>& out, const uint8_t* unasked, const Isa& isa, int n_workers)
      : program(p),
        numbers(n),
        tile(t),
        inputs(in),
        windows(moved),
        outputs(out),
        hidden(unasked),
        kernels(isa.kernels<T>()),
        products(isa.products<T>()),
        positions(isa.positions<T>()),
        product_size(std::min(kLines, (t.lines + kAlign - 1) / kAlign * kAlign) * kCols),
        columns(rows2.n) {
    for (const auto& output : outputs) ntk = ntk || output.planes[1];
    for (int place : program.places) {
      pointers1.push_back(rows1[place]);
      pointers2.push_back(rows2[place]);
    }
    workers.resize(size_t(n_workers));
  }

  // A worker's buffers, made by itself when it first finds work.
  Worker& worker(int index) {
    Worker& own = workers[size_t(index)];
    if (!own.views.empty()) return own;
    own.state.reserve(2 * program.n_slots * kPlane);
    own.products.reserve(program.n_inputs * product_size);
    own.views.resize(program.ops.size());
    own.windows.resize(windows.size());
    for (size_t k = 0; k < program.ops.size(); ++k) {
      const Op& op = program.ops[k];
      OpView<T>& view = own.views[k];
      view.params = numbers.data() + op.first_number;
      view.n_params = op.n_numbers;
      view.kind = op.kind;
      view.dst = op.dst;
      view.n_src = int(op.src.size());
      view.src = op.src.data();
      view.rows1 = pointers1.data() + op.first_row;
      view.rows2 = pointers2.data() + op.first_row;
      view.next = op.fused ? &own.views[k + 1] : nullptr;
    }
    return own;
  }

  // One input of a block; `products` holds the unit's products from this block's first pair on.
  void load(const PairInput<T>& input, int slot, const Block<T>& b, long batch, long i, long j,
            const T* products) const {
    for (int line = 0; line < b.lines; ++line) {
      T* v = b.v(slot) + line * b.stride;
      if (input.panels1)
        kernels.defect(b.cols, products + line * kCols, input.close,
                       raw_rows(input.raw1, input.norms1, batch, i + line),
                       raw_rows(input.raw2, input.norms2, batch, j), input.d, v);
      else if (input.defect)
        std::copy_n(input.defect.at(batch, i + line, j), b.cols, v);
      else
        std::fill_n(v, b.cols, T(0));
      if (!b.ntk) continue;
      if (input.theta)
        std::copy_n(input.theta.at(batch, i + line, j), b.cols, b.theta(slot) + line * b.stride);
      else
        std::fill_n(b.theta(slot) + line * b.stride, b.cols, T(0));
    }
  }

  // Columns of a block up to whole vectors, where the table has as many: what stands beyond them is computed, not
  // stored.
  int lanes(const Block<T>& b) const {
    const long whole = (b.cols + kAlign - 1) / kAlign * kAlign;
    return int(b.col_step == 0 && b.j0 + whole <= columns ? whole : b.cols);
  }

  // i, j: within the tile.
  void block(Block<T>& b, Worker& worker, long batch, long i, long j, const T* products) const {
    b.i0 = tile.row1 + batch * tile.n1 + i;
    b.j0 = tile.row2 + batch * tile.n2 + j;
    const int cols = b.cols, whole = lanes(b);
    for (int slot = 0; slot < program.n_inputs; ++slot) {
      if (windows.empty() || windows[size_t(slot)].taps == 0)
        load(inputs[size_t(slot)], slot, b, batch, i, j, products + slot * product_size);
      else
        for (int line = 0; line < b.lines; ++line)
          worker.windows[size_t(slot)].line(windows[size_t(slot)], positions.window, i + line, j, b.cols, whole,
                                            b.v(slot) + line * b.stride,
                                            b.ntk ? b.theta(slot) + line * b.stride : nullptr);
    }
    for (size_t k = 0; k < program.ops.size(); ++k) {
      const Op& op = program.ops[k];
      OpView<T>& view = worker.views[k];
      if (op.code == kStore)
        for (int p = 0; p < 3; ++p) {
          const Plane<T>& plane = outputs[size_t(op.dst)].planes[p];
          view.out[p] = plane ? plane.at(tile.batch0 + batch, tile.i0 + i, tile.diagonal ? 0 : tile.j0 + j) : nullptr;
          view.out_stride[p] = plane.stride;
        }
      b.cols = op.code == kStore ? cols : whole;
      kernels.ops[op.code](view, b);
      k += op.fused;
    }
  }

  bool is_hidden(long batch, long i) const { return hidden && hidden[batch * tile.lines + i]; }

  // A line of pairs whose covariance is 0.
  void leave_out(long batch, long i, long j, long cols) const {
    for (const auto& out : outputs)
      for (int p = 0; p < 3; ++p)
        if (out.planes[p])
          std::fill_n(out.planes[p].at(tile.batch0 + batch, tile.i0 + i, tile.j0 + j), cols, T(p == 2));
  }

  void unit(long batch, long i, long j, Worker& worker, Watch& watch) const {
    const long lines = std::min(kLines, tile.lines - i);
    long cols = std::min(kCols, tile.cols - j);
    const long I = tile.i0 + i;  // in the result
    if (tile.symmetric) {
      if (tile.j0 + j + cols <= I) return;
      const long start = std::max(tile.j0 + j, I) - tile.j0;
      cols -= start - j;
      j = start;
    }
    const long J = tile.j0 + j;
    const long stride = (cols + kAlign - 1) / kAlign * kAlign;
    for (size_t k = 0; k < inputs.size(); ++k) {
      const PairInput<T>& input = inputs[k];
      if (!input.panels1) continue;
      T* out = worker.products.data() + long(k) * product_size;
      for (long c = 0; c < cols; c += kPanel)
        products.product(input.panels1.at(batch, i / kPanel, 0), input.panels2.at(batch, (j + c) / kPanel, 0), lines,
                         input.d, out + c, kCols);
      watch.spent(lines * cols * input.d / 16);
    }
    for (size_t k = 0; k < windows.size(); ++k)
      if (windows[k].taps > 0) worker.windows[k].begin(windows[k], batch, j, cols);
    Block<T> b = {0, 0, 0, 0, 0, stride, kPlane, worker.state.data(), ntk};
    const long step = std::max(4L, std::min(8L, kPlane / stride));
    for (long line = 0; line < lines; line += b.lines) {
      const long skip = tile.symmetric ? std::max(0L, I + line - J) / kAlign * kAlign : 0;
      if (skip >= cols) break;
      b.lines = 1;
      if (is_hidden(batch, i + line)) {
        leave_out(batch, i + line, j + skip, cols - skip);
        continue;
      }
      while (b.lines < std::min(step, lines - line) && !is_hidden(batch, i + line + b.lines)) ++b.lines;
      b.cols = int(cols - skip);
      block(b, worker, batch, i + line, j + skip, worker.products.data() + line * kCols + skip);
      watch.spent(b.lines * b.cols * long(program.ops.size()));
    }
    if (!tile.symmetric) return;
    const long B = tile.batch0 + batch;
    for (const auto& out : outputs)
      for (const Plane<T>& plane : out.planes)
        if (plane)
          kernels.transpose(plane.at(B, I, J), plane.stride, plane.at(B, J, I), plane.stride, lines, cols, I - J + 1);
  }

  void diagonal_unit(long i, Worker& worker) const {
    Block<T> b = {int(std::min(kDiagonal, tile.lines - i)), 1, 1, 0, 0, 1, kPlane, worker.state.data(), ntk};
    block(b, worker, 0, i, i, nullptr);
  }
};

}  // namespace

template <class T>
void run(const Program& program, const std::vector<double>& numbers, const RowTable<T>& rows1, const RowTable<T>& rows2,
         const Tile& tile, const std::vector<PairInput<T>>& inputs, const std::vector<Window<T>>& windows,
         const std::vector<PairOutput<T>>& outputs, const uint8_t* hidden, const Isa& isa, int threads,
         const Interrupt& interrupt) {
  const long pairs = tile.batches * tile.lines * tile.cols;
  const bool small = pairs * long(program.ops.size()) < 100000;
  const long groups = (tile.lines + kLines - 1) / kLines, chunks = (tile.cols + kCols - 1) / kCols;
  const long units = tile.diagonal ? (tile.lines + kDiagonal - 1) / kDiagonal : tile.batches * groups * chunks;
  const int workers = workers_of(units, small ? 1 : threads);
  check_numbers(program, numbers);
  TileRun<T> work(program, numbers, rows1, rows2, tile, inputs, windows, outputs, hidden, isa, workers);
  parallel_for(units, workers, interrupt, [&](long unit, int worker, Watch& watch) {
    if (tile.diagonal) return work.diagonal_unit(unit * kDiagonal, work.worker(worker));
    const long batch = unit / (groups * chunks), rest = unit % (groups * chunks);
    work.unit(batch, rest / chunks * kLines, rest % chunks * kCols, work.worker(worker), watch);
  });
}

// ---------------------------------------------------------------- inputs and element-wise maps

namespace {

template <class T>
generic::Length length_of(const T* row, long d, const Kernels<T>& kernels) {
  return generic::length_of([&](double scale) { return kernels.sum_of_squares(row, scale, d); },
                            [&] {
                              double largest = 0;
                              for (long k = 0; k < d; ++k) largest = std::max(largest, std::abs(double(row[k])));
                              return largest;
                            });
}

}  // namespace

template <class T>
void pack(const T* x, long batches, long n, long d, T* panels, double* norms, const Isa& isa, int threads,
          const Interrupt& interrupt) {
  const Kernels<T>& kernels = isa.kernels<T>();
  const Products<T>& products = isa.products<T>();
  const long count = (n + kPanel - 1) / kPanel;
  parallel_for(batches * count, batches * n * d < 100000 ? 1 : threads, interrupt, [&](long unit, int, Watch& watch) {
    const long batch = unit / count, first_row = unit % count * kPanel, rows = std::min(kPanel, n - first_row);
    double first[kPanel], second[kPanel];
    const T* source = x + (batch * n + first_row) * d;
    for (long r = 0; r < rows; ++r) {
      const generic::Length length = length_of(source + r * d, d, kernels);
      norms[batch * n + first_row + r] = length.norm;
      first[r] = length.first;
      second[r] = length.second;
      watch.spent(d);
    }
    products.pack(source, first, second, rows, d, panels + unit * d * kPanel);
  });
}

template <class T>
void dual_map(const DualCall<T>& call, const Isa& isa, int threads, const Interrupt& interrupt) {
  const int code = code_of(call.name);
  check_parameters(code, call.params.size());
  const auto map = isa.kernels<T>().dual_maps[code];
  constexpr long chunk = 16384;
  parallel_for((call.n + chunk - 1) / chunk, threads, interrupt, [&](long c, int, Watch&) {
    const long first = c * chunk, count = std::min(chunk, call.n - first);
    const RowTable<T> rows1 = {call.rows1.data + first, call.rows1.n}, rows2 = {call.rows2.data + first, call.rows2.n};
    map(count, call.q11 + first, call.q12 + first, call.q22 + first, rows1, rows2, call.params.data(), call.k + first,
        call.kdot + first);
  });
}

#define FNTK_INSTANTIATE(T)                                                                                   \
  template void run<T>(const Program&, const std::vector<double>&, const RowTable<T>&, const RowTable<T>&,    \
                       const Tile&, const std::vector<PairInput<T>>&, const std::vector<Window<T>>&,          \
                       const std::vector<PairOutput<T>>&, const uint8_t*, const Isa&, int, const Interrupt&); \
  template void pack<T>(const T*, long, long, long, T*, double*, const Isa&, int, const Interrupt&);          \
  template void dual_map<T>(const DualCall<T>&, const Isa&, int, const Interrupt&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
