// A block of threads takes a block of pairs through a whole program: every layer in registers, outputs written once.
// Host and device run this same text (cuda_team.h).
#pragma once
#include "cuda_pair.h"
#include "cuda_team.h"

namespace fntk {

constexpr int kMaxInputs = kMaxSlots, kMaxOutputs = 128;
constexpr int kSide = 32;        // a tile is cut into squares of so many pairs a side
constexpr int kStagedRows = 48;  // row arrays of a square's lines and columns in shared memory at a time

// The squares of a tile, of a symmetric one those that reach the diagonal or lie above it; whole rows of squares first,
// then the rows that grow shorter one by one.
struct Squares {
  long cols = 0;               // squares of a whole row
  long whole = 0;              // whole rows
  long shorter = 0, rows = 0;  // squares of the first shorter row; shorter rows
  long count = 0;

  Squares() = default;
  explicit Squares(const Tile& tile) {
    const long lines = (tile.lines + kSide - 1) / kSide, shift = tile.j0 - tile.i0 + kSide - 1;
    cols = (tile.cols + kSide - 1) / kSide;
    const long first = shift >= 0 ? shift / kSide : -((kSide - 1 - shift) / kSide);  // of row u: column u - first
    whole = !tile.symmetric ? lines : first < 0 ? 0 : first < lines ? first + 1 : lines;
    shorter = cols - (whole - first);
    rows = lines - whole;
    if (rows > shorter) rows = shorter > 0 ? shorter : 0;
    count = whole * cols + rows * shorter - rows * (rows - 1) / 2;
  }
  // Square k: its place, counted in squares.
  FNTK_HD void find(long k, long& line, long& col) const {
    if (k < whole * cols) {
      line = k / cols;
      col = k % cols;
      return;
    }
    k -= whole * cols;
    // row r begins at r shorter - r (r - 1) / 2
    const double b = double(shorter) + 0.5;
    const double root = b * b - 2.0 * double(k);
    long r = long(b - FNTK_ISA::sqrt(root > 0 ? root : 0.0));
    const auto start = [&](long row) { return row * shorter - row * (row - 1) / 2; };
    while (r > 0 && start(r) > k) --r;
    while (start(r + 1) <= k) ++r;
    line = whole + r;
    col = cols - (shorter - r) + (k - start(r));
  }
};

// Everything a thread needs; travels as the kernel's argument.
template <class T>
struct PairLaunch {
  const DeviceStep* steps;
  PairInput<T> inputs[kMaxInputs];
  const T *table1, *table2;
  long rows1, rows2;  // rows of each table
  Tile tile;
  Squares squares;
  long blocks;
  PairOutput<T> outputs[kMaxOutputs];
};

namespace FNTK_ISA {

template <class E>
FNTK_HD E* place(const Plane<E>& plane, long b, long i, long j) {
  return plane.data + b * plane.batch_stride + i * plane.stride + j;
}

// |x / |x| - sign y / |y||^2 / 2 of a close or opposite pair from the rows themselves (ops.h), by a whole warp.
template <class T>
FNTK_HD T exact_defect(const PairInput<T>& input, long b, long i, long j, bool near) {
  const T *x = place(input.raw1, b, i, 0), *y = place(input.raw2, b, j, 0);
  if (x == y) return T(0);  // one row with itself
  double norm = *place(input.norms1, b, 0, i), other = *place(input.norms2, b, 0, j);
  if (norm < other) {  // the longer row first, so that (i, j) and (j, i) are one computation
    const T* row = x;
    x = y;
    y = row;
    const double length = norm;
    norm = other;
    other = length;
  }
  const double sign = near ? 1 : -1, t = -sign * (norm / other - 1), inverse = inverse_norm(norm);
  const auto add = [&](long k, double sum) {
    const double v = unit_difference(double(x[k]), double(y[k]), sign, t, inverse);
    return fma(v, v, sum);
  };
  return T(0.5 * reduce(input.d, add, Plus()));
}

// Pairs P a thread: lines line .. line + P - 1, one column. Diagonal: one pair a thread, line i with row i.
template <class T, int Slots, int P, bool Ntk, bool Diagonal>
struct PairBlock {
  static constexpr int kLines = Diagonal ? kThreads : kThreads / kWarp * P;  // of a block
  static constexpr int kPasses = Diagonal ? 1 : kSide / kLines;              // blocks of a square
  static_assert(!Diagonal || P == 1, "one pair a thread on the diagonal");

