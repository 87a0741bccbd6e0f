#include "images/adjoint.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/parallel.h"
#include "images/block.h"

namespace fntk {

#define FNTK_DECLARE(isa)               \
  namespace isa {                       \
  extern const BackKernels back_planes; \
  }
FNTK_DECLARE(baseline)
#if defined(FNTK_X86_ISAS)
FNTK_DECLARE(avx2)
FNTK_DECLARE(avx512)
#endif

namespace {

const BackKernels& kernels_of(const Isa& isa) {
#if defined(FNTK_X86_ISAS)
  const std::string name = isa.name;
  if (name == "avx512") return avx512::back_planes;
  if (name == "avx2") return avx2::back_planes;
#else
  (void)isa;
#endif
  return baseline::back_planes;
}

// What a link brings to its source: the window's weights, or a pool's, which its target has multiplied by.
const ImageStep* landing(const ImageProgram& program, size_t link) {
  for (const ImageStep& step : program.grids[size_t(program.links[link].target)].steps)
    if (step.kind == Kind::land && size_t(step.src[0]) == link) return &step;
  FNTK_CHECK(false, "link ", link, " leads nowhere");
  return nullptr;
}

struct BackWorker {
  Worker<double> forward;
  Buffer<double> planes, accumulators, gathered, scratch, totals;
  std::vector<Buffer<double>> links, sums;  // of each link: P and T in planes of the target; along rows of the source
};

// One pair of images.
struct PairBack {
  const ImageAdjoint& adjoint;
  const std::vector<double>& numbers;
  const PlaneKernels<double>& kernels;
  const BackKernels& back;
  BackWorker& worker;
  const BackCall& call;
  PairBlock<double> block;  // of this pair alone
  const double *own1, *own2;
  long pair;
  double *sums1, *sums2, *totals;

  const ImageProgram& program() const { return adjoint.plan.program; }
  const Layout<double>& layout() const { return adjoint.plan.pairs; }

  double* link_bar(size_t link, int which) {
    const long size = layout().links[link].size;
    return worker.links[link].get(2 * size) + which * size;
  }
  // Of a link's rows of sums, lanes of the source.
  double* sum_bar(size_t link, int which) {
    const long size = layout().links[link].n_rows * program().grids[size_t(program().links[link].source)].lanes;
    return worker.sums[link].get(2 * size) + which * size;
  }

  void run() {
    const size_t last = program().grids.size() - 1;
    block.clear_links();
    for (size_t link = 0; link < layout().links.size(); ++link)
      std::fill_n(link_bar(link, 0), 2 * layout().links[link].size, 0.0);
    for (size_t k = 0; k < adjoint.bent; ++k) block.grid(k);
    for (size_t k = last + 1; k-- > adjoint.bent + 1;) visit(k, false, false);
    visit(adjoint.bent, true, call.counts);
    for (size_t k = adjoint.bent; k-- > 0;) visit(k, true, call.counts);
    if (!call.counts) return;
    for (size_t k = adjoint.bent + 1; k <= last; ++k) block.grid(k);
    for (size_t k = last + 1; k-- > adjoint.bent + 1;) visit(k, true, true);
  }

  // A grid, all its displacements: there, where values are wanted, and back. Of the last grid that is bent the links
  // behind it get what is carried on.
  void visit(size_t index, bool values, bool counts) {
    const ImageGrid& g = program().grids[index];
    const BackGrid& of = adjoint.grids[index];
    const GridLayout<double>& where = layout().grids[index];
    const long size = g.rows * g.lanes;
    const bool again = index > adjoint.bent && values;  // its cotangents have been handed on
    double* sums = worker.accumulators.get(2 * of.n_accumulators * size);
    if (counts) std::fill_n(worker.totals.get(adjoint.n_totals * g.lanes), adjoint.n_totals * g.lanes, 0.0);
    for (size_t group = 0; group < where.groups.size(); ++group) {
      const double *b = block.pairs[0].second + g.table, *own = own2 + of.table;
      if (!where.direct) {
        double* gathered = worker.gathered.get((g.n_arrays + of.n_arrays) * size);
        const std::vector<LaneRun>& runs = where.runs[group];
        const long n_runs = long(runs.size());
        if (values) kernels.gather(g.rows * g.n_arrays, g.lanes, b, runs.data(), n_runs, gathered);
        kernels.gather(g.rows * of.n_arrays, g.lanes, own, runs.data(), n_runs, gathered + g.n_arrays * size);
        b = gathered;
        own = gathered + g.n_arrays * size;
      }
      std::fill_n(sums, 2 * of.n_accumulators * size, 0.0);
      for (const ImageStep& step : g.steps)
        if (step.kind == Kind::join) {
          if (values) block.clear_sums(step, g);
          gather_link(size_t(step.dst), group, g);
        }
      for (size_t s = 0; s < where.shifts.size(); ++s) {
        const std::vector<PairBlock<double>::Item> item = {{0, s, b}};
        if (values) block.steps(index, group, item, false);
        steps(index, group, s, own, sums, values, counts, again);
        block.watch.spent(4 * size * g.n_slots);
      }
      if (values && index == adjoint.bent)
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::join) block.scatter(size_t(step.dst), group, 0, g);
      if (!again) reduce(g, of, where, group, sums);
    }
    if (!counts) return;
    const double* lanes = worker.totals.get(adjoint.n_totals * g.lanes);
    for (int k = 0; k < adjoint.n_totals; ++k)
      for (long x = 0; x < g.lanes; ++x) totals[k] += lanes[k * g.lanes + x];
  }

