/* SPDX-License-Identifier: MIT */
#ifndef AXISNORM_COMMANDS_H
#define AXISNORM_COMMANDS_H

#include "options.h"

extern const struct command command_apply, command_bench, command_compare, command_explain;

#endif
