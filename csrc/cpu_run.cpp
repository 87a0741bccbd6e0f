#include "cpu_run.h"

#include <cmath>
#include <limits>

#include "check.h"
#include "duals.h"
#include "parallel.h"

namespace fntk {

// ---------------------------------------------------------------- instruction sets

#define FNTK_DECLARE(isa)                        \
  namespace isa {                                \
  extern const Kernels<float> kernels_float;     \
  extern const Kernels<double> kernels_double;   \
  extern const Products<float> products_float;   \
  extern const Products<double> products_double; \
  }
FNTK_DECLARE(baseline)
#if defined(FNTK_X86_ISAS)
FNTK_DECLARE(avx2)
FNTK_DECLARE(avx512)
#endif

#define FNTK_ISA_ROW(name, available, isa) \
  Isa { name, available, &isa::kernels_float, &isa::kernels_double, &isa::products_float, &isa::products_double }

template <>
const Products<float>& Isa::products<float>() const {
  return *products_float;
}
template <>
const Products<double>& Isa::products<double>() const {
  return *products_double;
}
template <>
const Kernels<float>& Isa::kernels<float>() const {
  return *kernels_float;
}
template <>
const Kernels<double>& Isa::kernels<double>() const {
  return *kernels_double;
}

const std::vector<Isa>& isas() {
  static const std::vector<Isa> table = [] {
    std::vector<Isa> found;
#if defined(__aarch64__)
    found.push_back(FNTK_ISA_ROW("neon", true, baseline));
#else
    found.push_back(FNTK_ISA_ROW("baseline", true, baseline));
#endif
#if defined(FNTK_X86_ISAS)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    found.push_back(FNTK_ISA_ROW("avx2", avx2, avx2));
    found.push_back(FNTK_ISA_ROW("avx512", avx512, avx512));
#endif
    return found;
  }();
  return table;
}

const Isa& find_isa(const std::string& name) {
  const Isa* best = nullptr;
  std::string known;
  for (const Isa& isa : isas()) {
    known += std::string(known.empty() ? "" : ", ") + isa.name + (isa.available ? "" : " (not on this processor)");
    if (isa.available && (name.empty() || name == isa.name)) best = &isa;
  }
  FNTK_CHECK(best, "isa '", name, "' is not available; this build has ", known);
  return *best;
}

// ---------------------------------------------------------------- op names

namespace {

constexpr int kDense = 0, kSum = 1, kStore = 2, kFirstDual = 3;

struct DualInfo {
  const char* name;
  int n_params, n_rows;
};

const DualInfo kDuals[] = {
#define FNTK_INFO(Phi, name) {name, generic::Phi<double>::n_params, generic::Phi<double>::n_rows},
    FNTK_DUALS(FNTK_INFO)
#undef FNTK_INFO
};

const DualInfo* find_dual(const std::string& name) {
  for (const DualInfo& dual : kDuals)
    if (name == dual.name) return &dual;
  return nullptr;
}

}  // namespace

const std::vector<std::string>& op_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {"dense", "sum", "store"};
    for (const DualInfo& dual : kDuals) all.push_back(dual.name);
    return all;
  }();
  return names;
}

bool is_dual(const std::string& name) { return find_dual(name) != nullptr; }

size_t dual_n_params(const std::string& name) {
  const DualInfo* dual = find_dual(name);
  FNTK_CHECK(dual, "no dual named '", name, "'");
  return size_t(dual->n_params);
}

void prepare(Program& program) {
  FNTK_CHECK(program.n_inputs > 0 && program.n_slots >= program.n_inputs && program.n_outputs > 0,
             "program needs inputs, slots and outputs");
  program.n_rows = 0;
  for (Op& op : program.ops) {
    const auto& names = op_names();
    op.code = int(std::find(names.begin(), names.end(), op.name) - names.begin());
    FNTK_CHECK(op.code < int(names.size()), "unknown op '", op.name, "'");
    size_t n_params = 0;
    if (op.code == kDense) {
      n_params = 4;
      FNTK_CHECK(op.params.size() == 4, "dense takes 4 parameters");
      op.n_rows = op.params[1] > 0 ? 3 : 1;
    } else if (op.code == kSum) {
      op.n_rows = int(op.src.size());
    } else if (op.code == kStore) {
      op.n_rows = 1;
    } else {
      n_params = size_t(kDuals[op.code - kFirstDual].n_params);
      op.n_rows = kDuals[op.code - kFirstDual].n_rows;
    }
    FNTK_CHECK(op.params.size() == n_params, op.name, " takes ", n_params, " parameters, given ", op.params.size());
    FNTK_CHECK(op.code == kSum ? !op.src.empty() : op.src.size() == 1, op.name, " has ", op.src.size(), " sources");
    const int n_dst = op.code == kStore ? program.n_outputs : program.n_slots;
    FNTK_CHECK(op.dst >= 0 && op.dst < n_dst, op.name, " writes slot ", op.dst, " of ", n_dst);
    for (int slot : op.src) FNTK_CHECK(slot >= 0 && slot < program.n_slots, op.name, " reads slot ", slot);
    // sum writes its destination before it has read every source
    if (op.code == kSum)
      for (int slot : op.src) FNTK_CHECK(slot != op.dst, "sum cannot write one of its sources");
    op.first_row = program.n_rows;
    program.n_rows += op.n_rows;
  }
  // lower() gives a value that nothing else reads the slot of its reader: in place means safe to fuse
  for (size_t k = 0; k + 1 < program.ops.size(); ++k) {
    const Op& next = program.ops[k + 1];
    Op& op = program.ops[k];
    op.fused = op.code >= kFirstDual && next.code == kDense && next.src[0] == op.dst && next.dst == op.dst;
  }
}

