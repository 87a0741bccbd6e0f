#include "images/layout.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace fntk {

namespace {

// Tables of images whose sides are powers of two would lie whole pages apart, and share a few places of a cache.
constexpr long kApartFrom = 1 << 14, kApart = 160;  // numbers

int stage(int parts) { return parts > 1 ? parts : 0; }  // arrays: coordinates of all but one, and a factor

}  // namespace

void prepare(ImageProgram& program) {
  const int n_links = int(program.links.size()), n_inputs = int(program.channels.size());
  long place = 0;
  for (ImageGrid& grid : program.grids) {
    FNTK_CHECK(!grid.sizes.empty(), "a grid needs sizes");
    grid.rows = grid.sizes[0];
    grid.inner = 1;
    for (size_t k = 0; k < grid.sizes.size(); ++k) {
      FNTK_CHECK(grid.sizes[k] > 0, "a grid has ", grid.sizes[k], " positions along an axis");
      if (k > 0) grid.inner *= grid.sizes[k];
    }
    FNTK_CHECK(grid.packed > 0 && grid.packed * grid.inner <= grid.lanes && grid.lanes % 16 == 0, grid.packed,
               " times ", grid.inner, " positions in ", grid.lanes, " lanes");
    grid.n_arrays = 0;
    for (ImageStep& step : grid.steps) {
      const bool cov = step.in == Form::cov;
      static const std::pair<const char*, Kind> kinds[] = {
          {"input", Kind::input}, {"land", Kind::land},       {"conv", Kind::conv},   {"dense", Kind::dense},
          {"sum", Kind::sum},     {"convert", Kind::convert}, {"store", Kind::store}, {"join", Kind::join}};
      step.kind = Kind::dual;
      for (const auto& [name, kind] : kinds)
        if (step.name == name) step.kind = kind;
      step.first = grid.n_arrays;
      step.n_arrays = 0;
      step.bias = false;
      int limit = grid.n_slots;
      if (step.kind == Kind::input) {
        FNTK_CHECK(step.src.size() == 1 && step.src[0] >= 0 && step.src[0] < n_inputs, "input reads input ",
                   step.src[0]);
        step.n_arrays = program.channels[size_t(step.src[0])] + 1;
      } else if (step.kind == Kind::conv || step.kind == Kind::dense || step.kind == Kind::land) {
        FNTK_CHECK(step.parts[0] > 0 && step.parts[1] > 0, step.name, " without taps");
        bool pool = false;
        if (step.kind == Kind::land) {
          FNTK_CHECK(step.src.size() == 1 && step.src[0] >= 0 && step.src[0] < n_links, "land reads link ",
                     step.src[0]);
          pool = program.links[size_t(step.src[0])].pool;
        }
        FNTK_CHECK(pool ? step.n_numbers == 1 : step.n_numbers == 4 || step.n_numbers == 0, step.name, " has ",
                   step.n_numbers, " parameters");
        if (pool) {
          step.n_arrays = cov ? 1 : 6;
        } else if (!cov) {
          step.bias = step.shift == kBias;
          step.n_coords[0] = step.parts[0] - 1;
          step.n_coords[1] = step.parts[1] - 1;
          step.n_arrays = stage(step.parts[0]) + stage(step.parts[1]) + 2 * step.bias + 1;
        }
      } else if (step.kind == Kind::sum) {
        step.n_arrays = cov ? 0 : stage(int(step.src.size()));
      } else if (step.kind == Kind::store || step.kind == Kind::convert) {
        step.n_arrays = cov ? 0 : 1;
        if (step.kind == Kind::store) limit = program.n_outputs;
      } else if (step.kind == Kind::join) {
        limit = n_links;
      } else {
        const int code = code_of(step.name);
        FNTK_CHECK(code >= kFirstDual, "no step named '", step.name, "'");
        step.dual = code - kFirstDual;
        FNTK_CHECK(step.dual < kMaxDuals, step.name, " has no loop over planes");
        check_parameters(code, size_t(std::max(step.n_numbers, 0)));
        FNTK_CHECK(!cov && (step.out == Form::cov || ops()[size_t(code)].positive == (step.out == Form::defect)),
                   step.name, " between forms that do not fit");
        step.n_arrays = 2 + n_rows_of(code, size_t(step.n_numbers));
      }
      FNTK_CHECK(step.dst >= 0 && step.dst < limit, step.name, " writes ", step.dst, " of ", limit);
      if (step.kind != Kind::input && step.kind != Kind::land)
        for (int slot : step.src) FNTK_CHECK(slot >= 0 && slot < grid.n_slots, step.name, " reads slot ", slot);
      FNTK_CHECK(step.n_numbers >= 0 && step.first_number >= 0, step.name, ": parameters begin nowhere");
      program.n_numbers = std::max(program.n_numbers, step.first_number + step.n_numbers);
      grid.n_arrays += step.n_arrays;
    }
    grid.table = place;
    place += grid.n_arrays * grid.rows * grid.lanes;
  }
  for (const ImageLink& link : program.links)
    FNTK_CHECK(link.source >= 0 && link.source < link.target && link.target < int(program.grids.size()),
               "a link leads from grid ", link.source, " to ", link.target);
  program.table_size = place < kApartFrom ? place : place + kApart;
}

