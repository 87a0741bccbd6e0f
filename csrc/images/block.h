// The work of one thread on a few pairs of images, for images/run.cpp: grids and links, one after the other.
#pragma once
#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "images/run.h"

namespace fntk {

// Displacements along axis 0 that take a step together, so that its tables are read once. The tables of float64 do not
// fit into a core's second cache: more of them pay there, and nowhere else.
template <class T>
constexpr long kChunk = sizeof(T) == sizeof(double) ? 16 : 8;
constexpr long kBlock = 4;          // first images that meet a second one while its gathered tables are at hand
constexpr long kLinked = 32 << 20;  // bytes of planes between grids, of all pairs that a thread has at hand
constexpr long kSide = 8;           // images of each side that meet where one displacement is enough: a step at a time

inline long planes_size(const ImageGrid& grid) { return (grid.rows + 2) * grid.lanes; }

template <class T>
long chunk_of(const ImageGrid& grid, const std::vector<int>& shifts) {
  const long most = std::max(1L, 65536 / planes_size(grid));
  return std::max(1L, std::min({kChunk<T>, most, long(shifts.size())}));
}

// A worker's buffers, on cache lines.
template <class T>
class Buffer {
 public:
  T* get(long elements) {
    if (long(bytes_.size()) < elements * long(sizeof(T)) + 64) bytes_.assign(size_t(elements) * sizeof(T) + 64, 0);
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(bytes_.data()) + 63) / 64 * 64);
  }

 private:
  std::vector<char> bytes_;
};

template <class T>
struct Worker {
  Buffer<T> planes, scratch, gathered;
  std::vector<Buffer<double>> sums;                // of each link: n_rows x lanes of the source, three planes
  std::vector<std::vector<Buffer<double>>> links;  // of each image of a block, of each link: three planes
};

template <class T>
struct Pair {
  const T *first, *second;  // tables
  bool same;                // one image twice
  long out1, out2;
  double length;             // of both images, multiplied
  double lost = 0, all = 0;  // pooled s s': where float32 has too few digits, and altogether
};

// The work on a few pairs. Where one displacement is enough they take every step together, so that its tables are read
// while they are near; elsewhere pairs with one second image share its gathered tables.
template <class T>
struct PairBlock {
  const ImagePlan<T>& plan;
  const Layout<T>& layout;
  const std::vector<double>& numbers;
  const PlaneKernels<T>& kernels;
  Worker<T>& worker;
  Watch& watch;
  const std::vector<ImageOutput<T>>* outputs;
  bool mirrored;
  std::vector<Pair<T>> pairs;

  struct Item {  // one displacement along axis 0 of one pair
    long pair;
    size_t shift;
    const T* b;                      // the second image's tables of the grid
    bool first[2] = {false, false};  // of those that come from memory, the first item that reads one
  };

  const ImageProgram& program() const { return plan.program; }

  double* link_plane(long pair, size_t link, int plane) {
    const long size = layout.links[link].size;
    return worker.links[size_t(pair)][link].get(3 * size) + plane * size;
  }

  void clear_links() {
    for (size_t pair = 0; pair < pairs.size(); ++pair)
      for (size_t k = 0; k < layout.links.size(); ++k)
        std::fill_n(link_plane(long(pair), k, 0), 3 * layout.links[k].size, 0.0);
  }

  void clear_sums(const ImageStep& step, const ImageGrid& g) {
    const long size = layout.links[size_t(step.dst)].n_rows * g.lanes;
    std::fill_n(worker.sums[size_t(step.dst)].get(3 * size), 3 * size, 0.0);
  }

