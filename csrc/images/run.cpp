#include "images/run.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "common/check.h"
#include "common/parallel.h"
#include "images/block.h"
#include "images/tables.h"

namespace fntk {

namespace {

template <class T>
const PlaneKernels<T>& kernels_of(const Isa& isa) {
  if constexpr (sizeof(T) == sizeof(float))
    return *isa.planes_float;
  else
    return *isa.planes_double;
}

template <class T>
void reserve(Worker<T>& worker, const ImagePlan<T>& plan, long pairs) {
  worker.sums.resize(plan.program.links.size());
  worker.links.resize(std::max(worker.links.size(), size_t(pairs)));
  for (auto& links : worker.links) links.resize(plan.program.links.size());
}

}  // namespace

Zeros::Zeros(size_t bytes) : block_(std::calloc(bytes + 64, 1), std::free) {
  if (!block_) throw std::bad_alloc();
  first = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block_.get()) + 63) / 64 * 64);
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t large = 2 << 20;
  const uintptr_t start = reinterpret_cast<uintptr_t>(first), from = (start + large - 1) / large * large;
  const uintptr_t to = (start + bytes) / large * large;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);  // refused: small ones
#endif
}

std::vector<std::array<long, 2>> input_tables(const ImageProgram& program) {
  std::vector<std::array<long, 2>> found;
  for (const ImageGrid& g : program.grids)
    for (const ImageStep& step : g.steps)
      if (step.kind == Kind::input)
        found.push_back({g.table + step.first * g.rows * g.lanes, step.n_arrays * g.rows * g.lanes});
  return found;
}

template <class T>
ImagePlan<T>::ImagePlan(ImageProgram given) : program(std::move(given)) {
  prepare(program);
  pairs = make_layout<T>(program, false);
  own = make_layout<T>(program, true);
  for (const auto& grid : own.grids) has_own = has_own || !grid.shifts.empty();
  long linked = 1;
  for (const LinkLayout& link : pairs.links) linked += 3 * link.size * long(sizeof(double));
  side1 = std::max(1L, std::min(kBlock, kLinked / linked));
  side2 = 1;
  const auto& first = pairs.grids[0];
  if (first.direct && first.shifts.size() == 1 && kSide * kSide * linked <= kLinked) side1 = side2 = kSide;
  long planes = 0, gathered = 0, sums = 0;
  for (size_t k = 0; k < program.grids.size(); ++k) {
    const ImageGrid& g = program.grids[k];
    const long together = std::max(chunk_of<T>(g, pairs.grids[k].shifts), side1 * side2);
    planes = std::max(planes, 3 * planes_size(g) * g.n_slots * together);
    gathered = std::max(gathered, g.n_arrays * g.rows * g.lanes);
  }
  for (size_t k = 0; k < program.links.size(); ++k)
    sums += 3 * pairs.links[k].n_rows * program.grids[size_t(program.links[k].source)].lanes * long(sizeof(double)) +
            3 * side1 * side2 * pairs.links[k].size * long(sizeof(double));
  worker_bytes = (planes + gathered) * long(sizeof(T)) + sums;
}

template <class T>
ImageTables<T> make_image_tables(const ImagePlan<T>& plan, const std::vector<double>& numbers,
                                 const std::vector<const T*>& x, long n, const Isa& isa, int threads,
                                 const Interrupt& interrupt) {
  const ImageProgram& program = plan.program;
  check_numbers(program, numbers);
  ImageTables<T> tables;
  tables.n = n;
  tables.size = program.table_size;
  tables.lengths.resize(size_t(n));
  tables.data = Zeros(size_t(n * program.table_size) * sizeof(T));
  std::vector<long> sizes(program.channels.size());
  for (const ImageGrid& g : program.grids)
    for (const ImageStep& step : g.steps)
      if (step.kind == Kind::input)
        sizes[size_t(step.src[0])] = g.rows * g.inner * program.channels[size_t(step.src[0])];
  std::vector<Worker<T>> workers(size_t(workers_of(n, threads)));
  parallel_for(n, threads, interrupt, [&](long image, int index, Watch& watch) {
    Worker<T>& worker = workers[size_t(index)];
    reserve(worker, plan, 1);
    std::vector<const T*> own;
    for (size_t k = 0; k < x.size(); ++k) own.push_back(x[k] + image * sizes[k]);
    T* table = tables.of(plan, image);
    double length = 0;
    for (size_t k = 0; k < own.size() && program.homogeneous; ++k)
      for (long at = 0; at < sizes[k]; ++at) length = std::max(length, std::abs(double(own[k][at])));
    if (!(length > 0) || std::isinf(length)) length = 1;
    tables.lengths[size_t(image)] = length;
    std::vector<LinkVariance> links(program.links.size());
    PairBlock<T> block = {
        plan, plan.own, numbers, kernels_of<T>(isa), worker, watch, nullptr, false, {{table, table, true, 0, 0, 1}}};
    if (plan.has_own) block.clear_links();
    for (size_t k = 0; k < program.grids.size(); ++k) {
      make_tables(program, k, own, length, numbers, kernels_of<T>(isa), links, table, watch);
      if (!plan.has_own) continue;
      block.grid(k);
      for (size_t l = 0; l < program.links.size(); ++l) {
        const ImageLink& link = program.links[l];
        if (size_t(link.source) != k || !link.pool || link.form == Form::cov) continue;
        // displacement 0 comes first along every axis
        const ImageGrid& target = program.grids[size_t(link.target)];
        const double* mass = block.link_plane(0, l, 0);
        links[l].mass.resize(size_t(target.rows * target.inner));
        for (long y = 0; y < target.rows; ++y)
          std::copy_n(mass + y * target.lanes, target.inner, links[l].mass.data() + y * target.inner);
      }
    }
  });
  return tables;
}

