#include "cuda/images/code.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "common/check.h"
#include "common/ops.h"
#include "cuda/images/one_pass.h"
#include "math/counted.h"
#include "math/duals.h"

namespace fntk {

namespace {

template <class T>
struct Builder {
  const ImageProgram& program;
  const Layout<T>& layout;
  const std::vector<double>& numbers;
  bool registers;
  ImageCode code;

  long append(const void* data, size_t bytes) {
    code.bytes.resize((code.bytes.size() + 15) / 16 * 16);
    const size_t place = code.bytes.size();
    code.bytes.resize(place + std::max<size_t>(bytes, 1));
    if (bytes) std::memcpy(code.bytes.data() + place, data, bytes);
    return long(place);
  }
  template <class E>
  long append(const std::vector<E>& all) {
    return append(all.data(), all.size() * sizeof(E));
  }

  // ---------------------------------------------------------------- steps

  void conv(const Reads<T>& reads, StepCode& s) {
    s.n_in = int(reads.shift_in.size());
    s.n_out = int(reads.shift_out.size());
    s.shift_in = append(std::vector<int32_t>(reads.shift_in.begin(), reads.shift_in.end()));
    s.shift_out = append(std::vector<int32_t>(reads.shift_out.begin(), reads.shift_out.end()));
    const auto joined = [&](const auto& masks) {
      std::vector<T> all;
      for (const auto& mask : masks) all.insert(all.end(), mask.begin(), mask.end());
      return append(all);
    };
    s.mask_in = joined(reads.mask_in);
    s.mask_out = joined(reads.mask_out);
  }

  void roll(const ImageGrid& g, const Reads<T>& reads, const ImageStep& step, StepCode& s) {
    OnePass found;
    if (step.parts[0] != step.parts[1] || !one_pass(g, reads, step.parts[0], found)) return;
    s.taps_in = s.taps_out = step.parts[0];
    s.low = found.low;
    s.wraps = found.wraps;
    s.reads = append(found.reads);
    s.row_reads = append(found.row_reads);
    s.fused = step.fused && step.in != Form::cov && s.taps_in == 3 && cheap((&step)[1]);
  }

  // Tables of windows in one pass and of nonlinearities, in fours.
  void records(const ImageGrid& g, size_t grid, size_t index, std::vector<StepCode>& steps) {
    const auto nonlinear = [&](size_t k) { return g.steps[k].kind == Kind::dual && g.steps[k].dual < kDuals; };
    StepCode& s = steps[index];
    Records own = {};
    if (s.taps_in > 0 && g.steps[index].in != Form::cov)
      window_quads(s, g.table, own);
    else if (!nonlinear(index) || (index > 0 && steps[index - 1].fused))
      return;
    const size_t last = index + size_t(s.fused);
    if (nonlinear(last)) add_quads(steps[last], g.table, 0, g.steps[last].n_arrays, 0, own.halo, own);
    own.grid = int(grid);
    own.rows = g.rows;
    own.lanes = g.lanes;
    own.to = s.records = code.chain_size;
    code.chain_size += own.size();
    code.records.push_back(own);
  }

  // Where numbers of a plane stand in an output of one pair, positions of both images axis by axis.
  void store(const ImageGrid& g, const GridLayout<T>& where, const ImageStep& step, StepCode& s) {
    long size = 1;
    for (int n : step.extent) size *= long(n) * n;
    code.sizes[size_t(step.dst)] = size;
    std::vector<int> extent = step.extent;
    extent.resize(g.sizes.size(), 1);  // one position: any number of axes
    std::vector<long> strides(2 * extent.size(), 1);
    for (size_t k = strides.size() - 1; k-- > 0;) strides[k] = strides[k + 1] * extent[(k + 1) / 2];
    s.extent_rows = extent[0];
    s.row_stride = strides[0];
    s.other_stride = strides[1];
    std::vector<int64_t> places(where.groups.size() * size_t(g.lanes), -1), opposites = places;
    for (size_t group = 0; group < where.groups.size(); ++group)
      for (size_t slot = 0; slot < where.groups[group].size(); ++slot)
        for (long x = 0; x < g.inner; ++x) {
          long flat = x, place = 0, opposite = 0;
          bool inside = true;
          for (size_t k = g.sizes.size(); k-- > 1;) {
            const long one = flat % g.sizes[k], two = (one + where.groups[group][slot][k - 1]) % g.sizes[k];
            flat /= g.sizes[k];
            inside = inside && one < extent[k] && two < extent[k];
            place += one * strides[2 * k] + two * strides[2 * k + 1];
            opposite += two * strides[2 * k] + one * strides[2 * k + 1];
          }
          const size_t at = group * size_t(g.lanes) + slot * size_t(g.inner) + size_t(x);
          if (inside) places[at] = place, opposites[at] = opposite;
        }
    s.place = append(places);
    s.opposite = append(opposites);
  }

