// What depends on one input alone, in float64 whatever the pairs use: host and CUDA run this same text.
#pragma once
#include "common/steps.h"
#include "math/duals.h"

namespace fntk {
namespace FNTK_ISA {

// 1 / sqrt(1 + part / whole): the share of `whole` in a standard deviation; safe at 0 and at infinity.
FNTK_HD double share(double whole, double part) { return whole == 0 ? 0 : 1 / sqrt(1 + part / whole); }

template <class T>
struct RowArrays {  // row k of input i: rows[k * n + i]
  T* rows;
  long n;
};

template <template <class> class Phi, class T>
FNTK_HD double dual_row(const Step& step, const RowArrays<T>& table, long i, double before) {
  const Phi<double> phi(step.phi);
  T* rows[Phi<double>::n_rows > 0 ? Phi<double>::n_rows : 1];
  for (int r = 0; r < Phi<double>::n_rows; ++r) rows[r] = table.rows + (step.head.row + r) * table.n;
  Phi<double>::store(phi.row(before), rows, i);
  return phi.variance(before);
}

template <class T>
FNTK_HD double dense_row(const Step& step, int row, const RowArrays<T>& table, long i, double before) {
  const double scaled = step.dense[0] * before, bias = step.dense[1];
  T* first = table.rows + row * table.n + i;
  first[0] = T(sqrt(step.dense[2] * before));
  if (step.head.after == kBias) {
    first[table.n] = T(share(scaled, bias));
    first[2 * table.n] = T(share(bias, scaled));
  }
  return scaled + bias;
}

// Variances of every op for input i, given those of the program's inputs: input(k). Slots: get(s), put(s, q).
// output(k, q) is called for every output. S: a Step.
template <class S, class T, class Input, class Slots, class Output>
FNTK_HD void row_pass(const S* steps, const Input& input, Slots& slots, const RowArrays<T>& table, long i,
                      const Output& output) {
  double q = 0, total = 0;
  int parts = 0;  // of a sum, still to come
  for (const S* step = steps; step->head.code != kEnd; ++step) {
    const StepHead& head = step->head;
    if (head.code == kInput) {
      q = input(head.slot);
    } else if (head.code == kLoad) {
      q = slots.get(head.slot);
    } else if (head.code == kSave) {
      slots.put(head.slot, q);
    } else if (head.code == kPart) {
      if (parts == 0) {
        parts = head.after + 1;
        total = 0;
        int left = parts;
        for (const S* next = step; left > 0; ++next)
          if (next->head.code == kPart) {
            total += slots.get(next->head.slot);
            --left;
          }
      }
      const double own = slots.get(head.slot);
      table.rows[head.row * table.n + i] = T(share(own, total - own));
      if (--parts == 0) q = total;
    } else if (head.code == kStore) {
      table.rows[head.row * table.n + i] = T(sqrt(q));
      output(head.slot, q);
    } else if (head.code == kDense) {
      q = dense_row(*step, head.row, table, i, q);
    } else {
      int code = kFirstDual, behind = head.row;
#define FNTK_ROW(Phi, name)                \
  if (head.code == code++) {               \
    q = dual_row<Phi>(*step, table, i, q); \
    behind += Phi<double>::n_rows;         \
  }
      FNTK_DUALS(FNTK_ROW)
#undef FNTK_ROW
      if (head.code < code && head.after != kNoDense) q = dense_row(*step, behind, table, i, q);
    }
  }
}

}  // namespace FNTK_ISA
}  // namespace fntk