template <class T>
std::vector<std::array<long, 2>> run_images(const ImagePlan<T>& plan, const std::vector<double>& numbers,
                                            const ImageTables<T>& tables1, const ImageTables<T>& tables2,
                                            const ImagePairs& pairs, const std::vector<ImageOutput<T>>& outputs,
                                            const Isa& isa, int threads, const Interrupt& interrupt) {
  const ImageProgram& program = plan.program;
  check_numbers(program, numbers);
  FNTK_CHECK(pairs.first1 + pairs.count1 <= tables1.n && pairs.first2 + pairs.count2 <= tables2.n &&
                 int(outputs.size()) == program.n_outputs,
             "images outside their tables, or outputs missing");
  for (const auto& [i, j] : pairs.listed)
    FNTK_CHECK(i >= 0 && i < tables1.n && j >= 0 && j < tables2.n, "images outside their tables");
  const std::vector<std::array<long, 2>> inputs = input_tables(program);
  std::vector<std::array<long, 2>> lost;
  std::mutex lost_lock;
  const bool listed = !pairs.listed.empty();
  const long blocks1 = (pairs.count1 + plan.side1 - 1) / plan.side1;
  const long blocks2 = (pairs.count2 + plan.side2 - 1) / plan.side2;
  const long units = listed ? long(pairs.listed.size()) : blocks1 * blocks2;
  std::vector<Worker<T>> workers(size_t(workers_of(units, threads)));
  parallel_for(units, threads, interrupt, [&](long unit, int index, Watch& watch) {
    Worker<T>& worker = workers[size_t(index)];
    PairBlock<T> block = {plan, plan.pairs, numbers, kernels_of<T>(isa), worker, watch, &outputs, pairs.symmetric, {}};
    const auto add = [&](long i, long j, long out1, long out2) {
      const T *first = tables1.of(plan, i), *second = tables2.of(plan, j);
      const bool same = std::all_of(inputs.begin(), inputs.end(), [&](const auto& input) {
        return std::memcmp(first + input[0], second + input[0], size_t(input[1]) * sizeof(T)) == 0;
      });
      block.pairs.push_back({first, second, same, out1, out2, tables1.lengths[size_t(i)] * tables2.lengths[size_t(j)]});
    };
    if (listed) {
      add(pairs.listed[size_t(unit)][0], pairs.listed[size_t(unit)][1], unit, 0);
    } else {
      const long start1 = unit % blocks1 * plan.side1, start2 = unit / blocks1 * plan.side2;
      for (long j = start2; j < std::min(pairs.count2, start2 + plan.side2); ++j)
        for (long i = start1; i < std::min(pairs.count1, start1 + plan.side1); ++i)
          if (!pairs.symmetric || pairs.out1 + i <= pairs.out2 + j)
            add(pairs.first1 + i, pairs.first2 + j, pairs.out1 + i, pairs.out2 + j);
    }
    if (block.pairs.empty()) return;
    reserve(worker, plan, long(block.pairs.size()));
    block.run();
    for (const Pair<T>& pair : block.pairs) {
      // what is lost is 1e-4 of an entry's NTK at most: it matters where they are many
      if (!(pair.lost > 2e-3 * pair.all)) continue;
      const std::lock_guard<std::mutex> guard(lost_lock);
      lost.push_back({pair.out1, pair.out2});
    }
  });
  std::sort(lost.begin(), lost.end());
  return lost;
}

#define FNTK_INSTANTIATE(T)                                                                                            \
  template struct ImagePlan<T>;                                                                                        \
  template ImageTables<T> make_image_tables<T>(const ImagePlan<T>&, const std::vector<double>&,                        \
                                               const std::vector<const T*>&, long, const Isa&, int, const Interrupt&); \
  template std::vector<std::array<long, 2>> run_images<T>(                                                             \
      const ImagePlan<T>&, const std::vector<double>&, const ImageTables<T>&, const ImageTables<T>&,                   \
      const ImagePairs&, const std::vector<ImageOutput<T>>&, const Isa&, int, const Interrupt&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