  void weights(const ImageStep& step, StepCode& s) const {
    const double* own = step.own(numbers);
    const double w2 = own[0], b2 = own[1], f = own[2], g = own[3];
    s.alpha = w2 > 0 ? f / w2 : 0;
    s.w = w2 / step.taps();
    s.b2 = b2;
    s.beta = g - s.alpha * b2;
  }

  static bool cheap(const ImageStep& step) {
    return step.kind == Kind::dual && ops()[size_t(kFirstDual + step.dual)].cheap;
  }

  void counted(const ImageStep& step, StepCode& s) {
    std::vector<T> own(kMaxConstants);
    int index = kDuals;
#define FNTK_OWN(Phi, name) \
  if (step.dual == index++) generic::Phi<T>::constants(step.own(numbers), step.n_numbers, own.data());
    FNTK_COUNTED(FNTK_OWN)
#undef FNTK_OWN
    s.n_params = step.n_numbers;
    s.constants = append(own);
  }

  StepCode step_code(const ImageGrid& g, const GridLayout<T>& where, size_t index) {
    const ImageStep& step = g.steps[index];
    StepCode s = {};
    s.kind = int(step.kind);
    s.dst = step.dst;
    s.in = int(step.in);
    s.out = int(step.out);
    s.dual = step.dual;
    s.n_src = int(step.src.size());
    s.bias = step.bias;
    s.coords_in = step.n_coords[0];
    s.coords_out = step.n_coords[1];
    s.arrays = step.first * g.rows * g.lanes;
    s.stride = long(step.n_arrays) * g.lanes;
    s.sources = append(std::vector<int32_t>(step.src.begin(), step.src.end()));
    s.cov_arrays = -1;
    if (step.kind == Kind::conv) {
      weights(step, s);
      conv(*where.reads[index], s);
      roll(g, *where.reads[index], step, s);
    } else if (step.kind == Kind::dense) {
      weights(step, s);
    } else if (step.kind == Kind::land) {
      const ImageLink& link = program.links[size_t(step.src[0])];
      s.pool = link.pool;
      if (!link.pool) weights(step, s);
    } else if (step.kind == Kind::input) {
      s.channels = program.channels[size_t(step.src[0])];
    } else if (step.kind == Kind::store) {
      store(g, where, step, s);
    } else if (step.kind == Kind::dual && step.dual >= kDuals) {
      counted(step, s);
    } else if (step.kind == Kind::dual) {
      FNTK_CHECK(step.n_numbers <= 4, step.name, " has too many parameters for CUDA");
      std::copy_n(step.own(numbers), step.n_numbers, s.params);
    }
    return s;
  }

  // ---------------------------------------------------------------- chains

  // How rows meet in this window, or -1 where registers do not hold it.
  static int mode_of(const ImageStep& step) {
    switch (step.meet) {
      case Meet::same:
        return kSameRows;
      case Meet::valid:
        return kValidRows;
      case Meet::circular:
        return kCircularRows;
      default:
        return -1;
    }
  }

  bool links(const ImageStep& conv, const ImageStep& after) const {
    return conv.kind == Kind::conv && conv.fused && conv.in == Form::defect && holds(conv, after);
  }
  bool holds(const ImageStep& conv, const ImageStep& after) const {
    return conv.own(numbers)[0] > 0 && conv.own(numbers)[2] >= 0 && conv.n_coords[0] == 2 && conv.n_coords[1] == 2 &&
           after.kind == Kind::dual && after.name == "relu" && mode_of(conv) >= 0;
  }
  // The same behind an input, which has no NTK: both defects are all that registers need hold. Not where it ends in
  // covariances, whose digits near rho = -1 a defect does not keep.
  bool begins(const ImageGrid& g, size_t first) const {
    if (first == 0 || g.steps[first - 1].kind != Kind::input) return false;
    const ImageStep& conv = g.steps[first];
    return conv.kind == Kind::conv && conv.fused && conv.in == Form::both_defects &&
           conv.src[0] == g.steps[first - 1].dst && holds(conv, g.steps[first + 1]) &&
           g.steps[first + 1].out == Form::defect;
  }

