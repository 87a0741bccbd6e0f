// A program as a machine with one accumulator executes it: what device code reads.
//
// The accumulator holds one slot's pair state. Most ops follow each other on one slot, so nothing moves; `load` and
// `save` stand only where branches meet. A nonlinearity and the Dense layer behind it are one step, as in the CPU's
// block loops. Row arrays lie in the order in which the ops name them.
#pragma once
#include <vector>

#include "common/program.h"

namespace fntk {

// Step codes beside kDense, kStore and the duals. A sum is a row of kPart steps.
constexpr int kInput = kMaxOps, kLoad = kInput + 1, kSave = kInput + 2, kPart = kInput + 3, kStage = kInput + 4,
              kEnd = kInput + 5;

constexpr int kMaxParams = 4;  // of a nonlinearity

struct StepHead {
  int code;
  int after;  // dense and duals: the kind of Dense; kPart: parts still to come; kStage: row arrays
  int slot;   // kInput: input; kStore: output; else a slot
  int row;    // the first of its row arrays; of a dual those of the Dense behind it follow its own
};

struct Step {
  StepHead head;
  double dense[4];  // w2, b2, f, g
  double phi[kMaxParams];
  int n_params, first_param;  // of a counted nonlinearity, among the numbers of a call
};

// Ends with kEnd; a kStage before the first step that reads row arrays beyond those staged so far, each of at most
// rows_at_once.
std::vector<Step> encode(const Program& program, const std::vector<double>& numbers, int rows_at_once);

}  // namespace fntk
