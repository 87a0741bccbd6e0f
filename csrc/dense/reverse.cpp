#include <cmath>
#include <memory>

#include "common/check.h"
#include "dense/adjoint.h"
#include "math/differentiable.h"

namespace fntk {

#define FNTK_DECLARE(isa)                  \
  namespace isa {                          \
  extern const AdjointLoops adjoint_loops; \
  }
FNTK_DECLARE(baseline)
#if defined(FNTK_X86_ISAS)
FNTK_DECLARE(avx2)
FNTK_DECLARE(avx512)
#endif

int adjoint_of(const std::string& name) {
#define FNTK_NAME(Phi, text) text,
  static const std::vector<std::string> names = {FNTK_DIFFERENTIABLE(FNTK_NAME)};
#undef FNTK_NAME
  for (size_t k = 0; k < names.size(); ++k)
    if (names[k] == name) return int(k);
  return -1;
}

namespace {

using Numbers = std::vector<double>;
using Panels = std::vector<Numbers>;

const AdjointLoops& loops_of(const Isa& isa) {
#if defined(FNTK_X86_ISAS)
  const std::string name = isa.name;
  if (name == "avx512") return avx512::adjoint_loops;
  if (name == "avx2") return avx2::adjoint_loops;
#endif
  return baseline::adjoint_loops;
}

// Numbers that gradients of some rows are made in.
long rows_scratch(long own, long others, long d) {
  const long width = std::min(kRowsWidth, (d + kRowsStep - 1) / kRowsStep * kRowsStep), most = std::min(kPanel, others);
  return most * (kPanel + width) + std::min(kPanel, (own + 3) / 4 * 4) * width;
}

long groups_of(long n, long size) { return (n + size - 1) / size; }

// A tile of pairs. Units of pairs first, which leave their sums side by side; these are then added up in one order, and
// rows get their gradients, so that nothing depends on the threads.
class TileBack {
 public:
  TileBack(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const AdjointCall& call, const Isa& isa,
           int threads, const Interrupt& interrupt)
      : ops_(ops),
        tile_(tile),
        call_(call),
        loops_(loops_of(isa)),
        products_(isa.products<double>()),
        threads_(threads),
        interrupt_(interrupt),
        bands_(groups_of(tile.lines, kAdjointLines)),
        blocks_(groups_of(tile.cols, kAdjointCols)),
        roots2_(size_t(2 * tile.n_values * tile.cols)) {
    const size_t count = roots2_.size() / 2;
    for (size_t k = 0; k < count; ++k) {
      roots2_[k] = std::sqrt(tile.q2[k]);
      roots2_[count + k] = generic::inverse_root(roots2_[k]);
    }
    for (const AdjointRows& rows : call.rows) longest_ = std::max(longest_, rows.d);
  }

  void run() {
    panels1_ = panels(false);
    if (!call_.same) panels2_ = panels(true);
    const long inputs = tile_.n_inputs, units = bands_ * blocks_;
    const bool gradients = !tile_.entries;
    if (gradients) {
      far_.reset(new double[size_t(inputs * tile_.lines * tile_.cols)]);  // written where it is read
      line_sums_.resize(size_t(blocks_ * (tile_.n_sums + inputs) * tile_.lines));
      col_sums_.resize(size_t(bands_ * (tile_.n_sums + inputs) * tile_.cols));
      totals_.resize(size_t(units * tile_.n_totals));
      close_.resize(size_t(units * inputs));
    }
    workers_.resize(size_t(workers_of(units, threads_)));
    parallel_for(units, threads_, interrupt_, [&](long unit, int worker, Watch& watch) {
      const long band = unit / blocks_, block = unit % blocks_;
      if (!below(band, block))
        this->unit(band, block, worker);
      else if (gradients)
        clear(band, block);
      watch.spent(long(kAdjointLines) * kAdjointCols * long(ops_.size()));
    });
    if (!gradients) return;
    add_up();
    for (const bool second : {false, true}) {
      const long n = groups_of(second ? tile_.cols : tile_.lines, kPanel);
      workers_.resize(std::max(workers_.size(), size_t(workers_of(n, threads_))));
      parallel_for(n, threads_, interrupt_, [&](long group, int worker, Watch&) {
        for (long k = 0; k < inputs; ++k) gradient(k, group, second, worker);
      });
    }
  }