  // Both reads beside a place along the inner axes: distance and weight; false where there are more.
  static bool beside(const Reads<T>& reads, const std::vector<T>& mask, long lanes, long x, long (&distance)[2],
                     T (&weight)[2]) {
    int n = 0;
    distance[0] = distance[1] = 0;
    weight[0] = weight[1] = T(0);
    for (size_t k = 0; k < reads.shift_in.size(); ++k) {
      T own = mask[k * size_t(lanes) + size_t(x)];
      if (reads.shift_in[k] == 0 && own > T(0)) own -= T(1);
      if (own == T(0)) continue;
      if (n == 2) return false;
      distance[n] = reads.shift_in[k];
      weight[n++] = own;
    }
    return true;
  }

  // Tiles of a grid that one warp does not hold; false: a block does not either, or it would be a waste.
  static bool tiles(const ImageGrid& g, int mode, GridCode& grid) {
    const long rows = (g.rows + kTileRows - 1) / kTileRows, columns = (g.lanes + kChainLanes - 1) / kChainLanes;
    if (rows * columns > kMaxTiles<T> || mode == kValidRows || (columns > 1 && g.packed > 1)) return false;
    // rows that hold nothing would come between
    if (mode == kCircularRows && g.rows % kTileRows != 0) return false;
    if (4 * g.rows * g.packed * g.inner < rows * columns * kTileRows * kChainLanes) return false;  // mostly empty
    grid.tile_rows = int(rows);
    grid.tile_columns = int(columns);
    if (columns > 1) grid.tile_lanes = int(g.inner);
    return true;
  }

  // Where what a lane reads lies: in its own tile, or at the end of another one; false: neither.
  static bool place_reads(long x, long width, long lanes, const long (&distance)[2], const T (&weight)[2],
                          int32_t (&places)[kChainPlaces], T (&weights)[kChainWeights]) {
    const long tile = x / width;
    for (int k = 0; k < 2; ++k) {
      const long from = x + distance[k], other = from / width;
      if (weight[k] == T(0)) continue;
      if (other == tile) {
        places[k] = int32_t(from - tile * width);
        weights[k] = weight[k];
        continue;
      }
      const bool begins = from == other * width, ends = from == std::min((other + 1) * width, lanes) - 1;
      if ((!begins && !ends) || weights[kTileWeight] != T(0)) return false;
      places[kOtherTile] = int32_t((other - tile) * kTileNumbers + (begins ? 0 : kTileEnds));
      weights[kTileWeight] = weight[k];
    }
    return true;
  }

  // Lanes, weights and edges of a chain whose first window has these reads; false where registers cannot hold it.
  bool chain_geometry(const ImageGrid& g, const GridLayout<T>& where, const Reads<T>& reads, int mode,
                      const GridCode& grid, long block, StepCode& s) {
    const long columns = grid.tile_columns, all = grid.tile_lanes, width = (all + columns - 1) / columns;
    std::vector<int32_t> lanes(where.groups.size() * size_t(columns) * kChainPlaces * 32);
    std::vector<T> weights(where.groups.size() * size_t(columns) * kChainWeights * 32);
    for (size_t group = 0; group < where.groups.size(); ++group)
      for (long column = 0; column < columns; ++column)
        for (long lane = 0; lane < 32; ++lane) {
          const long begin = column * width, live = std::min(width, all - begin), x = begin + lane % live;
          const long other = where.lanes_from[group][size_t(x)];
          const auto place = [&](long at) { return int32_t(at / kChainLanes * block + at % kChainLanes); };
          int32_t places[kChainPlaces] = {int32_t(lane), int32_t(lane), place(x), place(other), 0};
          T of[kChainWeights] = {};
          long distance[2] = {0, 0};
          T weight[2] = {T(0), T(0)};
          if (lane < live && !(beside(reads, reads.mask_in[group], g.lanes, x, distance, weight) &&
                               place_reads(x, width, all, distance, weight, places, of)))
            return false;
          const size_t at = group * size_t(columns) + size_t(column);
          for (size_t k = 0; k < kChainPlaces; ++k) lanes[(at * kChainPlaces + k) * 32 + size_t(lane)] = places[k];
          for (size_t k = 0; k < kChainWeights; ++k) weights[(at * kChainWeights + k) * 32 + size_t(lane)] = of[k];
        }
    s.chain_lanes = append(lanes);
    s.chain_weights = append(weights);
    return chain_edges(g, reads, mode, grid, s);
  }

