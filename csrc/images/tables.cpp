#include "images/tables.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fntk {

namespace {

// Of every position, and 0 behind them for what is not there.
using Values = std::vector<double>;

struct Variances {
  Values q, s;  // s: their roots, once something has asked for them
};

// A power of two that brings x between 1 and 2, as near as it and its inverse are numbers of T.
template <class T>
double scale_of(double x) {
  if (!(x > 0) || std::isinf(x)) return 1;
  constexpr int most = std::numeric_limits<T>::max_exponent - 24;
  return std::ldexp(1.0, std::clamp(-std::ilogb(x), -most, most));
}

template <class T>
struct Tables {
  const ImageProgram& program;
  const ImageGrid& grid;
  const std::vector<const T*>& x;
  double length;
  const std::vector<double>& numbers;
  const PlaneKernels<T>& kernels;
  std::vector<LinkVariance>& links;
  T* table;  // of this grid
  Watch& watch;
  std::vector<Variances> slots;
  Values scale, factor, out;  // scratch

  long positions() const { return grid.rows * grid.inner; }
  Values zeros() const { return Values(size_t(positions()) + 1); }

  const Values& roots(Variances& of) const {
    if (of.s.empty()) {
      of.s = zeros();
      kernels.square_root(positions(), of.q.data(), of.s.data());
    }
    return of.s;
  }

  // Array k of a step at a position, in every packed place.
  void put(const ImageStep& step, int k, long at, double value) {
    const long y = at / grid.inner, column = at % grid.inner;
    T* row = table + (step.first * grid.rows + y * step.n_arrays + k) * grid.lanes;
    for (long slot = 0; slot < grid.packed; ++slot) row[slot * grid.inner + column] = T(value);
  }

  // Array k of a step at all positions.
  void put_all(const ImageStep& step, int k, const Values& values) {
    kernels.put(grid.rows, grid.inner, grid.packed, step.n_arrays * grid.lanes, values.data(),
                table + (step.first * grid.rows + k) * grid.lanes);
  }

  bool everywhere(const ImageStep& step) const {
    std::vector<int> extent = step.extent;
    extent.resize(grid.sizes.size(), 1);
    return extent == grid.sizes;
  }

  bool alive(const ImageStep& step, long at) const {
    std::vector<int> extent = step.extent;
    extent.resize(grid.sizes.size(), 1);
    for (size_t k = grid.sizes.size(); k-- > 0;) {
      if (at % grid.sizes[k] >= extent[k]) return false;
      at /= grid.sizes[k];
    }
    return true;
  }

  // Coordinates and factor of independent parts with these variances (images/planes.cpp), from array `first` on; the
  // variance of their sum.
  double spread(const ImageStep& step, int first, long at, const std::vector<double>& parts, size_t center) {
    double total = 0;
    for (double part : parts) total += part;
    if (parts.size() < 2) return total;
    const double whole = std::sqrt(total), over = total > 0 ? 1 / whole : 0;
    const double middle = 1 + std::sqrt(parts[center]) * over;
    int k = first;
    for (size_t o = 0; o < parts.size(); ++o)
      if (o != center) put(step, k++, at, std::sqrt(parts[o]) * over / middle);
    put(step, k, at, whole * middle * std::sqrt(0.5));
    return total;
  }

  // Behind the sum over the taps, q: bias and standard deviation; the new variance.
  double finish(const ImageStep& step, int first, long at, double q, int taps) {
    const double scaled = step.own(numbers)[0] / taps * q, b2 = step.own(numbers)[1];
    if (step.in == Form::cov) return scaled + b2;
    if (step.bias) {
      spread(step, first, at, {scaled, b2}, 0);
      first += 2;
    }
    put(step, first, at, std::sqrt(scaled + b2));
    return scaled + b2;
  }

  // Variances behind one stage of taps, and its coordinates and factor from array `first` on.
  Variances stage(const ImageStep& step, int first, size_t center, const std::vector<std::vector<int32_t>>& taps,
                  Variances& before) {
    const long n = positions();
    Variances found;
    found.q = zeros();
    for (const auto& from : taps) kernels.tap_sum(n, from.data(), before.q.data(), found.q.data());
    if (step.in == Form::cov || taps.size() < 2) return found;
    const Values& s = roots(before);
    kernels.tap_factor(n, taps[center].data(), s.data(), roots(found).data(), scale.data(), factor.data());
    int k = first;
    for (size_t t = 0; t < taps.size(); ++t) {
      if (t == center) continue;
      kernels.tap_coordinate(n, taps[t].data(), s.data(), scale.data(), out.data());
      put_all(step, k++, out);
    }
    put_all(step, k, factor);
    return found;
  }

