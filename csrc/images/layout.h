// Geometry of image programs, made in Python (plan/layout.py) once for each set of displacements: which lanes and rows
// a step reads, and where a link adds what up.
#pragma once
#include <memory>

#include "common/ops.h"
#include "images/program.h"

namespace fntk {

// Fills what images/program.h marks as set by prepare, and checks every index.
void prepare(ImageProgram& program);
void check_numbers(const ImageProgram& program, const std::vector<double>& numbers);

template <class T>
struct Reads {  // of a window that keeps displacements
  std::vector<long> shift_in, shift_out;
  std::vector<std::vector<T>> mask_in;   // for each group: reads x lanes
  std::vector<std::vector<T>> mask_out;  // for each displacement of axis 0: reads x rows
  bool three = false;                    // three reads along each, of which the first is at distance 0
};

template <class T>
struct GridLayout {
  std::vector<int> shifts;                            // displacements along axis 0
  std::vector<std::vector<std::vector<int>>> groups;  // displacements along the inner axes, `packed` to a group
  std::vector<std::vector<int32_t>> lanes_from;       // for each group: where each lane of the second image lies
  std::vector<std::vector<LaneRun>> runs;             // the same, lanes that lie side by side together
  bool direct = false;                                // one displacement, 0: no need to gather
  std::vector<std::shared_ptr<Reads<T>>> reads;       // for each step that has a window
};

struct LinkLayout {
  struct Add {
    long from, to;
  };
  std::vector<std::vector<Add>> rows;   // for each displacement of axis 0: source row -> sum row
  std::vector<std::vector<Add>> lanes;  // for each source group: lane -> place in a plane of the target
  long n_rows = 0;                      // sum rows: shifts x rows of the target
  long size = 0;                        // of one plane of the target: groups x shifts x rows x lanes
};

template <class T>
struct Layout {
  std::vector<GridLayout<T>> grids;
  std::vector<LinkLayout> links;
};

// That it belongs to the program, and that no index leads out of a plane. Sets `direct` and `runs`.
template <class T>
void check_layout(const ImageProgram& program, Layout<T>& layout);

}  // namespace fntk
