/* SPDX-License-Identifier: MIT */
/* The recorded activations that ship with the command: a whole .npy file. */
#ifndef AXISNORM_ACTIVATIONS_H
#define AXISNORM_ACTIVATIONS_H

extern const unsigned char axisnorm_activations[], axisnorm_activations_end[];

#endif
