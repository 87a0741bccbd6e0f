// Thin: views of device arrays in, GIL released, one call of cuda/run.h, results in arrays that Python allocated.
#include "bind/device.h"

namespace py = pybind11;
using namespace fntk;

namespace fntk {
void bind_cuda_images(py::module_& m);
}

namespace {

struct CudaProgram : Program {
  size_t code_size;
  explicit CudaProgram(const Program& program)
      : Program(program), code_size(device_code(program, std::vector<double>(size_t(program.n_numbers))).size()) {}
  const DeviceStep* steps(const py::object& copy) const {
    return static_cast<const DeviceStep*>(bytes_of(copy, code_size, "code"));
  }
};

bool is_single(const py::object& object, const char* what) {
  const View view = device_view(object, what);
  FNTK_CHECK(view.type == "f4" || view.type == "f8", what, " must be float32 or float64, given ", view.type);
  return view.type == "f4";
}

template <class T>
void normalise_typed(const py::object& x, const py::object& units, const py::object& norms, const Place& place) {
  const View given = device_view(x, "x");
  NormaliseCall<T> call;
  call.x = plane<const T>(given, "x");
  call.batches = given.shape[0];
  call.n = given.shape[1];
  call.d = given.shape[2];
  call.units = optional_plane<T>(units, given.shape, "units", device_view);
  call.norms = {packed<double>(norms, {call.batches, call.n}, "norms"), call.n, 1};
  released([&] { cuda_normalise(call, place); });
}

template <class T>
void run_typed(const CudaProgram& program, const py::object& code, const py::object& table1, const py::object& table2,
               const std::array<long, 8>& where, long n1, long n2, const std::vector<PyInput>& inputs,
               const std::vector<std::array<py::object, 3>>& outputs, bool symmetric, bool diagonal,
               const Place& place) {
  const auto rows_of = [](const py::object& table, const char* what) {
    const View view = device_view(table, what);
    return view.shape.size() == 2 ? view.shape[1] : 0;
  };
  PairsCall<T> call;
  call.steps = program.steps(code);
  call.n_slots = program.n_slots;
  call.every = std::any_of(program.ops.begin(), program.ops.end(),
                           [](const Op& op) { return op.code >= kFirstDual && !ops()[size_t(op.code)].cheap; });
  call.rows1 = rows_of(table1, "table1");
  call.rows2 = rows_of(table2, "table2");
  call.table1 = packed<const T>(table1, {long(program.places.size()), call.rows1}, "table1");
  call.table2 = packed<const T>(table2, {long(program.places.size()), call.rows2}, "table2");
  call.tile =
      make_tile(program, where, n1, n2, call.rows1, call.rows2, inputs.size(), outputs.size(), symmetric, diagonal);
  call.inputs = make_inputs<T>(inputs, call.tile, device_view);
  call.outputs = make_outputs<T>(outputs, call.tile, device_view);
  for (const auto& input : call.inputs)
    FNTK_CHECK(!input.panels1, "the CUDA backend takes the product of the unit rows");
  released([&] { cuda_pairs(call, place); });
}

template <class T>
void dual_typed(const std::string& name, const std::vector<double>& params, const std::array<py::object, 3>& q,
                const std::array<py::object, 2>& rows, const py::object& k, const py::object& kdot,
                const Place& place) {
  const View first = device_view(k, "k");
  const long n = first.shape.empty() ? 0 : first.shape[0];
  const long n_rows = n_rows_of(code_of(name), params.size()) + 1;
  const CudaDualCall<T> call = {name,
                                params,
                                strided<const T>(q[0], n, "q11"),
                                strided<const T>(q[1], n, "q12"),
                                strided<const T>(q[2], n, "q22"),
                                {packed<const T>(rows[0], {n_rows, n}, "rows1"), n},
                                {packed<const T>(rows[1], {n_rows, n}, "rows2"), n},
                                strided<T>(k, n, "k"),
                                strided<T>(kdot, n, "kdot"),
                                n};
  released([&] { cuda_dual(call, place); });
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "fastntk's CUDA backend: private, reached through fastntk.engines.";
  bind_inputs(m);
  bind_cuda_images(m);
  m.attr("ON_HOST") = kOnHost;
  m.def("devices", [] {
    std::string reason;
    py::list names;
    for (const CudaDevice& device : cuda_devices(reason))
      names.append(text(device.name, " (sm_", device.major, device.minor, ", ", device.memory >> 30, " GiB)"));
    return py::make_tuple(names, reason);
  });
  py::class_<CudaProgram>(m, "Program", py::module_local())
      .def(py::init([](const std::vector<PyOp>& ops, int n_inputs, int n_slots, int n_outputs) {
             return CudaProgram(make_program(ops, n_inputs, n_slots, n_outputs));
           }),
           py::arg("ops"), py::arg("n_inputs"), py::arg("n_slots"), py::arg("n_outputs"))
      .def_property_readonly(
          "places", [](const CudaProgram& program) { return program.places; },
          "Where the row arrays that device code reads, in its order, stand in a table.")
      .def(
          "code",
          [](const CudaProgram& program, const std::vector<double>& numbers) {
            check_numbers(program, numbers);
            return py::bytes(device_code(program, numbers));
          },
          py::arg("numbers"),
          "What device code reads of the program and of its numbers: to be copied to the device as uint8, and kept as "
          "long as the program.");
  m.def(
      "normalise",
      [](const py::object& x, const py::object& units, const py::object& norms, int device, uintptr_t stream) {
        const Place place = make_place(device, stream);
        is_single(x, "x") ? normalise_typed<float>(x, units, norms, place)
                          : normalise_typed<double>(x, units, norms, place);
      },
      py::arg("x"), py::arg("units"), py::arg("norms"), py::arg("device"), py::arg("stream"));
  m.def(
      "run",
      [](const CudaProgram& program, const py::object& code, const py::object& table1, const py::object& table2,
         const py::dtype& dtype, const std::array<long, 8>& place, long n1, long n2, const std::vector<PyInput>& inputs,
         const std::vector<std::array<py::object, 3>>& outputs, bool symmetric, bool diagonal, int device,
         uintptr_t stream) {
        with_dtype(dtype, [&](auto zero) {
          run_typed<decltype(zero)>(program, code, table1, table2, place, n1, n2, inputs, outputs, symmetric, diagonal,
                                    make_place(device, stream));
        });
      },
      py::arg("program"), py::arg("code"), py::arg("table1"), py::arg("table2"), py::arg("dtype"), py::arg("place"),
      py::arg("n1"), py::arg("n2"), py::arg("inputs"), py::arg("outputs"), py::arg("symmetric"), py::arg("diagonal"),
      py::arg("device"), py::arg("stream"));
  m.def(
      "dual",
      [](const std::string& name, const std::vector<double>& params, const std::array<py::object, 3>& q,
         const std::array<py::object, 2>& rows, const py::object& k, const py::object& kdot, int device,
         uintptr_t stream) {
        const Place place = make_place(device, stream);
        is_single(k, "k") ? dual_typed<float>(name, params, q, rows, k, kdot, place)
                          : dual_typed<double>(name, params, q, rows, k, kdot, place);
      },
      py::arg("name"), py::arg("params"), py::arg("q"), py::arg("rows"), py::arg("k"), py::arg("kdot"),
      py::arg("device"), py::arg("stream"));
}
