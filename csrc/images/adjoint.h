// The reverse pass over pairs of images: what python/fastntk/engines/numpy_image_adjoint.py defines, displacement by
// displacement, in planes that stay in cache. Everything of one image is in arrays that Python has made; what belongs
// to images alone goes back to it as sums over all their partners.
//
// The plan has a slot of its own for every value of a grid, so that the forward's loops (images/block.h) leave on the
// way what is read back. Linear grids behind the last nonlinearity are gone through first, without values: their
// cotangents need none. Then a grid is visited once, there and back.
#pragma once
#include "images/run.h"

namespace fntk {

// What a window's taps read of one image where they leave the other one: dL/dq of such positions (`borders` there).
// 0 and 1: the first and the second image.
struct Borders {
  struct Row {
    long from, to;  // of a plane, of the positions that are read
    bool outside;   // the other image is left along axis 0
  };
  struct Lane {
    long from, to;  // of a plane, of the inner positions that are read
  };
  std::vector<std::vector<Row>> rows[2];              // of each displacement along axis 0: taps that stay inside
  std::vector<std::vector<Lane>> all[2], outside[2];  // of each group likewise, and those that leave the other image
};

constexpr int kTotals = 5;  // of a step with weights: A^T P (-H), of linear ones A^T P K; P; A^T T NTK; A^T T K; T

// What a step of images/program.h needs on the way back. Its arrays, in a row of tables:
//   dual             1 / s, s, s behind, d ln V / d ln q, the nonlinearity's own, their derivatives in ln q
//   dense, conv, and join of a window  s of the source, where that is no covariance
//   input            pixels, channel by channel
//   land of a pool   its weight
struct BackStep {
  int table = 0, n_arrays = 0;
  int of_source = -1;      // accumulator of dL/dq of what it reads, of an input of its first channel; -1: none
  int of_own = -1;         // of dL/dq of what it writes, behind a pool of the sums of P
  long border = -1;        // where its borders' sums begin among the numbers of an image
  int total = -1;          // its first total; of a join that of the window it leads to
  std::vector<int> place;  // store: which output position each place is, or -1
  std::shared_ptr<Borders> borders;
  // set by prepare_back
  int dual = -1;
  std::vector<std::vector<double>> mask_in;  // conv: of each group, weights of places that are read from, reads x lanes
};

struct BackGrid {
  std::vector<BackStep> steps;
  int n_accumulators = 0;  // each of as many numbers as there are positions
  long first = 0;          // where they begin among the numbers of an image
  // set by prepare_back
  int n_arrays = 0;
  long table = 0;  // where its tables begin in an image's
};

struct ImageAdjoint {
  ImageAdjoint(ImagePlan<double> given, std::vector<BackGrid> of_grids, long sums, int totals);
  ImagePlan<double> plan;
  std::vector<BackGrid> grids;
  long n_sums;  // numbers that come back of an image
  int n_totals;
  // set by prepare_back
  long table_size = 0;
  long worker_bytes = 0;
  std::vector<long> output_sizes;  // positions of each output at least
  size_t bent = 0;  // the last grid that is not linear alone; those behind it need no values but for totals
};

// Place of a nonlinearity among those that are compiled with derivatives over planes, -1 for none.
int image_adjoint_of(const std::string& name);

struct BackSide {
  const double* tables;  // of the forward pass, n x plan.program.table_size
  const double* own;     // n x table_size
  long n;
};

struct BackCall {
  std::vector<std::array<long, 2>> pairs;
  std::vector<const double*> on_k, on_theta;  // of each output, pairs x positions x positions, or null
  std::vector<long> sizes;                    // positions of each output
  bool ntk, counts;                           // T comes; totals are wanted
  double *sums1, *sums2;                      // n x n_sums of both sides: added to, pair by pair
  double* totals;                             // pairs x n_totals
};

void run_image_adjoint(const ImageAdjoint& adjoint, const std::vector<double>& numbers, const BackSide& one,
                       const BackSide& two, const BackCall& call, const Isa& isa, int threads,
                       const Interrupt& interrupt);

// ---------------------------------------------------------------- loops over planes (images/adjoint_planes.cpp)

struct BackArgs {
  long rows, lanes, shift;
  const double *v, *p, *t;  // of the source: as its form has them
  bool defects[2];          // s s' - K is there, s s' + K too
  const double *P, *T;      // of the result; T null: there is no NTK
  double *P_out, *T_out;    // of the source: added to
  const double *a, *b;      // tables of both images
  long stride;              // numbers in a row of them
  double *first, *second;   // accumulators of both images, rows x lanes
  double* totals;           // kTotals rows, or null
  long total_stride;
  double w2, f;  // both divided by the number of taps
  double over_taps;
  int n_in, n_out;  // as in PlaneArgs
  const long *shift_in, *shift_out;
  const double *mask_in, *mask_out;  // mask_in: of the places that are read from
  const double* params;
  int channels;
  double* scratch;  // kBackScratch rows of lanes
};

constexpr int kBackScratch = 10;

using BackOp = void (*)(const BackArgs&);
constexpr int kMaxBackDuals = 16;

struct BackKernels {
  BackOp dual[kMaxBackDuals];
  BackOp weights, window, input;  // dense, and what a link brought; conv
  BackOp scale;                   // P_out = a b P, T likewise
  BackOp halves;                  // P / 2 to both accumulators
  BackOp sums;                    // P to both accumulators
  BackOp pass;                    // P and T to the source
  BackOp count;                   // P and T to totals 1 and 4
};

}  // namespace fntk
