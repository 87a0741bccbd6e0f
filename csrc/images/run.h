// Running image programs: pairs of images, and images with themselves.
#pragma once
#include <array>

#include "dense/run.h"
#include "images/layout.h"

namespace fntk {

// A program with its geometry, for one dtype.
template <class T>
struct ImagePlan {
  ImagePlan(ImageProgram given, Layout<T> of_pairs, Layout<T> of_own);
  ImageProgram program;
  Layout<T> pairs, own;
  long worker_bytes = 0;      // of one thread's buffers
  long side1 = 1, side2 = 1;  // images of each side that a thread takes together
  long own_images = 0;        // that meet themselves together; 0: no variance behind a pool is needed
};

// Tables of some images, made in Python (plan/tables.py).
template <class T>
struct ImageTables {
  const T* data;          // n x table_size
  const double* lengths;  // what each image was divided by
  long n;
  const T* of(const ImagePlan<T>& plan, long image) const { return data + image * plan.program.table_size; }
};

// Images, each with itself, grid by grid while their tables are made.
template <class T>
class OwnPairs {
 public:
  OwnPairs(const ImagePlan<T>& plan, const std::vector<double>& numbers, const T* tables, long n, const Isa& isa);
  struct Mass {
    int link;
    std::vector<double> sums;  // n x positions of the target
  };
  // Of links to pools from grid `index`, whose tables are there, as are those of all grids before, which have been
  // here: the sum of s s' - K of each image with itself over each window.
  std::vector<Mass> masses(size_t index, const Interrupt& interrupt);

 private:
  const ImagePlan<T>& plan_;
  const std::vector<double> numbers_;
  const T* const tables_;
  const long n_;
  const Isa& isa_;
  std::shared_ptr<void> worker_;  // links between grids
};

// Place and length, in an image's tables, of those that hold its inputs: they tell identical images.
std::vector<std::array<long, 2>> input_tables(const ImageProgram& program);

// Where an output goes: images first, second, then positions of both, axis by axis. Strides in elements.
template <class T>
struct ImageOutput {
  T* planes[2] = {nullptr, nullptr};  // nngp, ntk
  std::vector<long> strides[2];
};

struct ImagePairs {
  long first1, count1, first2, count2;      // images of both tables
  long out1, out2;                          // where they stand in the outputs
  bool symmetric;                           // only pairs out1 + i <= out2 + j, written twice
  std::vector<std::array<long, 2>> listed;  // if any: these pairs alone, one row of the outputs each
};

// Returns the pairs, by their places in the outputs, for which T has too few digits (images/planes.cpp, land_pool).
template <class T>
std::vector<std::array<long, 2>> run_images(const ImagePlan<T>& plan, const std::vector<double>& numbers,
                                            const ImageTables<T>& tables1, const ImageTables<T>& tables2,
                                            const ImagePairs& pairs, const std::vector<ImageOutput<T>>& outputs,
                                            const Isa& isa, int threads, const Interrupt& interrupt);

}  // namespace fntk
