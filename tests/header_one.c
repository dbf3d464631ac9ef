/* SPDX-License-Identifier: MIT */
/* One public header, first and alone: it needs nothing before it. */
#include HEADER

int main(void) {
  return 0;
}
