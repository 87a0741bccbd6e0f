// Loops of the reverse pass, line by line of a tile: compiled once per instruction set, into its own namespace.
#include "dense/adjoint.h"

#include <algorithm>

#include "math/differentiable.h"
#include "math/jet.h"
#include "math/ops.h"

namespace fntk {
namespace FNTK_ISA {
namespace {

// A line of a tile, some columns of it.
struct Line {
  const std::vector<AdjointOp>& ops;
  const AdjointTile& tile;
  const AdjointUnit& unit;
  const double* roots2;  // standard deviations, values x cols, and then inverse_root() of each
  double* state;
  long i, j0;
  int cols;

  double* plane(int value, int which) const { return state + (kAdjointPlanes * value + which) * kAdjointLane; }
  double* v(int value) const { return plane(value, 0); }
  double* theta(int value) const { return plane(value, 1); }
  double* P(int value) const { return plane(value, 2); }
  double* T(int value) const { return plane(value, 3); }
  double* kdot(int value) const { return plane(value, 4); }  // of the dual that made it
  double* extra(int which) const { return plane(tile.n_values, 0) + which * kAdjointLane; }
  double* D(int value, int side) const { return extra(kAdjointExtra + kAdjointSides * value + side); }
  double q1(int value) const { return tile.q1[value * tile.lines + i]; }
  const double* q2(int value) const { return tile.q2 + value * tile.cols + j0; }
  const double* s2(int value) const { return roots2 + value * tile.cols + j0; }
  const double* inverse2(int value) const { return s2(tile.n_values + value); }
  double row1(int row) const { return tile.rows1[row * tile.lines + i]; }
  const double* row2(int row) const { return tile.rows2 + row * tile.cols + j0; }
  double& line_sum(int sum) const { return unit.line_sums[sum * tile.lines + i]; }
  double* col_sum(int sum) const { return unit.col_sums + sum * tile.cols + j0; }
  // Add to a group's plane what a number of an op is worth.
  void give(size_t op, int number, const double* bar) const {
    const AdjointEntries& entries = *tile.entries;
    for (int group = 0; group < entries.n_groups; ++group) {
      const double slope = entries.slopes[(4 * op + size_t(number)) * size_t(entries.n_groups) + size_t(group)];
      if (slope == 0.0) continue;
      double* to = entries.planes + (group * tile.lines + i) * tile.cols + j0;
      FNTK_LANES
      for (int k = 0; k < cols; ++k) to[k] = fma(slope, bar[k], to[k]);
    }
  }

  // Eight accumulators, in one order for every instruction set.
  double add(const double* x) const {
    double acc[8] = {};
    int k = 0;
    for (; k + 8 <= cols; k += 8)
      for (int l = 0; l < 8; ++l) acc[l] += x[k + l];
    for (int l = 0; k + l < cols; ++l) acc[l] += x[k + l];
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
  }
};

// q1 - K and q2 - K for standard deviations s, without a difference of nearly equal numbers.
struct Gaps {
  double first, second;
};
FNTK_HD Gaps gaps(double s1, double s2, double v) {
  const double across = s1 * s2 * select(v < 0.0, 2 + v, v);
  return {fma(s1, s1 - s2, across), fma(s2, s2 - s1, across)};
}

void forward_dense(const AdjointOp& op, const Line& line) {
  const int s = op.src[0];
  const double w2 = op.params[0], f = op.params[2], g = op.params[3], s1 = sqrt(line.q1(s));
  const double *v = line.v(s), *theta = line.theta(s), *s2 = line.s2(s);
  double *v_out = line.v(op.dst), *theta_out = line.theta(op.dst);
  if (line.tile.ntk) {
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) theta_out[k] = fma(w2, theta[k], fma(f * s1 * s2[k], rho_of(v[k]), g));
  }
  if (op.bias) {
    const double C1 = line.row1(op.first_row), S1 = line.row1(op.first_row + 1);
    const double *C2 = line.row2(op.first_row), *S2 = line.row2(op.first_row + 1);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) v_out[k] = bias_defect<double, false>(C1, C2[k], S1, S2[k], v[k]);
  } else if (op.guard) {
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) v_out[k] = guarded_defect(s1, s2[k], v[k]);
  } else {
    for (int k = 0; k < line.cols; ++k) v_out[k] = v[k];
  }
}

