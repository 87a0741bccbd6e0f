// The reverse pass over a tile of pairs: what python/fastntk/engines/numpy_adjoint.py defines, in units that stay in
// cache. Everything of one row is in arrays that Python has made; what belongs to rows alone goes back to it as sums.
// A unit begins with products of its rows and ends with gradients in them (numpy_pairs.py).
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/program.h"
#include "math/vmath.h"

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
  std::vector<const double*> on_k, on_theta;  // of each output, lines x cols, or null
  const AdjointEntries* entries;              // or null; with them the sums are no one's
};

// Some lines and at most kAdjointCols columns of a tile. Defects of the inputs in, and dL/d of them out, each
// input x kAdjointLines x kAdjointCols; sums are added to arrays of the whole tile.
struct AdjointUnit {
  long i0, i1, j0, j1;
  const double* defects;
  double* P;
  double *line_sums, *col_sums, *totals;  // sums x lines, sums x cols, n_totals
};

// Rows of one input of the program, lines x d and cols x d: of length 1, and as given times powers of two.
struct AdjointRows {
  long d;
  const double *unit1, *unit2, *scaled1, *scaled2, *scale1, *scale2, *length1, *length2;
  double *gradient1, *gradient2;  // are added to; or null
};

// What a whole tile is asked for. Rows 1 are rows 2 where it is the `same`, and pairs below the diagonal are left out.
struct AdjointCall {
  std::vector<AdjointRows> rows;
  bool same;
  double tiny, close;                     // defects: of rounding, and those that are taken from the rows themselves
  double *line_sums, *col_sums, *totals;  // are added to
};

// Pairs near rho = +-1: in the tile, the product of their unit rows, dL/d rho.
struct ClosePair {
  long i, j;
  double product, P;
};

// Of some rows of one side, which meet some of the other one; `far`: dL/d rho of the pairs of the tile.
struct AdjointBack {
  long d, first, last, other_first, other_last;
  const double* far;
  long own_step, other_step;
  const double *unit, *along, *other_unit, *other_length;
  double* gradient;
};

// What is compiled for each instruction set.
struct AdjointLoops {
  void (*unit)(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const AdjointUnit& unit,
               const double* roots2, double* scratch);
  long (*defects)(const AdjointCall& call, const AdjointRows& rows, const AdjointUnit& unit, double* v,
                  ClosePair* close, double* part);
  void (*weights)(const AdjointTile& tile, const AdjointRows& rows, const AdjointUnit& unit, const double* v, double* P,
                  ClosePair* close, long count, double* far, double* along1, double* along2);
  void (*gradient)(const Products<double>& products, const AdjointBack& back, double* scratch);
  void (*close)(const AdjointCall& call, const AdjointRows& rows, const ClosePair& pair, bool second, double* part);
};

// Place of a nonlinearity among FNTK_DIFFERENTIABLE, -1 for none.
int adjoint_of(const std::string& name);

void run_adjoint(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const AdjointCall& call, const Isa& isa,
                 int threads, const Interrupt& interrupt);

constexpr int kAdjointLines = int(kPanel), kAdjointCols = int(kMaxCols);  // of a unit
constexpr int kAdjointLane = 128;                 // columns that all steps go through before the next
constexpr long kRowsWidth = 256, kRowsStep = 32;  // features of a gradient that are made at a time, and a step of these
constexpr int kAdjointPlanes = 5;                 // v, theta, P, T, kdot of a value
constexpr int kAdjointExtra = 4;                  // planes beside those of the values
constexpr int kAdjointSides = 2;                  // of a value's D, behind them where entries are asked for

namespace FNTK_ISA {
// Of a standard deviation; 0 of one whose square is no normal number, where products of two would overflow.
FNTK_HD double inverse_root(double s) { return select(s < 1e-153, 0.0, 1 / s); }
}  // namespace FNTK_ISA

}  // namespace fntk
