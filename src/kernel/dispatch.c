/*
 * Owns: which function serves which kernel. Scalar first, then each tier up to the one asked for overwrites what it has: a tier needs to provide only
 * what it does better.
 */
#include "kernel/kernel.h"

#include "kernel/ref.h"
#include "kernel/tiers.h"

#include <string.h>

enum {
#define PM_KERNEL(name, args) KERNEL_##name,
#include "kernel/list.inc"
#undef PM_KERNEL
    N_KERNEL
};
_Static_assert(N_KERNEL == sizeof((struct pm_kernels *)0)->served / sizeof(enum pm_isa), "served[] has one entry per kernel");

static void fill_scalar(struct pm_kernels *k)
{
    k->mr = PM_REF_MR;
#define PM_KERNEL(name, args) k->name = pm_##name##_ref;
#include "kernel/list.inc"
#undef PM_KERNEL
}

typedef void (*fill_fn)(struct pm_kernels *);
struct tier {
    enum pm_isa isa;
    fill_fn fill[6];    /* NULL-terminated */
};

static const struct tier tiers[] = {
    { PM_ISA_SCALAR, { fill_scalar } },
#if defined(__x86_64__)
    PM_TIERS_X86
#elif defined(__aarch64__)
    PM_TIERS_ARM
#endif
};
#define N_TIER (sizeof tiers / sizeof tiers[0])

uint32_t pm_kernels_available(void)
{
    uint32_t mask = 0;
    for (size_t i = 0; i < N_TIER; i++) mask |= 1u << tiers[i].isa;
    return mask & pm_cpu_isa_mask();
}

enum pm_isa pm_kernels_best(void)
{
    uint32_t mask = pm_kernels_available();
    return (enum pm_isa)(31 - __builtin_clz(mask));
}

void pm_kernels_init(struct pm_kernels *k, enum pm_isa isa)
{
    memset(k, 0, sizeof *k);
    for (size_t i = 0; i < N_TIER && tiers[i].isa <= isa; i++) {
        struct pm_kernels before = *k;
        for (const fill_fn *f = tiers[i].fill; *f; f++) (*f)(k);
#define PM_KERNEL(name, args) \
    if (k->name != before.name) k->served[KERNEL_##name] = tiers[i].isa;
#include "kernel/list.inc"
#undef PM_KERNEL
    }
    k->isa = isa;
}