void forward_sum(const AdjointOp& op, const Line& line) {
  double *minus = line.v(op.dst), *theta_out = line.theta(op.dst), *plus = line.extra(0);
  for (int k = 0; k < line.cols; ++k) minus[k] = plus[k] = theta_out[k] = 0;
  for (size_t b = 0; b < op.src.size(); ++b) {
    const double *v = line.v(op.src[b]), *theta = line.theta(op.src[b]);
    const double p1 = line.row1(op.first_row + int(b)), *p2 = line.row2(op.first_row + int(b));
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      const double w = magnitude(v[k]), rest = 2 - w;
      const bool near = !(v[k] < 0.0);
      minus[k] += part_defect(p1, p2[k], select(near, w, rest));
      plus[k] += part_defect(p1, p2[k], select(near, rest, w));
      theta_out[k] += theta[k];
    }
  }
  FNTK_LANES
  for (int k = 0; k < line.cols; ++k) minus[k] = sum_defect(minus[k], plus[k]);
}

template <template <class> class Phi>
void forward_dual(const AdjointOp& op, const Line& line) {
  const Phi<double> phi(op.params.data());
  constexpr int n_rows = Phi<double>::n_rows > 0 ? Phi<double>::n_rows : 1;
  const double *rows2[n_rows] = {}, *rows1[n_rows] = {};
  for (int r = 0; r < Phi<double>::n_rows; ++r) {
    rows1[r] = line.tile.rows1 + (op.first_row + r) * line.tile.lines;
    rows2[r] = line.row2(op.first_row + r);
  }
  const auto x1 = Phi<double>::load(rows1, line.i);
  const double *v = line.v(op.src[0]), *theta = line.theta(op.src[0]);
  double *v_out = line.v(op.dst), *theta_out = line.theta(op.dst), *kdot = line.kdot(op.dst);
  FNTK_LANES
  for (int k = 0; k < line.cols; ++k) {
    const Dual<double> d = phi.pair(correlation(v[k]), x1, Phi<double>::load(rows2, k));
    v_out[k] = d.v;
    kdot[k] = d.kdot;
    theta_out[k] = theta[k] * d.kdot;
  }
}

void back_store(const AdjointOp& op, const Line& line) {
  const int s = op.src[0];
  const long at = line.i * line.tile.cols + line.j0;
  if (const double* given = line.tile.on_k[size_t(op.dst)]) {
    const double s1 = sqrt(line.q1(s)), *s2 = line.s2(s), *v = line.v(s), *on = given + at;
    double *P = line.P(s), *half = line.extra(0), *columns = line.col_sum(op.first_sum);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      P[k] += on[k];
      half[k] = 0.5 * on[k] * covariance(s1, s2[k], v[k]);
      columns[k] += half[k];
    }
    line.line_sum(op.first_sum) += line.add(half);
  }
  if (const double* given = line.tile.on_theta[size_t(op.dst)]) {
    double* T = line.T(s);
    for (int k = 0; k < line.cols; ++k) T[k] += given[at + k];
  }
}

void back_dense(const AdjointOp& op, const Line& line) {
  const int s = op.src[0];
  const double w2 = op.params[0], f = op.params[2], s1 = sqrt(line.q1(s));
  const double *s2 = line.s2(s), *v = line.v(s), *P = line.P(op.dst), *T = line.T(op.dst), *theta = line.theta(s);
  double *P_out = line.P(s), *T_out = line.T(s), *product = line.extra(0), *other = line.extra(1);
  if (op.gap) {
    double* columns = line.col_sum(op.first_sum);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      const Gaps gap = gaps(s1, s2[k], v[k]);
      product[k] = P[k] * gap.first;
      columns[k] += P[k] * gap.second;
    }
    line.line_sum(op.first_sum) += line.add(product);
  }
  if (!line.tile.ntk) {
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) P_out[k] = fma(w2, P[k], P_out[k]);
    return;
  }
  double* columns = line.col_sum(op.first_sum + 1);
  FNTK_LANES
  for (int k = 0; k < line.cols; ++k) {
    product[k] = T[k] * covariance(s1, s2[k], v[k]);
    columns[k] += product[k];
    other[k] = T[k] * theta[k];
    P_out[k] = fma(w2, P[k], fma(f, T[k], P_out[k]));
    T_out[k] = fma(w2, T[k], T_out[k]);
  }
  line.line_sum(op.first_sum + 1) += line.add(product);
  line.unit.totals[op.first_total] += line.add(other);
  line.unit.totals[op.first_total + 1] += line.add(T);
}