  struct alignas(16) Shared {
    T rows1[Diagonal ? 1 : kStagedRows][Diagonal ? 1 : kLines];
    T rows2[Diagonal ? 1 : kStagedRows][Diagonal ? 1 : kSide];
    T mirror[Diagonal ? 1 : kLines][Diagonal ? 1 : kSide + 1];
  };
  struct Thread {
    Pairs<T, P> x;  // the accumulator
    SlotFile<Pairs<T, P>, Slots> slots;
    Sum<T, P> sum;
  };

  struct StagedRows {
    const Shared& shared;
    int first, line, col;
    FNTK_HD Pack<T, P> lines(int row) const {
      struct alignas(sizeof(T) * P < 16 ? sizeof(T) * P : 16) Aligned {
        Pack<T, P> pack;
      };
      return reinterpret_cast<const Aligned*>(&shared.rows1[row - first][line])->pack;
    }
    FNTK_HD T column(int row) const { return shared.rows2[row - first][col]; }
  };
  struct DiagonalRows {
    const PairLaunch<T>& launch;
    long i;
    FNTK_HD Pack<T, P> lines(int row) const { return {{launch.table1[row * launch.rows1 + launch.tile.row1 + i]}}; }
    FNTK_HD T column(int row) const { return launch.table2[row * launch.rows2 + launch.tile.row2 + i]; }
  };

  const PairLaunch<T>& launch;
  Shared& shared;
  long batch, i0, j0;   // of the tile: the block's first pair
  int staged = 0;       // first row array in shared memory
  bool adding = false;  // within the parts of a sum

  FNTK_HD PairBlock(const PairLaunch<T>& l, Shared& s, long block) : launch(l), shared(s), batch(0), i0(0), j0(0) {
    if constexpr (Diagonal) {
      i0 = block * kLines;
    } else {
      long line, col;
      batch = block / (launch.squares.count * kPasses);
      block -= batch * launch.squares.count * kPasses;
      launch.squares.find(block / kPasses, line, col);
      i0 = line * kSide + block % kPasses * kLines;
      j0 = col * kSide;
    }
  }

  static FNTK_HD int line_of(int t) { return Diagonal ? t : t / kWarp * P; }
  static FNTK_HD int col_of(int t) { return Diagonal ? 0 : t % kWarp; }
  // Pair p of a thread is one of the result's.
  FNTK_HD bool inside(int line, int col) const { return i0 + line < launch.tile.lines && j0 + col < launch.tile.cols; }
  FNTK_HD bool wanted(int line, int col) const {
    return inside(line, col) && (!launch.tile.symmetric || above_diagonal(line, col) >= 0);
  }
  FNTK_HD long above_diagonal(int line, int col) const {
    return launch.tile.j0 + j0 + col - (launch.tile.i0 + i0 + line);
  }
  FNTK_HD auto rows(int t) const {
    if constexpr (Diagonal)
      return DiagonalRows{launch, last(i0 + t, launch.tile.lines)};
    else
      return StagedRows{shared, staged, line_of(t), col_of(t)};
  }
  // Threads beyond the edge repeat the last line or column, and write nothing.
  static FNTK_HD long last(long k, long count) { return k < count ? k : count - 1; }

  FNTK_HD void stage(int t, const StepHead& head) {
    if constexpr (!Diagonal) {
      const long first1 = launch.tile.row1 + batch * launch.tile.n1, first2 = launch.tile.row2 + batch * launch.tile.n2;
      for (int e = t; e < head.after * kLines; e += kThreads) {
        const int r = e / kLines, line = e % kLines;
        shared.rows1[r][line] =
            launch.table1[(head.row + r) * launch.rows1 + first1 + last(i0 + line, launch.tile.lines)];
      }
      for (int e = t; e < head.after * kSide; e += kThreads) {
        const int r = e / kSide, col = e % kSide;
        shared.rows2[r][col] = launch.table2[(head.row + r) * launch.rows2 + first2 + last(j0 + col, launch.tile.cols)];
      }
    }
  }

