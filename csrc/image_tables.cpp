#include "image_tables.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace fntk {

namespace {

template <class T>
struct Tables {
  const ImageProgram& program;
  const ImageGrid& grid;
  const std::vector<const T*>& x;
  double length;
  std::vector<LinkVariance>& links;
  T* table;  // of this grid
  std::vector<std::vector<double>> slots;  // variances of every position

  long positions() const { return grid.rows * grid.inner; }

  // Array k of a step at a position, in every packed place.
  void put(const ImageStep& step, int k, long at, double value) {
    const long y = at / grid.inner, column = at % grid.inner;
    T* row = table + (step.first * grid.rows + y * step.n_arrays + k) * grid.lanes;
    for (long slot = 0; slot < grid.packed; ++slot) row[slot * grid.inner + column] = T(value);
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

  // Coordinates and factor of independent parts with these variances (image_planes.cpp), from array `first` on; the
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
    const double scaled = step.params[0] / taps * q, b2 = step.params[1];
    if (step.in == Form::cov) return scaled + b2;
    if (step.bias) {
      spread(step, first, at, {scaled, b2}, 0);
      first += 2;
    }
    put(step, first, at, std::sqrt(scaled + b2));
    return scaled + b2;
  }

  static size_t center_of(const Window& w, size_t first, size_t last) {
    size_t center = 0;
    for (size_t k = first; k < last; ++k) {
      const int middle = w.low[k] % w.dilation[k] == 0 ? w.low[k] / w.dilation[k] : 0;
      center = center * size_t(w.shape[k]) + size_t(std::min(middle, w.shape[k] - 1));
    }
    return center;
  }

  // Variances behind one stage of taps, read through `positions`: of each position, flat, or -1.
  template <class Positions>
  std::vector<double> stage(const ImageStep& step, int first, size_t center, const std::vector<double>& q,
                            const Positions& read) {
    std::vector<double> found(q.size());
    std::vector<double> parts;
    for (long at = 0; at < positions(); ++at) {
      const std::vector<long> from = read(at);
      parts.assign(from.size(), 0);
      for (size_t t = 0; t < from.size(); ++t)
        if (from[t] >= 0) parts[t] = q[size_t(from[t])];
      if (step.in == Form::cov) {
        for (double part : parts) found[size_t(at)] += part;
      } else {
        found[size_t(at)] = spread(step, first, at, parts, center);
      }
    }
    return found;
  }

  // Where position (row, column) of a window's input lies on this grid, whose positions may be more.
  long on_grid(const std::vector<int>& sizes, const Window& w, size_t first, long flat) const {
    long place = 0, scale = 1;
    for (size_t k = sizes.size(); k-- > first;) {
      place += flat % w.size_in[k] * scale;
      flat /= w.size_in[k];
      scale *= sizes[k];
    }
    return place;
  }

  void conv(const ImageStep& step) {
    const Window& w = step.window;
    const std::vector<int> sizes = axes_of(grid, w);
    const size_t axes = sizes.size();
    const std::vector<double>& q = slots[size_t(step.src[0])];
    const int n_in = step.n_coords[0] > 0 ? step.n_coords[0] + 1 : 0;
    const int n_out = step.n_coords[1] > 0 ? step.n_coords[1] + 1 : 0;
    std::vector<std::vector<long>> reads_in(static_cast<size_t>(grid.inner)), reads_out(static_cast<size_t>(grid.rows));
    for (long c = 0; c < grid.inner; ++c) {
      reads_in[size_t(c)] = tap_positions(w, sizes, 1, axes, c);
      for (long& at : reads_in[size_t(c)])
        if (at >= 0) at = on_grid(sizes, w, 1, at);
    }
    for (long y = 0; y < grid.rows; ++y) reads_out[size_t(y)] = tap_positions(w, sizes, 0, 1, y);
    const auto inner = stage(step, 0, center_of(w, 1, axes), q, [&](long at) {
      std::vector<long> from = reads_in[size_t(at % grid.inner)];
      for (long& place : from)
        if (place >= 0) place += at / grid.inner * grid.inner;
      return from;
    });
    const auto outer = stage(step, n_in, center_of(w, 0, 1), inner, [&](long at) {
      std::vector<long> from = reads_out[size_t(at / grid.inner)];
      for (long& place : from)
        if (place >= 0) place = place * grid.inner + at % grid.inner;
      return from;
    });
    int taps = 1;
    for (int k : w.shape) taps *= k;
    std::vector<double> found(outer.size());
    for (long at = 0; at < positions(); ++at)
      if (alive(step, at)) found[size_t(at)] = finish(step, n_in + n_out, at, outer[size_t(at)], taps);
    slots[size_t(step.dst)] = found;
  }

