#include "images/layout.h"

#include <algorithm>

#include "common/check.h"

namespace fntk {

namespace {

int modulo(int a, int n) { return ((a % n) + n) % n; }

long product(const std::vector<int>& v, size_t first, size_t last) {
  long all = 1;
  for (size_t k = first; k < last; ++k) all *= v[k];
  return all;
}

std::vector<int> unflatten(long at, const std::vector<int>& sizes, size_t first, size_t last) {
  std::vector<int> place(last - first);
  for (size_t k = last; k-- > first;) {
    place[k - first] = int(at % sizes[k]);
    at /= sizes[k];
  }
  return place;
}

long flatten(const std::vector<int>& place, const std::vector<int>& sizes, size_t first) {
  long at = 0;
  for (size_t k = 0; k < place.size(); ++k) at = at * sizes[first + k] + place[k];
  return at;
}

int taps(const Window& window, size_t first, size_t last) { return int(product(window.shape, first, last)); }

bool same_window(const Window& a, const Window& b) {
  return a.shape == b.shape && a.dilation == b.dilation && a.low == b.low && a.size_in == b.size_in &&
         a.size_out == b.size_out && a.circular == b.circular;
}

int stage(int parts) { return parts > 1 ? parts : 0; }  // arrays: coordinates of all but one, and a factor

// Axes of a grid as a window counts them: one position has any number of axes.
std::vector<int> axes_of(const ImageGrid& grid, const Window& window) {
  if (grid.sizes.size() == window.shape.size()) return grid.sizes;
  FNTK_CHECK(grid.rows * grid.inner == 1, "a window of ", window.shape.size(), " axes on a grid of ",
             grid.sizes.size());
  return std::vector<int>(window.shape.size(), 1);
}

// Input position of output position `at` and tap `tap` along an axis, -1 outside.
int tap_position(const Window& window, int axis, int at, int tap) {
  const size_t k = size_t(axis);
  if (at >= window.size_out[k]) return -1;
  const int found = window.strides[k] * at + window.dilation[k] * tap - window.low[k], n = window.size_in[k];
  if (window.circular) return modulo(found, n);
  return found >= 0 && found < n ? found : -1;
}

// Input positions of output position (y, x) under every tap of a window's axes first .. last - 1, as flat indices over
// those axes of `sizes`, -1 outside. Taps in row-major order.
std::vector<long> tap_positions(const Window& window, const std::vector<int>& sizes, size_t first, size_t last,
                                long at) {
  const std::vector<int> place = unflatten(at, sizes, first, last);
  std::vector<long> found(size_t(taps(window, first, last)));
  for (size_t t = 0; t < found.size(); ++t) {
    const std::vector<int> tap = unflatten(long(t), window.shape, first, last);
    long flat = 0;
    for (size_t k = first; k < last && flat >= 0; ++k) {
      const int y = tap_position(window, int(k), place[k - first], tap[k - first]);
      flat = y < 0 ? -1 : flat * window.size_in[k] + y;
    }
    found[t] = flat;
  }
  return found;
}

}  // namespace

void prepare(ImageProgram& program) {
  const int n_links = int(program.links.size()), n_inputs = int(program.channels.size());
  long place = 0;
  for (ImageGrid& grid : program.grids) {
    FNTK_CHECK(
        !grid.sizes.empty() && grid.need.size() == grid.sizes.size() && grid.self_need.size() == grid.sizes.size(),
        "a grid needs sizes, and displacements along each axis");
    for (size_t k = 0; k < grid.sizes.size(); ++k) {
      FNTK_CHECK(grid.sizes[k] > 0, "a grid has ", grid.sizes[k], " positions along an axis");
      for (const auto* need : {&grid.need[k], &grid.self_need[k]})
        for (int d : *need) FNTK_CHECK(d >= 0 && d < grid.sizes[k], "displacement ", d, " of ", grid.sizes[k]);
    }
    grid.rows = grid.sizes[0];
    grid.inner = product(grid.sizes, 1, grid.sizes.size());
    long wanted = 1;
    for (size_t k = 1; k < grid.need.size(); ++k) wanted *= std::max<long>(1, long(grid.need[k].size()));
    grid.packed = std::max(1L, std::min(wanted, kFastLanes / grid.inner));
    grid.lanes = (grid.packed * grid.inner + 15) / 16 * 16;
    grid.n_arrays = 0;
    for (ImageStep& step : grid.steps) {
      const bool cov = step.in == Form::cov;
      const Window* window = &step.window;
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
        int parts[2] = {1, 1};
        bool pool = false;
        if (step.kind == Kind::conv) {
          axes_of(grid, *window);
          parts[0] = taps(*window, 1, window->shape.size());
          parts[1] = window->shape[0];
        } else if (step.kind == Kind::land) {
          FNTK_CHECK(step.src.size() == 1 && step.src[0] >= 0 && step.src[0] < n_links, "land reads link ",
                     step.src[0]);
          window = &program.links[size_t(step.src[0])].window;
          pool = program.links[size_t(step.src[0])].pool;
          parts[0] = taps(*window, 0, window->shape.size());
        }
        FNTK_CHECK(pool ? step.n_numbers == 1 : step.n_numbers == 4 || step.n_numbers == 0, step.name, " has ",
                   step.n_numbers, " parameters");
        if (pool) {
          step.n_arrays = cov ? 1 : 6;
        } else if (!cov) {
          step.bias = step.shift == kBias;
          step.n_coords[0] = parts[0] - 1;
          step.n_coords[1] = parts[1] - 1;
          step.n_arrays = stage(parts[0]) + stage(parts[1]) + 2 * step.bias + 1;
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
  program.table_size = place;
}

void check_numbers(const ImageProgram& program, const std::vector<double>& numbers) {
  FNTK_CHECK(long(numbers.size()) >= program.n_numbers, "the program reads ", program.n_numbers, " numbers, given ",
             numbers.size());
  for (const ImageGrid& grid : program.grids)
    for (const ImageStep& step : grid.steps)
      if (step.kind == Kind::dual) check_values(kFirstDual + step.dual, step.own(numbers), step.n_numbers);
}

namespace {

// Reads along one axis or several: distance -> weight at each position, for a displacement d. A tap counts where both
// positions, and both that they read, exist.
std::map<long, std::vector<double>> reads_along(const Window& window, const std::vector<int>& sizes, size_t first,
                                                size_t last, const std::vector<int>& d) {
  const long n = product(sizes, first, last);
  std::map<long, std::vector<double>> found;
  for (long at = 0; at < n; ++at) {
    std::vector<int> other = unflatten(at, sizes, first, last);
    for (size_t k = 0; k < other.size(); ++k) other[k] = modulo(other[k] + d[k], sizes[first + k]);
    const std::vector<long> one = tap_positions(window, sizes, first, last, at);
    const std::vector<long> two = tap_positions(window, sizes, first, last, flatten(other, sizes, first));
    for (size_t t = 0; t < one.size(); ++t) {
      if (one[t] < 0 || two[t] < 0) continue;
      const std::vector<int> place = unflatten(one[t], window.size_in, first, last);
      std::vector<double>& weight = found[flatten(place, sizes, first) - at];
      weight.resize(size_t(n));
      weight[size_t(at)] += 1;
    }
  }
  return found;
}

// Distances in one order for all displacements: 0 first.
template <class Map>
std::vector<long> distances(const std::vector<Map>& all) {
  std::vector<long> found;
  for (const Map& one : all)
    for (const auto& [distance, weight] : one)
      if (std::find(found.begin(), found.end(), distance) == found.end()) found.push_back(distance);
  std::sort(found.begin(), found.end(),
            [](long a, long b) { return (a != 0) < (b != 0) || ((a != 0) == (b != 0) && a < b); });
  return found;
}

template <class T>
std::shared_ptr<Reads<T>> make_reads(const ImageGrid& grid, const GridLayout<T>& layout, const Window& window) {
  const std::vector<int> sizes = axes_of(grid, window);
  const size_t axes = sizes.size();
  auto reads = std::make_shared<Reads<T>>();
  using Map = std::map<long, std::vector<double>>;
  std::vector<Map> along;
  for (int d : layout.shifts) along.push_back(reads_along(window, sizes, 0, 1, {d}));
  reads->shift_out = distances(along);
  for (const Map& map : along) {
    std::vector<T> mask(reads->shift_out.size() * size_t(grid.rows));
    for (size_t k = 0; k < reads->shift_out.size(); ++k)
      if (const auto it = map.find(reads->shift_out[k]); it != map.end())
        for (long y = 0; y < grid.rows; ++y) mask[k * size_t(grid.rows) + size_t(y)] = T(it->second[size_t(y)]);
    reads->mask_out.push_back(mask);
  }
  along.clear();
  for (const auto& group : layout.groups)
    for (const auto& d : group)
      along.push_back(reads_along(window, sizes, 1, axes, d.size() == axes - 1 ? d : std::vector<int>(axes - 1)));
  reads->shift_in = distances(along);
  size_t next = 0;
  for (const auto& group : layout.groups) {
    std::vector<T> mask(reads->shift_in.size() * size_t(grid.lanes));
    for (size_t slot = 0; slot < group.size(); ++slot, ++next)
      for (size_t k = 0; k < reads->shift_in.size(); ++k)
        if (const auto it = along[next].find(reads->shift_in[k]); it != along[next].end())
          for (long x = 0; x < grid.inner; ++x)
            mask[k * size_t(grid.lanes) + slot * size_t(grid.inner) + size_t(x)] = T(it->second[size_t(x)]);
    reads->mask_in.push_back(mask);
  }
  const auto small = [](long d) { return -4 < d && d < 4; };
  reads->three = reads->shift_in.size() == 3 && reads->shift_out.size() == 3 && reads->shift_in[0] == 0 &&
                 reads->shift_out[0] == 0 && std::all_of(reads->shift_out.begin(), reads->shift_out.end(), small) &&
                 window.shape[0] == 3 && taps(window, 1, axes) == 3 && !window.circular;
  return reads;
}

struct Step1 {  // of a link along one axis: displacement and position of the source, of the target
  int d, y, D, Y;
};

std::vector<Step1> contributions(const ImageLink& link, int axis, int n_source, int n_target) {
  const Window& w = link.window;
  const int n_out = w.size_out[size_t(axis)], k = w.shape[size_t(axis)];
  std::vector<Step1> found;
  for (int Y = 0; Y < n_out; ++Y)
    for (int Z = 0; Z < n_out; ++Z)
      for (int a = 0; a < k; ++a)
        for (int b = link.pool ? 0 : a; b < (link.pool ? k : a + 1); ++b) {
          const int y = tap_position(w, axis, Y, a), z = tap_position(w, axis, Z, b);
          if (y >= 0 && z >= 0) found.push_back({modulo(z - y, n_source), y, modulo(Z - Y, n_target), Y});
        }
  return found;
}

template <class T>
LinkLayout make_link(const ImageProgram& program, const Layout<T>& layout, const ImageLink& link) {
  const ImageGrid &source = program.grids[size_t(link.source)], &target = program.grids[size_t(link.target)];
  const GridLayout<T>&from = layout.grids[size_t(link.source)], &to = layout.grids[size_t(link.target)];
  LinkLayout found;
  found.n_rows = long(to.shifts.size()) * target.rows;
  found.size = long(to.groups.size()) * found.n_rows * target.lanes;
  const std::vector<int> sizes = axes_of(source, link.window), sizes_out = axes_of(target, link.window);
  const size_t axes = sizes.size();

  found.rows.resize(from.shifts.size());
  for (const Step1& c : contributions(link, 0, sizes[0], sizes_out[0])) {
    const auto d = std::find(from.shifts.begin(), from.shifts.end(), c.d);
    const auto D = std::find(to.shifts.begin(), to.shifts.end(), c.D);
    if (d != from.shifts.end() && D != to.shifts.end())
      found.rows[size_t(d - from.shifts.begin())].push_back({c.y, (D - to.shifts.begin()) * target.rows + c.Y});
  }

  // inner axes: for each displacement and position of the source, those of the target
  std::vector<std::map<std::pair<int, int>, std::vector<std::pair<int, int>>>> along(axes);
  for (size_t k = 1; k < axes; ++k)
    for (const Step1& c : contributions(link, int(k), sizes[k], sizes_out[k]))
      along[k][{c.d, c.y}].push_back({c.D, c.Y});
  std::map<std::vector<int>, std::pair<long, long>> places;  // displacement -> group, slot
  for (size_t g = 0; g < to.groups.size(); ++g)
    for (size_t s = 0; s < to.groups[g].size(); ++s) {
      std::vector<int> D = to.groups[g][s];
      D.resize(axes - 1);  // one position: zeros
      places[D] = {long(g), long(s)};
    }
  for (const auto& group : from.groups) {
    std::vector<LinkLayout::Add> adds;
    for (size_t slot = 0; slot < group.size(); ++slot)
      for (long x = 0; x < source.inner; ++x) {
        const std::vector<int> at = unflatten(x, sizes, 1, axes);
        struct Partial {
          std::vector<int> D;
          long X;
        };
        std::vector<Partial> partial = {{{}, 0}};
        for (size_t k = 1; k < axes; ++k) {
          const int d = k - 1 < group[slot].size() ? group[slot][k - 1] : 0;
          std::vector<Partial> longer;
          if (const auto it = along[k].find({d, at[k - 1]}); it != along[k].end())
            for (const Partial& p : partial)
              for (const auto& [D, Y] : it->second) {
                Partial q = p;
                q.D.push_back(D);
                q.X = q.X * sizes_out[k] + Y;
                longer.push_back(q);
              }
          partial = longer;
        }
        for (const Partial& p : partial)
          if (const auto it = places.find(p.D); it != places.end())
            adds.push_back({long(slot) * source.inner + x,
                            it->second.first * found.n_rows * target.lanes + it->second.second * target.inner + p.X});
      }
    found.lanes.push_back(adds);
  }
  return found;
}

}  // namespace

template <class T>
Layout<T> make_layout(const ImageProgram& program, bool own) {
  Layout<T> layout;
  for (const ImageGrid& grid : program.grids) {
    const auto& need = own ? grid.self_need : grid.need;
    GridLayout<T> found;
    const bool any = std::none_of(need.begin(), need.end(), [](const auto& axis) { return axis.empty(); });
    if (any) found.shifts = need[0];
    std::vector<std::vector<int>> inner;
    if (any) inner.push_back({});
    for (size_t k = 1; k < need.size(); ++k) {
      std::vector<std::vector<int>> longer;
      for (const auto& before : inner)
        for (int d : need[k]) {
          longer.push_back(before);
          longer.back().push_back(d);
        }
      inner = longer;
    }
    for (size_t k = 0; k < inner.size(); k += size_t(grid.packed))
      found.groups.emplace_back(inner.begin() + long(k),
                                inner.begin() + long(std::min(inner.size(), k + size_t(grid.packed))));
    found.direct = inner.size() == 1 && std::all_of(inner[0].begin(), inner[0].end(), [](int d) { return d == 0; });
    for (const auto& group : found.groups) {
      std::vector<int32_t> from(size_t(grid.lanes));
      for (long lane = 0; lane < grid.lanes; ++lane) {
        const long slot = lane / grid.inner, x = lane % grid.inner;
        from[size_t(lane)] = int32_t(lane);
        if (slot >= grid.packed) continue;  // zeros
        const auto& d = group[size_t(slot) < group.size() ? size_t(slot) : 0];
        std::vector<int> at = unflatten(x, grid.sizes, 1, grid.sizes.size());
        for (size_t k = 0; k < at.size(); ++k) at[k] = modulo(at[k] + d[k], grid.sizes[k + 1]);
        from[size_t(lane)] = int32_t(flatten(at, grid.sizes, 1));
      }
      found.lanes_from.push_back(from);
    }
    std::vector<std::pair<const Window*, std::shared_ptr<Reads<T>>>> made;
    for (const ImageStep& step : grid.steps) {
      std::shared_ptr<Reads<T>> reads;
      if (step.kind == Kind::conv) {
        for (const auto& [window, known] : made)
          if (same_window(*window, step.window)) reads = known;
        if (!reads) {
          reads = make_reads(grid, found, step.window);
          made.emplace_back(&step.window, reads);
        }
      }
      found.reads.push_back(reads);
    }
    layout.grids.push_back(found);
  }
  for (const ImageLink& link : program.links) layout.links.push_back(make_link(program, layout, link));
  return layout;
}

template Layout<float> make_layout<float>(const ImageProgram&, bool);
template Layout<double> make_layout<double>(const ImageProgram&, bool);

}  // namespace fntk
