// Running image programs: tables of sets of images, and pairs of them.
#pragma once
#include <array>

#include "dense/run.h"
#include "images/layout.h"

namespace fntk {

// A program with its geometry, for one dtype.
template <class T>
struct ImagePlan {
  explicit ImagePlan(ImageProgram given);
  ImageProgram program;
  Layout<T> pairs, own;
  long worker_bytes = 0;      // of one thread's buffers
  long side1 = 1, side2 = 1;  // images of each side that a thread takes together
  bool has_own = false;       // variances behind pooling need pairs of an image with itself
};

// Memory full of zeros, on cache lines: a vector that straddles two costs double. Its pages come when they are first
// written, so the threads share that work; large ones where the system has them.
struct Zeros {
  void* first = nullptr;
  Zeros() = default;
  explicit Zeros(size_t bytes);

 private:
  std::unique_ptr<void, void (*)(void*)> block_{nullptr, nullptr};
};

template <class T>
struct ImageTables {
  long n = 0, size = 0;         // size: numbers of one image
  std::vector<double> lengths;  // what each image was divided by
  Zeros data;                   // n x table_size
  T* of(const ImagePlan<T>& plan, long image) const {
    return static_cast<T*>(data.first) + image * plan.program.table_size;
  }
};

// x: for each input, n images x positions x channels.
template <class T>
ImageTables<T> make_image_tables(const ImagePlan<T>& plan, const std::vector<double>& numbers,
                                 const std::vector<const T*>& x, long n, const Isa& isa, int threads,
                                 const Interrupt& interrupt);

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
