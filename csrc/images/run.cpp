#include "images/run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "common/check.h"
#include "common/parallel.h"
#include "images/block.h"

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

std::vector<std::array<long, 2>> input_tables(const ImageProgram& program) {
  std::vector<std::array<long, 2>> found;
  for (const ImageGrid& g : program.grids)
    for (const ImageStep& step : g.steps)
      if (step.kind == Kind::input)
        found.push_back({g.table + step.first * g.rows * g.lanes, step.n_arrays * g.rows * g.lanes});
  return found;
}

template <class T>
ImagePlan<T>::ImagePlan(ImageProgram given, Layout<T> of_pairs, Layout<T> of_own)
    : program(std::move(given)), pairs(std::move(of_pairs)), own(std::move(of_own)) {
  const bool has_own =
      std::any_of(own.grids.begin(), own.grids.end(), [](const auto& grid) { return !grid.shifts.empty(); });
  long linked = 1, own_linked = 1;
  for (const LinkLayout& link : own.links) own_linked += 3 * link.size * long(sizeof(double));
  if (has_own) own_images = std::max(1L, std::min(kBlock, kLinked / own_linked));
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
OwnPairs<T>::OwnPairs(const ImagePlan<T>& plan, const std::vector<double>& numbers, const T* tables, long n,
                      const Isa& isa)
    : plan_(plan), numbers_(numbers), tables_(tables), n_(n), isa_(isa), worker_(std::make_shared<Worker<T>>()) {
  check_numbers(plan.program, numbers_);
}

template <class T>
std::vector<typename OwnPairs<T>::Mass> OwnPairs<T>::masses(size_t index, const Interrupt& interrupt) {
  const ImageProgram& program = plan_.program;
  FNTK_CHECK(index < program.grids.size(), "grid ", index, " of ", program.grids.size());
  std::atomic<bool> stop{false};
  Watch watch(stop, &interrupt);
  Worker<T>& worker = *static_cast<Worker<T>*>(worker_.get());
  PairBlock<T> block = {plan_, plan_.own, numbers_, kernels_of<T>(isa_), worker, watch, nullptr, false, {}};
  for (long image = 0; image < n_; ++image) {
    const T* table = tables_ + image * program.table_size;
    block.pairs.push_back({table, table, true, 0, 0, 1});
  }
  reserve(worker, plan_, n_);
  if (index == 0) block.clear_links();
  block.grid(index);
  std::vector<Mass> found;
  for (size_t l = 0; l < program.links.size(); ++l) {
    const ImageLink& link = program.links[l];
    if (size_t(link.source) != index || !link.pool || link.form == Form::cov) continue;
    const ImageGrid& target = program.grids[size_t(link.target)];
    Mass mass = {int(l), {}};
    for (long image = 0; image < n_; ++image) {
      const double* sums = block.link_plane(image, l, 0);  // displacement 0 comes first along every axis
      for (long y = 0; y < target.rows; ++y)
        mass.sums.insert(mass.sums.end(), sums + y * target.lanes, sums + y * target.lanes + target.inner);
    }
    found.push_back(std::move(mass));
  }
  return found;
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

#define FNTK_INSTANTIATE(T)                                                                          \
  template struct ImagePlan<T>;                                                                      \
  template class OwnPairs<T>;                                                                        \
  template std::vector<std::array<long, 2>> run_images<T>(                                           \
      const ImagePlan<T>&, const std::vector<double>&, const ImageTables<T>&, const ImageTables<T>&, \
      const ImagePairs&, const std::vector<ImageOutput<T>>&, const Isa&, int, const Interrupt&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