  void grid(size_t index) {
    const ImageGrid& g = program().grids[index];
    const GridLayout<T>& where = layout.grids[index];
    std::vector<Item> items;
    if (where.direct && where.shifts.size() == 1) {
      for (size_t k = 0; k < pairs.size(); ++k) {
        items.push_back({long(k), 0, pairs[k].second + g.table, {true, true}});
        for (size_t before = 0; before < k; ++before) {
          if (pairs[before].first == pairs[k].first) items[k].first[0] = false;
          if (pairs[before].second == pairs[k].second) items[k].first[1] = false;
        }
      }
      steps(index, 0, items, true);
      return;
    }
    const size_t chunk = size_t(chunk_of<T>(g, where.shifts));
    for (size_t group = 0; group < where.groups.size(); ++group) {
      const T *gathered_from = nullptr, *b = nullptr;
      for (size_t pair = 0; pair < pairs.size(); ++pair) {
        if (pairs[pair].second != gathered_from) {
          gathered_from = pairs[pair].second;
          b = gathered_from + g.table;
          if (!where.direct) {
            T* gathered = worker.gathered.get(g.n_arrays * g.rows * g.lanes);
            const std::vector<LaneRun>& runs = where.runs[group];
            kernels.gather(g.rows * g.n_arrays, g.lanes, b, runs.data(), long(runs.size()), gathered);
            b = gathered;
          }
        }
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::join) clear_sums(step, g);
        for (size_t s = 0; s < where.shifts.size(); s += chunk) {
          items.clear();
          for (size_t k = s; k < std::min(where.shifts.size(), s + chunk); ++k) items.push_back({long(pair), k, b});
          steps(index, group, items, false);
        }
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::join) scatter(size_t(step.dst), group, long(pair), g);
      }
    }
  }

  // All steps for some displacements; `alone`: each is all that its pair has.
  void steps(size_t index, size_t group, const std::vector<Item>& items, bool alone) {
    const ImageGrid& g = program().grids[index];
    const GridLayout<T>& where = layout.grids[index];
    const long size = planes_size(g), slot_size = 3 * size, all = slot_size * g.n_slots;
    T* const planes = worker.planes.get(all * long(items.size()));
    const auto plane = [&](size_t item, int slot, int p) {
      return planes + all * long(item) + slot_size * slot + size * p + g.lanes;
    };
    for (long k = 0; k < 3 * g.n_slots * long(items.size()); ++k) {  // what masks hide must not be NaN
      std::fill_n(planes + k * size, g.lanes, T(0));
      std::fill_n(planes + (k + 1) * size - g.lanes, g.lanes, T(0));
    }
    PlaneArgs<T> c = {};
    c.rows = g.rows;
    c.lanes = g.lanes;
    c.scratch = worker.scratch.get(scratch_size(g));
    std::vector<const T*> sources;
    std::vector<PlaneItem<T>> together;
    for (size_t k = 0; k < g.steps.size(); ++k) {
      const ImageStep& step = g.steps[k];
      const ImageStep* after = step.fused ? &g.steps[k + 1] : nullptr;
      const long offset = step.first * g.rows * g.lanes;
      c.stride = c.stride_after = long(step.n_arrays) * g.lanes;
      c.bias = step.bias;
      c.params = (after ? *after : step).own(numbers);
      c.n_params = (after ? *after : step).n_numbers;
      c.coords_in = step.n_coords[0];
      c.coords_out = step.n_coords[1];
      set_weights(step, c);
      const PlaneOp<T> at_once =
          step.kind == Kind::conv ? together_of(step, after, g, *where.reads[k], c.weights) : nullptr;
      for (size_t item = 0; item < items.size(); ++item) {
        const auto& [pair, s, tables, first] = items[item];
        const T* a = pairs[size_t(pair)].first + g.table;
        const T* b = tables;
        c.a = a + offset;
        c.b = b + offset;
        c.shift = where.shifts[s];
        if (step.kind == Kind::store) {
          if (outputs) store(g, where, step, group, pairs[size_t(pair)], s, c, plane(item, step.src[0], 0), size);
          continue;
        }
        if (step.kind == Kind::join) {
          if (alone) clear_sums(step, g);
          join(step, g, s, plane(item, step.src[0], 0), size);
          if (alone) scatter(size_t(step.dst), group, pair, g);
          continue;
        }
        for (int p = 0; p < 3; ++p) {
          c.dst[p] = plane(item, after ? after->dst : step.dst, p);
          const int slot = step.kind == Kind::land || step.kind == Kind::input ? step.dst : step.src[0];
          c.src[p] = plane(item, slot, p);
        }
        if (step.kind == Kind::land) load(size_t(step.src[0]), g, group, pair, s, c.dst);
        if (step.kind == Kind::conv) {
          const Reads<T>& reads = *where.reads[k];
          c.n_in = int(reads.shift_in.size());
          c.n_out = int(reads.shift_out.size());
          c.shift_in = reads.shift_in.data();
          c.shift_out = reads.shift_out.data();
          c.mask_in = reads.mask_in[group].data();
          c.mask_out = reads.mask_out[s].data();
          if (after) {
            c.after_a = a + after->first * g.rows * g.lanes;
            c.after_b = b + after->first * g.rows * g.lanes;
            c.stride_after = long(after->n_arrays) * g.lanes;
          }
          if (!at_once) {
            conv(step, after, g, reads, c);
            continue;
          }
          together.push_back({c.dst[0], c.dst[2], c.src[0], c.src[2], c.a, c.b, c.after_a, c.after_b, c.shift,
                              c.mask_out, first[0], first[1]});
          if (together.size() < size_t(kTogether) && item + 1 < items.size()) continue;
          c.items = together.data();
          c.n_items = int(together.size());
          at_once(c);
          together.clear();
        } else if (step.kind == Kind::sum) {
          sources.clear();
          for (int slot : step.src)
            for (int p = 0; p < 3; ++p) sources.push_back(plane(item, slot, p));
          c.sources = sources.data();
          c.n_src = int(step.src.size());
          kernels.sum[int(step.in)](c);
        } else if (step.kind == Kind::input) {
          c.channels = program().channels[size_t(step.src[0])];
          kernels.input[int(step.out)](c);
        } else if (step.kind == Kind::land) {
          const bool pool = program().links[size_t(step.src[0])].pool;
          c.lost = c.scratch;
          if (pool) std::fill_n(c.lost, 2 * g.lanes, T(0));
          (pool ? kernels.land_pool : kernels.land_conv)[int(step.in)](c);
          if (pool && sizeof(T) == sizeof(float)) add_lost(where, group, s, g, c.lost, pairs[size_t(pair)]);
          if (pairs[size_t(pair)].same && step.in != Form::cov) equal_positions(where, g, group, s, c.dst[0]);
        } else if (step.kind == Kind::dense) {
          kernels.land_conv[int(step.in)](c);
        } else if (step.kind == Kind::convert) {
          if (step.out == Form::cov)
            kernels.to_cov[int(step.in)](c);
          else
            kernels.to_both(c);
        } else {
          c.after_a = c.a;
          c.after_b = c.b;
          kernels.dual[step.dual][step.in == Form::both_defects][step.out == Form::cov](c);
        }
      }
      k += step.fused;
      const Reads<T>* reads = step.kind == Kind::conv ? where.reads[&step - g.steps.data()].get() : nullptr;
      watch.spent(long(items.size()) * size * (reads ? long(reads->shift_in.size() + reads->shift_out.size()) : 2));
    }
  }

  // An image with itself loses nothing at equal positions.
  static void add_lost(const GridLayout<T>& where, size_t group, size_t s, const ImageGrid& g, const T* lost,
                       Pair<T>& pair) {
    for (size_t slot = 0; slot < where.groups[group].size(); ++slot) {
      const auto& d = where.groups[group][slot];
      const bool equal =
          pair.same && where.shifts[s] == 0 && std::all_of(d.begin(), d.end(), [](int k) { return k == 0; });
      for (long x = 0; x < g.inner; ++x) {
        pair.all += double(lost[g.lanes + long(slot) * g.inner + x]);
        if (!equal) pair.lost += double(lost[long(slot) * g.inner + x]);
      }
    }
  }

  void set_weights(const ImageStep& step, PlaneArgs<T>& c) const {
    if (step.kind == Kind::land && program().links[size_t(step.src[0])].pool) return;
    if (step.kind != Kind::conv && step.kind != Kind::dense && step.kind != Kind::land) return;
    const double* own = step.own(numbers);
    const double w2 = own[0], b2 = own[1], f = own[2], g = own[3];
    const double alpha = w2 > 0 ? f / w2 : 0;
    c.weights.w = c.weights.wt = T(w2 / step.taps());
    c.weights.b2 = T(b2);
    c.weights.alpha = T(alpha);
    c.weights.beta = T(g - alpha * b2);
  }

  // The loop that takes several displacements through a window and the nonlinearity behind it, or null: windows as SAME
  // places them, no biases, weights that the NTK adds as they are.
  PlaneOp<T> together_of(const ImageStep& step, const ImageStep* after, const ImageGrid& g, const Reads<T>& reads,
                         const Weights<T>& weights) const {
    static const std::vector<long> same = {0, -1, 1};
    const bool fits = after && reads.three && reads.shift_in == same && reads.shift_out == same && !step.bias &&
                      step.in == Form::defect && weights.alpha == T(1) && weights.beta == T(0) &&
                      (g.lanes == kFastLanes || g.lanes == 16);
    return fits ? kernels.together[after->dual][after->out == Form::cov][g.lanes == kFastLanes] : nullptr;
  }

  void conv(const ImageStep& step, const ImageStep* after, const ImageGrid& g, const Reads<T>& reads,
            PlaneArgs<T>& c) const {
    const bool both = step.in == Form::both_defects, cov = after && after->out == Form::cov;
    if (after) {
      const PlaneOp<T> fused = kernels.fused[after->dual][both][cov][step.bias][g.lanes == kFastLanes];
      if (reads.three && fused) return fused(c);
    }
    (reads.three ? kernels.conv3[int(step.in)][step.bias] : kernels.conv[int(step.in)])(c);
    if (!after) return;
    for (int p = 0; p < 3; ++p) c.src[p] = c.dst[p];
    kernels.dual[after->dual][both][cov](c);
  }

  static long scratch_size(const ImageGrid& g) {
    return std::max(3 * (g.rows + 12), 2 * (kTogether * kKept + 1)) * g.lanes;
  }

  // An image with itself at equal positions: K = s s, whatever was rounded on the way.
  void equal_positions(const GridLayout<T>& where, const ImageGrid& g, size_t group, size_t s, T* v) const {
    if (where.shifts[s] != 0) return;
    for (size_t slot = 0; slot < where.groups[group].size(); ++slot) {
      const auto& d = where.groups[group][slot];
      if (std::any_of(d.begin(), d.end(), [](int k) { return k != 0; })) continue;
      for (long y = 0; y < g.rows; ++y) std::fill_n(v + y * g.lanes + long(slot) * g.inner, g.inner, T(0));
    }
  }

  void join(const ImageStep& step, const ImageGrid& g, size_t s, const T* planes, long size) {
    const LinkLayout& link = layout.links[size_t(step.dst)];
    double* sums = worker.sums[size_t(step.dst)].get(3 * link.n_rows * g.lanes);
    for (int p = 0; p < 3; ++p) {
      if (p == 1 && step.in != Form::both_defects) continue;
      double* out = sums + p * link.n_rows * g.lanes;
      for (const auto& add : link.rows[s])
        kernels.add(g.lanes, planes + p * size + add.from * g.lanes, out + add.to * g.lanes);
    }
  }

  void scatter(size_t index, size_t group, long pair, const ImageGrid& g) {
    const LinkLayout& link = layout.links[index];
    const long lanes = program().grids[size_t(program().links[index].target)].lanes;
    const double* sums = worker.sums[index].get(3 * link.n_rows * g.lanes);
    for (int p = 0; p < 3; ++p) {
      double* out = link_plane(pair, index, p);
      const double* in = sums + p * link.n_rows * g.lanes;
      for (long row = 0; row < link.n_rows; ++row, in += g.lanes) {
        for (const auto& add : link.lanes[group]) out[row * lanes + add.to] += in[add.from];
        watch.spent(long(link.lanes[group].size()));
      }
    }
  }

  void load(size_t index, const ImageGrid& g, size_t group, long pair, size_t s, T* const* dst) {
    const LinkLayout& link = layout.links[index];
    for (int p = 0; p < 3; ++p) {
      const double* in = link_plane(pair, index, p) + (long(group) * link.n_rows + long(s) * g.rows) * g.lanes;
      for (long k = 0; k < g.rows * g.lanes; ++k) dst[p][k] = T(in[k]);
    }
  }

  void store(const ImageGrid& g, const GridLayout<T>& where, const ImageStep& step, size_t group, const Pair<T>& pair,
             size_t s, PlaneArgs<T>& c, T* planes, long size) {
    const ImageOutput<T>& output = (*outputs)[size_t(step.dst)];
    T* cov = c.scratch;
    for (int p = 0; p < 3; ++p) c.src[p] = planes + p * size;
    c.dst[0] = cov;
    c.dst[1] = c.dst[2] = c.scratch + g.rows * g.lanes;
    kernels.to_cov[int(step.in)](c);
    for (int p = 0; p < 2; ++p) {
      if (!output.planes[p]) continue;
      const T* in = p == 0 ? cov : planes + 2 * size;
      const std::vector<long>& strides = output.strides[p];
      T* out = output.planes[p] + pair.out1 * strides[0] + pair.out2 * strides[1];
      const auto scaled = [&](T value) { return T(double(value) * pair.length); };
      if (strides.size() == 2) {
        out[0] = scaled(in[0]);
        if (mirrored) output.planes[p][pair.out2 * strides[0] + pair.out1 * strides[1]] = out[0];
        continue;
      }
      T* mirror = output.planes[p] + pair.out2 * strides[0] + pair.out1 * strides[1];
      for (long y = 0; y < step.extent[0]; ++y)
        for (size_t slot = 0; slot < where.groups[group].size(); ++slot)
          for (long x = 0; x < g.inner; ++x) {
            const Place at = place(g, step.extent, where.shifts[s], where.groups[group][slot], y, x, strides);
            if (!at.inside) continue;
            if (mirrored && pair.out1 == pair.out2 && at.order > 0) continue;  // one of two equal numbers
            out[at.own] = scaled(in[y * g.lanes + long(slot) * g.inner + x]);
            if (mirrored) mirror[at.opposite] = out[at.own];
          }
    }
  }

  struct Place {
    bool inside;
    long own, opposite;  // offsets, in the mirror image with the second image's positions first
    long order;          // > 0: the second position comes first, whatever the strides
  };

  // Of positions (y, x) and displaced in an output with spatial axes.
  static Place place(const ImageGrid& g, const std::vector<int>& extent, int shift, const std::vector<int>& d, long y,
                     long x, const std::vector<long>& strides) {
    Place found = {true, 0, 0, 0};
    const auto add = [&](size_t axis, long one, long two) {
      const long stride = strides[2 + 2 * axis], other = strides[3 + 2 * axis];
      found.inside = found.inside && one < extent[axis] && two < extent[axis];
      found.own += one * stride + two * other;
      found.opposite += two * stride + one * other;
      if (one != two) found.order = one - two;
    };
    for (size_t k = g.sizes.size(); k-- > 1;) {
      const long one = x % g.sizes[k];
      add(k, one, (one + d[k - 1]) % g.sizes[k]);
      x /= g.sizes[k];
    }
    add(0, y, (y + shift) % g.rows);
    return found;
  }

  void run() {
    clear_links();
    for (size_t k = 0; k < program().grids.size(); ++k) grid(k);
  }
};

}  // namespace fntk