  // The transpose of PairBlock::scatter.
  void gather_link(size_t index, size_t group, const ImageGrid& g) {
    const LinkLayout& link = layout().links[index];
    const long lanes = program().grids[size_t(program().links[index].target)].lanes;
    for (int which = 0; which < 2; ++which) {
      const double* in = link_bar(index, which);
      double* out = sum_bar(index, which);
      std::fill_n(out, link.n_rows * g.lanes, 0.0);
      for (long row = 0; row < link.n_rows; ++row, out += g.lanes)
        for (const auto& add : link.lanes[group]) out[add.from] += in[row * lanes + add.to];
    }
  }

  // Accumulators of a group, displaced planes side by side, to positions of both images.
  void reduce(const ImageGrid& g, const BackGrid& of, const GridLayout<double>& where, size_t group,
              const double* sums) {
    const long size = g.rows * g.lanes;
    const int32_t* from = where.lanes_from[group].data();
    double *one = sums1 + of.first, *two = sums2 + of.first;
    for (int k = 0; k < of.n_accumulators; ++k)
      for (long y = 0; y < g.rows; ++y, one += g.inner, two += g.inner) {
        const double *a = sums + 2 * k * size + y * g.lanes, *b = a + size;
        for (long lane = 0, slot = 0; slot < long(where.groups[group].size()); ++slot)
          for (long x = 0; x < g.inner; ++x, ++lane) {
            one[x] += a[lane];
            two[where.direct ? x : from[lane]] += b[lane];
          }
      }
  }

