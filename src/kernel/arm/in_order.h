/*
 * Instructions for cores that issue in order (A53, A55). Each is one line of assembly, and volatile lines keep the order in which they are written, so a loop can start
 * what it needs several instructions before. The compiler puts a load beside its use, where these cores wait for it. Cores that order instructions themselves lose nothing.
 */
#ifndef PM_KERNEL_IN_ORDER_H
#define PM_KERNEL_IN_ORDER_H

#include "kernel/arm/v16_neon.h"

#define IN_ORDER(text, out, ...) __asm__ volatile(text : out : __VA_ARGS__)
#define STRAIGHT _Pragma("GCC unroll 128")

V16_FN int8x16_t load16(const void *p)
{
    int8x16_t r;
    IN_ORDER("ldr %q0, %1", "=w"(r), "m"(*(const int8x16_t *)p));
    return r;
}

V16_FN int8x16_t load8(const void *p)
{
    int8x16_t r;
    IN_ORDER("ldr %d0, %1", "=w"(r), "m"(*(const int8x8_t *)p));
    return r;
}

V16_FN int8x16_t low_nibbles(int8x16_t x, int8x16_t fifteen)
{
    int8x16_t r;
    IN_ORDER("and %0.16b, %1.16b, %2.16b", "=w"(r), "w"(x), "w"(fifteen));
    return r;
}

V16_FN int8x16_t high_nibbles(int8x16_t x)
{
    int8x16_t r;
    IN_ORDER("ushr %0.16b, %1.16b, 4", "=w"(r), "w"(x));
    return r;
}

#endif