  void conv(const ImageStep& step) {
    const int n_in = step.n_coords[0] > 0 ? step.n_coords[0] + 1 : 0;
    const int n_out = step.n_coords[1] > 0 ? step.n_coords[1] + 1 : 0;
    const Taps& taps = *step.taps;
    Variances inner = stage(step, 0, taps.center_inner, taps.inner, slots[size_t(step.src[0])]);
    const Variances outer = stage(step, n_in, taps.center_outer, taps.outer, inner);
    slots[size_t(step.dst)] = finish_all(step, n_in + n_out, outer.q, int(taps.inner.size() * taps.outer.size()));
  }

  // `finish` at every position that counts.
  Variances finish_all(const ImageStep& step, int first, const Values& q, int taps) {
    const size_t n = size_t(positions());
    const double w = step.own(numbers)[0] / taps, b2 = step.own(numbers)[1];
    Variances found;
    found.q = zeros();
    const bool all = everywhere(step);
    for (size_t at = 0; at < n; ++at)
      if (all || alive(step, long(at))) found.q[at] = w * q[at] + b2;
    if (step.in == Form::cov) return found;
    if (step.bias)
      for (size_t at = 0; at < n; ++at)
        if (all || alive(step, long(at))) spread(step, first, long(at), {w * q[at], b2}, 0);
    put_all(step, first + 2 * step.bias, roots(found));
    return found;
  }

  void land(const ImageStep& step) {
    const ImageLink& link = program.links[size_t(step.src[0])];
    const LinkVariance& left = links[size_t(step.src[0])];
    const ImageGrid& source = program.grids[size_t(link.source)];
    const Window& w = link.window;
    const std::vector<int> from_sizes = axes_of(source, w), sizes = axes_of(grid, w);
    const size_t axes = sizes.size();
    Values found = zeros();
    int taps = 1;
    for (int k : w.shape) taps *= k;
    for (long at = 0; at < positions(); ++at) {
      if (!alive(step, at)) continue;
      const std::vector<long> from = tap_positions(w, sizes, 0, axes, at);
      watch.spent(16 * long(from.size()));
      std::vector<double> parts(from.size());
      int inside = 0;
      for (size_t t = 0; t < from.size(); ++t) {
        if (from[t] < 0) continue;
        ++inside;
        if (!left.q.empty()) parts[t] = left.q[size_t(on_grid(from_sizes, w, 0, from[t]))];
      }
      if (!link.pool) {
        const int n = step.n_coords[0] > 0 ? step.n_coords[0] + 1 : 0;
        double q = 0;
        if (step.in == Form::cov)
          for (double part : parts) q += part;
        else
          q = spread(step, 0, at, parts, center_of(w, 0, axes));
        found[size_t(at)] = finish(step, n, at, q, taps);
        continue;
      }
      const double weight =
          w.edges ? 1.0 / std::max(inside, 1) : step.own(numbers)[0];  // none: a window on padding alone
      put(step, 0, at, weight);
      if (step.in == Form::cov) continue;
      double sum = 0;
      for (double part : parts) sum += std::sqrt(part);
      const double mass = std::min(left.mass[size_t(at)], sum * sum), variance = sum * sum - mass;
      const double e = scale_of<T>(sum);
      put(step, 1, at, sum * e);
      put(step, 2, at, mass * e * e);
      put(step, 3, at, sum > 0 ? mass / (sum + std::sqrt(variance)) * e : 0);
      put(step, 4, at, e);
      put(step, 5, at, weight / e);
      found[size_t(at)] = weight * weight * variance;
    }
    slots[size_t(step.dst)] = {std::move(found), {}};
  }

  void input(const ImageStep& step) {
    const int channels = program.channels[size_t(step.src[0])];
    const T* pixel = x[size_t(step.src[0])];
    Values found = zeros();
    for (long at = 0; at < positions(); ++at, pixel += channels) {
      double largest = 0;
      for (int c = 0; c < channels; ++c) largest = std::max(largest, std::abs(double(pixel[c]) / length));
      // infinity has no direction: the pixel becomes NaN
      const double scale = std::isinf(largest) ? NAN : scale_of<double>(largest);
      double square = 0;
      for (int c = 0; c < channels; ++c)
        square += (double(pixel[c]) / length * scale) * (double(pixel[c]) / length * scale);
      const double norm = std::sqrt(square);
      for (int c = 0; c < channels; ++c)
        put(step, c, at, norm > 0 || std::isnan(norm) ? double(pixel[c]) / length * scale / norm : 0);
      const double s = norm / scale / std::sqrt(double(channels));
      put(step, channels, at, s);
      found[size_t(at)] = s * s;
    }
    slots[size_t(step.dst)] = {std::move(found), {}};
  }

