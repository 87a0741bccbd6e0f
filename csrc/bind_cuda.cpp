// Thin: as bind_cpu.cpp, for a device.
#include "bind_common.h"
#include "cuda_run.h"

namespace py = pybind11;
using namespace fntk;

namespace {

void run_tile(const Program& program, const PyRows& rows1, const PyRows& rows2, const py::dtype& dtype,
              const std::array<long, 8>& place, long n1, long n2, const std::vector<PyInput>& inputs,
              const std::vector<std::array<py::object, 3>>& outputs, bool symmetric, bool diagonal, int device) {
  with_tile(program, rows1, rows2, dtype, place, n1, n2, inputs, outputs, symmetric, diagonal,
            [&](const auto& table1, const auto& table2, const Tile& tile, const auto& in, const auto& out) {
              for (const auto& input : in)
                FNTK_CHECK(!input.panels1, "the CUDA backend takes the product of the unit rows");
              released([&] { cuda_run(program, table1, table2, tile, in, out, device); });
            });
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "fastntk's CUDA backend: private, reached through fastntk.backends.";
  bind_programs(m);
  m.attr("ON_HOST") = kOnHost;
  m.def("devices", [] {
    std::string reason;
    py::list names;
    for (const CudaDevice& device : cuda_devices(reason))
      names.append(text(device.name, " (sm_", device.major, device.minor, ", ", device.memory >> 30, " GiB)"));
    return py::make_tuple(names, reason);
  });
  m.def("run", &run_tile, py::arg("program"), py::arg("rows1"), py::arg("rows2"), py::arg("dtype"), py::arg("place"),
        py::arg("n1"), py::arg("n2"), py::arg("inputs"), py::arg("outputs"), py::arg("symmetric"), py::arg("diagonal"),
        py::arg("device"));
}