void check_numbers(const ImageProgram& program, const std::vector<double>& numbers) {
  FNTK_CHECK(long(numbers.size()) >= program.n_numbers, "the program reads ", program.n_numbers, " numbers, given ",
             numbers.size());
  for (const ImageGrid& grid : program.grids)
    for (const ImageStep& step : grid.steps)
      if (step.kind == Kind::dual) check_values(kFirstDual + step.dual, step.own(numbers), step.n_numbers);
}

namespace {

void check_adds(const std::vector<LinkLayout::Add>& adds, long from, long to) {
  for (const LinkLayout::Add& add : adds)
    FNTK_CHECK(add.from >= 0 && add.from < from && add.to >= 0 && add.to < to, "a link adds ", add.from, " of ", from,
               " to ", add.to, " of ", to);
}

template <class T>
void check_reads(const ImageGrid& grid, const GridLayout<T>& layout, const Reads<T>& reads) {
  const size_t in = reads.shift_in.size(), out = reads.shift_out.size();
  for (long d : reads.shift_in) FNTK_CHECK(-grid.lanes < d && d < grid.lanes, "a read ", d, " lanes away");
  for (long d : reads.shift_out) FNTK_CHECK(-grid.rows < d && d < grid.rows, "a read ", d, " rows away");
  bool fits = reads.mask_in.size() == layout.groups.size() && reads.mask_out.size() == layout.shifts.size();
  for (const auto& mask : reads.mask_in) fits = fits && mask.size() == in * size_t(grid.lanes);
  for (const auto& mask : reads.mask_out) fits = fits && mask.size() == out * size_t(grid.rows);
  FNTK_CHECK(fits && (!reads.three || (in == 3 && out == 3)), "weights of a window that do not fit its reads");
}

std::vector<LaneRun> runs_of(const std::vector<int32_t>& from) {
  std::vector<LaneRun> found;
  for (size_t x = 0; x < from.size(); ++x) {
    if (x == 0 || from[x] != from[x - 1] + 1) found.push_back({int32_t(x), from[x], 0});
    ++found.back().count;
  }
  return found;
}

}  // namespace

template <class T>
void check_layout(const ImageProgram& program, Layout<T>& layout) {
  FNTK_CHECK(layout.grids.size() == program.grids.size() && layout.links.size() == program.links.size(),
             "geometry of another plan");
  for (size_t k = 0; k < program.grids.size(); ++k) {
    const ImageGrid& grid = program.grids[k];
    GridLayout<T>& own = layout.grids[k];
    for (int d : own.shifts) FNTK_CHECK(d >= 0 && d < grid.rows, "displacement ", d, " of ", grid.rows);
    FNTK_CHECK(own.lanes_from.size() == own.groups.size() && own.reads.size() == grid.steps.size(),
               "lanes or reads of another plan");
    own.direct = own.groups.size() == 1 && own.groups[0].size() == 1;
    for (size_t group = 0; group < own.groups.size(); ++group) {
      FNTK_CHECK(long(own.groups[group].size()) <= grid.packed && !own.groups[group].empty(), "a group of ",
                 own.groups[group].size(), " displacements in place of ", grid.packed);
      for (const auto& d : own.groups[group]) {
        FNTK_CHECK(d.size() == grid.sizes.size() - 1, "a displacement along ", d.size(), " axes");
        for (size_t axis = 0; axis < d.size(); ++axis) {
          FNTK_CHECK(d[axis] >= 0 && d[axis] < grid.sizes[axis + 1], "displacement ", d[axis], " of ",
                     grid.sizes[axis + 1]);
          own.direct = own.direct && d[axis] == 0;
        }
      }
      FNTK_CHECK(long(own.lanes_from[group].size()) == grid.lanes, "lanes of another grid");
      for (int32_t lane : own.lanes_from[group])
        FNTK_CHECK(lane >= 0 && lane < grid.lanes, "lane ", lane, " of ", grid.lanes);
      own.runs.push_back(runs_of(own.lanes_from[group]));
    }
    for (size_t step = 0; step < grid.steps.size(); ++step) {
      FNTK_CHECK(bool(own.reads[step]) == (grid.steps[step].kind == Kind::conv), grid.steps[step].name,
                 " with reads of another step");
      if (own.reads[step]) check_reads(grid, own, *own.reads[step]);
    }
  }
  for (size_t k = 0; k < program.links.size(); ++k) {
    const ImageGrid &source = program.grids[size_t(program.links[k].source)],
                    &target = program.grids[size_t(program.links[k].target)];
    const GridLayout<T>&from = layout.grids[size_t(program.links[k].source)],
          &to = layout.grids[size_t(program.links[k].target)];
    const LinkLayout& link = layout.links[k];
    FNTK_CHECK(link.rows.size() == from.shifts.size() && link.lanes.size() == from.groups.size() &&
                   link.n_rows == long(to.shifts.size()) * target.rows &&
                   link.size == long(to.groups.size()) * link.n_rows * target.lanes,
               "a link between other grids");
    for (const auto& adds : link.rows) check_adds(adds, source.rows, link.n_rows);
    for (const auto& adds : link.lanes) check_adds(adds, source.lanes, link.size);
  }
}

template void check_layout<float>(const ImageProgram&, Layout<float>&);
template void check_layout<double>(const ImageProgram&, Layout<double>&);

}  // namespace fntk