// Of all parts of a sum together.
void all_gaps(const AdjointOp& op, const Line& line, double* all1, double* all2) {
  for (int k = 0; k < line.cols; ++k) all1[k] = all2[k] = 0;
  for (const int s : op.src) {
    const double s1 = sqrt(line.q1(s)), *s2 = line.s2(s), *v = line.v(s);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      const Gaps gap = gaps(s1, s2[k], v[k]);
      all1[k] += gap.first;
      all2[k] += gap.second;
    }
  }
}

void back_sum(const AdjointOp& op, const Line& line) {
  const double *P = line.P(op.dst), *T = line.T(op.dst);
  double *all1 = line.extra(0), *all2 = line.extra(1), *product = line.extra(2);
  all_gaps(op, line, all1, all2);
  for (size_t b = 0; b < op.src.size(); ++b) {
    const int s = op.src[b], row = op.first_row + int(b), sum = op.first_sum + int(b);
    const double s1 = sqrt(line.q1(s)), *s2 = line.s2(s), *v = line.v(s);
    const double p1 = line.row1(row), *p2 = line.row2(row);
    double *P_out = line.P(s), *T_out = line.T(s), *columns = line.col_sum(sum);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      const Gaps gap = gaps(s1, s2[k], v[k]);
      product[k] = P[k] * (p1 * p1 * all1[k] - gap.first);
      columns[k] += P[k] * (p2[k] * p2[k] * all2[k] - gap.second);
      P_out[k] += P[k];
      T_out[k] += T[k];
    }
    line.line_sum(sum) += line.add(product);
  }
}

template <template <class> class Phi>
void back_dual(const AdjointOp& op, const Line& line) {
  constexpr int n = Phi<double>::n_rows, n_rows = n > 0 ? n : 1;
  using Number = Jet<(n > 0 ? 3 : 1)>;  // derivatives in w, and in ln q on both sides
  const Phi<Number> phi(op.params.data());
  const int s = op.src[0];
  const double s1 = sqrt(line.q1(s)), after1 = sqrt(line.q1(op.dst));
  const double inverse1 = inverse_root(s1), *inverse2 = line.inverse2(s), *after2 = line.s2(op.dst);
  const double *v = line.v(s), *theta = line.theta(s);
  const double *P = line.P(op.dst), *T = line.T(op.dst), *kdot = line.kdot(op.dst);
  double *P_out = line.P(s), *T_out = line.T(s), *product = line.extra(0);
  double* columns = n > 0 && !line.tile.entries ? line.col_sum(op.first_sum) : line.extra(1);
  JetRow<Number, n ? 1 : 0> rows1[n_rows] = {};
  JetRow<Number, n ? 2 : 0> rows2[n_rows] = {};
  for (int r = 0; r < n; ++r) {
    const int row = op.first_row + r;
    rows1[r] = {line.tile.rows1 + row * line.tile.lines, line.tile.rows1 + (row + n) * line.tile.lines};
    rows2[r] = {line.row2(row), line.row2(row + n)};
  }
  const auto x1 = Phi<Number>::load(rows1, line.i);
  FNTK_LANES
  for (int k = 0; k < line.cols; ++k) {
    const Correlation<Number> c = jet_correlation<Number>(v[k]);
    const Dual<Number> d = phi.pair(c, x1, Phi<Number>::load(rows2, k));
    const double kddot = select(c.near, -d.kdot.d[0], d.kdot.d[0]) * inverse1 * inverse2[k];
    const double flow = T[k] * theta[k];
    P_out[k] = fma(kdot[k], P[k], fma(kddot, flow, P_out[k]));
    T_out[k] = fma(kdot[k], T[k], T_out[k]);
    if constexpr (n > 0) {
      const double lean = -after1 * after2[k] * P[k];
      product[k] = fma(lean, d.v.d[1], flow * d.kdot.d[1]);
      columns[k] += fma(lean, d.v.d[2], flow * d.kdot.d[2]);
    }
  }
  if constexpr (n > 0) {
    if (line.tile.entries) {
      double *D1 = line.D(s, 0), *D2 = line.D(s, 1);
      FNTK_LANES
      for (int k = 0; k < line.cols; ++k) {
        D1[k] += product[k];
        D2[k] += columns[k];
      }
    } else {
      line.line_sum(op.first_sum) += line.add(product);
    }
  }
}