  void sum(const ImageStep& step) {
    Values found = zeros();
    std::vector<double> parts(step.src.size());
    for (long at = 0; at < positions(); ++at) {
      for (size_t k = 0; k < parts.size(); ++k) parts[k] = slots[size_t(step.src[k])].q[size_t(at)];
      if (step.in == Form::cov)
        for (double part : parts) found[size_t(at)] += part;
      else
        found[size_t(at)] = spread(step, 0, at, parts, 0);
    }
    slots[size_t(step.dst)] = {std::move(found), {}};
  }

  void dual(const ImageStep& step) {
    const DualInfo& info = duals()[size_t(step.dual)];
    Variances& before = slots[size_t(step.src[0])];
    const double* params = step.own(numbers);
    const long n = positions();
    const bool all = everywhere(step);
    constexpr double least = sizeof(T) == sizeof(float) ? 1e-34 : 1e-300;  // its inverse is a number of T
    kernels.inverse(n, least, roots(before).data(), out.data());
    put_all(step, 0, out);
    Variances found;
    found.q = zeros();
    info.variance(params, n, before.q.data(), found.q.data());
    for (long at = 0; at < n && !all; ++at)
      if (!alive(step, at)) found.q[size_t(at)] = 0;
    put_all(step, 1, roots(found));
    std::vector<Values> rows(size_t(info.n_rows), zeros());
    double row[kMaxRows];
    for (long at = 0; at < n && info.n_rows > 0; ++at) {
      if (!all && !alive(step, at)) continue;
      info.row(params, before.q[size_t(at)], row);
      for (int k = 0; k < info.n_rows; ++k) rows[size_t(k)][size_t(at)] = row[k];
    }
    for (int k = 0; k < info.n_rows; ++k) put_all(step, 2 + k, rows[size_t(k)]);
    slots[size_t(step.dst)] = std::move(found);
  }

  void run() {
    slots.assign(size_t(grid.n_slots), {});
    scale = factor = out = zeros();
    for (const ImageStep& step : grid.steps) {
      watch.spent(4 * positions() * (step.n_arrays + 1));
      if (step.kind == Kind::input) {
        input(step);
      } else if (step.kind == Kind::land) {
        land(step);
      } else if (step.kind == Kind::conv) {
        conv(step);
      } else if (step.kind == Kind::dense) {
        slots[size_t(step.dst)] = finish_all(step, 0, slots[size_t(step.src[0])].q, 1);
      } else if (step.kind == Kind::sum) {
        sum(step);
      } else if (step.kind == Kind::join) {
        links[size_t(step.dst)].q = slots[size_t(step.src[0])].q;
      } else if (step.kind == Kind::store || step.kind == Kind::convert) {
        if (step.n_arrays > 0) put_all(step, 0, roots(slots[size_t(step.src[0])]));
        if (step.kind == Kind::convert) slots[size_t(step.dst)] = slots[size_t(step.src[0])];
      } else {
        dual(step);
      }
    }
  }
};

}  // namespace

template <class T>
void make_tables(const ImageProgram& program, size_t grid, const std::vector<const T*>& x, double length,
                 const std::vector<double>& numbers, const PlaneKernels<T>& kernels, std::vector<LinkVariance>& links,
                 T* table, Watch& watch) {
  const ImageGrid& own = program.grids[grid];
  Tables<T>{program, own, x, length, numbers, kernels, links, table + own.table, watch, {}, {}, {}, {}}.run();
}

template void make_tables<float>(const ImageProgram&, size_t, const std::vector<const float*>&, double,
                                 const std::vector<double>&, const PlaneKernels<float>&, std::vector<LinkVariance>&,
                                 float*, Watch&);
template void make_tables<double>(const ImageProgram&, size_t, const std::vector<const double*>&, double,
                                  const std::vector<double>&, const PlaneKernels<double>&, std::vector<LinkVariance>&,
                                  double*, Watch&);

}  // namespace fntk
