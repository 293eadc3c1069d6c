/* Owns: CPU detection. x86: CPUID and XCR0; aarch64: the kernel's HWCAP. */
#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

const char *pm_isa_name(enum pm_isa isa)
{
    static const char *const names[PM_ISA_COUNT] = { "scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod" };
    return (unsigned)isa < PM_ISA_COUNT ? names[isa] : "unknown";
}

#if defined(__x86_64__)
static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

uint32_t pm_cpu_isa_mask(void)
{
    uint32_t mask = 1u << PM_ISA_SCALAR, a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return mask;
    const uint32_t osxsave = 1u << 27, fma = 1u << 12, f16c = 1u << 29;
    if ((c & (osxsave | fma | f16c)) != (osxsave | fma | f16c)) return mask;
    uint64_t x = xcr0();
    if ((x & 6) != 6) return mask;                              /* the system saves ymm */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5)) return mask;
    mask |= 1u << PM_ISA_AVX2;
    uint32_t a1 = 0, b1 = 0, c1 = 0, d1 = 0;
    if (a >= 1) __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    if (a1 & 1u << 4) mask |= 1u << PM_ISA_AVXVNNI;
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((b & f_dq_bw_vl) == f_dq_bw_vl && (c & 1u << 11) && (x & 0xE0) == 0xE0) mask |= 1u << PM_ISA_AVX512;
    return mask;
}
#elif defined(__aarch64__)
uint32_t pm_cpu_isa_mask(void)
{
    uint32_t mask = 1u << PM_ISA_SCALAR | 1u << PM_ISA_NEON;
    if (getauxval(AT_HWCAP) & 1ul << 20) mask |= 1u << PM_ISA_DOTPROD;     /* HWCAP_ASIMDDP */
    return mask;
}
#else
uint32_t pm_cpu_isa_mask(void)
{
    return 1u << PM_ISA_SCALAR;
}
#endif