 private:
  struct Worker {
    Numbers v, P, scratch, rows, part;
    std::vector<ClosePair> close;
  };

  // Unit rows of every input, feature by feature.
  Panels panels(bool second) const {
    const long n = second ? tile_.cols : tile_.lines, count = groups_of(n, kPanel);
    Panels made;
    for (const AdjointRows& rows : call_.rows) made.emplace_back(size_t(count * kPanel * rows.d));
    const Numbers ones(kPanel, 1.0);
    for (size_t k = 0; k < made.size(); ++k) {
      const AdjointRows& rows = call_.rows[k];
      const double* unit = second ? rows.unit2 : rows.unit1;
      parallel_for(count, n * rows.d < 100000 ? 1 : threads_, interrupt_, [&](long panel, int, Watch&) {
        products_.pack(unit + panel * kPanel * rows.d, ones.data(), ones.data(), std::min(kPanel, n - panel * kPanel),
                       rows.d, made[k].data() + panel * kPanel * rows.d);
      });
    }
    return made;
  }

  // Whether a unit has nothing but pairs below the diagonal.
  bool below(long band, long block) const {
    return call_.same && std::min((block + 1) * kAdjointCols, tile_.cols) <= band * kAdjointLines;
  }

  // A unit without pairs: rows may read a part of it.
  void clear(long band, long block) {
    const long j0 = block * kAdjointCols, j1 = std::min(j0 + kAdjointCols, tile_.cols);
    for (long k = 0; k < tile_.n_inputs; ++k)
      for (long i = band * kAdjointLines; i < std::min((band + 1) * kAdjointLines, tile_.lines); ++i)
        std::fill(far(k) + i * tile_.cols + j0, far(k) + i * tile_.cols + j1, 0.0);
  }

  void unit(long band, long block, int index) {
    Worker& worker = workers_[size_t(index)];
    const long inputs = tile_.n_inputs, size = long(kAdjointLines) * kAdjointCols;
    if (worker.v.empty()) {  // of the lines that there are, rounded up to what a product writes
      const long lines = std::min<long>(kAdjointLines, (tile_.lines + 3) / 4 * 4);
      worker.v.resize(size_t((inputs - 1) * size + lines * kAdjointCols));
      worker.P.resize(worker.v.size());
      const int planes = (kAdjointPlanes + (tile_.entries ? kAdjointSides : 0)) * tile_.n_values + kAdjointExtra;
      worker.scratch.resize(size_t(planes) * kAdjointLane);
      worker.part.resize(size_t(longest_));
      worker.close.resize(size_t(lines * std::min<long>(kAdjointCols, tile_.cols)));
    }
    AdjointUnit unit{};
    unit.i0 = band * kAdjointLines;
    unit.i1 = std::min(unit.i0 + kAdjointLines, tile_.lines);
    unit.j0 = block * kAdjointCols;
    unit.j1 = std::min(unit.j0 + kAdjointCols, tile_.cols);
    unit.defects = worker.v.data();
    unit.P = worker.P.data();
    std::vector<std::vector<ClosePair>> close(static_cast<size_t>(inputs));
    for (long k = 0; k < inputs; ++k) {
      const AdjointRows& rows = call_.rows[size_t(k)];
      const double* left = panels1_[size_t(k)].data() + unit.i0 * rows.d;
      const Numbers& right = (call_.same ? panels1_ : panels2_)[size_t(k)];
      double* v = worker.v.data() + k * size;
      for (long c = 0; c < unit.j1 - unit.j0; c += kPanel)
        products_.product(left, right.data() + (unit.j0 + c) * rows.d, unit.i1 - unit.i0, rows.d, v + c, kAdjointCols);
      const long count = loops_.defects(call_, rows, unit, v, worker.close.data(), worker.part.data());
      close[size_t(k)].assign(worker.close.begin(), worker.close.begin() + count);
    }
    if (tile_.entries) return loops_.unit(ops_, tile_, unit, roots2_.data(), worker.scratch.data());
    unit.line_sums = line_sums(block);
    unit.col_sums = col_sums(band);
    unit.totals = totals_.data() + (band * blocks_ + block) * tile_.n_totals;
    loops_.unit(ops_, tile_, unit, roots2_.data(), worker.scratch.data());
    for (long k = 0; k < inputs; ++k) {
      std::vector<ClosePair>& own = close[size_t(k)];
      loops_.weights(tile_, call_.rows[size_t(k)], unit, worker.v.data() + k * size, worker.P.data() + k * size,
                     own.data(), long(own.size()), far(k), along(k, block, false), along(k, band, true));
      this->close(band, block, k) = std::move(own);
    }
  }