  bool chain_edges(const ImageGrid& g, const Reads<T>& reads, int mode, const GridCode& grid, StepCode& s) {
    std::vector<uint32_t> edges;
    for (const auto& mask : reads.mask_out) {
      const auto meets = [&](long y, long distance) {
        for (size_t k = 0; k < reads.shift_out.size(); ++k)
          if (reads.shift_out[k] == distance && mask[k * size_t(g.rows) + size_t(y)] != T(0)) return true;
        return false;
      };
      const auto bits_of = [&](long first, long last, const auto& is) {
        uint32_t bits = 0;
        for (long y = first; y < last; ++y) bits |= uint32_t(is(y)) << (y - first);
        return bits;
      };
      const auto above = [&](long y) { return y > 0 && y < g.rows && meets(y, -1); };
      // a row that reads the one above is read by it
      for (long y = 1; y < g.rows && mode == kSameRows; ++y)
        if (meets(y, -1) != meets(y - 1, 1)) return false;
      if (grid.tile_rows * grid.tile_columns > 1) {
        for (long k = 0; k < grid.tile_rows; ++k)
          edges.push_back(bits_of(k * kTileRows, (k + 1) * kTileRows + 1,
                                  [&](long y) { return mode == kCircularRows || above(y); }));
        continue;
      }
      const long distance = mode == kValidRows ? 1 : -1;
      edges.push_back(mode == kCircularRows ? 1u << (g.rows - 1)
                                            : bits_of(0, g.rows, [&](long y) { return meets(y, distance); }));
      edges.push_back(bits_of(0, g.rows, [&](long y) { return meets(y, mode == kValidRows ? 2 : 1); }));
    }
    s.chain_edges = append(edges);
    return true;
  }