// ---------------------------------------------------------------- row pass

namespace {

// 1 / sqrt(1 + part / whole): the share of `whole` in a standard deviation; safe at 0 and at infinity.
double share(double whole, double part) { return whole == 0 ? 0 : 1 / std::sqrt(1 + part / whole); }

template <class T>
struct RowPass {
  const Program& program;
  RowTable<T>& table;
  std::vector<double> q;  // by slot

  explicit RowPass(const Program& p, RowTable<T>& t) : program(p), table(t), q(size_t(p.n_slots)) {}

  template <template <class> class Phi>
  void dual(const Op& op, long i) {
    const Phi<double> phi(op.params.data());
    T* rows[Phi<double>::n_rows > 0 ? Phi<double>::n_rows : 1];
    for (int r = 0; r < Phi<double>::n_rows; ++r) rows[r] = table.row(op.first_row + r);
    const double before = q[op.src[0]];
    Phi<double>::store(phi.row(before), rows, i);
    q[op.dst] = phi.variance(before);
  }

  void operator()(long i) {
    for (const Op& op : program.ops) {
      const double before = q[op.src[0]];
      if (op.code == kDense) {
        const double scaled = op.params[0] * before, bias = op.params[1];
        table.row(op.first_row)[i] = T(std::sqrt(op.params[2] * before));
        if (bias > 0) {
          table.row(op.first_row + 1)[i] = T(share(scaled, bias));
          table.row(op.first_row + 2)[i] = T(share(bias, scaled));
        }
        q[op.dst] = scaled + bias;
      } else if (op.code == kSum) {
        double total = 0;
        for (int slot : op.src) total += q[slot];
        for (size_t s = 0; s < op.src.size(); ++s) {
          const double own = q[op.src[s]];
          table.row(op.first_row + int(s))[i] = T(share(own, total - own));
        }
        q[op.dst] = total;
      } else if (op.code == kStore) {
        table.row(op.first_row)[i] = T(std::sqrt(before));
        table.variances[op.dst][i] = before;
      } else {
        int code = kFirstDual;
#define FNTK_ROW(Phi, name) \
  if (op.code == code++) dual<generic::Phi>(op, i);
        FNTK_DUALS(FNTK_ROW)
#undef FNTK_ROW
      }
    }
  }
};

constexpr long kRowChunk = 1024;

}  // namespace

template <class T>
RowTable<T> make_rows(const Program& program, const std::vector<const double*>& q, long n, int threads,
                      const Interrupt& interrupt) {
  RowTable<T> table;
  table.n = n;
  table.data.resize(size_t(program.n_rows) * size_t(n));
  table.variances.assign(size_t(program.n_outputs), std::vector<double>(size_t(n)));
  const long chunks = (n + kRowChunk - 1) / kRowChunk;
  parallel_for(chunks, n * long(program.ops.size()) < 50000 ? 1 : threads, interrupt, [&](long chunk, int) {
    RowPass<T> pass(program, table);
    for (long i = chunk * kRowChunk; i < std::min(n, (chunk + 1) * kRowChunk); ++i) {
      for (int slot = 0; slot < program.n_inputs; ++slot) pass.q[slot] = q[slot][i];
      pass(i);
    }
  });
  return table;
}

// ---------------------------------------------------------------- tiles of pairs

