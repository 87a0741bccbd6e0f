// Programs made ready, and the row pass: everything that depends on one input alone, in float64 whatever the pairs use.
#pragma once
#include <string>
#include <vector>

#include "common/parallel.h"
#include "common/program.h"

namespace fntk {

constexpr int kMaxRows = 16;  // numbers of one input that a nonlinearity reads

// What is known of a nonlinearity beside its pair formula (math/duals.h).
struct DualInfo {
  const char* name;
  int n_params, n_rows;
  bool positive, homogeneous;
  void (*variance)(const double* params, long n, const double* q, double* found);
  void (*row)(const double* params, double q, double* row);  // its n_rows numbers of one input
};
const std::vector<DualInfo>& duals();

// Names by op code: the linear ops, then the duals.
const std::vector<std::string>& op_names();
size_t dual_n_params(const std::string& name);

// Fills code, first_row and n_rows of each op and checks every index.
void prepare(Program& program);
void check_numbers(const Program& program, const std::vector<double>& numbers);

template <class T>
struct RowTable {
  long n = 0;
  std::vector<T> data;                         // n_rows arrays of n
  std::vector<std::vector<double>> variances;  // per output
  T* row(int k) { return data.data() + k * n; }
  const T* row(int k) const { return data.data() + k * n; }
};

// Variances of every op for n inputs; q holds one array of n for each program input.
template <class T>
RowTable<T> make_rows(const Program& program, const std::vector<double>& numbers, const std::vector<const double*>& q,
                      long n, int threads, const Interrupt& interrupt);

}  // namespace fntk
