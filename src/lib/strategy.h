/* SPDX-License-Identifier: MIT */
/* Strategies: from a descriptor to the axes that share statistics. Pure shape algebra; the one room
 * that knows normalizations by name. */
#ifndef AXN_LIB_STRATEGY_H
#define AXN_LIB_STRATEGY_H

#include <stdbool.h>

#include "axisnorm/axisnorm.h"

/* Reads the strategy that the descriptor names or brings, and lets it select the axes. */
axn_status axn_select(axn_strategy *strategy, const axn_desc *desc, axn_axes *axes,
                      axn_error *error);

#endif
