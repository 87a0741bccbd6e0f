// The only contract between Python, the block loops and CUDA: plain structs, no logic.
//
// A program is a straight line of ops on slots. A slot holds, for a block of pairs, two planes: the signed defect v of
// the correlation (math/duals.h) and the NTK theta (NNGP = sqrt(q1 q2) rho, q the variances). What an op needs of one
// input alone it finds in row arrays, made by Python once per input (plan/rows.py) and found by their names. Slots are
// numbered and reused by lower() in Python; nothing here knows about layers.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "math/vmath.h"

namespace fntk {

// Op codes: the linear ops, then the duals in the order of FNTK_DUALS.
constexpr int kDense = 0, kSum = 1, kStore = 2, kNorm = 3, kProduct = 4, kFirstDual = 5, kMaxOps = 48;

// What a Dense layer does to the defect; kNoDense: none stands behind this nonlinearity. kFine: as kBias, by row
// numbers in two parts.
constexpr int kNoDense = 0, kPlain = 1, kGuard = 2, kBias = 3, kFine = 5;

// The kind of a sum whose parts have means.
constexpr int kMeans = 4;

struct Op {
  std::string name;
  int dst = 0;
  std::vector<int> src;
  int kind = 0;                         // dense: kPlain, kGuard, kBias or kFine; sum: kMeans or 0
  int first_number = 0, n_numbers = 0;  // its parameters among those of a call
  std::map<std::string, int> rows;      // places of its row arrays in a table, by name
  int code = -1;                        // index into ops()
  int first_row = 0, n_rows = 0;        // its part of Program::places
  bool fused = false;                   // the next op, a dense on the same slot, runs in this one's pass over the block
};

struct Program {
  std::vector<Op> ops;
  int n_inputs = 0;  // slots 0 .. n_inputs - 1 are loaded before the first op
  int n_slots = 0;
  int n_outputs = 0;
  int n_numbers = 0;        // parameters of all ops, given with each call: a program is structure alone
  std::vector<int> places;  // in a table: the row arrays of each op, in the order in which it names them
  int table_rows = 0;
};

template <class T>
struct RowTable {  // row arrays of some inputs: array k of input i is data[k * n + i]
  const T* data = nullptr;
  long n = 0;
  FNTK_HD const T* operator[](long k) const { return data + k * n; }
};

// batch x lines x cols numbers, columns adjacent; null: absent.
template <class T>
struct Plane {
  T* data = nullptr;
  long batch_stride = 0, stride = 0;
  explicit operator bool() const { return data != nullptr; }
  T* at(long b, long i, long j) const { return data + b * batch_stride + i * stride + j; }
};

template <class T>
struct PairInput {                     // of one tile
  Plane<const T> defect;               // v itself; or
  Plane<const T> product;              // of unit rows (CUDA); or
  Plane<const T> panels1, panels2;     // the unit rows, batch x panels x (d kPanel) (CPU); or none: v = 0
  Plane<const T> theta;                // absent: 0
  Plane<const T> raw1, raw2;           // the rows themselves, for close pairs; absent: the product has to do
  Plane<const double> norms1, norms2;  // their norms, one line a batch
  long d = 0;
  T close = 0;  // 1 - |rho| below it comes from the raw rows
};

template <class T>
struct PairOutput {  // of the whole result: nngp, ntk, defect
  Plane<T> planes[3];
};

struct Tile {
  long batch0, batches, i0, lines, j0, cols;  // where it stands in the result
  long row1, row2;                            // its first line and column in the row tables
  long n1, n2;                                // rows from one batch to the next in the row tables
  bool symmetric;                             // pairs on and above the diagonal are computed and mirrored
  bool diagonal;                              // lines pair with themselves: cols == 1
};

// A block of lines x cols pairs: line l is input row i0 + l of x1 against rows j0 + l * col_step .. of x2.
template <class T>
struct Block {
  int lines, cols, col_step;
  long i0, j0;
  long stride;  // elements between the lines of a plane
  long plane;   // elements of a plane
  T* state;     // n_slots x (v, theta)
  bool ntk;     // theta planes are alive
  T* v(int slot) const { return state + 2 * slot * plane; }
  T* theta(int slot) const { return state + (2 * slot + 1) * plane; }
};

template <class T>
struct OpView {
  const double* params;
  int n_params, kind, dst, n_src;
  const int* src;
  const T* const* rows1;
  const T* const* rows2;
  T* out[3];  // store only: the block's first entry in nngp, ntk and defect, or null
  long out_stride[3];
  const OpView* next;  // duals only: a dense op to run in the same pass, or null
};

template <class T>
using BlockOp = void (*)(const OpView<T>&, const Block<T>&);

template <class T>
using DualMap = void (*)(long n, const T* q11, const T* q12, const T* q22, const RowTable<T>& rows1,
                         const RowTable<T>& rows2, const double* params, T* k, T* kdot);

// Rows as given, d numbers each, and their Euclidean norms.
template <class T>
struct RawRows {
  const T* rows;
  const double* norms;
};

// What one instruction set offers for one dtype.
template <class T>
struct Kernels {
  BlockOp<T> ops[kMaxOps];        // by op code; null past the last
  DualMap<T> dual_maps[kMaxOps];  // by op code; null for linear ops
  // v of a product of unit rows; 1 - |rho| below `close` comes from the rows themselves, where x1 has any.
  void (*defect)(long n, const T* product, T close, const RawRows<T>& x1, const RawRows<T>& x2, long d, T* v);
  double (*sum_of_squares)(const T* x, double scale, long d);
  void (*transpose)(const T* in, long in_stride, T* out, long out_stride, long rows, long cols, long skip);
};

// Unit rows lie in panels of kPanel rows, feature by feature: panel[k][row].
constexpr long kPanel = 64;
constexpr long kMaxCols = 4 * kPanel;  // of a block

template <class T>
struct Products {
  void (*pack)(const T* x, const double* first, const double* second, long rows, long d, T* panel);
  void (*product)(const T* left, const T* right, long lines, long d, T* out, long stride);
  // out[l][k] += sum over c < count of left[c][l] right[c][k], of kPanel, width and width numbers a row; lines are
  // rounded up to 4, k runs to the width, a multiple of 32. Of double alone.
  void (*accumulate)(const T* left, const T* right, long lines, long count, long width, T* out);
};

}  // namespace fntk
