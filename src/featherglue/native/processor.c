/* What the processor can run, and which sources were compiled. */
#include "kernels.h"

/* Checksum of the sources, from the build. */
EXPORT uint32_t source_hash(void) { return SOURCE_HASH; }

/* Whether libraries compiled for x86-64-v3 (AVX2 and FMA) run here. */
EXPORT int has_x86_64_v3(void) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
#else
    return 0;
#endif
}