  // One displacement, from the last step to the first.
  void steps(size_t index, size_t group, size_t s, const double* own, double* sums, bool values, bool counts,
             bool again) {
    const ImageGrid& g = program().grids[index];
    const BackGrid& of = adjoint.grids[index];
    const GridLayout<double>& where = layout().grids[index];
    const long size = g.rows * g.lanes, forward = planes_size(g);
    double* const planes = worker.planes.get((2 * g.n_slots + 2) * size);
    double* const spare = planes + 2 * g.n_slots * size;
    std::fill_n(planes, 2 * g.n_slots * size, 0.0);
    const double* tape = values ? worker.forward.planes.get(3 * forward * g.n_slots) : nullptr;
    BackArgs c = {};
    c.rows = g.rows;
    c.lanes = g.lanes;
    c.shift = where.shifts[s];
    c.scratch = worker.scratch.get(kBackScratch * g.lanes);
    c.total_stride = g.lanes;
    c.stride = g.lanes;
    for (size_t k = g.steps.size(); k-- > 0;) {
      const ImageStep& step = g.steps[k];
      const BackStep& to = of.steps[k];
      const bool carried = step.kind == Kind::store || step.kind == Kind::join;
      const bool begins = step.kind == Kind::input || step.kind == Kind::land;
      const long offset = to.table * size;
      c.a = own1 + of.table + offset;
      c.b = own + offset;
      c.stride = to.n_arrays * g.lanes;
      if (!carried) {
        c.P = planes + 2 * step.dst * size;
        c.T = call.ntk ? c.P + size : nullptr;
      }
      const int source = begins ? step.dst : step.src[0];
      c.P_out = planes + 2 * source * size;
      c.T_out = c.P_out + size;
      if (values) {
        c.v = tape + 3 * forward * source + g.lanes;
        c.p = c.v + forward;
        c.t = c.p + forward;
      }
      c.defects[0] = step.in != Form::cov;
      c.defects[1] = step.in == Form::both_defects;
      const auto accumulate = [&](int accumulator) {
        c.first = sums + 2 * accumulator * size;
        c.second = c.first + size;
      };
      const auto weigh = [&](const ImageStep& from) {
        const double* weights = from.own(numbers);
        c.over_taps = 1 / from.taps();
        c.w2 = weights[0] * c.over_taps;
        c.f = weights[2] * c.over_taps;
        c.totals =
            counts && to.total >= 0 ? worker.totals.get(adjoint.n_totals * g.lanes) + to.total * g.lanes : nullptr;
        if (to.of_source >= 0) accumulate(to.of_source);
      };
      switch (step.kind) {
        case Kind::store:
          c.P = spare;
          c.T = call.ntk ? spare + size : nullptr;
          load(g, where, step, to, group, s, spare);
          back.pass(c);
          if (c.defects[0]) {
            accumulate(to.of_source);
            back.halves(c);
          }
          break;
        case Kind::join: {
          const size_t link = size_t(step.dst);
          c.P = spare;
          c.T = call.ntk ? spare + size : nullptr;
          std::fill_n(spare, 2 * size, 0.0);
          for (const auto& add : layout().links[link].rows[s])
            for (int which = 0; which < (call.ntk ? 2 : 1); ++which) {
              const double* in = sum_bar(link, which) + add.to * g.lanes;
              double* out = spare + which * size + add.from * g.lanes;
              for (long x = 0; x < g.lanes; ++x) out[x] += in[x];
            }
          if (program().links[link].pool) {
            back.pass(c);
            if (c.defects[0]) {
              accumulate(to.of_source);
              back.halves(c);
            }
          } else {
            weigh(*landing(program(), link));
            back.weights(c);
          }
          break;
        }
        case Kind::land: {
          if (again) {
            weigh(step);
            if (c.totals) back.count(c);
            break;
          }
          const size_t link = size_t(step.src[0]);
          const bool pool = program().links[link].pool;
          const long at = (long(group) * layout().links[link].n_rows + long(s) * g.rows) * g.lanes;
          if (pool && to.of_own >= 0) {
            accumulate(to.of_own);
            back.sums(c);
          }
          if (pool) {
            c.P_out = link_bar(link, 0) + at;
            c.T_out = link_bar(link, 1) + at;
            back.scale(c);
            break;
          }
          std::copy_n(c.P, size, link_bar(link, 0) + at);
          if (c.T) std::copy_n(c.T, size, link_bar(link, 1) + at);
          weigh(step);
          if (c.totals && values) back.count(c);
          if (to.borders) borders(to, g, program().grids[size_t(program().links[link].source)].inner, group, s, c.P);
          break;
        }
        case Kind::sum:
          for (int slot : step.src) {
            c.P_out = planes + 2 * slot * size;
            c.T_out = c.P_out + size;
            back.pass(c);
          }
          break;
        case Kind::convert:
          back.pass(c);
          if (c.defects[0] && step.out == Form::cov) {
            accumulate(to.of_source);
            back.halves(c);
          }
          break;
        case Kind::conv: {
          weigh(step);
          if (c.totals) back.count(c);
          const Reads<double>& reads = *where.reads[k];
          c.n_in = int(reads.shift_in.size());
          c.n_out = int(reads.shift_out.size());
          c.shift_in = reads.shift_in.data();
          c.shift_out = reads.shift_out.data();
          c.mask_in = to.mask_in[group].data();
          c.mask_out = reads.mask_out[s].data();
          back.window(c);
          if (to.borders && !again) borders(to, g, g.inner, group, s, c.P);
          break;
        }
        case Kind::dense:
          weigh(step);
          if (c.totals) back.count(c);
          back.weights(c);
          break;
        case Kind::input:
          if (!c.defects[0] && to.of_own >= 0) {
            accumulate(to.of_own);
            back.halves(c);
          }
          accumulate(to.of_source);
          c.channels = program().channels[size_t(step.src[0])];
          back.input(c);
          break;
        case Kind::dual:
          if (step.out == Form::cov) {
            accumulate(to.of_own);
            back.halves(c);
          }
          accumulate(to.of_source);
          c.params = step.own(numbers);
          back.dual[to.dual](c);
          break;
      }
    }
  }

