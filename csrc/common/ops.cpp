#include "common/ops.h"

#include <algorithm>

#include "common/check.h"
#include "math/counted.h"
#include "math/duals.h"

namespace fntk {

namespace {

static_assert(kFirstCounted + kCounted <= kMaxOps, "as many ops as there are codes");
#define FNTK_FITS(Phi, name) static_assert(generic::Phi<double>::n_rows <= kMaxRows, name ": too many row numbers");
FNTK_DUALS(FNTK_FITS)
#undef FNTK_FITS

using RowNames = std::vector<std::string>;

RowNames dense_rows(const Op& op) {
  if (op.kind == kFine) return {"std", "share", "bias", "share_low", "bias_low"};
  if (op.kind == kBias) return {"std", "share", "bias"};
  return {"std"};
}

RowNames sum_rows(const Op& op) {
  RowNames names;
  for (size_t k = 0; k < op.src.size(); ++k) {
    names.push_back(text("share", k));
    if (op.kind == kMeans) names.push_back(text("mean", k));
  }
  return names;
}

RowNames norm_rows(const Op&) { return {"gain"}; }

RowNames product_rows(const Op& op) {
  RowNames names;
  for (size_t k = 0; k < op.src.size(); ++k) names.push_back(text("std", k));
  return names;
}

RowNames store_rows(const Op&) { return {"std"}; }

template <template <class> class Phi>
RowNames dual_rows(const Op&) {
  return RowNames(Phi<double>::row_names.begin(), Phi<double>::row_names.end());
}

template <template <class> class Phi>
RowNames counted_rows(const Op& op) {
  RowNames names;
  for (int k = 0; k + 1 < Phi<double>::n_rows(op.n_numbers); ++k) names.push_back(text("g", k));
  names.push_back("e");
  return names;
}

template <template <class> class Phi>
bool counted_takes(const double* params, int n) {
  return n <= kMaxCounted && Phi<double>::takes(params, n) && Phi<double>::n_constants(n) <= kMaxConstants;
}

}  // namespace

const std::vector<OpInfo>& ops() {
  static const std::vector<OpInfo> table = {{"dense", 4, false, true, true, dense_rows, nullptr},
                                            {"sum", 0, false, true, true, sum_rows, nullptr},
                                            {"store", 0, false, true, true, store_rows, nullptr},
                                            {"norm", 1, false, false, true, norm_rows, nullptr},
                                            {"product", 0, false, false, true, product_rows, nullptr},
#define FNTK_INFO(Phi, name)          \
  {name,                              \
   generic::Phi<double>::n_params,    \
   generic::Phi<double>::positive,    \
   generic::Phi<double>::homogeneous, \
   generic::Phi<double>::cheap,       \
   dual_rows<generic::Phi>,           \
   nullptr},
                                            FNTK_DUALS(FNTK_INFO)
#undef FNTK_INFO
#define FNTK_INFO(Phi, name)          \
  {name,                              \
   kAnyNumber,                        \
   generic::Phi<double>::positive,    \
   generic::Phi<double>::homogeneous, \
   false,                             \
   counted_rows<generic::Phi>,        \
   counted_takes<generic::Phi>},
                                                FNTK_COUNTED(FNTK_INFO)
#undef FNTK_INFO
  };
  return table;
}

int code_of(const std::string& name) {
  const auto& all = ops();
  const auto found = std::find_if(all.begin(), all.end(), [&](const OpInfo& info) { return info.name == name; });
  FNTK_CHECK(found != all.end(), "unknown op '", name, "'");
  return int(found - all.begin());
}

void check_parameters(int code, size_t given) {
  const OpInfo& info = ops()[size_t(code)];
  FNTK_CHECK(info.n_params == kAnyNumber || size_t(info.n_params) == given, info.name, " takes ", info.n_params,
             " parameters, given ", given);
}

int n_rows_of(int code, size_t n_params) {
  Op op;
  op.n_numbers = int(n_params);
  return int(ops()[size_t(code)].row_names(op).size());
}

void prepare(Program& program) {
  FNTK_CHECK(program.n_inputs > 0 && program.n_slots >= program.n_inputs && program.n_outputs > 0,
             "program needs inputs, slots and outputs");
  program.places.clear();
  for (Op& op : program.ops) {
    op.code = code_of(op.name);
    const OpInfo& info = ops()[size_t(op.code)];
    const bool known = op.kind == kPlain || op.kind == kGuard || op.kind == kBias || op.kind == kFine;
    FNTK_CHECK(op.code != kDense || known, "dense has kind ", op.kind);
    FNTK_CHECK(op.n_numbers >= 0 && op.first_number >= 0, op.name, ": no parameters ", op.first_number, " .. ",
               op.first_number + op.n_numbers);
    check_parameters(op.code, size_t(op.n_numbers));
    program.n_numbers = std::max(program.n_numbers, op.first_number + op.n_numbers);
    const bool joins = op.code == kSum || op.code == kProduct;
    FNTK_CHECK(joins ? !op.src.empty() : op.src.size() == 1, op.name, " has ", op.src.size(), " sources");
    const int n_dst = op.code == kStore ? program.n_outputs : program.n_slots;
    FNTK_CHECK(op.dst >= 0 && op.dst < n_dst, op.name, " writes slot ", op.dst, " of ", n_dst);
    for (int slot : op.src) FNTK_CHECK(slot >= 0 && slot < program.n_slots, op.name, " reads slot ", slot);
    // the destination is written before every source has been read
    if (joins)
      for (int slot : op.src) FNTK_CHECK(slot != op.dst, op.name, " cannot write one of its sources");
    op.first_row = int(program.places.size());
    for (const std::string& name : info.row_names(op)) {
      const auto place = op.rows.find(name);
      FNTK_CHECK(place != op.rows.end(), op.name, " reads the row '", name, "', which is not among those given");
      FNTK_CHECK(place->second >= 0, op.name, ": no row ", place->second);
      program.places.push_back(place->second);
      program.table_rows = std::max(program.table_rows, place->second + 1);
    }
    op.n_rows = int(program.places.size()) - op.first_row;
  }
  // lower() gives a value that nothing else reads the slot of its reader: in place means safe to fuse
  for (size_t k = 0; k + 1 < program.ops.size(); ++k) {
    const Op& next = program.ops[k + 1];
    Op& op = program.ops[k];
    op.fused = op.code >= kFirstDual && op.code < kFirstCounted && next.code == kDense && next.src[0] == op.dst &&
               next.dst == op.dst && next.kind != kFine;
  }
}

void check_numbers(const Program& program, const std::vector<double>& numbers) {
  FNTK_CHECK(long(numbers.size()) >= program.n_numbers, "the program reads ", program.n_numbers, " numbers, given ",
             numbers.size());
  for (const Op& op : program.ops) check_values(op.code, numbers.data() + op.first_number, op.n_numbers);
}

void check_values(int code, const double* params, int n) {
  const OpInfo& info = ops()[size_t(code)];
  FNTK_CHECK(!info.takes || info.takes(params, n), info.name, ": these ", n, " numbers are not its parameters");
}

}  // namespace fntk
