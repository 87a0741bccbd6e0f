#include "image_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "check.h"
#include "image_tables.h"
#include "parallel.h"

namespace fntk {

namespace {

constexpr long kChunk = 8;  // displacements along axis 0 that take a step together, so that its tables are read once
constexpr long kBlock = 4;  // first images that meet a second one while its gathered tables are at hand

long planes_size(const ImageGrid& grid) { return (grid.rows + 2) * grid.lanes; }

long chunk_of(const ImageGrid& grid, const std::vector<int>& shifts) {
  const long most = std::max(1L, 65536 / planes_size(grid));
  return std::max(1L, std::min({kChunk, most, long(shifts.size())}));
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

// The work on pairs of one second image with a few first ones.
template <class T>
struct PairBlock {
  const ImagePlan<T>& plan;
  const Layout<T>& layout;
  const PlaneKernels<T>& kernels;
  Worker<T>& worker;
  const std::vector<ImageOutput<T>>* outputs;
  long count = 0;
  const T* first[kBlock];  // tables
  const T* second = nullptr;
  bool same[kBlock];
  long out1[kBlock], out2 = 0;
  bool mirrored = false;
  double length1[kBlock], length2 = 1;
  bool lost[kBlock] = {};

  const ImageProgram& program() const { return plan.program; }

  double* link_plane(long image, size_t link, int plane) {
    const long size = layout.links[link].size;
    return worker.links[size_t(image)][link].get(3 * size) + plane * size;
  }

  void clear_links(long image) {
    for (size_t k = 0; k < layout.links.size(); ++k)
      std::fill_n(link_plane(image, k, 0), 3 * layout.links[k].size, 0.0);
  }

  void grid(size_t index) {
    const ImageGrid& g = program().grids[index];
    const GridLayout<T>& where = layout.grids[index];
    if (where.shifts.empty() || where.groups.empty()) return;
    for (size_t group = 0; group < where.groups.size(); ++group) {
      const T* b = second + g.table;
      if (!where.direct) {
        T* gathered = worker.gathered.get(g.n_arrays * g.rows * g.lanes);
        kernels.gather(g.rows, g.n_arrays, g.lanes, b, where.lanes_from[group].data(), gathered);
        b = gathered;
      }
      for (long image = 0; image < count; ++image) {
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::join) {
            const long size = layout.links[size_t(step.dst)].n_rows * g.lanes;
            std::fill_n(worker.sums[size_t(step.dst)].get(3 * size), 3 * size, 0.0);
          }
        const long chunk = chunk_of(g, where.shifts);
        for (size_t s = 0; s < where.shifts.size(); s += size_t(chunk))
          steps(index, group, image, first[image] + g.table, b, s, std::min(where.shifts.size(), s + size_t(chunk)));
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::join) scatter(size_t(step.dst), group, image, g);
      }
    }
  }