  FNTK_HD void load(int t, const PairInput<T>& input, Pairs<T, P>& x) const {
    const int line = line_of(t), col = col_of(t);
    const long j = last(j0 + col, launch.tile.cols);
    for (int p = 0; p < P; ++p) {
      const long i = last(i0 + line + p, launch.tile.lines);
      x.theta.at[p] = Ntk && input.theta.data ? *place(input.theta, batch, i, j) : T(0);
      x.v.at[p] = T(0);
      if (input.defect.data) x.v.at[p] = *place(input.defect, batch, i, j);
      if (!input.product.data) continue;
      const T product = *place(input.product, batch, i, j);
      const bool near = !(product < T(0));
      const T w = at_least_zero(T(1) - magnitude(product));
      x.v.at[p] = signed_defect(near, w);
      if (!input.raw1.data) continue;
      each_flagged(w < input.close && wanted(line + p, col), col, [&](int lane) {
        const bool side = from_lane(near, lane);
        const T exact = exact_defect(input, batch, i, last(j0 + lane, launch.tile.cols), side);
        if (lane == col) x.v.at[p] = signed_defect(side, exact);
      });
    }
  }

  // The value of one plane for each pair of the thread.
  template <class Rows>
  static FNTK_HD Pack<T, P> output(int plane, const Rows& rows, int row, const Pairs<T, P>& x) {
    if (plane == 1) return x.theta;
    if (plane == 2) return x.v;
    const Pack<T, P> std1 = rows.lines(row);
    const T std2 = rows.column(row);
    Pack<T, P> nngp;
    for (int p = 0; p < P; ++p) nngp.at[p] = covariance(std1.at[p], std2, x.v.at[p]);
    return nngp;
  }

  FNTK_HD void write(int t, const Plane<T>& plane, const Pack<T, P>& values) {
    const int line = line_of(t), col = col_of(t);
    const Tile& tile = launch.tile;
    T* out = place(plane, tile.batch0 + batch, tile.i0 + i0 + line, tile.j0 + j0 + col);
    for (int p = 0; p < P; ++p) {
      if (wanted(line + p, col)) out[p * plane.stride] = values.at[p];
      if constexpr (!Diagonal)
        if (tile.symmetric) shared.mirror[line + p][col] = values.at[p];
    }
  }
  FNTK_HD void write_mirror(int t, const Plane<T>& plane) const {
    const Tile& tile = launch.tile;
    for (int e = t; e < kLines * kSide; e += kThreads) {
      const int line = e % kLines, col = e / kLines;
      if (inside(line, col) && above_diagonal(line, col) > 0)
        *place(plane, tile.batch0 + batch, tile.j0 + j0 + col, tile.i0 + i0 + line) = shared.mirror[line][col];
    }
  }

  template <class Threads>
  FNTK_HD void store(Threads& team, const StepHead& head) {
    for (int k = 0; k < 3; ++k) {
      const Plane<T>& plane = launch.outputs[head.slot].planes[k];
      if (!plane.data) continue;
      team.each([&](int t, Thread& own) { write(t, plane, output(k, rows(t), head.row, own.x)); });
      if (Diagonal || !launch.tile.symmetric) continue;
      team.barrier();
      team.each([&](int t, Thread&) { write_mirror(t, plane); });
      team.barrier();
    }
  }

  template <class Threads>
  FNTK_HD void run(Threads& team) {
    for (const DeviceStep* step = launch.steps;; ++step) {
      const StepHead head = step->head;
      if (head.code < kStore || (head.code >= kFirstDual && head.code < kInput)) {
        team.each([&](int t, Thread& own) { pair_step<Ntk>(head, *step, rows(t), own.x); });
      } else if (head.code == kStore) {
        store(team, head);
      } else if (head.code == kStage) {
        team.barrier();
        team.each([&](int t, Thread&) { stage(t, head); });
        team.barrier();
        staged = head.row;
      } else if (head.code == kInput) {
        team.each([&](int t, Thread& own) { load(t, launch.inputs[head.slot], own.x); });
      } else if (head.code == kEnd) {
        return;
      } else if constexpr (Slots > 1) {
        team.each([&](int t, Thread& own) {
          if (head.code == kLoad) {
            own.x = own.slots.get(head.slot);
          } else if (head.code == kSave) {
            own.slots.put(head.slot, own.x);
          } else {
            if (!adding) own.sum.clear();
            own.sum.add(rows(t), head.row, own.slots.get(head.slot));
            if (head.after == 0) own.x = own.sum.pairs();
          }
        });
        if (head.code == kPart) adding = head.after > 0;
      }
    }
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