namespace {

// A unit of work is kLines x kCols pairs; a block of some lines of it, at most kPlane pairs, stays in L1 while all ops
// run over it. Columns start at multiples of kAlign, so that blocks of a symmetric unit can begin at the diagonal.
constexpr long kLines = 64, kCols = 256, kPlane = 1024, kAlign = 16, kDiagonal = 256;

// A worker's slots, on a cache line's boundary: a vector that straddles two costs double.
template <class T>
class State {
 public:
  void reserve(long elements) { bytes_.resize(size_t(elements) * sizeof(T) + 64); }
  T* data() { return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(bytes_.data()) + 63) / 64 * 64); }

 private:
  std::vector<char> bytes_;
};

template <class T>
struct TileRun {
  struct Worker {
    State<T> state, packed;
    std::vector<OpView<T>> views;
  };

  const Program& program;
  const Tile& tile;
  const std::vector<PairInput<T>>& inputs;
  const std::vector<PairOutput<T>>& outputs;
  const Kernels<T>& kernels;
  const Products<T>& products;
  bool ntk = false;
  std::vector<const T*> pointers1, pointers2;
  std::vector<Worker> workers;

  static bool inside(const PairInput<T>& input) { return input.unit1 && !input.product; }

  TileRun(const Program& p, const RowTable<T>& rows1, const RowTable<T>& rows2, const Tile& t,
          const std::vector<PairInput<T>>& in, const std::vector<PairOutput<T>>& out, const Isa& isa, int n_workers)
      : program(p), tile(t), inputs(in), outputs(out), kernels(isa.kernels<T>()), products(isa.products<T>()) {
    long packed = 0;
    for (const auto& output : outputs) ntk = ntk || output.planes[1];
    for (const auto& input : inputs) packed += inside(input) ? kCols * input.d : 0;
    for (int k = 0; k < program.n_rows; ++k) {
      pointers1.push_back(rows1.row(k));
      pointers2.push_back(rows2.row(k));
    }
    workers.resize(size_t(n_workers));
    for (Worker& worker : workers) {
      worker.state.reserve(2 * program.n_slots * kPlane);
      worker.packed.reserve(packed);
      worker.views.resize(program.ops.size());
      for (size_t k = 0; k < program.ops.size(); ++k) {
        const Op& op = program.ops[k];
        OpView<T>& view = worker.views[k];
        view.params = op.params.data();
        view.dst = op.dst;
        view.n_src = int(op.src.size());
        view.src = op.src.data();
        view.rows1 = pointers1.data() + op.first_row;
        view.rows2 = pointers2.data() + op.first_row;
        view.next = op.fused ? &worker.views[k + 1] : nullptr;
      }
    }
  }

  void load(const PairInput<T>& input, int slot, const Block<T>& b, long batch, long i, long j, const T* columns,
            long packed_stride) const {
    if (inside(input))
      products.product(input.unit1.at(batch, i, 0), b.lines, input.d, columns, b.cols, packed_stride, b.u(slot));
    for (int line = 0; line < b.lines; ++line) {
      T* u = b.u(slot) + line * b.stride;
      if (input.unit1)
        kernels.defect(b.cols, input.product ? input.product.at(batch, i + line, j) : u, input.close,
                       input.unit1.at(batch, i + line, 0), input.unit2.at(batch, j, 0), input.d, u);
      else if (input.defect)
        std::copy_n(input.defect.at(batch, i + line, j), b.cols, u);
      else
        std::fill_n(u, b.cols, T(0));
      if (!b.ntk) continue;
      if (input.theta)
        std::copy_n(input.theta.at(batch, i + line, j), b.cols, b.theta(slot) + line * b.stride);
      else
        std::fill_n(b.theta(slot) + line * b.stride, b.cols, T(0));
    }
  }

  // i, j: within the tile; `packed` holds the unit's columns from this block's first on.
  void block(Block<T> b, Worker& worker, long batch, long i, long j, const T* packed) const {
    b.i0 = tile.row1 + batch * tile.n1 + i;
    b.j0 = tile.row2 + batch * tile.n2 + j;
    for (int slot = 0; slot < program.n_inputs; ++slot) {
      const PairInput<T>& input = inputs[size_t(slot)];
      load(input, slot, b, batch, i, j, packed, b.stride);
      if (inside(input)) packed += b.stride * input.d;
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
      kernels.ops[op.code](view, b);
      k += op.fused;
    }
  }