  // All steps for shifts from .. to - 1.
  void steps(size_t index, size_t group, long image, const T* a, const T* b, size_t from, size_t to) {
    const ImageGrid& g = program().grids[index];
    const GridLayout<T>& where = layout.grids[index];
    const long size = planes_size(g), slot_size = 3 * size, all = slot_size * g.n_slots;
    T* const planes = worker.planes.get(all * long(to - from));
    const auto plane = [&](size_t s, int slot, int p) {
      return planes + all * long(s - from) + slot_size * slot + size * p + g.lanes;
    };
    for (long k = 0; k < 3 * g.n_slots * long(to - from); ++k) {  // what masks hide must not be NaN
      std::fill_n(planes + k * size, g.lanes, T(0));
      std::fill_n(planes + (k + 1) * size - g.lanes, g.lanes, T(0));
    }
    PlaneArgs<T> c = {};
    c.rows = g.rows;
    c.lanes = g.lanes;
    c.scratch = worker.scratch.get(3 * (g.rows + 12) * g.lanes);
    std::vector<const T*> sources;
    for (size_t k = 0; k < g.steps.size(); ++k) {
      const ImageStep& step = g.steps[k];
      const ImageStep* after = step.fused ? &g.steps[k + 1] : nullptr;
      c.a = a + step.first * g.rows * g.lanes;
      c.b = b + step.first * g.rows * g.lanes;
      c.stride = c.stride_after = long(step.n_arrays) * g.lanes;
      c.bias = step.bias;
      c.params = after ? after->params.data() : step.params.data();
      c.coords_in = step.n_coords[0];
      c.coords_out = step.n_coords[1];
      set_weights(step, c);
      for (size_t s = from; s < to; ++s) {
        c.shift = where.shifts[s];
        if (step.kind == Kind::store) {
          if (outputs == nullptr) continue;
          store(g, where, step, group, image, s, c, plane(s, step.src[0], 0), size);
          continue;
        }
        if (step.kind == Kind::join) {
          join(step, g, s, plane(s, step.src[0], 0), size);
          continue;
        }
        for (int p = 0; p < 3; ++p) {
          c.dst[p] = plane(s, after ? after->dst : step.dst, p);
          const int slot = step.kind == Kind::land || step.kind == Kind::input ? step.dst : step.src[0];
          c.src[p] = plane(s, slot, p);
        }
        if (step.kind == Kind::land) load(size_t(step.src[0]), g, group, image, s, c.dst);
        if (step.kind == Kind::conv) {
          const Reads<T>& reads = *where.reads[k];
          c.n_in = int(reads.shift_in.size());
          c.n_out = int(reads.shift_out.size());
          c.shift_in = reads.shift_in.data();
          c.shift_out = reads.shift_out.data();
          c.mask_in = reads.mask_in[group].data();
          c.mask_out = reads.mask_out[s].data();
          conv(step, after, g, reads, a, b, c);
        } else if (step.kind == Kind::sum) {
          sources.clear();
          for (int slot : step.src)
            for (int p = 0; p < 3; ++p) sources.push_back(plane(s, slot, p));
          c.sources = sources.data();
          c.n_src = int(step.src.size());
          kernels.sum[int(step.in)](c);
        } else if (step.kind == Kind::input) {
          c.channels = program().channels[size_t(step.src[0])];
          kernels.input[int(step.out)](c);
        } else if (step.kind == Kind::land) {
          const bool pool = program().links[size_t(step.src[0])].pool;
          c.lost = c.scratch;
          if (pool) std::fill_n(c.lost, g.lanes, T(0));
          (pool ? kernels.land_pool : kernels.land_conv)[int(step.in)](c);
          if (pool && sizeof(T) == sizeof(float))
            lost[image] = lost[image] || any_lost(where, group, s, g, c.lost, same[image]);
          if (same[image] && step.in != Form::cov) equal_positions(where, g, group, s, c.dst[0]);
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
    }
  }

  // An image with itself loses nothing at equal positions.
  static bool any_lost(const GridLayout<T>& where, size_t group, size_t s, const ImageGrid& g, const T* lost,
                       bool own) {
    for (size_t slot = 0; slot < where.groups[group].size(); ++slot) {
      const auto& d = where.groups[group][slot];
      if (own && where.shifts[s] == 0 && std::all_of(d.begin(), d.end(), [](int k) { return k == 0; })) continue;
      for (long x = 0; x < g.inner; ++x)
        if (lost[long(slot) * g.inner + x] > T(0)) return true;
    }
    return false;
  }

  void set_weights(const ImageStep& step, PlaneArgs<T>& c) const {
    if (step.kind == Kind::land && program().links[size_t(step.src[0])].pool) return;
    if (step.kind != Kind::conv && step.kind != Kind::dense && step.kind != Kind::land) return;
    const Window& window = step.kind == Kind::land ? program().links[size_t(step.src[0])].window : step.window;
    double taps = 1;
    if (step.kind != Kind::dense)
      for (int k : window.shape) taps *= k;
    const double w2 = step.params[0], b2 = step.params[1], f = step.params[2], g = step.params[3];
    const double alpha = w2 > 0 ? f / w2 : 0;
    c.w = c.wt = T(w2 / taps);
    c.b2 = T(b2);
    c.alpha = T(alpha);
    c.beta = T(g - alpha * b2);
  }

  void conv(const ImageStep& step, const ImageStep* after, const ImageGrid& g, const Reads<T>& reads, const T* a,
            const T* b, PlaneArgs<T>& c) const {
    if (after) {
      c.after_a = a + after->first * g.rows * g.lanes;
      c.after_b = b + after->first * g.rows * g.lanes;
    }
    // tables of the nonlinearity have rows of their own length
    if (after && reads.three) {
      c.stride_after = long(after->n_arrays) * g.lanes;
      kernels.fused[after->dual][step.in == Form::both_defects][after->out == Form::cov][step.bias]
                   [g.lanes == kFastLanes](c);
      return;
    }
    T* final_dst[3] = {c.dst[0], c.dst[1], c.dst[2]};
    if (reads.three)
      kernels.conv3[int(step.in)][step.bias](c);
    else
      kernels.conv[int(step.in)](c);
    if (!after) return;
    for (int p = 0; p < 3; ++p) c.src[p] = final_dst[p];
    c.stride_after = long(after->n_arrays) * g.lanes;
    kernels.dual[after->dual][step.in == Form::both_defects][after->out == Form::cov](c);
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

  void scatter(size_t index, size_t group, long image, const ImageGrid& g) {
    const LinkLayout& link = layout.links[index];
    const long lanes = program().grids[size_t(program().links[index].target)].lanes;
    const double* sums = worker.sums[index].get(3 * link.n_rows * g.lanes);
    for (int p = 0; p < 3; ++p) {
      double* out = link_plane(image, index, p);
      const double* in = sums + p * link.n_rows * g.lanes;
      for (long row = 0; row < link.n_rows; ++row, in += g.lanes)
        for (const auto& add : link.lanes[group]) out[row * lanes + add.to] += in[add.from];
    }
  }

  void load(size_t index, const ImageGrid& g, size_t group, long image, size_t s, T* const* dst) {
    const LinkLayout& link = layout.links[index];
    for (int p = 0; p < 3; ++p) {
      const double* in =
          link_plane(image, index, p) + (long(group) * link.n_rows + long(s) * g.rows) * g.lanes;
      for (long k = 0; k < g.rows * g.lanes; ++k) dst[p][k] = T(in[k]);
    }
  }

  void store(const ImageGrid& g, const GridLayout<T>& where, const ImageStep& step, size_t group, long image, size_t s,
             PlaneArgs<T>& c, T* planes, long size) {
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
      T* out = output.planes[p] + out1[image] * strides[0] + out2 * strides[1];
      const auto scaled = [&](T value) { return T(double(value) * length1[image] * length2); };
      if (strides.size() == 2) {
        out[0] = scaled(in[0]);
        if (mirrored) output.planes[p][out2 * strides[0] + out1[image] * strides[1]] = out[0];
        continue;
      }
      // the second image's positions come first in the mirror image
      const std::vector<long> swapped = swap_positions(strides);
      T* mirror = output.planes[p] + out2 * strides[0] + out1[image] * strides[1];
      for (long y = 0; y < step.extent[0]; ++y)
        for (size_t slot = 0; slot < where.groups[group].size(); ++slot)
          for (long x = 0; x < g.inner; ++x) {
            const auto& d = where.groups[group][slot];
            const long at = place(g, step.extent, where.shifts[s], d, y, x, strides);
            if (at < 0) continue;
            const T value = scaled(in[y * g.lanes + long(slot) * g.inner + x]);
            const long other = mirrored ? place(g, step.extent, where.shifts[s], d, y, x, swapped) : 0;
            if (mirrored && out1[image] == out2 && other < at) continue;  // one of two equal numbers
            out[at] = value;
            if (mirrored) mirror[other] = value;
          }
    }
  }

  static std::vector<long> swap_positions(std::vector<long> strides) {
    for (size_t k = 2; k + 1 < strides.size(); k += 2) std::swap(strides[k], strides[k + 1]);
    return strides;
  }

  // Offset of positions (y, x) and displaced in an output with spatial axes, or -1.
  static long place(const ImageGrid& g, const std::vector<int>& extent, int shift, const std::vector<int>& d, long y,
                    long x, const std::vector<long>& strides) {
    const long other = (y + shift) % g.rows;
    if (y >= extent[0] || other >= extent[0]) return -1;
    long at = y * strides[2] + other * strides[3];
    for (size_t k = g.sizes.size(); k-- > 1;) {
      const long one = x % g.sizes[k], two = (one + d[k - 1]) % g.sizes[k];
      x /= g.sizes[k];
      if (one >= extent[k] || two >= extent[k]) return -1;
      at += one * strides[2 + 2 * k] + two * strides[3 + 2 * k];
    }
    return at;
  }

  void run() {
    for (long image = 0; image < count; ++image) clear_links(image);
    for (size_t k = 0; k < program().grids.size(); ++k) grid(k);
  }
};

template <class T>
const PlaneKernels<T>& kernels_of(const Isa& isa) {
  if constexpr (sizeof(T) == sizeof(float))
    return *isa.planes_float;
  else
    return *isa.planes_double;
}

template <class T>
void reserve(Worker<T>& worker, const ImagePlan<T>& plan) {
  worker.sums.resize(plan.program.links.size());
  worker.links.resize(kBlock);
  for (auto& links : worker.links) links.resize(plan.program.links.size());
}

}  // namespace

template <class T>
ImagePlan<T>::ImagePlan(ImageProgram given) : program(std::move(given)) {
  prepare(program);
  pairs = make_layout<T>(program, false);
  own = make_layout<T>(program, true);
  for (const auto& grid : own.grids) has_own = has_own || !grid.shifts.empty();
  long planes = 0, gathered = 0, sums = 0;
  for (size_t k = 0; k < program.grids.size(); ++k) {
    const ImageGrid& g = program.grids[k];
    planes = std::max(planes, 3 * planes_size(g) * g.n_slots * chunk_of(g, pairs.grids[k].shifts));
    gathered = std::max(gathered, g.n_arrays * g.rows * g.lanes);
  }
  for (size_t k = 0; k < program.links.size(); ++k)
    sums += 3 * pairs.links[k].n_rows * program.grids[size_t(program.links[k].source)].lanes * long(sizeof(double)) +
            3 * kBlock * pairs.links[k].size * long(sizeof(double));
  worker_bytes = (planes + gathered) * long(sizeof(T)) + sums;
}

template <class T>
ImageTables<T> make_image_tables(const ImagePlan<T>& plan, const std::vector<const T*>& x, long n, const Isa& isa,
                                 int threads, const Interrupt& interrupt) {
  const ImageProgram& program = plan.program;
  ImageTables<T> tables;
  tables.n = n;
  tables.lengths.resize(size_t(n));
  tables.data.resize(size_t(n * program.table_size) + 64 / sizeof(T));
  std::vector<long> sizes(program.channels.size());
  for (const ImageGrid& g : program.grids)
    for (const ImageStep& step : g.steps)
      if (step.kind == Kind::input)
        sizes[size_t(step.src[0])] = g.rows * g.inner * program.channels[size_t(step.src[0])];
  std::vector<Worker<T>> workers(size_t(std::max(1, threads)));
  parallel_for(n, threads, interrupt, [&](long image, int index) {
    Worker<T>& worker = workers[size_t(index)];
    reserve(worker, plan);
    std::vector<const T*> own;
    for (size_t k = 0; k < x.size(); ++k) own.push_back(x[k] + image * sizes[k]);
    T* table = const_cast<T*>(tables.of(plan, image));
    double length = 0;
    for (size_t k = 0; k < own.size() && program.homogeneous; ++k)
      for (long at = 0; at < sizes[k]; ++at) length = std::max(length, std::abs(double(own[k][at])));
    if (!(length > 0) || std::isinf(length)) length = 1;
    tables.lengths[size_t(image)] = length;
    std::vector<LinkVariance> links(program.links.size());
    PairBlock<T> block = {plan, plan.own, kernels_of<T>(isa), worker, nullptr, 1, {table}, table, {true}, {0}, 0, false, {1}, 1, {}};
    if (plan.has_own) block.clear_links(0);
    for (size_t k = 0; k < program.grids.size(); ++k) {
      make_tables(program, k, own, length, kernels_of<T>(isa), links, table);
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
std::vector<std::array<long, 2>> run_images(const ImagePlan<T>& plan, const ImageTables<T>& tables1,
                                            const ImageTables<T>& tables2, const ImagePairs& pairs,
                                            const std::vector<ImageOutput<T>>& outputs, const Isa& isa, int threads,
                                            const Interrupt& interrupt) {
  const ImageProgram& program = plan.program;
  FNTK_CHECK(pairs.first1 + pairs.count1 <= tables1.n && pairs.first2 + pairs.count2 <= tables2.n &&
                 int(outputs.size()) == program.n_outputs,
             "images outside their tables, or outputs missing");
  for (const auto& [i, j] : pairs.listed)
    FNTK_CHECK(i >= 0 && i < tables1.n && j >= 0 && j < tables2.n, "images outside their tables");
  // what tells identical images: the tables of the inputs
  long inputs = 0;
  for (const ImageStep& step : program.grids[0].steps)
    if (step.kind == Kind::input) inputs = (step.first + step.n_arrays) * program.grids[0].rows * program.grids[0].lanes;
  std::vector<Worker<T>> workers(size_t(std::max(1, threads)));
  std::vector<std::array<long, 2>> lost;
  std::mutex lost_lock;
  const bool listed = !pairs.listed.empty();
  const long blocks = (pairs.count1 + kBlock - 1) / kBlock;
  const long units = listed ? long(pairs.listed.size()) : pairs.count2 * blocks;
  parallel_for(units, threads, interrupt, [&](long unit, int index) {
    Worker<T>& worker = workers[size_t(index)];
    reserve(worker, plan);
    PairBlock<T> block = {plan, plan.pairs, kernels_of<T>(isa), worker, &outputs, 0, {}, nullptr, {}, {}, 0, false, {},
                          1,    {}};
    const auto add = [&](long i, long out) {
      block.first[block.count] = tables1.of(plan, i);
      block.same[block.count] = std::memcmp(block.first[block.count], block.second, size_t(inputs) * sizeof(T)) == 0;
      block.length1[block.count] = tables1.lengths[size_t(i)];
      block.out1[block.count++] = out;
    };
    const long j = listed ? pairs.listed[size_t(unit)][1] : pairs.first2 + unit / blocks;
    block.second = tables2.of(plan, j);
    block.length2 = tables2.lengths[size_t(j)];
    if (listed) {
      add(pairs.listed[size_t(unit)][0], unit);
    } else {
      block.out2 = pairs.out2 + unit / blocks;
      block.mirrored = pairs.symmetric;
      const long start = unit % blocks * kBlock;
      for (long i = start; i < std::min(pairs.count1, start + kBlock); ++i)
        if (!pairs.symmetric || pairs.out1 + i <= block.out2) add(pairs.first1 + i, pairs.out1 + i);
    }
    if (block.count == 0) return;
    block.run();
    for (long image = 0; image < block.count; ++image) {
      if (!block.lost[image]) continue;
      const std::lock_guard<std::mutex> guard(lost_lock);
      lost.push_back({block.out1[image], block.out2});
    }
  });
  std::sort(lost.begin(), lost.end());
  return lost;
}

#define FNTK_INSTANTIATE(T)                                                                                          \
  template struct ImagePlan<T>;                                                                                      \
  template ImageTables<T> make_image_tables<T>(const ImagePlan<T>&, const std::vector<const T*>&, long, const Isa&,  \
                                               int, const Interrupt&);                                               \
  template std::vector<std::array<long, 2>> run_images<T>(const ImagePlan<T>&, const ImageTables<T>&, const ImageTables<T>&, const ImagePairs&,  \
                              const std::vector<ImageOutput<T>>&, const Isa&, int, const Interrupt&);
FNTK_INSTANTIATE(float)
FNTK_INSTANTIATE(double)

}  // namespace fntk
