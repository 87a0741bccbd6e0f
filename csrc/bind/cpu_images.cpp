// Kernels of inputs with spatial axes: plan, tables and pairs as Python objects.
#include "bind/cpu_images.h"

#include "bind/image_plan.h"
#include "images/run.h"

namespace fntk {
namespace {

template <class T>
struct Typed {
  ImagePlan<T> plan;
  explicit Typed(ImagePlan<T> given) : plan(std::move(given)) {}

  // Tables, images x numbers of one, and what images were divided by.
  const T* rows(const py::array& data) const {
    FNTK_CHECK(data.dtype().equal(py::dtype::of<T>()) && data.ndim() == 2 && data.flags() & py::array::c_style &&
                   data.shape(1) == plan.program.table_size,
               "tables must be images x ", plan.program.table_size, ", C-contiguous, of the plan's dtype");
    return static_cast<const T*>(data.data());
  }

  ImageTables<T> tables(const py::array& data, const py::array& lengths) const {
    FNTK_CHECK(lengths.dtype().equal(py::dtype::of<double>()) && lengths.ndim() == 1 &&
                   lengths.flags() & py::array::c_style && lengths.shape(0) == data.shape(0),
               "lengths must be float64, one for each image");
    return {rows(data), static_cast<const double*>(lengths.data()), long(data.shape(0))};
  }

  auto run(const std::vector<double>& numbers, const std::array<py::array, 2>& tables1,
           const std::array<py::array, 2>& tables2, const std::array<long, 6>& place,
           const std::vector<std::array<py::object, 2>>& given, bool symmetric,
           const std::vector<std::array<long, 2>>& listed, const std::string& isa, int threads) const {
    const ImageTables<T> one = tables(tables1[0], tables1[1]), two = tables(tables2[0], tables2[1]);
    const ImagePairs pairs = {place[0], place[1], place[2], place[3], place[4], place[5], symmetric, listed};
    for (long value : place) FNTK_CHECK(value >= 0, "negative place");
    const long rows = listed.empty() ? pairs.out1 + pairs.count1 : long(listed.size());
    const long cols = listed.empty() ? pairs.out2 + pairs.count2 : 1;
    std::vector<ImageOutput<T>> outputs;
    for (const auto& planes : given) {
      ImageOutput<T> output;
      for (int p = 0; p < 2; ++p) {
        if (planes[size_t(p)].is_none()) continue;
        auto array = py::cast<py::array>(planes[size_t(p)]);
        FNTK_CHECK(array.dtype().equal(py::dtype::of<T>()) && array.ndim() >= 2 && array.ndim() % 2 == 0 &&
                       array.shape(0) >= rows && array.shape(1) >= cols &&
                       (!symmetric || array.shape(0) == array.shape(1)),
                   "outputs must be of the plan's dtype and hold all pairs");
        output.planes[p] = static_cast<T*>(array.mutable_data());
        for (py::ssize_t k = 0; k < array.ndim(); ++k) {
          FNTK_CHECK(array.strides(k) % py::ssize_t(sizeof(T)) == 0, "strides must be whole elements");
          output.strides[p].push_back(array.strides(k) / py::ssize_t(sizeof(T)));
        }
      }
      outputs.push_back(output);
    }
    const Isa& table = find_isa(isa);
    return released([&] { return run_images<T>(plan, numbers, one, two, pairs, outputs, table, threads, signalled); });
  }
};

// Images that meet themselves while their tables are made; both are kept alive here.
template <class T>
struct Own {
  py::object plan, halt;
  py::array data;
  OwnPairs<T> pairs;
  Own(const py::object& given, const std::vector<double>& numbers, const py::array& tables, const std::string& isa,
      const py::object& event)
      : plan(given),
        halt(event),
        data(tables),
        pairs(given.cast<const Typed<T>&>().plan, numbers, given.cast<const Typed<T>&>().rows(tables),
              long(tables.shape(0)), find_isa(isa)) {}

  // By link: images x positions of its target. Ends early where `halt`, an event, is set.
  py::dict masses(size_t grid) {
    const auto ended = [&] {
      if (signalled()) return true;
      const py::gil_scoped_acquire gil;
      const bool set = !halt.is_none() && halt.attr("is_set")().cast<bool>();
      if (set) PyErr_SetNone(PyExc_KeyboardInterrupt);
      return set;
    };
    const auto found = released([&] { return pairs.masses(grid, ended); });
    py::dict result;
    for (const auto& mass : found) {
      py::array_t<double> sums({py::ssize_t(data.shape(0)), py::ssize_t(mass.sums.size()) / data.shape(0)});
      std::copy(mass.sums.begin(), mass.sums.end(), sums.mutable_data());
      result[py::int_(mass.link)] = sums;
    }
    return result;
  }
};

template <class T>
void bind_typed(py::module_& m, const char* plan_name, const char* own_name) {
  py::class_<Own<T>>(m, own_name, py::module_local())
      .def(py::init<const py::object&, const std::vector<double>&, const py::array&, const std::string&,
                    const py::object&>(),
           py::arg("plan"), py::arg("numbers"), py::arg("tables"), py::arg("isa"), py::arg("halt"))
      .def("masses", &Own<T>::masses, py::arg("grid"));
  py::class_<Typed<T>>(m, plan_name, py::module_local())
      .def(py::init([](const py::object& plan, const py::object& pairs, const py::object& own,
                       const std::vector<int>& channels, int n_outputs) {
             const ImageProgram program = program_of(plan, channels, n_outputs);
             return std::make_unique<Typed<T>>(
                 ImagePlan<T>(program, layout_of<T>(pairs, program), layout_of<T>(own, program)));
           }),
           py::arg("plan"), py::arg("pairs"), py::arg("own"), py::arg("channels"), py::arg("n_outputs"))
      .def_property_readonly("grids", [](const Typed<T>& self) { return self.plan.program.grids; })
      .def_property_readonly("table_size", [](const Typed<T>& self) { return self.plan.program.table_size; })
      .def_property_readonly("own_images", [](const Typed<T>& self) { return self.plan.own_images; })
      .def_property_readonly("worker_bytes", [](const Typed<T>& self) { return self.plan.worker_bytes; })
      .def_property_readonly("block", [](const Typed<T>& self) { return std::pair(self.plan.side1, self.plan.side2); })
      .def("run", &Typed<T>::run, py::arg("numbers"), py::arg("tables1"), py::arg("tables2"), py::arg("place"),
           py::arg("outputs"), py::arg("symmetric"), py::arg("listed"), py::arg("isa"), py::arg("threads"));
}

}  // namespace

void bind_images(py::module_& m) {
  bind_table_layout(m);
  bind_typed<float>(m, "ImagePlan32", "OwnPairs32");
  bind_typed<double>(m, "ImagePlan64", "OwnPairs64");
}

}  // namespace fntk
