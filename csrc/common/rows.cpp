#include "common/rows.h"

#include <algorithm>

#include "common/check.h"
#include "common/parallel.h"
#include "common/row_pass.h"

namespace fntk {

// ---------------------------------------------------------------- op names

template <template <class> class Phi>
void dual_variance(const double* params, long n, const double* q, double* found) {
  const Phi<double> phi(params);
  for (long k = 0; k < n; ++k) found[k] = phi.variance(q[k]);
}

template <template <class> class Phi>
void dual_row(const double* params, double q, double* row) {
  const Phi<double> phi(params);
  double* rows[Phi<double>::n_rows > 0 ? Phi<double>::n_rows : 1];
  for (int r = 0; r < Phi<double>::n_rows; ++r) rows[r] = row + r;
  Phi<double>::store(phi.row(q), rows, 0);
}

static_assert(kFirstDual + kDuals <= kMaxOps, "as many ops as there are codes");
#define FNTK_FITS(Phi, name)                                                                 \
  static_assert(generic::Phi<double>::n_params <= kMaxParams, name ": too many parameters"); \
  static_assert(generic::Phi<double>::n_rows <= kMaxRows, name ": too many row numbers");
FNTK_DUALS(FNTK_FITS)
#undef FNTK_FITS

const std::vector<DualInfo>& duals() {
  static const std::vector<DualInfo> table = {
#define FNTK_INFO(Phi, name)          \
  {name,                              \
   generic::Phi<double>::n_params,    \
   generic::Phi<double>::n_rows,      \
   generic::Phi<double>::positive,    \
   generic::Phi<double>::homogeneous, \
   dual_variance<generic::Phi>,       \
   dual_row<generic::Phi>},
      FNTK_DUALS(FNTK_INFO)
#undef FNTK_INFO
  };
  return table;
}

namespace {

const DualInfo* find_dual(const std::string& name) {
  for (const DualInfo& dual : duals())
    if (name == dual.name) return &dual;
  return nullptr;
}

}  // namespace

const std::vector<std::string>& op_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {"dense", "sum", "store"};
    for (const DualInfo& dual : duals()) all.push_back(dual.name);
    return all;
  }();
  return names;
}

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
      FNTK_CHECK(op.kind == kPlain || op.kind == kGuard || op.kind == kBias, "dense has kind ", op.kind);
      op.n_rows = op.kind == kBias ? 3 : 1;
    } else if (op.code == kSum) {
      op.n_rows = int(op.src.size());
    } else if (op.code == kStore) {
      op.n_rows = 1;
    } else {
      n_params = size_t(duals()[size_t(op.code - kFirstDual)].n_params);
      op.n_rows = duals()[size_t(op.code - kFirstDual)].n_rows;
    }
    FNTK_CHECK(size_t(op.n_numbers) == n_params && op.first_number >= 0, op.name, " takes ", n_params,
               " parameters, given ", op.n_numbers);
    program.n_numbers = std::max(program.n_numbers, op.first_number + op.n_numbers);
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

void check_numbers(const Program& program, const std::vector<double>& numbers) {
  FNTK_CHECK(long(numbers.size()) >= program.n_numbers, "the program reads ", program.n_numbers, " numbers, given ",
             numbers.size());
}

// ---------------------------------------------------------------- row pass

namespace {

struct Variances {  // by slot
  std::vector<double> q;
  double get(int slot) const { return q[size_t(slot)]; }
  void put(int slot, double value) { q[size_t(slot)] = value; }
};

constexpr long kRowChunk = 1024;

}  // namespace

template <class T>
RowTable<T> make_rows(const Program& program, const std::vector<double>& numbers, const std::vector<const double*>& q,
                      long n, int threads, const Interrupt& interrupt) {
  RowTable<T> table;
  table.n = n;
  table.data.resize(size_t(program.n_rows) * size_t(n));
  table.variances.assign(size_t(program.n_outputs), std::vector<double>(size_t(n)));
  const std::vector<Step> steps = encode(program, numbers);
  const long chunks = (n + kRowChunk - 1) / kRowChunk;
  parallel_for(chunks, n * long(program.ops.size()) < 50000 ? 1 : threads, interrupt,
               [&](long chunk, int, Watch& watch) {
                 Variances slots{std::vector<double>(size_t(program.n_slots))};
                 for (long i = chunk * kRowChunk; i < std::min(n, (chunk + 1) * kRowChunk); ++i) {
                   generic::row_pass(
                       steps.data(), [&](int input) { return q[size_t(input)][i]; }, slots,
                       generic::RowArrays<T>{table.row(0), n}, i,
                       [&](int output, double value) { table.variances[size_t(output)][size_t(i)] = value; });
                   watch.spent(8 * long(steps.size()));
                 }
               });
  return table;
}

#define FNTK_INSTANTIATE(T)                                                                                        \
  template RowTable<T> make_rows<T>(const Program&, const std::vector<double>&, const std::vector<const double*>&, \
                                    long, int, const Interrupt&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
