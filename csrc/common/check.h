// The one way C++ refuses: std::invalid_argument, which the binding turns into ValueError.
#pragma once
#include <sstream>
#include <stdexcept>

namespace fntk {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace fntk

#define FNTK_CHECK(condition, ...)                                          \
  do {                                                                      \
    if (!(condition)) throw std::invalid_argument(fntk::text(__VA_ARGS__)); \
  } while (0)