  void unit(long batch, long i, long j, Worker& worker) const {
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
    T* packed = worker.packed.data();
    for (const auto& input : inputs)
      if (inside(input)) {
        products.pack(input.unit2.at(batch, j, 0), cols, input.d, packed, stride);
        packed += stride * input.d;
      }
    Block<T> b = {0, 0, 0, 0, 0, stride, kPlane, worker.state.data(), ntk};
    const long step = std::max(4L, std::min(8L, kPlane / stride));
    for (long line = 0; line < lines; line += step) {
      const long skip = tile.symmetric ? std::max(0L, I + line - J) / kAlign * kAlign : 0;
      if (skip >= cols) break;
      b.lines = int(std::min(step, lines - line));
      b.cols = int(cols - skip);
      block(b, worker, batch, i + line, j + skip, worker.packed.data() + skip);
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
void run(const Program& program, const RowTable<T>& rows1, const RowTable<T>& rows2, const Tile& tile,
         const std::vector<PairInput<T>>& inputs, const std::vector<PairOutput<T>>& outputs, const Isa& isa,
         int threads, const Interrupt& interrupt) {
  const long pairs = tile.batches * tile.lines * tile.cols;
  const int workers = pairs * long(program.ops.size()) < 100000 ? 1 : std::max(1, threads);
  TileRun<T> work(program, rows1, rows2, tile, inputs, outputs, isa, workers);
  if (tile.diagonal) {
    parallel_for((tile.lines + kDiagonal - 1) / kDiagonal, workers, interrupt,
                 [&](long unit, int worker) { work.diagonal_unit(unit * kDiagonal, work.workers[size_t(worker)]); });
    return;
  }
  const long groups = (tile.lines + kLines - 1) / kLines, chunks = (tile.cols + kCols - 1) / kCols;
  parallel_for(tile.batches * groups * chunks, workers, interrupt, [&](long unit, int worker) {
    const long batch = unit / (groups * chunks), rest = unit % (groups * chunks);
    work.unit(batch, rest / chunks * kLines, rest % chunks * kCols, work.workers[size_t(worker)]);
  });
}

// ---------------------------------------------------------------- inputs and element-wise maps

template <class T>
void normalise(const T* x, long n, long d, long stride, T* unit, double* q, const Isa& isa, int threads,
               const Interrupt& interrupt) {
  const Kernels<T>& kernels = isa.kernels<T>();
  const long chunk = std::max(1L, 65536 / std::max(1L, d));
  parallel_for((n + chunk - 1) / chunk, n * d < 200000 ? 1 : threads, interrupt, [&](long c, int) {
    for (long i = c * chunk; i < std::min(n, (c + 1) * chunk); ++i) {
      const T* row = x + i * stride;
      double square = kernels.sum_of_squares(row, 1, d), scale = 1;
      const bool extreme = !(square > 1e-200 && square < 1e300);  // squares may have left double's range
      if (extreme && !std::isnan(square)) {
        double largest = 0;
        for (long k = 0; k < d; ++k) largest = std::max(largest, std::abs(double(row[k])));
        if (largest > 0 && std::isfinite(largest)) {
          scale = std::ldexp(1.0, -std::max(std::ilogb(largest), -1000));
          square = kernels.sum_of_squares(row, scale, d);
        }
      }
      q[i] = square / scale / scale / double(d);
      const double inverse = square > 0 ? 1 / std::sqrt(square) : 0;
      kernels.scale(row, scale, inverse, d, unit + i * d);
    }
  });
}

template <class T>
void dual_map(const std::string& name, const std::vector<double>& params, long n, const T* q11, const T* q12,
              const T* q22, T* k, T* kdot, const Isa& isa, int threads, const Interrupt& interrupt) {
  FNTK_CHECK(params.size() == dual_n_params(name), name, " takes ", dual_n_params(name), " parameters, given ",
             params.size());
  const auto& names = op_names();
  const auto map = isa.kernels<T>().dual_maps[std::find(names.begin(), names.end(), name) - names.begin()];
  constexpr long chunk = 16384;
  parallel_for((n + chunk - 1) / chunk, threads, interrupt, [&](long c, int) {
    const long first = c * chunk, count = std::min(chunk, n - first);
    map(count, q11 + first, q12 + first, q22 + first, params.data(), k + first, kdot + first);
  });
}

#define FNTK_INSTANTIATE(T)                                                                                          \
  template RowTable<T> make_rows<T>(const Program&, const std::vector<const double*>&, long, int, const Interrupt&); \
  template void run<T>(const Program&, const RowTable<T>&, const RowTable<T>&, const Tile&,                          \
                       const std::vector<PairInput<T>>&, const std::vector<PairOutput<T>>&, const Isa&, int,         \
                       const Interrupt&);                                                                            \
  template void normalise<T>(const T*, long, long, long, T*, double*, const Isa&, int, const Interrupt&);            \
  template void dual_map<T>(const std::string&, const std::vector<double>&, long, const T*, const T*, const T*, T*,  \
                            T*, const Isa&, int, const Interrupt&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
