// What device code reads of an image program: geometry and steps as plain numbers in one block of bytes, which lies in
// device memory; offsets into it are in bytes. Made on the host from the layout that the CPU engine uses.
#pragma once
#include <cstdint>
#include <vector>

#include "images/layout.h"

#if defined(__CUDA_ARCH__)
#define FNTK_UNROLL _Pragma("unroll")
#define FNTK_ROLLED _Pragma("unroll 1")
#else
#define FNTK_UNROLL
#define FNTK_ROLLED
#endif

namespace fntk {

// How a row of 3 x 3 windows meets others: those above and below, the two below, or both neighbours on a circle.
enum ChainMode { kSameRows = 0, kValidRows = 1, kCircularRows = 2, kChainModes = 3 };

struct StepCode {
  int kind, dst, in, out, dual, n_src;
  int bias, pool, channels, coords_in, coords_out;
  int n_in, n_out;        // conv: reads along the inner axes and along axis 0
  int spare;              // conv: a slot that holds nothing
  int taps_in, taps_out;  // conv: of a window that goes in one pass (cuda/images/roll.h), else 0
  int low, wraps;         // rows before its own that it reads then; they lie on a circle
  int fused;              // the next step, a nonlinearity, is done in that pass
  long reads;             // int32, groups x lanes x taps_in: how many bytes from a place those lie that it reads
  long row_reads;         // int32, shifts x (rows + taps_out - 1): bit k of row y - low: row y - k reads it; kTurns
  long records;           // of a window in one pass, or a nonlinearity: its Records
  int chain;              // conv: layers from here on that run in registers (cuda/images/chain.h)
  int chain_signs;        // the first one begins with both defects, of an input
  long arrays, stride;    // numbers before this step's in the grid's tables, and in a row of them
  long sources;           // int32: slots
  long shift_in;          // int32, n_in
  long shift_out;         // int32, n_out
  long mask_in;           // T, groups x n_in x lanes
  long mask_out;          // T, shifts x n_out x rows
  long chain_layers;      // ChainLayer, `chain` of them
  long chain_numbers;     // T, kChainNumbers of each layer, then zeros
  long chain_lanes;       // int32, groups x tile columns x kChainPlaces x 32
  long chain_weights;     // T, groups x tile columns x kChainWeights x 32: of reads
  long chain_edges;       // uint32, shifts x 2: bit y where row y reads the one at the first distance, at the second;
                          // on a circle where it is the last one. In tiles, shifts x tile rows: rows y - 1 and y meet
  double chain_scale;     // of what registers hold at the end
  long cov_arrays, cov_stride;  // of a chain that ends in covariances: the table of s; -1: it does not
  long place, opposite;         // store: int64, groups x lanes, place of the inner axes in an output, -1: none
  long row_stride, other_stride;
  int extent_rows;
  double w, b2, alpha, beta;  // of Weights
  double params[4];           // of a nonlinearity
  int n_params;               // of a counted one
  long constants;             // T, what its formula reads
};

constexpr long kChainLanes = 32, kChainQuad = 4 * kChainLanes;  // four numbers of each lane
template <bool bias>
constexpr long kChainQuads = bias ? 3 : 2;  // of a row

// Of a lane: both reads beside it, its own place in both images' tables, and what it reads of another tile
// (cuda/images/tiles.h).
enum ChainPlace { kFirstRead, kSecondRead, kOwnTable, kOtherTable, kOtherTile, kChainPlaces };
enum ChainWeight { kFirstWeight, kSecondWeight, kTileWeight, kChainWeights };

constexpr int kTileRows = 16;
template <class T>
constexpr int kMaxTiles = sizeof(T) == sizeof(float) ? 20 : 12;  // warps of a block whose registers suffice

// What a tile shows to those around it: columns at its ends (2 x planes x rows), then its first and last rows (2 x
// planes x 32); planes: of the defect and of the NTK.
constexpr int kTileEnds = 2 * kTileRows, kTileRowsAt = 2 * kTileEnds, kTileNumbers = kTileRowsAt + 4 * int(kChainLanes);

// Of a layer: a power of two for both planes before it, 0 behind the last one; NTK' = sum + alpha K' + beta; what a
// bias adds to r + K besides its defect.
enum ChainNumber { kRescale, kAlpha, kBeta, kConstant, kChainNumbers };

constexpr long kChainInverse = 3;  // place of 1 / s among a layer's arrays

// The tables of a convolution and its rectifier in registers.
struct ChainLayer {
  long table;          // where it begins in an image's chain tables: blocks of 32 lanes x rows held x quads x 32 x 4
  int n_arrays;        // 8, with a bias 10
  long arrays[10];     // where each begins in an image's tables
  long strides[10];    // numbers in a row of it
  double factors[10];  // what it is multiplied by
};

struct GridCode {
  long rows, lanes, table;
  long row_size, lane_size, plane_at[3], slot_size;  // of its slots: numbers of a row, of a place, before each plane
  int n_slots, n_shifts, n_groups, n_steps;
  long steps;      // StepCode
  long shifts;     // int32
  long from;       // int32, groups x lanes: lanes of the second image
  long flags;      // uint8, groups x lanes: kLive, kEqual
  long lost;       // first of its groups among those that lose digits, -1: none do
  long scratch;    // numbers that one unit works on
  bool every;      // a nonlinearity is not cheap: no chains, and kernels that hold all of them
  int chain_rows;  // rows that registers hold for its chains: 0 (it has none), 16 or 32
  int chain_bias, chain_mode;
  int tile_rows, tile_columns;  // warps of one unit's chain
  int tile_lanes;               // that they hold: all, or those of one displacement
  long chain_held;              // rows of a chain's table: none wraps
};

constexpr uint8_t kLive = 1, kEqual = 2;  // a displacement that counts; displacement 0

struct LinkCode {
  long lanes, n_rows, size, target_lanes;
  long sums;                          // among a pair's doubles: groups x 3 x n_rows x lanes of the source
  long planes;                        // likewise: 3 x size
  long join_start, joins, join_from;  // int32: items of each displacement; (row, begin, end); source rows
  long column_start, columns;         // int32: of each group and lane of the target; (group, lane) of the source
};

constexpr int kTurns = 1 << 30;  // the row comes behind the last one

constexpr int kPlaceSize = 4;  // of slots between windows in one pass: s s' - K or K, NTK, s s' + K, 0

constexpr int kMaxQuads = 8, kQuad = 4, kRecordLanes = 16;
constexpr int quads_of(int n) { return (n + kQuad - 1) / kQuad; }

// Tables of a step, as its pass reads them: rows x lanes / 16 x quads x 16 x 4 numbers, four of a lane side by side.
struct Records {
  int grid, quads, halo;                    // halo: rows more than the grid has
  int arrays[kMaxQuads * kQuad];            // which of a step's arrays, -1: 0
  int back[kMaxQuads];                      // of row y, the row y - back; on a circle
  long from[kMaxQuads], stride[kMaxQuads];  // of an image's tables: where the step's begin, numbers in a row
  long rows, lanes;
  long to;  // in an image's chain tables
  long size() const { return (rows + halo) * quads * lanes * kQuad; }
};

struct ChainTable {  // of one layer, for the kernel that fills it
  long layer;        // ChainLayer
  long rows, lanes;  // of its grid
  long held;         // rows of the table
};

struct ImageCode {
  std::vector<char> bytes;
  std::vector<GridCode> grids;
  std::vector<LinkCode> links;
  std::vector<std::vector<int>> links_of;  // by source grid
  std::vector<long> sizes;                 // numbers of one pair, of each output
  std::vector<ChainTable> chains;
  std::vector<Records> records;
  long links_at = 0;      // LinkCode
  long pair_doubles = 0;  // of one pair between grids
  long scratch = 0;       // numbers of the largest unit
  long lost_units = 0;
  long chain_size = 0;  // numbers of one image's chain tables
};

// registers: chains where they fit (cuda/images/chain.h).
template <class T>
ImageCode make_image_code(const ImageProgram& program, const Layout<T>& layout, const std::vector<double>& numbers,
                          bool registers);

}  // namespace fntk
