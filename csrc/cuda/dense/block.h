// A block of threads takes a block of pairs through a whole program: every layer in registers, outputs written once.
// Host and device run this same text (cuda/team.h).
#pragma once
#include <algorithm>

#include "cuda/dense/pair.h"
#include "cuda/team.h"

namespace fntk {

constexpr int kMaxInputs = kMaxSlots;
// Their planes travel as a kernel's argument: 4 KiB before CUDA 12.1, 32 KiB since.
#if __CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 1)
constexpr int kMaxOutputs = 128;
#else
constexpr int kMaxOutputs = 24;
#endif
constexpr int kSide = 32;        // a tile is cut into squares of so many pairs a side
constexpr int kStagedRows = 48;  // row arrays of a square's lines and columns in shared memory at a time

// The squares of a tile, of a symmetric one those that reach the diagonal or lie above it; whole rows of squares first,
// then the rows that grow shorter one by one. A launch has less than 2^31 blocks, so 32 bits count them.
struct Squares {
  long count = 0;
  unsigned cols = 0;     // squares of a whole row
  unsigned whole = 0;    // whole rows
  unsigned shorter = 0;  // squares of the first shorter row

  Squares() = default;
  explicit Squares(const Tile& tile) {
    const auto squares = [](long pairs) { return (pairs + kSide - 1) / kSide; };
    const long lines = squares(tile.lines), width = squares(tile.cols), shift = tile.j0 - tile.i0 + kSide - 1;
    const long first = shift >= 0 ? shift / kSide : -squares(-shift);  // row u begins at column u - first
    const long whole_rows = !tile.symmetric ? lines : std::min(lines, std::max(0L, first + 1));
    const long length = std::max(0L, width - (whole_rows - first)), rows = std::min(lines - whole_rows, length);
    count = whole_rows * width + rows * length - rows * (rows - 1) / 2;
    cols = unsigned(width);
    whole = unsigned(whole_rows);
    shorter = unsigned(length);
  }
  // Square k: its place, counted in squares.
  FNTK_HD void find(unsigned k, unsigned& line, unsigned& col) const {
    if (k < whole * cols) {
      line = k / cols;
      col = k - line * cols;
      return;
    }
    k -= whole * cols;
    const auto start = [&](unsigned row) { return row * shorter - row * (row - 1) / 2; };  // of shorter row `row`
    const double b = double(shorter) + 0.5, square = b * b - 2.0 * double(k);
    unsigned row = unsigned(b - FNTK_ISA::sqrt(FNTK_ISA::at_least_zero(square)));
    while (row > 0 && start(row) > k) --row;
    while (start(row + 1) <= k) ++row;
    line = whole + row;
    col = cols - (shorter - row) + (k - start(row));
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

// |x / |x| - sign y / |y||^2 / 2 of a close or opposite pair from the rows themselves (math/ops.h), by a whole warp.
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

// Pairs P a thread: lines line .. line + P - 1, one column. Diagonal: one pair a thread, line i with row i. Every:
// all nonlinearities, counted ones too; the text of many would take registers, and the inlining, of the cheap ones.
template <class T, int Slots, int P, bool Ntk, bool Diagonal, bool Every>
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

  struct FarRows {  // where they lie
    const PairLaunch<T>& launch;
    long first, own;  // the block's first line, and the thread's column, in the tables
    int at, last;     // lines of the block
    FNTK_HD T line(int row, int p) const {
      return launch.table1[row * launch.rows1 + first + (at + p < last ? at + p : last)];
    }
    FNTK_HD T column(int row) const { return launch.table2[row * launch.rows2 + own]; }
  };

  const PairLaunch<T>& launch;
  Shared& shared;
  long batch = 0, i0 = 0, j0 = 0;  // of the tile: the block's first pair
  int lines, cols;                 // of the block, within the tile
  int diagonal;                    // pairs with col - line >= diagonal are on or above the result's diagonal
  int staged = 0;                  // first row array in shared memory
  bool adding = false;             // within the parts of a sum

  FNTK_HD PairBlock(const PairLaunch<T>& l, Shared& s, unsigned block) : launch(l), shared(s) {
    const Tile& tile = launch.tile;
    if constexpr (Diagonal) {
      i0 = long(block) * kLines;
    } else {
      const unsigned count = unsigned(launch.squares.count) * kPasses, own = block / count;
      unsigned line, col;
      batch = own;
      block -= own * count;
      launch.squares.find(block / kPasses, line, col);
      i0 = long(line) * kSide + block % kPasses * kLines;
      j0 = long(col) * kSide;
    }
    lines = least(tile.lines - i0, kLines);
    cols = least(tile.cols - j0, kSide);
    const long below = tile.i0 + i0 - (tile.j0 + j0);
    diagonal = tile.symmetric && below > -kLines ? least(below, kSide) : -kLines;
  }

  static FNTK_HD int least(long a, int b) { return a < b ? int(a) : b; }
  static FNTK_HD int line_of(int t) { return Diagonal ? t : t / kWarp * P; }
  static FNTK_HD int col_of(int t) { return Diagonal ? 0 : t % kWarp; }
  // The pair is one of the result's, and not below its diagonal where that is the mirror image.
  FNTK_HD bool wanted(int line, int col) const { return line < lines && col < cols && col - line >= diagonal; }
  // Threads beyond the edge repeat the last line or column, and write nothing.
  FNTK_HD long line_within(int line) const { return i0 + (line < lines ? line : lines - 1); }
  FNTK_HD long col_within(int col) const { return j0 + (col < cols ? col : cols - 1); }

  FNTK_HD auto rows(int t) const {
    if constexpr (Diagonal)
      return DiagonalRows{launch, line_within(t)};
    else
      return StagedRows{shared, staged, line_of(t), col_of(t)};
  }

  FNTK_HD FarRows far_rows(int t) const {
    const Tile& tile = launch.tile;
    const long own = Diagonal ? line_within(t) : col_within(col_of(t));
    return {launch, tile.row1 + batch * tile.n1 + i0, tile.row2 + batch * tile.n2 + own, line_of(t), lines - 1};
  }

  FNTK_HD void stage(int t, const StepHead& head) {
    if constexpr (!Diagonal) {
      const int line = t % kLines, col = t % kSide;
      constexpr int every = kThreads / kLines, step = kThreads / kSide;
      const long n1 = launch.rows1, n2 = launch.rows2;
      const T* from1 = launch.table1 + (head.row + t / kLines) * n1 + launch.tile.row1 + batch * launch.tile.n1;
      const T* from2 = launch.table2 + (head.row + t / kSide) * n2 + launch.tile.row2 + batch * launch.tile.n2;
      from1 += line_within(line);
      from2 += col_within(col);
      for (int r = t / kLines; r < head.after; r += every, from1 += every * n1) shared.rows1[r][line] = *from1;
      for (int r = t / kSide; r < head.after; r += step, from2 += step * n2) shared.rows2[r][col] = *from2;
    }
  }

  FNTK_HD void load(int t, const PairInput<T>& input, Pairs<T, P>& x) const {
    const int line = line_of(t), col = col_of(t);
    const long j = col_within(col);
    const auto read = [&](const Plane<const T>& plane, Pack<T, P>& values) {
      FNTK_UNROLL
      for (int p = 0; p < P; ++p) values.at[p] = plane.data ? *place(plane, batch, line_within(line + p), j) : T(0);
    };
    if constexpr (Ntk) read(input.theta, x.theta);
    if (!input.product.data) return read(input.defect, x.v);
    read(input.product, x.v);
    unsigned close = 0, near = 0;  // a bit for each pair
    FNTK_UNROLL
    for (int p = 0; p < P; ++p) {
      const bool positive = !(x.v.at[p] < T(0));
      const T w = at_least_zero(T(1) - magnitude(x.v.at[p]));
      x.v.at[p] = signed_defect(positive, w);
      near |= unsigned(positive) << p;
      close |= unsigned(w < input.close && wanted(line + p, col)) << p;
    }
    if (!input.raw1.data) return;
    FNTK_NO_UNROLL
    for (int p = 0; p < P; ++p)
      each_flagged(close >> p & 1, col, [&](int lane) {
        const bool positive = from_lane(near >> p & 1, lane);
        const T exact = exact_defect(input, batch, line_within(line + p), col_within(lane), positive);
        FNTK_UNROLL
        for (int k = 0; k < P; ++k)
          x.v.at[k] = select(k == p && lane == col, signed_defect(positive, exact), x.v.at[k]);
      });
  }

  // The value of one plane for each pair of the thread.
  template <class Rows>
  static FNTK_HD Pack<T, P> output(int plane, const Rows& rows, int row, const Pairs<T, P>& x) {
    if (Ntk && plane == 1) return x.theta;
    if (plane == 2) return x.v;
    const Pack<T, P> std1 = rows.lines(row);
    const T std2 = rows.column(row);
    Pack<T, P> nngp;
    FNTK_UNROLL
    for (int p = 0; p < P; ++p) nngp.at[p] = covariance(std1.at[p], std2, x.v.at[p]);
    return nngp;
  }

  FNTK_HD void write(int t, const Plane<T>& plane, const Pack<T, P>& values) {
    const int line = line_of(t), col = col_of(t);
    const Tile& tile = launch.tile;
    T* out = place(plane, tile.batch0 + batch, tile.i0 + i0 + line, tile.j0 + j0 + col);
    FNTK_UNROLL
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
      if (line < lines && col < cols && col - line > diagonal)
        *place(plane, tile.batch0 + batch, tile.j0 + j0 + col, tile.i0 + i0 + line) = shared.mirror[line][col];
    }
  }

