// From fastntk.plan's plans and their geometry to the structs of images/program.h and layout.h, for both bindings.
#pragma once
#include <map>

#include "bind/common.h"
#include "images/layout.h"

namespace fntk {

inline Form form_of(const std::string& name) {
  if (name == "cov") return Form::cov;
  if (name == "defect") return Form::defect;
  FNTK_CHECK(name == "signed", "no form named '", name, "'");
  return Form::both_defects;
}

inline Meet meet_of(const std::string& name) {
  static const std::pair<const char*, Meet> all[] = {
      {"", Meet::other}, {"same", Meet::same}, {"valid", Meet::valid}, {"circular", Meet::circular}};
  for (const auto& [known, meet] : all)
    if (name == known) return meet;
  FNTK_CHECK(false, "rows do not meet as '", name, "'");
  return Meet::other;
}

// From fastntk.plan.Plan.
inline ImageProgram program_of(const py::handle& plan, const std::vector<int>& channels, int n_outputs) {
  ImageProgram program;
  program.channels = channels;
  program.n_outputs = n_outputs;
  for (const py::handle given : plan.attr("grids")) {
    ImageGrid grid;
    grid.sizes = given.attr("sizes").cast<std::vector<int>>();
    grid.packed = given.attr("packed").cast<long>();
    grid.lanes = given.attr("lanes").cast<long>();
    grid.n_slots = given.attr("n_slots").cast<int>();
    for (const py::handle from : given.attr("steps")) {
      ImageStep step;
      step.name = from.attr("name").cast<std::string>();
      step.dst = from.attr("dst").cast<int>();
      step.src = from.attr("src").cast<std::vector<int>>();
      step.in = form_of(from.attr("form_in").cast<std::string>());
      step.out = form_of(from.attr("form_out").cast<std::string>());
      step.extent = from.attr("extent").cast<std::vector<int>>();
      step.shift = kind_of(from.attr("kind").cast<std::string>());
      step.first_number = from.attr("numbers").attr("start").cast<int>();
      step.n_numbers = from.attr("numbers").attr("stop").cast<int>() - step.first_number;
      const auto parts = from.attr("parts").cast<std::array<int, 2>>();
      std::copy(parts.begin(), parts.end(), step.parts);
      step.meet = meet_of(from.attr("meet").cast<std::string>());
      step.fused = from.attr("fused").cast<bool>();
      grid.steps.push_back(step);
    }
    program.grids.push_back(grid);
  }
  for (const py::handle given : plan.attr("links")) {
    ImageLink link;
    link.source = given.attr("source").cast<int>();
    link.target = given.attr("target").cast<int>();
    link.pool = given.attr("pool").cast<bool>();
    link.form = form_of(given.attr("form").cast<std::string>());
    program.links.push_back(link);
  }
  prepare(program);
  return program;
}

template <class Number>
std::vector<Number> numbers_of(const py::handle& given) {
  const auto array = py::array_t<Number, py::array::c_style | py::array::forcecast>::ensure(given);
  FNTK_CHECK(bool(array), "an array of other numbers");
  return std::vector<Number>(array.data(), array.data() + array.size());
}

// Of an array (k, ...): k vectors.
template <class Number>
std::vector<std::vector<Number>> lines_of_numbers(const py::handle& given) {
  std::vector<std::vector<Number>> found;
  for (const py::handle line : given) found.push_back(numbers_of<Number>(line));
  return found;
}

inline std::vector<std::vector<LinkLayout::Add>> adds_of(const py::handle& given) {
  std::vector<std::vector<LinkLayout::Add>> found;
  for (const auto& pairs : lines_of_numbers<int64_t>(given)) {
    std::vector<LinkLayout::Add> adds(pairs.size() / 2);
    for (size_t k = 0; k < adds.size(); ++k) adds[k] = {long(pairs[2 * k]), long(pairs[2 * k + 1])};
    found.push_back(std::move(adds));
  }
  return found;
}

// From fastntk.plan.layout.Layout.
template <class T>
Layout<T> layout_of(const py::handle& layout, const ImageProgram& program) {
  Layout<T> found;
  for (const py::handle given : layout.attr("grids")) {
    GridLayout<T> grid;
    grid.shifts = given.attr("shifts").cast<std::vector<int>>();
    grid.groups = given.attr("groups").cast<std::vector<std::vector<std::vector<int>>>>();
    grid.lanes_from = lines_of_numbers<int32_t>(given.attr("lanes_from"));
    std::map<PyObject*, std::shared_ptr<Reads<T>>> made;  // steps share them
    for (const py::handle from : given.attr("reads")) {
      std::shared_ptr<Reads<T>>& reads = made[from.ptr()];
      if (!reads && !from.is_none()) {
        reads = std::make_shared<Reads<T>>();
        reads->shift_in = numbers_of<long>(from.attr("shift_in"));
        reads->shift_out = numbers_of<long>(from.attr("shift_out"));
        reads->mask_in = lines_of_numbers<T>(from.attr("mask_in"));
        reads->mask_out = lines_of_numbers<T>(from.attr("mask_out"));
        reads->three = from.attr("three").cast<bool>();
      }
      grid.reads.push_back(reads);
    }
    found.grids.push_back(std::move(grid));
  }
  for (const py::handle given : layout.attr("links"))
    found.links.push_back({adds_of(given.attr("rows")), adds_of(given.attr("lanes")), given.attr("n_rows").cast<long>(),
                           given.attr("size").cast<long>()});
  check_layout(program, found);
  return found;
}

// Where a plan's tables hold what: of each grid, and of each of its steps, as images/program.h has them.
inline void bind_table_layout(py::module_& m) {
  py::class_<ImageStep>(m, "ImageStep", py::module_local())
      .def_readonly("first", &ImageStep::first)
      .def_readonly("n_arrays", &ImageStep::n_arrays);
  py::class_<ImageGrid>(m, "ImageGrid", py::module_local())
      .def_readonly("lanes", &ImageGrid::lanes)
      .def_readonly("packed", &ImageGrid::packed)
      .def_readonly("table", &ImageGrid::table)
      .def_readonly("steps", &ImageGrid::steps);
}

}  // namespace fntk