// ---------------------------------------------------------------- every pair by itself

void entries_store(const AdjointOp& op, size_t, const Line& line) {
  const int s = op.src[0];
  const long at = line.i * line.tile.cols + line.j0;
  if (const double* given = line.tile.on_k[size_t(op.dst)]) {
    const double s1 = sqrt(line.q1(s)), *s2 = line.s2(s), *v = line.v(s), *on = given + at;
    double *P = line.P(s), *D1 = line.D(s, 0), *D2 = line.D(s, 1);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      const double half = 0.5 * on[k] * covariance(s1, s2[k], v[k]);
      P[k] += on[k];
      D1[k] += half;
      D2[k] += half;
    }
  }
  if (const double* given = line.tile.on_theta[size_t(op.dst)]) {
    double* T = line.T(s);
    for (int k = 0; k < line.cols; ++k) T[k] += given[at + k];
  }
}

// x / y, and 0 where y is 0.
FNTK_HD double ratio(double x, double y) { return select(y == 0.0, 0.0, x / select(y == 0.0, 1.0, y)); }

void entries_dense(const AdjointOp& op, size_t number, const Line& line) {
  const int s = op.src[0];
  const double w2 = op.params[0], b2 = op.params[1], f = op.params[2];
  const double q1 = line.q1(s), s1 = sqrt(q1), over1 = ratio(1, line.q1(op.dst));
  const double part1 = ratio(w2 * q1, line.q1(op.dst));  // 1 where nothing is done: D goes through bit by bit
  const double *q2 = line.q2(s), *new2 = line.q2(op.dst), *s2 = line.s2(s), *v = line.v(s), *theta = line.theta(s);
  const double *P = line.P(op.dst), *T = line.T(op.dst), *after1 = line.D(op.dst, 0), *after2 = line.D(op.dst, 1);
  double *P_out = line.P(s), *T_out = line.T(s), *D1 = line.D(s, 0), *D2 = line.D(s, 1);
  double *on_w2 = line.extra(0), *on_b2 = line.extra(1), *on_f = line.extra(2);
  FNTK_LANES
  for (int k = 0; k < line.cols; ++k) {
    const Gaps gap = gaps(s1, s2[k], v[k]);
    const double over2 = ratio(1, new2[k]);
    const double e1 = -0.5 * over1 * P[k] * gap.first, e2 = -0.5 * over2 * P[k] * gap.second;
    const double share1 = over1 * after1[k], share2 = over2 * after2[k];
    const double product = T[k] * covariance(s1, s2[k], v[k]);
    const double part2 = ratio(w2 * q2[k], new2[k]);
    D1[k] += fma(part1, after1[k], fma(w2 * b2, e1, 0.5 * f * product));
    D2[k] += fma(part2, after2[k], fma(w2 * b2, e2, 0.5 * f * product));
    on_w2[k] = fma(T[k], theta[k], fma(b2, e1 + e2, fma(q1, share1, q2[k] * share2)));
    on_b2[k] = share1 + share2 - w2 * (e1 + e2);
    on_f[k] = product;
    P_out[k] = fma(w2, P[k], fma(f, T[k], P_out[k]));
    T_out[k] = fma(w2, T[k], T_out[k]);
  }
  line.give(number, 0, on_w2);
  line.give(number, 1, on_b2);
  line.give(number, 2, on_f);
  line.give(number, 3, T);
}

