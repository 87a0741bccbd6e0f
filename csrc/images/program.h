// The contract of kernels of inputs with spatial axes, between Python's plan and tables, the plane loops and the
// executor: plain structs, no logic.
//
// A pair of images has a covariance for every two positions p and p'. On a grid, displacements d = p' - p are problems
// of their own; on the torus of n positions d stands for d and d - n, and p meets (p + d) mod n. A plane holds one
// number for each position of the first image: `rows` positions of axis 0, and in each row `lanes` numbers: one or
// several displacements of the other axes (`packed` of them), side by side. Tables hold what depends on one image:
// for each step `n_arrays` arrays a row, array after array, in the lanes' order; those of the second image are
// gathered for a group of displacements, and read from row (y + d) mod rows on.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/program.h"
#include "math/forms.h"

namespace fntk {

// How rows of three taps along axis 0 meet; other: in no such way.
enum class Meet { other, same, valid, circular };

enum class Kind { input, land, conv, dense, sum, convert, store, join, dual };

struct ImageStep {
  std::string name;
  int dst = 0;
  std::vector<int> src;
  Form in = Form::cov, out = Form::cov;
  std::vector<int> extent;
  int shift = kNoDense;                 // conv, dense, land: what it does to correlations (common/program.h)
  int first_number = 0, n_numbers = 0;  // its parameters among those of a call
  int parts[2] = {1, 1};                // conv: taps along the inner axes and along axis 0; land: all, 1
  Meet meet = Meet::other;              // conv
  bool fused = false;
  // set by prepare
  Kind kind = Kind::dual;
  int dual = -1;  // index into the duals, or -1
  int n_arrays = 0;
  long first = 0;            // of this step's arrays in a row of the grid's tables, counted in arrays
  int n_coords[2] = {0, 0};  // of the stages along the inner axes and along axis 0
  bool bias = false;

  double taps() const { return double(parts[0]) * double(parts[1]); }
  // Its parameters; w2, b2, f, g of a mean over taps where it has none of its own.
  const double* own(const std::vector<double>& numbers) const {
    static constexpr double mean[] = {1, 0, 0, 0};
    return n_numbers > 0 ? numbers.data() + first_number : mean;
  }
};

struct ImageGrid {
  std::vector<int> sizes;
  std::vector<ImageStep> steps;
  int n_slots = 0;
  long packed = 1, lanes = 16;
  // set by prepare
  long rows = 1, inner = 1;  // positions of axis 0, of all others together
  long n_arrays = 0;         // of all steps
  long table = 0;            // where its tables begin in an image's
};

struct ImageLink {
  int source = 0, target = 0;
  bool pool = false;
  Form form = Form::cov;
};

struct ImageProgram {
  std::vector<ImageGrid> grids;
  std::vector<ImageLink> links;
  std::vector<int> channels;  // of each input
  int n_outputs = 0;
  // set by prepare
  long table_size = 0;  // numbers of one image's tables
  int n_numbers = 0;    // parameters of all steps, given with each call: a program is structure alone
};

// One displacement, of one pair, of those that take a step together.
template <class T>
struct PlaneItem {
  T *v, *t;  // s s' - K and NTK
  const T *v_in, *t_in;
  const T *a, *b, *after_a, *after_b;
  long shift;
  const T* mask_out;
  bool fetch_a, fetch_b;  // tables that come from memory: rows are asked for ahead of their turn
};

// Lanes of a gathered line that lie side by side in the line that they come from.
struct LaneRun {
  int32_t to, from, count;
};

// Arguments of one step on one displacement. Planes have `lanes` readable numbers before and behind them.
template <class T>
struct PlaneArgs {
  long rows, lanes, shift;  // shift: displacement along axis 0
  T* dst[3];                // K or s s' - K, s s' + K, NTK
  const T* src[3];
  const T* const* sources;  // sum: three planes of each source
  int n_src;
  const T *a, *b;              // tables of both images
  long stride;                 // numbers in a row of them
  const T *after_a, *after_b;  // of the nonlinearity that is done in the same pass
  long stride_after;
  const double* params;  // of the nonlinearity
  int n_params;
  int n_in, n_out;  // reads along the inner axes and along axis 0, the first at distance 0
  const long *shift_in, *shift_out;
  const T *mask_in, *mask_out;  // n_in x lanes, n_out x rows
  int coords_in, coords_out;
  Weights<T> weights;
  bool bias;
  int channels;
  const PlaneItem<T>* items;  // of `together`, in place of what is one displacement's
  int n_items;
  T* scratch;
  T* lost;  // land_pool: for each lane the sum of s s' where a difference has lost its digits; then of all s s'
};

template <class T>
using PlaneOp = void (*)(const PlaneArgs<T>&);

constexpr int kMaxDuals = 32, kFastLanes = 32;
constexpr int kTogether = 8;  // displacements, or pairs, that go through a window row by row together
constexpr long kPiece = 16;   // numbers that are gathered at a time: no line has fewer
constexpr long kKept = 4;     // rows of sums along the inner axis that are kept of each

template <class T>
struct PlaneKernels {
  PlaneOp<T> fused[kMaxDuals][2][2][2][2];  // [dual][both defects][cov out][bias][kFastLanes]: 3 x 3 taps, cheap duals
  PlaneOp<T> together[kMaxDuals][2][2];     // [dual][cov out][kFastLanes, else 16]; or null
  PlaneOp<T> conv3[3][2];                   // [form][bias]
  PlaneOp<T> conv[3];                       // [form]
  PlaneOp<T> dual[kMaxDuals][2][2];         // [dual][both defects][cov out]
  PlaneOp<T> input[3], land_conv[3], land_pool[3], sum[3];
  PlaneOp<T> to_cov[3], to_both;
  void (*add)(long n, const T* in, double* out);
  void (*gather)(long lines, long lanes, const T* in, const LaneRun* runs, long n_runs, T* out);
};

}  // namespace fntk
