// One pair of inputs through a whole program: host and device run this same text, so that machines without a GPU test
// it.
#pragma once
#include "duals.h"
#include "ops.h"
#include "program.h"

namespace fntk {

constexpr int kMaxSlots = 8, kMaxSources = 8, kMaxParams = 4, kMaxRows = 5;

struct DeviceOp {
  int code, dst, n_src, first_row;
  int src[kMaxSources];
  double params[kMaxParams];
};

// Row arrays k of one side: rows[k * n + i].
template <class T>
struct DeviceRows {
  const T* rows;
  long n;
  FNTK_HD T at(int k, long i) const { return rows[k * n + i]; }
};

template <class T>
struct DeviceInput {  // row-major planes of the tile, null: absent
  const T *product, *defect, *theta, *raw1, *raw2;
  const double *norms1, *norms2;
  long d;
  T close;
};

namespace FNTK_ISA {

// As in cpu_blocks.cpp: pairs near rho = 1 and rho = -1 take their defect from the rows themselves.
template <class T>
FNTK_HD T input_defect(const DeviceInput<T>& input, long i, long j, long cols) {
  if (input.defect) return input.defect[i * cols + j];
  const T product = input.product[i * cols + j];
  const bool near = !(product < T(0));
  const T w = at_least_zero(T(1) - magnitude(product));
  if (!input.raw1 || !(w < input.close)) return signed_defect(near, w);
  const T *x = input.raw1 + i * input.d, *y = input.raw2 + j * input.d;
  double norm = input.norms1[i], other = input.norms2[j];
  if (norm < other) {
    const T* row = x;
    x = y;
    y = row;
    const double length = norm;
    norm = other;
    other = length;
  }
  const double sign = near ? 1 : -1, t = -sign * (norm / other - 1), inverse = inverse_norm(norm);
  double sum = 0;
  for (long k = 0; k < input.d; ++k) {
    const double v = unit_difference(double(x[k]), double(y[k]), sign, t, inverse);
    sum = fma(v, v, sum);
  }
  return signed_defect(near, T(0.5 * sum));
}

template <template <class> class Phi, class T>
FNTK_HD Dual<T> dual(const DeviceOp& op, const DeviceRows<T>& rows1, long i, const DeviceRows<T>& rows2, long j, T v) {
  const Phi<T> phi(op.params);
  const T *first1 = rows1.rows + op.first_row * rows1.n + i, *first2 = rows2.rows + op.first_row * rows2.n + j;
  const T *own1[kMaxRows], *own2[kMaxRows];
  for (int r = 0; r < kMaxRows; ++r) {
    own1[r] = first1 + r * rows1.n;
    own2[r] = first2 + r * rows2.n;
  }
  return phi.pair(correlation(v), Phi<T>::load(own1, 0), Phi<T>::load(own2, 0));
}

// store(output, nngp, theta, defect) is called for every output. Slots = 1 keeps the state in registers.
template <class T, int Slots, class Store>
FNTK_HD void run_pair(const DeviceOp* ops, int n_ops, const DeviceInput<T>* inputs, int n_inputs,
                      const DeviceRows<T>& rows1, const DeviceRows<T>& rows2, long row1, long row2, long i, long j,
                      long cols, const Store& store) {
  T v[Slots], theta[Slots];
  for (int s = 0; s < n_inputs; ++s) {
    v[Slots == 1 ? 0 : s] = input_defect(inputs[s], i, j, cols);
    theta[Slots == 1 ? 0 : s] = inputs[s].theta ? inputs[s].theta[i * cols + j] : T(0);
  }
  const long i1 = row1 + i, i2 = row2 + j;
  for (int k = 0; k < n_ops; ++k) {
    const DeviceOp& op = ops[k];
    const int src = Slots == 1 ? 0 : op.src[0], dst = Slots == 1 ? 0 : op.dst;
    const int row = op.first_row;
    T new_v = v[src], new_theta = theta[src];
    if (op.code == kDense) {
      new_theta =
          dense_theta(T(op.params[0]), T(op.params[3]), rows1.at(row, i1), rows2.at(row, i2), rho_of(new_v), new_theta);
      if (op.params[1] > 0)
        new_v = bias_defect<T, false>(rows1.at(row + 1, i1), rows2.at(row + 1, i2), rows1.at(row + 2, i1),
                                      rows2.at(row + 2, i2), new_v);
      else if (op.params[3] != 0)
        new_v = guarded_defect(rows1.at(row, i1), rows2.at(row, i2), new_v);
    } else if (op.code == kSum) {
      T minus = T(0), plus = T(0);
      new_theta = T(0);
      for (int s = 0; s < op.n_src; ++s) {
        const int from = Slots == 1 ? 0 : op.src[s];
        const T p1 = rows1.at(row + s, i1), p2 = rows2.at(row + s, i2), w = magnitude(v[from]);
        const bool near = !(v[from] < T(0));
        minus += part_defect(p1, p2, select(near, w, T(2) - w));
        plus += part_defect(p1, p2, select(near, T(2) - w, w));
        new_theta += theta[from];
      }
      new_v = sum_defect(minus, plus);
    } else if (op.code == kStore) {
      store(op.dst, covariance(rows1.at(row, i1), rows2.at(row, i2), new_v), new_theta, new_v);
      continue;
    } else {
      int code = kFirstDual;
      Dual<T> d = {T(0), T(0), T(0)};
#define FNTK_PAIR(Phi, name) \
  if (op.code == code++) d = dual<Phi, T>(op, rows1, i1, rows2, i2, new_v);
      FNTK_DUALS(FNTK_PAIR)
#undef FNTK_PAIR
      new_v = d.v;
      new_theta *= d.kdot;
    }
    v[dst] = new_v;
    theta[dst] = new_theta;
  }
}

}  // namespace FNTK_ISA
}  // namespace fntk