  std::vector<ClosePair>& close(long band, long block, long input) {
    return close_[size_t((band * blocks_ + block) * tile_.n_inputs + input)];
  }
  double* far(long input) { return far_.get() + input * tile_.lines * tile_.cols; }
  // Those of one block of columns, and behind them what lies along the rows.
  double* line_sums(long block) { return line_sums_.data() + block * (tile_.n_sums + tile_.n_inputs) * tile_.lines; }
  double* col_sums(long band) { return col_sums_.data() + band * (tile_.n_sums + tile_.n_inputs) * tile_.cols; }
  double* along(long input, long part, bool second) {
    return second ? col_sums(part) + (tile_.n_sums + input) * tile_.cols
                  : line_sums(part) + (tile_.n_sums + input) * tile_.lines;
  }

  // Sums of all blocks into those of the first one, and from there to the caller's.
  void add_up() {
    for (const bool second : {false, true}) {
      const long size = second ? tile_.cols : tile_.lines, parts = second ? bands_ : blocks_;
      double* sums = second ? col_sums_.data() : line_sums_.data();
      const long count = (tile_.n_sums + tile_.n_inputs) * size;
      for (long part = 1; part < parts; ++part)
        for (long k = 0; k < count; ++k) sums[k] += sums[part * count + k];
      double* to = second ? call_.col_sums : call_.line_sums;
      for (long k = 0; k < tile_.n_sums * size; ++k) to[k] += sums[k];
    }
    for (size_t k = 0; k < totals_.size(); ++k) call_.totals[k % size_t(tile_.n_totals)] += totals_[k];
  }

  void gradient(long input, long group, bool second, int index) {
    const AdjointRows& rows = call_.rows[size_t(input)];
    if (!(second ? rows.gradient2 : rows.gradient1)) return;
    Worker& worker = workers_[size_t(index)];
    const long own = second ? tile_.cols : tile_.lines, others = second ? tile_.lines : tile_.cols;
    worker.rows.resize(size_t(rows_scratch(own, others, rows.d)));
    worker.part.resize(size_t(longest_));
    AdjointBack back{};
    back.d = rows.d;
    back.first = group * kPanel;
    back.last = std::min(back.first + kPanel, own);
    back.other_first = call_.same && !second ? back.first : 0;  // pairs below the diagonal have no cotangent
    back.other_last = call_.same && second ? back.last : others;
    back.far = far(input);
    back.own_step = second ? 1 : tile_.cols;
    back.other_step = second ? tile_.cols : 1;
    back.unit = second ? rows.unit2 : rows.unit1;
    back.other_unit = second ? rows.unit1 : rows.unit2;
    back.other_length = second ? rows.length1 : rows.length2;
    back.along = along(input, 0, second);
    back.gradient = second ? rows.gradient2 : rows.gradient1;
    loops_.gradient(products_, back, worker.rows.data());
    const long units = second ? bands_ : blocks_, mine = back.first / (second ? kAdjointCols : kAdjointLines);
    for (long k = 0; k < units; ++k)
      for (const ClosePair& pair : close(second ? k : mine, second ? mine : k, input))
        if (const long at = second ? pair.j : pair.i; back.first <= at && at < back.last)
          loops_.close(call_, rows, pair, second, worker.part.data());
  }

  const std::vector<AdjointOp>& ops_;
  const AdjointTile& tile_;
  const AdjointCall& call_;
  const AdjointLoops& loops_;
  const Products<double>& products_;
  const int threads_;
  const Interrupt& interrupt_;
  const long bands_, blocks_;
  long longest_ = 0;
  std::unique_ptr<double[]> far_;
  Numbers roots2_, line_sums_, col_sums_, totals_;
  Panels panels1_, panels2_;
  std::vector<std::vector<ClosePair>> close_;
  std::vector<Worker> workers_;
};

}  // namespace

void run_adjoint(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const AdjointCall& call, const Isa& isa,
                 int threads, const Interrupt& interrupt) {
  const bool small = tile.lines * tile.cols * long(ops.size()) < 30000;
  TileBack(ops, tile, call, isa, small ? 1 : threads, interrupt).run();
}

}  // namespace fntk
