// What is known of each op beside its loops, and programs made ready.
#pragma once
#include <string>
#include <vector>

#include "common/program.h"
#include "math/counted/names.h"
#include "math/duals.h"

namespace fntk {

constexpr int kMaxRows = 16;    // numbers of one input that a nonlinearity reads
constexpr int kAnyNumber = -1;  // of parameters: as many as are given
constexpr int kFirstCounted = kFirstDual + kDuals;

struct OpInfo {
  std::string name;
  int n_params;
  bool positive, homogeneous, cheap;                 // of nonlinearities (math/dual.h)
  std::vector<std::string> (*row_names)(const Op&);  // what it reads of one input, in the order of its loops
  bool (*takes)(const double* params, int n);        // of counted nonlinearities: whether they are parameters of it
};
// By op code: the linear ops, the duals, then those whose parameters are counted at run time.
const std::vector<OpInfo>& ops();
int code_of(const std::string& name);
void check_parameters(int code, size_t given);
int n_rows_of(int code, size_t n_params);  // of a nonlinearity

// Checks every index, and fills code, first_row, n_rows and `program.places` from the names of each op's rows.
void prepare(Program& program);
void check_numbers(const Program& program, const std::vector<double>& numbers);
void check_values(int code, const double* params, int n);  // of parameters

}  // namespace fntk