  void land(const ImageStep& step) {
    const ImageLink& link = program.links[size_t(step.src[0])];
    const LinkVariance& left = links[size_t(step.src[0])];
    const ImageGrid& source = program.grids[size_t(link.source)];
    const Window& w = link.window;
    const std::vector<int> from_sizes = axes_of(source, w), sizes = axes_of(grid, w);
    const size_t axes = sizes.size();
    std::vector<double> found(static_cast<size_t>(positions()));
    int taps = 1;
    for (int k : w.shape) taps *= k;
    for (long at = 0; at < positions(); ++at) {
      if (!alive(step, at)) continue;
      const std::vector<long> from = tap_positions(w, sizes, 0, axes, at);
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
      const double weight = w.edges ? 1.0 / inside : step.params[0];
      put(step, 0, at, weight);
      if (step.in == Form::cov) continue;
      double sum = 0;
      for (double part : parts) sum += std::sqrt(part);
      const double mass = std::min(left.mass[size_t(at)], sum * sum), variance = sum * sum - mass;
      put(step, 1, at, sum);
      put(step, 2, at, mass);
      put(step, 3, at, sum > 0 ? mass / (sum + std::sqrt(variance)) : 0);
      found[size_t(at)] = weight * weight * variance;
    }
    slots[size_t(step.dst)] = found;
  }

  void input(const ImageStep& step) {
    const int channels = program.channels[size_t(step.src[0])];
    const T* pixel = x[size_t(step.src[0])];
    std::vector<double> found(static_cast<size_t>(positions()));
    for (long at = 0; at < positions(); ++at, pixel += channels) {
      double largest = 0;
      for (int c = 0; c < channels; ++c) largest = std::max(largest, std::abs(double(pixel[c]) / length));
      // infinity has no direction: the pixel becomes NaN
      const double scale = std::isinf(largest) ? NAN : largest > 0 ? std::ldexp(1.0, -std::ilogb(largest)) : 1;
      double square = 0;
      for (int c = 0; c < channels; ++c) square += (double(pixel[c]) / length * scale) * (double(pixel[c]) / length * scale);
      const double norm = std::sqrt(square);
      for (int c = 0; c < channels; ++c) put(step, c, at, norm > 0 || std::isnan(norm) ? double(pixel[c]) / length * scale / norm : 0);
      const double s = norm / scale / std::sqrt(double(channels));
      put(step, channels, at, s);
      found[size_t(at)] = s * s;
    }
    slots[size_t(step.dst)] = found;
  }

  void sum(const ImageStep& step) {
    std::vector<double> found(static_cast<size_t>(positions()));
    std::vector<double> parts(step.src.size());
    for (long at = 0; at < positions(); ++at) {
      for (size_t k = 0; k < parts.size(); ++k) parts[k] = slots[size_t(step.src[k])][size_t(at)];
      if (step.in == Form::cov)
        for (double part : parts) found[size_t(at)] += part;
      else
        found[size_t(at)] = spread(step, 0, at, parts, 0);
    }
    slots[size_t(step.dst)] = found;
  }

  void dual(const ImageStep& step) {
    const DualInfo& info = duals()[size_t(step.dual)];
    const std::vector<double> before = slots[size_t(step.src[0])];
    std::vector<double> found(before.size());
    double row[16];
    for (long at = 0; at < positions(); ++at) {
      if (!alive(step, at)) continue;
      const double q = before[size_t(at)];
      found[size_t(at)] = info.variance(step.params.data(), q);
      put(step, 0, at, q == 0 ? 0 : 1 / std::sqrt(q));
      put(step, 1, at, std::sqrt(found[size_t(at)]));
      info.row(step.params.data(), q, row);
      for (int k = 0; k < info.n_rows; ++k) put(step, 2 + k, at, row[k]);
    }
    slots[size_t(step.dst)] = found;
  }

  void run() {
    slots.assign(size_t(grid.n_slots), {});
    for (const ImageStep& step : grid.steps) {
      if (step.kind == Kind::input) {
        input(step);
      } else if (step.kind == Kind::land) {
        land(step);
      } else if (step.kind == Kind::conv) {
        conv(step);
      } else if (step.kind == Kind::dense) {
        std::vector<double> found = slots[size_t(step.src[0])];
        for (long at = 0; at < positions(); ++at)
          found[size_t(at)] = alive(step, at) ? finish(step, 0, at, found[size_t(at)], 1) : 0;
        slots[size_t(step.dst)] = found;
      } else if (step.kind == Kind::sum) {
        sum(step);
      } else if (step.kind == Kind::join) {
        links[size_t(step.dst)].q = slots[size_t(step.src[0])];
      } else if (step.kind == Kind::store || step.kind == Kind::convert) {
        const std::vector<double> q = slots[size_t(step.src[0])];
        if (step.n_arrays > 0)
          for (long at = 0; at < positions(); ++at) put(step, 0, at, std::sqrt(q[size_t(at)]));
        if (step.kind == Kind::convert) slots[size_t(step.dst)] = q;
      } else {
        dual(step);
      }
    }
  }
};

}  // namespace

template <class T>
void make_tables(const ImageProgram& program, size_t grid, const std::vector<const T*>& x, double length,
                 std::vector<LinkVariance>& links, T* table) {
  const ImageGrid& own = program.grids[grid];
  Tables<T>{program, own, x, length, links, table + own.table, {}}.run();
}

template void make_tables<float>(const ImageProgram&, size_t, const std::vector<const float*>&, double,
                                 std::vector<LinkVariance>&, float*);
template void make_tables<double>(const ImageProgram&, size_t, const std::vector<const double*>&, double,
                                  std::vector<LinkVariance>&, double*);

}  // namespace fntk