  // Cotangents of an output at a displacement.
  void load(const ImageGrid& g, const GridLayout<double>& where, const ImageStep& step, const BackStep& to,
            size_t group, size_t s, double* out) const {
    const size_t output = size_t(step.dst);
    const long n = call.sizes[output], size = g.rows * g.lanes;
    const int32_t* from = where.lanes_from[group].data();
    for (int which = 0; which < 2; ++which) {
      double* plane = out + which * size;
      std::fill_n(plane, size, 0.0);
      const double* given = (which == 0 ? call.on_k : call.on_theta)[output];
      if (!given) continue;
      given += pair * n * n;
      for (long y = 0; y < g.rows; ++y) {
        const long other = (y + where.shifts[s]) % g.rows;
        for (long slot = 0, lane = 0; slot < long(where.groups[group].size()); ++slot)
          for (long x = 0; x < g.inner; ++x, ++lane) {
            const int one = to.place[size_t(y * g.inner + x)];
            const int two = to.place[size_t(other * g.inner + (where.direct ? x : from[lane]))];
            if (one >= 0 && two >= 0) plane[y * g.lanes + lane] = given[one * n + two];
          }
      }
    }
  }

  void borders(const BackStep& to, const ImageGrid& g, long inner, size_t group, size_t s, const double* P) {
    for (int side = 0; side < 2; ++side) {
      double* sums = (side == 0 ? sums1 : sums2) + to.border;
      for (const auto& row : to.borders->rows[side][s])
        for (const auto& lane : (row.outside ? to.borders->all : to.borders->outside)[side][group])
          sums[row.to * inner + lane.to] += P[row.from * g.lanes + lane.from];
    }
  }
};

}  // namespace

void run_image_adjoint(const ImageAdjoint& adjoint, const std::vector<double>& numbers, const BackSide& one,
                       const BackSide& two, const BackCall& call, const Isa& isa, int threads,
                       const Interrupt& interrupt) {
  const ImagePlan<double>& plan = adjoint.plan;
  check_numbers(plan.program, numbers);
  for (const auto& [i, j] : call.pairs)
    FNTK_CHECK(i >= 0 && i < one.n && j >= 0 && j < two.n, "images outside their tables");
  for (size_t output = 0; output < call.sizes.size(); ++output)
    FNTK_CHECK(call.sizes[output] >= adjoint.output_sizes[output], "cotangents of fewer positions than the output's");
  const std::vector<std::array<long, 2>> inputs = input_tables(plan.program);
  const long count = long(call.pairs.size()), n_sums = adjoint.n_sums;
  std::vector<BackWorker> workers(size_t(workers_of(count, threads)));
  // each pair's own, so that they are added up in one order whatever the threads
  std::vector<double> sums(size_t(2 * n_sums * count), 0.0);
  parallel_for(count, threads, interrupt, [&](long pair, int index, Watch& watch) {
    BackWorker& worker = workers[size_t(index)];
    worker.forward.sums.resize(plan.program.links.size());
    worker.forward.links.resize(1);
    worker.forward.links[0].resize(plan.program.links.size());
    worker.links.resize(plan.program.links.size());
    worker.sums.resize(plan.program.links.size());
    const auto [i, j] = call.pairs[size_t(pair)];
    const double *first = one.tables + i * plan.program.table_size, *second = two.tables + j * plan.program.table_size;
    const bool same = std::all_of(inputs.begin(), inputs.end(), [&](const auto& input) {
      return std::memcmp(first + input[0], second + input[0], size_t(input[1]) * sizeof(double)) == 0;
    });
    double* const own = sums.data() + 2 * n_sums * pair;
    PairBack work = {adjoint,
                     numbers,
                     *isa.planes_double,
                     kernels_of(isa),
                     worker,
                     call,
                     {plan, plan.pairs, numbers, *isa.planes_double, worker.forward, watch, nullptr, false, {}},
                     one.own + i * adjoint.table_size,
                     two.own + j * adjoint.table_size,
                     pair,
                     own,
                     own + n_sums,
                     call.totals + pair * adjoint.n_totals};
    work.block.pairs.push_back({first, second, same, 0, 0, 1});
    work.run();
  });
  for (long pair = 0; pair < count; ++pair) {
    const auto [i, j] = call.pairs[size_t(pair)];
    const double* own = sums.data() + 2 * n_sums * pair;
    for (long k = 0; k < n_sums; ++k) call.sums1[i * n_sums + k] += own[k];
    for (long k = 0; k < n_sums; ++k) call.sums2[j * n_sums + k] += own[n_sums + k];
  }
}

}  // namespace fntk
