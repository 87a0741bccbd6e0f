#include "common/isa.h"

#include "common/check.h"

namespace fntk {

#define FNTK_DECLARE(isa)                                \
  namespace isa {                                        \
  extern const Kernels<float> kernels_float;             \
  extern const Kernels<double> kernels_double;           \
  extern const Products<float> products_float;           \
  extern const Products<double> products_double;         \
  extern const PlaneKernels<float> planes_float;         \
  extern const PlaneKernels<double> planes_double;       \
  extern const PositionKernels<float> positions_float;   \
  extern const PositionKernels<double> positions_double; \
  }
FNTK_DECLARE(baseline)
#if defined(FNTK_X86_ISAS)
FNTK_DECLARE(avx2)
FNTK_DECLARE(avx512)
#endif

#define FNTK_ISA_ROW(name, available, isa)                                                                   \
  Isa {                                                                                                      \
    name, available, &isa::kernels_float, &isa::kernels_double, &isa::products_float, &isa::products_double, \
        &isa::planes_float, &isa::planes_double, &isa::positions_float, &isa::positions_double               \
  }

const std::vector<Isa>& isas() {
  static const std::vector<Isa> table = [] {
    std::vector<Isa> found;
#if defined(__aarch64__)
    found.push_back(FNTK_ISA_ROW("neon", true, baseline));
#else
    found.push_back(FNTK_ISA_ROW("baseline", true, baseline));
#endif
#if defined(FNTK_X86_ISAS)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    found.push_back(FNTK_ISA_ROW("avx2", avx2, avx2));
    found.push_back(FNTK_ISA_ROW("avx512", avx512, avx512));
#endif
    return found;
  }();
  return table;
}

const Isa& find_isa(const std::string& name) {
  const Isa* best = nullptr;
  for (const Isa& isa : isas())
    if (isa.available && (name.empty() || name == isa.name)) best = &isa;
  if (best) return *best;
  std::string known;
  for (const Isa& isa : isas())
    known += std::string(known.empty() ? "" : ", ") + isa.name + (isa.available ? "" : " (not on this processor)");
  FNTK_CHECK(best, "isa '", name, "' is not available; this build has ", known);
  return *best;
}

}  // namespace fntk