  // Layers from step `first` on that registers run one after the other, and their numbers.
  void chain(const ImageGrid& g, const GridLayout<T>& where, size_t first, GridCode& grid, StepCode& s) {
    const long most = sizeof(T) == sizeof(float) ? 32 : 16;
    if (!registers || grid.every || first + 1 >= g.steps.size() ||
        !(links(g.steps[first], g.steps[first + 1]) || begins(g, first)))
      return;
    const ImageStep& begin = g.steps[first];
    const int mode = mode_of(begin);
    if (grid.chain_rows && (grid.chain_mode != mode || grid.chain_bias != begin.bias)) return;
    GridCode own = grid;
    own.chain_mode = mode;
    own.chain_bias = begin.bias;
    own.tile_rows = own.tile_columns = 1;
    own.tile_lanes = int(g.lanes);
    own.chain_rows = g.rows <= 16 ? 16 : 32;
    own.chain_held = 2 * own.chain_rows;
    if (g.rows > most || g.lanes > 32) {
      if (!tiles(g, mode, own)) return;
      own.chain_rows = kTileRows;
      own.chain_held = g.rows + kTileRows + 1;
    }
    const long row = (begin.bias ? kChainQuads<true> : kChainQuads<false>)*kChainQuad, block = own.chain_held * row;
    if (!chain_geometry(g, where, *where.reads[first], mode, own, block / 4, s)) return;
    grid = own;
    std::vector<ChainLayer> layers;
    std::vector<T> numbers;
    double scale = 1;  // what both planes were divided by
    for (size_t k = first; k + 1 < g.steps.size(); k += 2) {
      const ImageStep &conv = g.steps[k], &relu = g.steps[k + 1];
      const bool goes_on =
          k == first || (links(conv, relu) && conv.src[0] == begin.dst && g.steps[k - 1].out == Form::defect);
      if (!goes_on || conv.dst != begin.dst || conv.bias != begin.bias || mode_of(conv) != mode) break;
      if (mode != kValidRows && where.reads[k] != where.reads[first]) break;
      ChainLayer layer = {};
      const double rescale = scale < 1e-9 || scale > 1e9 ? std::exp2(std::round(std::log2(scale))) : 1;
      scale /= rescale;
      StepCode own = {};
      weights(conv, own);
      const double behind = own.w * scale, over = 1 / std::sqrt(scale), root = std::sqrt(behind);
      numbers.insert(numbers.end(), {T(rescale), T(own.alpha), T(own.beta / behind), T(2 * own.b2 / behind)});
      // coordinates and factors of both stages, bias, s; 1 / s: in the order in which a row asks for them
      const int s_at = 6 + 2 * conv.bias;
      const int order[10] = {0, 1, 2, -1, 3, 4, 5, s_at, 6, 7};
      // s s' is there for K, which goes into the NTK: behind an input by itself, else times alpha
      const double last = (conv.in == Form::both_defects ? 1 : std::sqrt(own.alpha)) / root;
      const double factors[10] = {1, 1, over, root, 1, 1, over, last, 1, 1 / root};
      layer.n_arrays = conv.bias ? 10 : 8;
      for (int n = 0; n < layer.n_arrays; ++n) {
        const ImageStep& from = order[n] < 0 ? relu : conv;
        layer.arrays[n] = g.table + from.first * g.rows * g.lanes + std::max(order[n], 0) * g.lanes;
        layer.strides[n] = long(from.n_arrays) * g.lanes;
        layer.factors[n] = factors[n];
      }
      scale = 0.5 * behind;
      if (relu.out == Form::cov) {
        s.cov_arrays = relu.first * g.rows * g.lanes + g.lanes;
        s.cov_stride = long(relu.n_arrays) * g.lanes;
      }
      layers.push_back(layer);
    }
    const long count = long(layers.size());
    for (ChainLayer& layer : layers) {
      layer.table = code.chain_size;
      code.chain_size += grid.tile_columns * block;
    }
    s.chain = int(count);
    s.chain_signs = begin.in == Form::both_defects;
    s.chain_scale = scale;
    s.chain_layers = append(layers);
    numbers.resize(numbers.size() + kChainNumbers, T(0));
    s.chain_numbers = append(numbers);
    for (size_t k = 0; k < layers.size(); ++k)
      code.chains.push_back({s.chain_layers + long(k * sizeof(ChainLayer)), g.rows, g.lanes, grid.chain_held});
  }

  // ---------------------------------------------------------------- grids and links

  void grid(size_t index) {
    const ImageGrid& g = program.grids[index];
    const GridLayout<T>& where = layout.grids[index];
    GridCode own = {};
    own.rows = g.rows;
    own.lanes = g.lanes;
    own.table = g.table;
    own.n_slots = g.n_slots;
    own.n_shifts = int(where.shifts.size());
    own.n_groups = int(where.groups.size());
    own.n_steps = int(g.steps.size());
    own.shifts = append(std::vector<int32_t>(where.shifts.begin(), where.shifts.end()));
    std::vector<int32_t> from;
    std::vector<uint8_t> flags(where.groups.size() * size_t(g.lanes), 0);
    for (size_t group = 0; group < where.groups.size(); ++group) {
      from.insert(from.end(), where.lanes_from[group].begin(), where.lanes_from[group].end());
      for (size_t slot = 0; slot < where.groups[group].size(); ++slot) {
        const auto& d = where.groups[group][slot];
        const bool equal = std::all_of(d.begin(), d.end(), [](int k) { return k == 0; });
        std::fill_n(flags.begin() + long(group * size_t(g.lanes) + slot * size_t(g.inner)), g.inner,
                    uint8_t(equal ? kLive | kEqual : kLive));
      }
    }
    own.from = append(from);
    own.flags = append(flags);
    std::vector<StepCode> steps;
    bool pools = false;
    for (size_t k = 0; k < g.steps.size(); ++k) {
      steps.push_back(step_code(g, where, k));
      pools = pools || (steps.back().pool && g.steps[k].in != Form::cov);
      own.every = own.every || (g.steps[k].kind == Kind::dual && !cheap(g.steps[k]));
    }
    for (size_t k = 0; k < g.steps.size(); k += steps[k].chain ? 2 * size_t(steps[k].chain) : 1)
      chain(g, where, k, own, steps[k]);
    const bool apart = own.chain_rows > 0;  // planes, which chains read
    place_slots(g, apart, own);
    for (size_t k = 0; k < steps.size(); ++k) {
      steps[k].spare = g.n_slots;
      if (!apart) records(g, index, k, steps);
    }
    if (!apart) exchange(g, code.bytes.data(), steps);
    own.steps = append(steps);
    own.lost = -1;
    if (pools && sizeof(T) == sizeof(float)) {
      own.lost = code.lost_units;
      code.lost_units += own.n_groups;
    }
    const long doubles = 2 * g.lanes * long(sizeof(double) / sizeof(T));
    own.scratch = ((g.n_slots + 1) * own.slot_size + doubles + 63) / 64 * 64;
    code.scratch = std::max(code.scratch, own.scratch);
    code.grids.push_back(own);
  }

