// The reverse pass: arrays of Python's in, one call of dense/adjoint.h, sums into arrays that Python allocated.
#include "bind/cpu_adjoint.h"

#include "dense/adjoint.h"

namespace fntk {
namespace {

using Matrix = py::array_t<double, py::array::c_style>;
// Name, destination, sources, parameters, (first row, first sum, first total), (bias, guard, gap).
using PyAdjointOp =
    std::tuple<std::string, int, std::vector<int>, std::vector<double>, std::array<int, 3>, std::array<bool, 3>>;

struct AdjointProgram {
  std::vector<AdjointOp> ops;
  int n_inputs, n_values, n_outputs, n_rows, n_sums, n_totals;
};

AdjointProgram make_adjoint(const std::vector<PyAdjointOp>& ops, const std::array<int, 6>& counts) {
  AdjointProgram made{{}, counts[0], counts[1], counts[2], counts[3], counts[4], counts[5]};
  for (const auto& [name, dst, src, params, firsts, flags] : ops) {
    const int dual = adjoint_of(name);
    const int code = name == "dense"   ? kAdjointDense
                     : name == "sum"   ? kAdjointSum
                     : name == "store" ? kAdjointStore
                                       : kAdjointDual + dual;
    FNTK_CHECK(code < kAdjointDual || dual >= 0, "no derivatives are compiled of '", name, "'");
    FNTK_CHECK(code != kAdjointDense || params.size() == 4, "dense has 4 numbers");
    for (int s : src) FNTK_CHECK(0 <= s && s < made.n_values, "a source beyond the values");
    FNTK_CHECK(0 <= dst && dst < (code == kAdjointStore ? made.n_outputs : made.n_values), "a destination beyond");
    made.ops.push_back({code, dst, src, params, firsts[0], firsts[1], firsts[2], flags[0], flags[1], flags[2]});
  }
  return made;
}

const double* matrix(const Matrix& x, long rows, long cols, const char* what) {
  FNTK_CHECK(x.ndim() == 2 && x.shape(0) == rows && x.shape(1) == cols, what, " must be ", rows, " x ", cols);
  return x.data();
}

double* writable(Matrix& x, long rows, long cols, const char* what) {
  matrix(x, rows, cols, what);
  return x.mutable_data();
}

// What a tile reads, checked.
AdjointTile tile_of(const AdjointProgram& program, const Matrix& q1, const Matrix& q2, const Matrix& rows1,
                    const Matrix& rows2, const std::vector<Matrix>& defects, bool ntk) {
  FNTK_CHECK(q1.ndim() == 2 && q2.ndim() == 2, "variances must be values x rows");
  const long lines = long(q1.shape(1)), cols = long(q2.shape(1));
  FNTK_CHECK(defects.size() == size_t(program.n_inputs), "one defect an input");
  AdjointTile tile{};
  tile.lines = lines;
  tile.cols = cols;
  tile.n_inputs = program.n_inputs;
  tile.n_values = program.n_values;
  tile.n_sums = program.n_sums;
  tile.n_totals = program.n_totals;
  tile.ntk = ntk;
  tile.q1 = matrix(q1, program.n_values, lines, "q1");
  tile.q2 = matrix(q2, program.n_values, cols, "q2");
  tile.rows1 = matrix(rows1, program.n_rows, lines, "rows1");
  tile.rows2 = matrix(rows2, program.n_rows, cols, "rows2");
  for (const Matrix& v : defects) tile.defects.push_back(matrix(v, lines, cols, "a defect"));
  return tile;
}

void adjoint(const AdjointProgram& program, const Matrix& q1, const Matrix& q2, const Matrix& rows1,
             const Matrix& rows2, const std::vector<Matrix>& defects, const std::vector<std::array<py::object, 2>>& on,
             std::vector<Matrix> P, Matrix line_sums, Matrix col_sums, Matrix totals, bool ntk,
             const std::string& isa) {
  AdjointTile tile = tile_of(program, q1, q2, rows1, rows2, defects, ntk);
  const long lines = tile.lines, cols = tile.cols;
  FNTK_CHECK(P.size() == defects.size(), "P of each input");
  FNTK_CHECK(on.size() == size_t(program.n_outputs), "cotangents of each output");
  std::vector<Matrix> held;  // views of cotangents stay alive
  for (const auto& pair : on)
    for (size_t k = 0; k < 2; ++k) {
      const double* data = nullptr;
      if (!pair[k].is_none()) {
        held.push_back(py::cast<Matrix>(pair[k]));
        data = matrix(held.back(), lines, cols, "a cotangent");
      }
      (k == 0 ? tile.on_k : tile.on_theta).push_back(data);
    }
  for (Matrix& out : P) tile.P.push_back(writable(out, lines, cols, "P"));
  tile.line_sums = writable(line_sums, program.n_sums, lines, "line_sums");
  tile.col_sums = writable(col_sums, program.n_sums, cols, "col_sums");
  tile.totals = writable(totals, 1, program.n_totals, "totals");
  const Isa& table = find_isa(isa);
  released([&] { run_adjoint(program.ops, tile, table); });
}

// planes (groups, lines, cols), which are added to: derivatives of every entry of the one output.
void adjoint_entries(const AdjointProgram& program, const Matrix& q1, const Matrix& q2, const Matrix& rows1,
                     const Matrix& rows2, const std::vector<Matrix>& defects, const Matrix& pull1, const Matrix& pull2,
                     const Matrix& slopes, Matrix planes, bool ntk, const std::string& isa) {
  AdjointTile tile = tile_of(program, q1, q2, rows1, rows2, defects, ntk);
  const long lines = tile.lines, cols = tile.cols, ops = long(program.ops.size());
  FNTK_CHECK(program.n_outputs == 1, "entries are those of one output");
  FNTK_CHECK(planes.ndim() == 3 && planes.shape(1) == lines && planes.shape(2) == cols, "planes must be groups x ",
             lines, " x ", cols);
  const long groups = long(planes.shape(0));
  const AdjointEntries entries{int(groups), matrix(pull1, program.n_values, lines, "pull1"),
                               matrix(pull2, program.n_values, cols, "pull2"),
                               matrix(slopes, 4 * ops, groups, "slopes"), planes.mutable_data()};
  const std::vector<double> ones(size_t(lines * cols), 1.0);
  std::vector<double> unread(size_t(program.n_inputs) * size_t(lines * cols));
  for (long k = 0; k < program.n_inputs; ++k) tile.P.push_back(unread.data() + k * lines * cols);
  tile.on_k = {ntk ? nullptr : ones.data()};
  tile.on_theta = {ntk ? ones.data() : nullptr};
  tile.entries = &entries;
  const Isa& table = find_isa(isa);
  released([&] { run_adjoint(program.ops, tile, table); });
}

}  // namespace

void bind_adjoint(py::module_& m) {
  py::class_<AdjointProgram>(m, "AdjointProgram", py::module_local())
      .def(py::init(&make_adjoint), py::arg("ops"), py::arg("counts"));
  m.def("has_adjoint", [](const std::string& name) { return adjoint_of(name) >= 0; });
  m.def("adjoint", &adjoint, py::arg("program"), py::arg("q1"), py::arg("q2"), py::arg("rows1"), py::arg("rows2"),
        py::arg("defects"), py::arg("on"), py::arg("P").noconvert(), py::arg("line_sums").noconvert(),
        py::arg("col_sums").noconvert(), py::arg("totals").noconvert(), py::arg("ntk"), py::arg("isa"));
  m.def("adjoint_entries", &adjoint_entries, py::arg("program"), py::arg("q1"), py::arg("q2"), py::arg("rows1"),
        py::arg("rows2"), py::arg("defects"), py::arg("pull1"), py::arg("pull2"), py::arg("slopes"),
        py::arg("planes").noconvert(), py::arg("ntk"), py::arg("isa"));
}

}  // namespace fntk
