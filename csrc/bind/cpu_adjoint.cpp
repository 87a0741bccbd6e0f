// The reverse pass: arrays of Python's in, one call of dense/adjoint.h, sums and gradients into arrays of Python's.
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

const double* vector(const Matrix& x, long n, const char* what) {
  FNTK_CHECK(x.ndim() == 1 && x.shape(0) == n, what, " must be ", n, " numbers");
  return x.data();
}

// Units, rows times powers of two, these powers, lengths: of side 1 and side 2; gradients of both, or None.
using PyRows = std::tuple<std::array<Matrix, 4>, std::array<Matrix, 4>, std::array<py::object, 2>>;

double* gradient(const py::object& x, long n, long d) {
  if (x.is_none()) return nullptr;
  auto own = py::reinterpret_borrow<py::array>(x);
  FNTK_CHECK(Matrix::check_(own) && own.writeable(), "gradients must be contiguous and writable, of float64");
  return const_cast<double*>(matrix(py::reinterpret_borrow<Matrix>(own), n, d, "a gradient"));
}

AdjointRows rows_of(const PyRows& given, long lines, long cols) {
  const auto& [one, two, gradients] = given;
  FNTK_CHECK(one[0].ndim() == 2, "rows must be matrices");
  AdjointRows rows{};
  const long d = rows.d = long(one[0].shape(1));
  rows.unit1 = matrix(one[0], lines, d, "unit rows 1");
  rows.unit2 = matrix(two[0], cols, d, "unit rows 2");
  rows.scaled1 = matrix(one[1], lines, d, "rows 1");
  rows.scaled2 = matrix(two[1], cols, d, "rows 2");
  rows.scale1 = vector(one[2], lines, "scales 1");
  rows.scale2 = vector(two[2], cols, "scales 2");
  rows.length1 = vector(one[3], lines, "lengths 1");
  rows.length2 = vector(two[3], cols, "lengths 2");
  rows.gradient1 = gradient(gradients[0], lines, d);
  rows.gradient2 = gradient(gradients[1], cols, d);
  return rows;
}

// What a tile reads, checked: variances and row arrays of both sides, rows of each input; same, tiny, close.
using PyTables = std::array<Matrix, 4>;

AdjointTile tile_of(const AdjointProgram& program, const PyTables& tables, const std::vector<PyRows>& rows,
                    const std::tuple<bool, double, double>& kind, bool ntk, AdjointCall& call) {
  const auto& [q1, q2, rows1, rows2] = tables;
  FNTK_CHECK(q1.ndim() == 2 && q2.ndim() == 2, "variances must be values x rows");
  const long lines = long(q1.shape(1)), cols = long(q2.shape(1));
  FNTK_CHECK(rows.size() == size_t(program.n_inputs), "rows of each input");
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
  for (const PyRows& own : rows) call.rows.push_back(rows_of(own, lines, cols));
  std::tie(call.same, call.tiny, call.close) = kind;
  FNTK_CHECK(!call.same || lines == cols, "a tile of the same rows must be square");
  return tile;
}

void adjoint(const AdjointProgram& program, const PyTables& tables, const std::vector<PyRows>& rows,
             const std::tuple<bool, double, double>& kind, const std::vector<std::array<py::object, 2>>& on,
             std::array<Matrix, 3> sums, bool ntk, const std::string& isa, int threads) {
  AdjointCall call{};
  AdjointTile tile = tile_of(program, tables, rows, kind, ntk, call);
  const long lines = tile.lines, cols = tile.cols;
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
  call.line_sums = writable(sums[0], program.n_sums, lines, "line_sums");
  call.col_sums = writable(sums[1], program.n_sums, cols, "col_sums");
  call.totals = writable(sums[2], 1, program.n_totals, "totals");
  const Isa& table = find_isa(isa);
  released([&] { run_adjoint(program.ops, tile, call, table, threads, signalled); });
}

// planes (groups, lines, cols), which are added to: derivatives of every entry of the one output.
void adjoint_entries(const AdjointProgram& program, const PyTables& tables, const std::vector<PyRows>& rows,
                     const std::tuple<bool, double, double>& kind, const std::array<Matrix, 2>& pulls,
                     const Matrix& slopes, Matrix planes, bool ntk, const std::string& isa, int threads) {
  AdjointCall call{};
  AdjointTile tile = tile_of(program, tables, rows, kind, ntk, call);
  const long lines = tile.lines, cols = tile.cols, ops = long(program.ops.size());
  FNTK_CHECK(program.n_outputs == 1, "entries are those of one output");
  FNTK_CHECK(planes.ndim() == 3 && planes.shape(1) == lines && planes.shape(2) == cols, "planes must be groups x ",
             lines, " x ", cols);
  const long groups = long(planes.shape(0));
  const AdjointEntries entries{int(groups), matrix(pulls[0], program.n_values, lines, "pull1"),
                               matrix(pulls[1], program.n_values, cols, "pull2"),
                               matrix(slopes, 4 * ops, groups, "slopes"), planes.mutable_data()};
  const std::vector<double> ones(size_t(lines * cols), 1.0);
  tile.on_k = {ntk ? nullptr : ones.data()};
  tile.on_theta = {ntk ? ones.data() : nullptr};
  tile.entries = &entries;
  const Isa& table = find_isa(isa);
  released([&] { run_adjoint(program.ops, tile, call, table, threads, signalled); });
}

}  // namespace

void bind_adjoint(py::module_& m) {
  py::class_<AdjointProgram>(m, "AdjointProgram", py::module_local())
      .def(py::init(&make_adjoint), py::arg("ops"), py::arg("counts"));
  m.def("has_adjoint", [](const std::string& name) { return adjoint_of(name) >= 0; });
  m.def("adjoint", &adjoint, py::arg("program"), py::arg("tables"), py::arg("rows"), py::arg("kind"), py::arg("on"),
        py::arg("sums").noconvert(), py::arg("ntk"), py::arg("isa"), py::arg("threads"));
  m.def("adjoint_entries", &adjoint_entries, py::arg("program"), py::arg("tables"), py::arg("rows"), py::arg("kind"),
        py::arg("pulls"), py::arg("slopes"), py::arg("planes").noconvert(), py::arg("ntk"), py::arg("isa"),
        py::arg("threads"));
}

}  // namespace fntk