void entries_sum(const AdjointOp& op, size_t, const Line& line) {
  const double *P = line.P(op.dst), *T = line.T(op.dst), *after1 = line.D(op.dst, 0), *after2 = line.D(op.dst, 1);
  double *all1 = line.extra(0), *all2 = line.extra(1);
  all_gaps(op, line, all1, all2);
  for (size_t b = 0; b < op.src.size(); ++b) {
    const int s = op.src[b], row = op.first_row + int(b);
    const double s1 = sqrt(line.q1(s)), *s2 = line.s2(s), *v = line.v(s);
    const double p1 = line.row1(row), *p2 = line.row2(row);
    double *P_out = line.P(s), *T_out = line.T(s), *D1 = line.D(s, 0), *D2 = line.D(s, 1);
    FNTK_LANES
    for (int k = 0; k < line.cols; ++k) {
      const Gaps gap = gaps(s1, s2[k], v[k]);
      const double share1 = p1 * p1, share2 = p2[k] * p2[k];
      D1[k] += fma(share1, after1[k], 0.5 * P[k] * fma(share1, all1[k], -gap.first));
      D2[k] += fma(share2, after2[k], 0.5 * P[k] * fma(share2, all2[k], -gap.second));
      P_out[k] += P[k];
      T_out[k] += T[k];
    }
  }
}

// What goes back of the rows' variances; the rest is the pairs'.
void entries_dual(const AdjointOp& op, const Line& line) {
  const int s = op.src[0];
  const double pull1 = line.tile.entries->pull1[op.dst * line.tile.lines + line.i];
  const double* pull2 = line.tile.entries->pull2 + op.dst * line.tile.cols + line.j0;
  const double *after1 = line.D(op.dst, 0), *after2 = line.D(op.dst, 1);
  double *D1 = line.D(s, 0), *D2 = line.D(s, 1), *columns = line.extra(1);
  FNTK_LANES
  for (int k = 0; k < line.cols; ++k) {
    D1[k] = fma(pull1, after1[k], D1[k]);
    D2[k] = fma(pull2[k], after2[k], D2[k]);
    columns[k] = 0;
  }
}

using LineOp = void (*)(const AdjointOp& op, const Line& line);

#define FNTK_FORWARD(Phi, name) forward_dual<Phi>,
#define FNTK_BACK(Phi, name) back_dual<Phi>,
constexpr LineOp kForward[] = {forward_dense, forward_sum, nullptr, FNTK_DIFFERENTIABLE(FNTK_FORWARD)};
constexpr LineOp kBack[] = {back_dense, back_sum, back_store, FNTK_DIFFERENTIABLE(FNTK_BACK)};
#undef FNTK_FORWARD
#undef FNTK_BACK
constexpr void (*kEntries[])(const AdjointOp&, size_t, const Line&) = {entries_dense, entries_sum, entries_store};

void back(const std::vector<AdjointOp>& ops, size_t k, const Line& line) {
  const AdjointOp& op = ops[k];
  if (line.tile.entries && op.code < kAdjointDual) return kEntries[op.code](op, k, line);
  if (line.tile.entries) entries_dual(op, line);
  kBack[op.code](op, line);
}

}  // namespace

// scratch: (kAdjointPlanes n_values + kAdjointExtra) kAdjointLane numbers, and 2 n_values kAdjointLane for entries.
void adjoint_unit(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const AdjointUnit& unit,
                  const double* roots2, double* scratch) {
  for (long j0 = unit.j0; j0 < unit.j1; j0 += kAdjointLane)
    for (long i = unit.i0; i < unit.i1; ++i) {
      const int cols = int(unit.j1 - j0 < kAdjointLane ? unit.j1 - j0 : kAdjointLane);
      const Line line{ops, tile, unit, roots2, scratch, i, j0, cols};
      const long at = (i - unit.i0) * kAdjointCols + j0 - unit.j0;  // in the unit
      for (int s = 0; s < tile.n_values; ++s)
        for (int plane = s < tile.n_inputs ? 1 : 2; plane < 4; ++plane)
          for (int k = 0; k < cols; ++k) line.plane(s, plane)[k] = 0;
      if (tile.entries) std::fill_n(line.D(0, 0), size_t(kAdjointSides) * size_t(tile.n_values) * kAdjointLane, 0.0);
      for (int s = 0; s < tile.n_inputs; ++s)
        std::copy_n(unit.defects + s * kAdjointLines * kAdjointCols + at, cols, line.v(s));
      for (const AdjointOp& op : ops)
        if (op.code != kAdjointStore) kForward[op.code](op, line);
      for (size_t k = ops.size(); k-- > 0;) back(ops, k, line);
      for (int s = 0; s < tile.n_inputs; ++s)
        std::copy_n(line.P(s), cols, unit.P + s * kAdjointLines * kAdjointCols + at);
    }
}

}  // namespace FNTK_ISA
}  // namespace fntk