  void link(size_t index) {
    const ImageLink& given = program.links[index];
    const LinkLayout& where = layout.links[index];
    const ImageGrid &source = program.grids[size_t(given.source)], &target = program.grids[size_t(given.target)];
    LinkCode own = {};
    own.lanes = source.lanes;
    own.n_rows = where.n_rows;
    own.size = where.size;
    own.target_lanes = target.lanes;
    // rows of each displacement, by the row that they add to
    std::vector<int32_t> starts = {0}, items, from;
    for (const auto& adds : where.rows) {
      std::map<long, std::vector<long>> by_row;
      for (const auto& add : adds) by_row[add.to].push_back(add.from);
      for (const auto& [row, all] : by_row) {
        items.insert(items.end(), {int32_t(row), int32_t(from.size()), int32_t(from.size() + all.size())});
        from.insert(from.end(), all.begin(), all.end());
      }
      starts.push_back(int32_t(items.size() / 3));
    }
    own.join_start = append(starts);
    own.joins = append(items);
    own.join_from = append(from);
    // lanes of each group of the source, by the group and lane of the target
    const long rows_of = where.n_rows * target.lanes;  // numbers of a target group
    std::vector<std::vector<int32_t>> columns(size_t(rows_of > 0 ? where.size / rows_of * target.lanes : 0));
    for (size_t group = 0; group < where.lanes.size(); ++group)
      for (const auto& add : where.lanes[group]) {
        auto& column = columns[size_t(add.to / rows_of * target.lanes + add.to % rows_of)];
        column.insert(column.end(), {int32_t(group), int32_t(add.from)});
      }
    std::vector<int32_t> column_start = {0}, all;
    for (const auto& column : columns) {
      all.insert(all.end(), column.begin(), column.end());
      column_start.push_back(int32_t(all.size() / 2));
    }
    own.column_start = append(column_start);
    own.columns = append(all);
    code.links.push_back(own);
  }

  ImageCode run() {
    code.sizes.assign(size_t(program.n_outputs), 1);
    for (size_t k = 0; k < program.grids.size(); ++k) grid(k);
    for (size_t k = 0; k < program.links.size(); ++k) link(k);
    // Sums live until the links of their grid have gathered them, planes until the target has run.
    code.links_of.resize(program.grids.size());
    std::vector<long> sums(program.grids.size(), 0);
    long most = 0;
    for (size_t k = 0; k < program.links.size(); ++k) {
      const size_t source = size_t(program.links[k].source);
      code.links_of[source].push_back(int(k));
      code.links[k].sums = sums[source];
      sums[source] += 3 * long(layout.grids[source].groups.size()) * code.links[k].n_rows * code.links[k].lanes;
      most = std::max(most, sums[source]);
    }
    code.pair_doubles = most;
    for (LinkCode& own : code.links) {
      own.planes = code.pair_doubles;
      code.pair_doubles += 3 * own.size;
    }
    code.links_at = append(code.links);
    return std::move(code);
  }
};

}  // namespace

template <class T>
ImageCode make_image_code(const ImageProgram& program, const Layout<T>& layout, const std::vector<double>& numbers,
                          bool registers) {
  check_numbers(program, numbers);
  return Builder<T>{program, layout, numbers, registers, {}}.run();
}

template ImageCode make_image_code<float>(const ImageProgram&, const Layout<float>&, const std::vector<double>&, bool);
template ImageCode make_image_code<double>(const ImageProgram&, const Layout<double>&, const std::vector<double>&,
                                           bool);

}  // namespace fntk
