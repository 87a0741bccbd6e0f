#include "cuda/dense/steps.h"

#include <algorithm>

#include "common/check.h"
#include "common/ops.h"
#include "math/duals.h"

namespace fntk {
namespace {

#define FNTK_FITS(Phi, name) static_assert(generic::Phi<double>::n_params <= kMaxParams, name ": too many parameters");
FNTK_DUALS(FNTK_FITS)
#undef FNTK_FITS

class Encoder {
 public:
  Encoder(const Program& program, const std::vector<double>& numbers, int rows_at_once)
      : program_(program), numbers_(numbers), rows_at_once_(rows_at_once) {}

  std::vector<Step> steps() {
    for (int input = 0; input < program_.n_inputs; ++input) {
      keep(0);
      emit(kInput, input, 0, 0);
      hold(input);
    }
    for (size_t k = 0; k < program_.ops.size(); ++k) {
      const Op& op = program_.ops[k];
      FNTK_CHECK(op.code != kNorm && op.code != kProduct && op.kind != kMeans, "no device code of ", op.name);
      if (op.code == kSum) {
        keep(k);
        for (size_t s = 0; s < op.src.size(); ++s) {
          Step& part = emit(kPart, op.src[s], op.first_row + int(s), 1);
          part.head.after = int(op.src.size() - s) - 1;
        }
        hold(op.dst);
        continue;
      }
      read(op.src[0], k);
      if (op.code == kStore) {
        emit(kStore, op.dst, op.first_row, 1);
        continue;
      }
      if (op.src[0] != op.dst) keep(k + 1);
      const Op* dense = op.code == kDense ? &op : op.fused ? &program_.ops[k + 1] : nullptr;
      const int n_rows = op.n_rows + (op.fused ? dense->n_rows : 0);
      // a counted one reads its arrays where they lie
      Step& step =
          op.code >= kFirstCounted ? add(op.code, op.dst, op.first_row) : emit(op.code, op.dst, op.first_row, n_rows);
      if (dense) {
        copy(*dense, step.dense);
        step.head.after = dense->kind;
      }
      step.n_params = op.n_numbers;
      step.first_param = op.first_number;
      if (op.code != kDense && op.code < kFirstCounted) copy(op, step.phi);
      k += op.fused;
      hold(op.dst);
    }
    emit(kEnd, 0, 0, 0);
    return steps_;
  }

 private:
  void copy(const Op& op, double* to) const { std::copy_n(numbers_.begin() + op.first_number, op.n_numbers, to); }
  // Whether an op from k on reads what the slot holds now.
  bool needed(int slot, size_t k) const {
    for (; k < program_.ops.size(); ++k) {
      const Op& op = program_.ops[k];
      if (std::count(op.src.begin(), op.src.end(), slot)) return true;
      if (op.code != kStore && op.dst == slot) return false;
    }
    return false;
  }
  void hold(int slot) {
    held_ = slot;
    dirty_ = true;
  }
  void keep(size_t k) {
    if (!dirty_ || !needed(held_, k)) return;
    emit(kSave, held_, 0, 0);
    dirty_ = false;
  }
  void read(int slot, size_t k) {
    if (held_ == slot) return;
    keep(k);
    emit(kLoad, slot, 0, 0);
    held_ = slot;
    dirty_ = false;
  }
  Step& emit(int code, int slot, int row, int n_rows) {
    if (row + n_rows > staged_) {
      FNTK_CHECK(n_rows <= rows_at_once_, "a step reads ", n_rows, " row arrays, ", rows_at_once_, " are staged");
      const int count = std::min(rows_at_once_, int(program_.places.size()) - row);
      staged_ = row + count;
      steps_.push_back({{kStage, count, 0, row}, {}, {}, 0, 0});
    }
    return add(code, slot, row);
  }
  Step& add(int code, int slot, int row) {
    steps_.push_back({{code, 0, slot, row}, {}, {}, 0, 0});
    return steps_.back();
  }

  const Program& program_;
  const std::vector<double>& numbers_;
  int rows_at_once_;
  std::vector<Step> steps_;
  int held_ = -1;       // the slot in the accumulator,
  bool dirty_ = false;  // whose own place is older
  int staged_ = 0;      // end of the row arrays staged
};

}  // namespace

std::vector<Step> encode(const Program& program, const std::vector<double>& numbers, int rows_at_once) {
  return Encoder(program, numbers, rows_at_once).steps();
}

}  // namespace fntk
