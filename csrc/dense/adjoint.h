// The reverse pass over a tile of pairs: what python/fastntk/engines/numpy_adjoint.py defines, in blocks that stay in
// cache. Everything of one row is in arrays that Python has made; what belongs to rows alone goes back to it as sums.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "common/isa.h"

namespace fntk {

constexpr int kAdjointDense = 0, kAdjointSum = 1, kAdjointStore = 2, kAdjointDual = 3;

// A step on values that are numbered through. Row arrays from first_row on: of a biased dense C = sqrt(w2 q / q') and
// S = sqrt(b2 / q'), of a sum the roots of its parts' shares, of a dual its rows and then their derivatives in ln q.
// Sums from first_sum on, one a line and one a column, 1 and 2 the sides:
//   store  Kbar K / 2
//   dense  P' gamma (where `gap`), T' K
//   sum    P' (share gamma' - gamma_b), for each branch
//   dual   P' r' drho'/dlnq + theta T' dkdot/dlnq, of one that has rows
// Totals from first_total on: of a dense T' theta and T'.
struct AdjointOp {
  int code;
  int dst;
  std::vector<int> src;
  std::vector<double> params;
  int first_row, first_sum, first_total;
  bool bias, guard, gap;
};

// Every pair's own derivatives in what numbers of dense steps depend on: groups, one plane each. Nothing is added up,
// and the rows' part of the way back is gone with each pair: D = dL/d ln q of both its rows.
struct AdjointEntries {
  int n_groups;
  const double *pull1, *pull2;  // of the value behind a dual d ln V / d ln q: values x lines, values x cols
  const double* slopes;         // of (w2, b2, f, g) of each op in each group: ops x 4 x groups
  double* planes;               // groups x lines x cols
};

struct AdjointTile {
  long lines, cols;
  int n_inputs, n_values, n_sums, n_totals;
  bool ntk;
  const double *q1, *q2;                      // variances, values x lines and values x cols
  const double *rows1, *rows2;                // arrays x lines and arrays x cols
  std::vector<const double*> defects;         // of the inputs, lines x cols
  std::vector<const double*> on_k, on_theta;  // of each output, or null
  std::vector<double*> P;                     // of the inputs, lines x cols
  double *line_sums, *col_sums, *totals;
  const AdjointEntries* entries;  // or null; then the sums are no one's
};

// Place of a nonlinearity among FNTK_DIFFERENTIABLE, -1 for none.
int adjoint_of(const std::string& name);

void run_adjoint(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const Isa& isa);

// Lines first .. last of a tile; sums over lines are added up in col_sums and totals.
using AdjointLines = void (*)(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const double* roots2,
                              double* scratch);

constexpr int kAdjointCols = 256;  // of a block
constexpr int kAdjointPlanes = 4;  // v, theta, P, T of a value
constexpr int kAdjointExtra = 4;   // planes beside those of the values
constexpr int kAdjointSides = 2;   // of a value's D, behind them where entries are asked for

}  // namespace fntk
