// Thin: views in, GIL released, one call of dense/run.h, results in arrays that Python allocated.
#include "bind/common.h"
#include "bind/cpu_adjoint.h"
#include "bind/cpu_image_adjoint.h"
#include "bind/cpu_images.h"
#include "bind/positions.h"
#include "dense/run.h"

namespace py = pybind11;
using namespace fntk;

namespace {

template <class T>
RowTable<T> row_table(const py::array& table, int n_rows) {
  FNTK_CHECK(table.dtype().equal(py::dtype::of<T>()) && table.ndim() == 2 && table.shape(0) == n_rows &&
                 table.flags() & py::array::c_style,
             "a row table has ", n_rows, " rows, of the dtype of the pairs and C-contiguous");
  return {static_cast<const T*>(table.data()), long(table.shape(1))};
}

void run_tile(const Program& program, const std::vector<double>& numbers, const py::array& rows1,
              const py::array& rows2, const py::dtype& dtype, const std::array<long, 8>& place, long n1, long n2,
              const std::vector<PyInput>& inputs, const std::vector<std::array<py::object, 3>>& outputs, bool symmetric,
              bool diagonal, const std::string& isa, int threads, const std::vector<PyWindow>& windows,
              const py::object& hidden) {
  const Isa& table = find_isa(isa);
  FNTK_CHECK(rows1.ndim() == 2 && rows2.ndim() == 2, "row tables are 2-D");
  const Tile tile = make_tile(program, place, n1, n2, long(rows1.shape(1)), long(rows2.shape(1)), inputs.size(),
                              outputs.size(), symmetric, diagonal);
  FNTK_CHECK(diagonal || (tile.i0 % kPanel == 0 && tile.j0 % kPanel == 0), "tiles begin at whole panels");
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const RowTable<T> table1 = row_table<T>(rows1, program.table_rows),
                      table2 = row_table<T>(rows2, program.table_rows);
    const auto in = make_inputs<T>(inputs, tile, host_view);
    const auto out = make_outputs<T>(outputs, tile, host_view);
    const auto moved = make_windows<T>(windows, inputs.size(), tile);
    const uint8_t* unasked = flags(hidden, tile.batches, tile.lines, "hidden");
    for (const auto& input : in) {
      FNTK_CHECK(!input.product, "the CPU backend takes panels of unit rows, not a product");
      FNTK_CHECK(!input.raw1 || ((input.raw1.stride == input.d || tile.lines <= 1) &&
                                 (input.raw2.stride == input.d || tile.cols <= 1)),
                 "raw rows must be packed");
    }
    released([&] { run(program, numbers, table1, table2, tile, in, moved, out, unasked, table, threads, signalled); });
  });
}

template <class T>
bool pack_typed(const py::array& x, py::array& panels, py::array_t<double>& norms, const std::string& isa,
                int threads) {
  if (!x.dtype().equal(py::dtype::of<T>())) return false;
  FNTK_CHECK(x.ndim() == 3 && x.flags() & py::array::c_style, "x must be batch x rows x features, C-contiguous");
  const long batches = long(x.shape(0)), n = long(x.shape(1)), d = long(x.shape(2));
  FNTK_CHECK(panels.ndim() == 3 && panels.flags() & py::array::c_style && panels.dtype().equal(x.dtype()) &&
                 panels.shape(0) == batches && panels.shape(1) == (n + kPanel - 1) / kPanel &&
                 panels.shape(2) == d * kPanel && norms.size() == batches * n,
             "panels must be batch x panels x (features ", kPanel, ") of x's dtype, norms one entry a row");
  const T* in = static_cast<const T*>(x.data());
  T* out = static_cast<T*>(panels.mutable_data());
  double* lengths = norms.mutable_data();
  const Isa& table = find_isa(isa);
  released([&] { pack<T>(in, batches, n, d, out, lengths, table, threads, signalled); });
  return true;
}

template <class T>
bool dual_typed(const std::string& name, const std::vector<double>& params, const std::array<py::array, 3>& q,
                const std::array<py::array, 2>& rows, py::array& k, py::array& kdot, const std::string& isa,
                int threads) {
  if (!k.dtype().equal(py::dtype::of<T>())) return false;
  for (const py::array& array : {q[0], q[1], q[2], k, kdot})
    FNTK_CHECK(array.ndim() == 1 && array.size() == k.size() && array.dtype().equal(k.dtype()) &&
                   array.flags() & py::array::c_style,
               "dual maps take contiguous 1-D arrays of one length and dtype");
  const int n_rows = n_rows_of(code_of(name), params.size()) + 1;
  const auto in = [](const py::array& array) { return static_cast<const T*>(array.data()); };
  const RowTable<T> rows1 = row_table<T>(rows[0], n_rows), rows2 = row_table<T>(rows[1], n_rows);
  FNTK_CHECK(rows1.n == long(k.size()) && rows2.n == long(k.size()), "row tables of another length");
  const DualCall<T> call = {name,
                            params,
                            long(k.size()),
                            in(q[0]),
                            in(q[1]),
                            in(q[2]),
                            rows1,
                            rows2,
                            static_cast<T*>(k.mutable_data()),
                            static_cast<T*>(kdot.mutable_data())};
  const Isa& table = find_isa(isa);
  released([&] { dual_map(call, table, threads, signalled); });
  return true;
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "fastntk's compiled CPU backend: private, reached through fastntk.engines.";

  bind_inputs(m);
  bind_positions(m);
  py::class_<Program>(m, "Program", py::module_local())
      .def(py::init(&make_program), py::arg("ops"), py::arg("n_inputs"), py::arg("n_slots"), py::arg("n_outputs"));
  bind_images(m);
  bind_adjoint(m);
  bind_image_adjoint(m);
  m.attr("PANEL") = kPanel;
  m.def("isas", [] {
    std::vector<std::pair<std::string, bool>> all;
    for (const Isa& isa : isas()) all.emplace_back(isa.name, isa.available);
    return all;
  });
  m.def("run", &run_tile, py::arg("program"), py::arg("numbers"), py::arg("rows1"), py::arg("rows2"), py::arg("dtype"),
        py::arg("place"), py::arg("n1"), py::arg("n2"), py::arg("inputs"), py::arg("outputs"), py::arg("symmetric"),
        py::arg("diagonal"), py::arg("isa"), py::arg("threads"), py::arg("windows") = py::list(),
        py::arg("hidden") = py::none());
  m.def(
      "pack",
      [](const py::array& x, py::array panels, py::array_t<double> norms, const std::string& isa, int threads) {
        FNTK_CHECK(
            pack_typed<float>(x, panels, norms, isa, threads) || pack_typed<double>(x, panels, norms, isa, threads),
            "pack takes float32 or float64");
      },
      py::arg("x"), py::arg("panels"), py::arg("norms"), py::arg("isa"), py::arg("threads"));
  m.def(
      "dual",
      [](const std::string& name, const std::vector<double>& params, const std::array<py::array, 3>& q,
         const std::array<py::array, 2>& rows, py::array k, py::array kdot, const std::string& isa, int threads) {
        FNTK_CHECK(dual_typed<float>(name, params, q, rows, k, kdot, isa, threads) ||
                       dual_typed<double>(name, params, q, rows, k, kdot, isa, threads),
                   "dual maps take float32 or float64");
      },
      py::arg("name"), py::arg("params"), py::arg("q"), py::arg("rows"), py::arg("k"), py::arg("kdot"), py::arg("isa"),
      py::arg("threads"));
}
