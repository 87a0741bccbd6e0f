// What the reverse pass does with rows: defects of pairs, and gradients in the rows from those in pairs, as
// python/fastntk/engines/numpy_pairs.py defines them. Compiled once per instruction set, into its own namespace.
//
// Memory comes from the caller: templates of the library that allocate would be one text for all instruction sets.
#include <algorithm>
#include <cmath>

#include "dense/adjoint.h"
#include "math/ops.h"

namespace fntk {
namespace FNTK_ISA {

double dot(const double* x, const double* y, long d) {
  double acc[8] = {};
  long k = 0;
  for (; k + 8 <= d; k += 8)
    for (int l = 0; l < 8; ++l) acc[l] += x[k + l] * y[k + l];
  for (int l = 0; k + l < d; ++l) acc[l] += x[k + l] * y[k + l];
  return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

// What of y is orthogonal to x, which is not 0, right where it is small: one rounding, then a second projection.
void across(const double* x, const double* y, long d, double* found) {
  const double square = dot(x, x, d), first = -dot(x, y, d) / square;
  for (long k = 0; k < d; ++k) found[k] = std::fma(first, x[k], y[k]);
  const double second = dot(found, x, d) / square;
  for (long k = 0; k < d; ++k) found[k] -= second * x[k];
}

// Products of unit rows become signed defects, in place; close pairs are listed, and counted.
long unit_defects(const AdjointCall& call, const AdjointRows& rows, const AdjointUnit& unit, double* v,
                  ClosePair* close, double* part) {
  const int n = int(unit.j1 - unit.j0);
  const double limit = call.close, tiny = call.tiny;
  long count = 0;
  for (long i = unit.i0; i < unit.i1; ++i) {
    double* line = v + (i - unit.i0) * kAdjointCols;
    double least = 1;
    FNTK_LANES
    for (int k = 0; k < n; ++k) least = select(1 - fabs(line[k]) < least, 1 - fabs(line[k]), least);
    for (int k = 0; least < limit && k < n; ++k)
      if (1 - std::fabs(line[k]) < limit) close[count++] = {i, unit.j0 + k, line[k], 0};
    FNTK_LANES
    for (int k = 0; k < n; ++k) {
      const double w = 1 - fabs(line[k]);
      line[k] = signed_defect(!(line[k] < 0.0), select(w <= tiny, 0.0, w));
    }
  }
  for (ClosePair* pair = close; pair < close + count; ++pair) {
    double w = 0;
    if (!(call.same && pair->i == pair->j)) {  // of a row with itself nothing lies across
      const double *x = rows.scaled1 + pair->i * rows.d, *y = rows.scaled2 + pair->j * rows.d;
      across(x, y, rows.d, part);
      const double sine2 = dot(part, part, rows.d) / dot(y, y, rows.d);
      w = std::min(sine2 / (1 + std::min(std::fabs(pair->product), 1.0)), 1.0);
    }
    double& own = v[(pair->i - unit.i0) * kAdjointCols + pair->j - unit.j0];
    own = signed_defect(!(pair->product < 0), w <= tiny ? 0.0 : w);
  }
  return count;
}

// dL/d rho of pairs to the plane of the whole tile, 0 for close ones, which get theirs; and what lies along the rows.
void unit_weights(const AdjointTile& tile, const AdjointRows& rows, const AdjointUnit& unit, const double* v, double* P,
                  ClosePair* close, long count, double* far, double* along1, double* along2) {
  for (ClosePair* pair = close; pair < close + count; ++pair) {
    double& own = P[(pair->i - unit.i0) * kAdjointCols + pair->j - unit.j0];
    pair->P = own;
    own = 0;
  }
  double products[kAdjointCols];
  for (long i = unit.i0; i < unit.i1; ++i) {
    const double *on = P + (i - unit.i0) * kAdjointCols, *defects = v + (i - unit.i0) * kAdjointCols;
    const double* length2 = rows.length2 + unit.j0;
    const double length1 = rows.length1[i];
    double *out = far + i * tile.cols + unit.j0, *columns = along2 + unit.j0, acc[8] = {};
    const int n = int(unit.j1 - unit.j0);
    FNTK_LANES
    for (int k = 0; k < n; ++k) {
      const double flow = on[k] * rho_of(defects[k]);
      out[k] = on[k];
      columns[k] += flow * length1;
      products[k] = flow * length2[k];
    }
    int k = 0;
    for (; k + 8 <= n; k += 8)
      for (int l = 0; l < 8; ++l) acc[l] += products[k + l];
    for (int l = 0; k + l < n; ++l) acc[l] += products[k + l];
    along1[i] += ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
  }
}

// Add sum_j P (x' - (K / q) x) / d to the gradient of some rows, of pairs that are not close. See rows_scratch().
void rows_gradient(const Products<double>& products, const AdjointBack& back, double* scratch) {
  const long d = back.d, lines = back.last - back.first;
  const long most = std::min(kPanel, back.other_last - back.other_first), out_lines = (lines + 3) / 4 * 4;
  double* left = scratch;
  std::fill_n(left, most * kPanel, 0.0);
  for (long k0 = 0; k0 < d; k0 += kRowsWidth) {
    const long count = std::min(kRowsWidth, d - k0), width = (count + kRowsStep - 1) / kRowsStep * kRowsStep;
    double *right = left + most * kPanel, *out = right + most * width;
    std::fill_n(right, (most + out_lines) * width, 0.0);
    for (long c0 = back.other_first; c0 < back.other_last; c0 += kPanel) {
      const long others = std::min(kPanel, back.other_last - c0);
      for (long c = 0; c < others; ++c) {
        const double* far = back.far + back.first * back.own_step + (c0 + c) * back.other_step;
        const double length = back.other_length[c0 + c];
        for (long l = 0; l < lines; ++l) left[c * kPanel + l] = far[l * back.own_step] * length;
        std::copy_n(back.other_unit + (c0 + c) * d + k0, count, right + c * width);
      }
      products.accumulate(left, right, lines, others, width, out);
    }
    for (long l = 0; l < lines; ++l) {
      const double along = back.along[back.first + l], *unit = back.unit + (back.first + l) * d + k0;
      double* gradient = back.gradient + (back.first + l) * d + k0;
      for (long k = 0; k < count; ++k) gradient[k] += (out[l * width + k] - along * unit[k]) / double(d);
    }
  }
}

// The same of one close pair, for its first row or its second one. A row with itself has nothing across: where what is
// put on it is not finite, that is to be seen.
void close_gradient(const AdjointCall& call, const AdjointRows& rows, const ClosePair& pair, bool second,
                    double* part) {
  if (call.same && pair.i == pair.j && std::isfinite(pair.P)) return;
  const double *x = rows.scaled1 + pair.i * rows.d, *y = rows.scaled2 + pair.j * rows.d;
  across(second ? y : x, second ? x : y, rows.d, part);
  const double scale = second ? rows.scale1[pair.i] : rows.scale2[pair.j];
  double* gradient = second ? rows.gradient2 + pair.j * rows.d : rows.gradient1 + pair.i * rows.d;
  for (long k = 0; k < rows.d; ++k) gradient[k] += pair.P * (part[k] / scale) / double(rows.d);
}

void adjoint_unit(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const AdjointUnit& unit,
                  const double* roots2, double* scratch);

extern const AdjointLoops adjoint_loops;
const AdjointLoops adjoint_loops = {adjoint_unit, unit_defects, unit_weights, rows_gradient, close_gradient};

}  // namespace FNTK_ISA
}  // namespace fntk
