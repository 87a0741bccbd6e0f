// What both bindings share: programs, row tables, views of arrays, and calls with the GIL released.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <variant>

#include "check.h"
#include "rows.h"

namespace fntk {
namespace py = pybind11;

struct PyRows {
  std::variant<RowTable<float>, RowTable<double>> table;
  long n() const {
    return std::visit([](const auto& t) { return t.n; }, table);
  }
  py::array_t<double> variance(size_t output) const {
    return std::visit(
        [&](const auto& t) {
          FNTK_CHECK(output < t.variances.size(), "output ", output, " of ", t.variances.size());
          return py::array_t<double>(py::ssize_t(t.variances[output].size()), t.variances[output].data());
        },
        table);
  }
};

// Polled with the GIL released; a pending signal has set the Python error when this returns true.
inline bool signalled() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

template <class Work>
auto released(const Work& work) {
  try {
    const py::gil_scoped_release nogil;
    return work();
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

template <class T>
Plane<T> plane(const py::object& object, const char* what) {
  using Value = std::remove_const_t<T>;
  if (object.is_none()) return {};
  const auto array = py::cast<py::array>(object);
  FNTK_CHECK(array.dtype().equal(py::dtype::of<Value>()) && array.ndim() == 3, what,
             " must be a 3-D array of the call's dtype");
  FNTK_CHECK(array.shape(2) <= 1 || array.strides(2) == py::ssize_t(sizeof(T)), what, ": columns must be adjacent");
  FNTK_CHECK(array.strides(0) % py::ssize_t(sizeof(T)) == 0 && array.strides(1) % py::ssize_t(sizeof(T)) == 0, what,
             ": strides must be whole elements");
  Plane<T> result;
  if constexpr (std::is_const_v<T>)
    result.data = static_cast<T*>(array.data());
  else
    result.data = static_cast<T*>(const_cast<py::array&>(array).mutable_data());
  result.batch_stride = array.strides(0) / py::ssize_t(sizeof(T));
  result.stride = array.strides(1) / py::ssize_t(sizeof(T));
  return result;
}

inline void check_shape(const py::object& object, long batches, long lines, long cols, const char* what) {
  if (object.is_none()) return;
  const auto array = py::cast<py::array>(object);
  FNTK_CHECK(array.ndim() == 3 && array.shape(0) == batches && array.shape(1) == lines && array.shape(2) == cols, what,
             ": expected shape (", batches, ", ", lines, ", ", cols, ")");
}

inline Program make_program(const std::vector<std::tuple<std::string, int, std::vector<int>, std::vector<double>>>& ops,
                            int n_inputs, int n_slots, int n_outputs) {
  Program program;
  for (const auto& [name, dst, src, params] : ops) {
    Op op;
    op.name = name;
    op.dst = dst;
    op.src = src;
    op.params = params;
    program.ops.push_back(op);
  }
  program.n_inputs = n_inputs;
  program.n_slots = n_slots;
  program.n_outputs = n_outputs;
  prepare(program);
  return program;
}

inline PyRows make_py_rows(const Program& program, const std::vector<py::array_t<double, py::array::c_style>>& q,
                           const py::dtype& dtype, int threads) {
  FNTK_CHECK(int(q.size()) == program.n_inputs, "one variance array per program input");
  std::vector<const double*> pointers;
  for (const auto& array : q) {
    FNTK_CHECK(array.ndim() == 1 && array.size() == q[0].size(), "variances must be 1-D, of one length");
    pointers.push_back(array.data());
  }
  const long n = long(q[0].size());
  const bool single = dtype.equal(py::dtype::of<float>());
  return released([&]() -> PyRows {
    if (single) return {make_rows<float>(program, pointers, n, threads, signalled)};
    return {make_rows<double>(program, pointers, n, threads, signalled)};
  });
}

struct PyInput {
  py::object product = py::none(), defect = py::none(), theta = py::none(), panels1 = py::none(), panels2 = py::none(),
             raw1 = py::none(), raw2 = py::none(), norms1 = py::none(), norms2 = py::none();
  double close = 0;
};

// Both sides' rows, or neither: batch x rows x d, rows packed.
template <class T>
void check_rows(const py::object& object1, const py::object& object2, const Plane<const T>& rows1,
                const Plane<const T>& rows2, const Tile& tile, long& d, const char* what) {
  FNTK_CHECK(bool(rows1) == bool(rows2), what, " of both sides go together");
  if (!rows1) return;
  d = long(py::cast<py::array>(object1).shape(2));
  check_shape(object1, tile.batches, tile.lines, d, what);
  check_shape(object2, tile.batches, tile.cols, d, what);
  FNTK_CHECK((rows1.stride == d || tile.lines <= 1) && (rows2.stride == d || tile.cols <= 1), what, " must be packed");
}

template <class T>
std::vector<PairInput<T>> make_inputs(const std::vector<PyInput>& inputs, const Tile& tile) {
  std::vector<PairInput<T>> all;
  for (const PyInput& input : inputs) {
    PairInput<T> view;
    for (const auto& object : {input.product, input.defect, input.theta})
      check_shape(object, tile.batches, tile.lines, tile.cols, "input");
    view.product = plane<const T>(input.product, "product");
    view.defect = plane<const T>(input.defect, "defect");
    view.theta = plane<const T>(input.theta, "theta");
    view.panels1 = plane<const T>(input.panels1, "panels1");
    view.panels2 = plane<const T>(input.panels2, "panels2");
    view.raw1 = plane<const T>(input.raw1, "raw1");
    view.raw2 = plane<const T>(input.raw2, "raw2");
    view.norms1 = plane<const double>(input.norms1, "norms1");
    view.norms2 = plane<const double>(input.norms2, "norms2");
    view.close = T(input.close);
    check_rows(input.raw1, input.raw2, view.raw1, view.raw2, tile, view.d, "raw rows");
    FNTK_CHECK(bool(view.raw1) == bool(view.norms1) && bool(view.raw2) == bool(view.norms2),
               "raw rows need their norms");
    FNTK_CHECK(bool(view.panels1) == bool(view.panels2), "panels of both sides go together");
    if (view.panels1) {
      view.d = long(py::cast<py::array>(input.panels1).shape(2)) / kPanel;
      check_shape(input.panels1, tile.batches, (tile.lines + kPanel - 1) / kPanel, view.d * kPanel, "panels1");
      check_shape(input.panels2, tile.batches, (tile.cols + kPanel - 1) / kPanel, view.d * kPanel, "panels2");
    }
    check_shape(input.norms1, tile.batches, 1, tile.lines, "norms1");
    check_shape(input.norms2, tile.batches, 1, tile.cols, "norms2");
    all.push_back(view);
  }
  return all;
}

template <class T>
std::vector<PairOutput<T>> make_outputs(const std::vector<std::array<py::object, 3>>& outputs, const Tile& tile) {
  std::vector<PairOutput<T>> all;
  for (const auto& planes : outputs) {
    for (const auto& object : planes)
      if (!object.is_none()) {
        const auto array = py::cast<py::array>(object);
        FNTK_CHECK(array.ndim() == 3 && array.shape(0) >= tile.batch0 + tile.batches &&
                       array.shape(1) >= tile.i0 + tile.lines &&
                       array.shape(2) >= (tile.diagonal ? 1 : tile.j0 + tile.cols),
                   "output is smaller than the tile's place in it");
        FNTK_CHECK(!tile.symmetric || array.shape(1) == array.shape(2), "a symmetric output must be square");
      }
    all.push_back({{plane<T>(planes[0], "nngp"), plane<T>(planes[1], "ntk"), plane<T>(planes[2], "defect")}});
  }
  return all;
}

// Checks a call on one tile and hands it on, typed: work(rows1, rows2, tile, inputs, outputs).
template <class Work>
void with_tile(const Program& program, const PyRows& rows1, const PyRows& rows2, const py::dtype& dtype,
               const std::array<long, 8>& place, long n1, long n2, const std::vector<PyInput>& inputs,
               const std::vector<std::array<py::object, 3>>& outputs, bool symmetric, bool diagonal, const Work& work) {
  const auto [batch0, batches, i0, lines, j0, cols, row1, row2] = place;
  const Tile tile = {batch0, batches, i0, lines, j0, cols, row1, row2, n1, n2, symmetric, diagonal};
  for (long value : place) FNTK_CHECK(value >= 0, "negative tile");
  FNTK_CHECK(!diagonal || (batches == 1 && cols == 1 && j0 == 0 && row1 == row2), "a diagonal tile is one column");
  FNTK_CHECK(row1 + (batches - 1) * n1 + lines <= rows1.n() &&
                 row2 + (batches - 1) * n2 + (diagonal ? lines : cols) <= rows2.n(),
             "tile outside the row tables");
  FNTK_CHECK(int(inputs.size()) == program.n_inputs && int(outputs.size()) == program.n_outputs, "program has ",
             program.n_inputs, " inputs and ", program.n_outputs, " outputs");
  const auto typed = [&](auto zero) {
    using T = decltype(zero);
    const auto* table1 = std::get_if<RowTable<T>>(&rows1.table);
    const auto* table2 = std::get_if<RowTable<T>>(&rows2.table);
    FNTK_CHECK(table1 && table2, "row tables of another dtype");
    work(*table1, *table2, tile, make_inputs<T>(inputs, tile), make_outputs<T>(outputs, tile));
  };
  if (dtype.equal(py::dtype::of<float>()))
    typed(float());
  else
    typed(double());
}

inline void bind_programs(py::module_& m) {
  py::class_<PyInput>(m, "Input", py::module_local())
      .def(py::init<>())
      .def_readwrite("product", &PyInput::product)
      .def_readwrite("defect", &PyInput::defect)
      .def_readwrite("theta", &PyInput::theta)
      .def_readwrite("panels1", &PyInput::panels1)
      .def_readwrite("panels2", &PyInput::panels2)
      .def_readwrite("raw1", &PyInput::raw1)
      .def_readwrite("raw2", &PyInput::raw2)
      .def_readwrite("norms1", &PyInput::norms1)
      .def_readwrite("norms2", &PyInput::norms2)
      .def_readwrite("close", &PyInput::close);
  py::class_<Program>(m, "Program", py::module_local())
      .def(py::init(&make_program), py::arg("ops"), py::arg("n_inputs"), py::arg("n_slots"), py::arg("n_outputs"));
  py::class_<PyRows>(m, "Rows", py::module_local()).def("variance", &PyRows::variance, py::arg("output"));
  m.def("op_names", &op_names);
  m.def("rows", &make_py_rows, py::arg("program"), py::arg("q"), py::arg("dtype"), py::arg("threads"));
}

}  // namespace fntk
