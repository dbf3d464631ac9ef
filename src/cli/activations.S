/* SPDX-License-Identifier: MIT */
/* The recorded activations become part of the executable, so that it works wherever it is put.
 * ACTIVATIONS_FILE comes from meson.build. */
    .section .rodata
    .balign 64
    .globl axisnorm_activations
    .type axisnorm_activations, %object
axisnorm_activations:
    .incbin ACTIVATIONS_FILE
    .globl axisnorm_activations_end
    .type axisnorm_activations_end, %object
axisnorm_activations_end:
    .byte 0
    .size axisnorm_activations, axisnorm_activations_end - axisnorm_activations
    .size axisnorm_activations_end, 1
    .section .note.GNU-stack, "", %progbits
