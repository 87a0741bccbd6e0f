// Kernels of inputs with spatial axes: plan, tables and pairs as Python objects.
#include "bind/cpu_images.h"

#include "bind/image_plan.h"
#include "images/run.h"

namespace fntk {
namespace {

template <class T>
struct Typed {
  ImagePlan<T> plan;
  Typed(ImageProgram program) : plan(std::move(program)) {}

  ImageTables<T> tables(const std::vector<double>& numbers, const std::vector<py::array>& x, const std::string& isa,
                        int threads) const {
    FNTK_CHECK(x.size() == plan.program.channels.size(), "one array for each input");
    std::vector<const T*> data;
    for (size_t k = 0; k < x.size(); ++k) {
      FNTK_CHECK(x[k].dtype().equal(py::dtype::of<T>()) && x[k].ndim() == 3 && x[k].flags() & py::array::c_style &&
                     x[k].shape(0) == x[0].shape(0) && x[k].shape(2) == plan.program.channels[k],
                 "inputs must be images x positions x channels, C-contiguous, of the plan's dtype");
      for (const ImageGrid& g : plan.program.grids)
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::input && step.src[0] == int(k))
            FNTK_CHECK(x[k].shape(1) == g.rows * g.inner, "inputs have ", x[k].shape(1), " positions");
      data.push_back(static_cast<const T*>(x[k].data()));
    }
    const long n = long(x[0].shape(0));
    const Isa& table = find_isa(isa);
    return released([&] { return make_image_tables<T>(plan, numbers, data, n, table, threads, signalled); });
  }

  auto run(const std::vector<double>& numbers, const ImageTables<T>& one, const ImageTables<T>& two,
           const std::array<long, 6>& place, const std::vector<std::array<py::object, 2>>& given, bool symmetric,
           const std::vector<std::array<long, 2>>& listed, const std::string& isa, int threads) const {
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

template <class T>
void bind_typed(py::module_& m, const char* plan_name, const char* tables_name) {
  // data: images x numbers, for other engines; lengths: what each image was divided by
  py::class_<ImageTables<T>>(m, tables_name, py::module_local())
      .def_property_readonly("data",
                             [](const py::object& self) {
                               const auto& tables = self.cast<const ImageTables<T>&>();
                               const py::ssize_t n = tables.n;
                               return py::array_t<T>({n, n > 0 ? py::ssize_t(tables.size) : 0},
                                                     static_cast<const T*>(tables.data.first), self);
                             })
      .def_property_readonly("lengths", [](const ImageTables<T>& self) {
        return py::array_t<double>(py::ssize_t(self.lengths.size()), self.lengths.data());
      });
  py::class_<Typed<T>>(m, plan_name, py::module_local())
      .def(py::init([](const py::object& plan, const std::vector<int>& channels, int n_outputs) {
             return std::make_unique<Typed<T>>(program_of(plan, channels, n_outputs));
           }),
           py::arg("plan"), py::arg("channels"), py::arg("n_outputs"))
      .def_property_readonly("table_bytes",
                             [](const Typed<T>& self) { return self.plan.program.table_size * long(sizeof(T)); })
      .def_property_readonly("inputs", [](const Typed<T>& self) { return input_tables(self.plan.program); })
      .def_property_readonly("worker_bytes", [](const Typed<T>& self) { return self.plan.worker_bytes; })
      .def_property_readonly("block", [](const Typed<T>& self) { return std::pair(self.plan.side1, self.plan.side2); })
      .def("tables", &Typed<T>::tables, py::arg("numbers"), py::arg("x"), py::arg("isa"), py::arg("threads"))
      .def("run", &Typed<T>::run, py::arg("numbers"), py::arg("tables1"), py::arg("tables2"), py::arg("place"),
           py::arg("outputs"), py::arg("symmetric"), py::arg("listed"), py::arg("isa"), py::arg("threads"));
}

}  // namespace

void bind_images(py::module_& m) {
  bind_typed<float>(m, "ImagePlan32", "ImageTables32");
  bind_typed<double>(m, "ImagePlan64", "ImageTables64");
}

}  // namespace fntk