  template <class Threads>
  FNTK_HD void store(Threads& team, const StepHead& head) {
    for (int k = 0; k < 3; ++k) {
      const Plane<T>& plane = launch.outputs[head.slot].planes[k];
      if (!plane.data || (k == 1 && !Ntk)) continue;
      team.each([&](int t, Thread& own) { write(t, plane, output(k, rows(t), head.row, own.x)); });
      if (Diagonal || !launch.tile.symmetric) continue;
      team.barrier();
      team.each([&](int t, Thread&) { write_mirror(t, plane); });
      team.barrier();
    }
  }

  template <class Threads>
  FNTK_HD void run(Threads& team) {
    if (lines <= 0 || diagonal >= cols) return;  // of a square at the edge, or on the diagonal
    for (const DeviceStep* step = launch.steps;; ++step) {
      const StepHead head = step->head;
      if constexpr (Every)
        if (head.code >= kFirstCounted && head.code < kInput) {
          team.each([&](int t, Thread& own) { counted_step<Ntk>(head, *step, far_rows(t), own.x); });
          continue;
        }
      if (head.code < kStore || (head.code >= kFirstDual && head.code < kInput)) {
        team.each([&](int t, Thread& own) { pair_step<Ntk, Every>(head, *step, rows(t), own.x); });
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
