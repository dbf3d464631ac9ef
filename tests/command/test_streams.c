/* SPDX-License-Identifier: MIT */
/* Standard input, output and error: closed by the caller, or a terminal. */
#include "run_command.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(streams, .init = make_directory, .fini = remove_directory);

/* The descriptor is free then, and the first output file must not get it. */
Test(streams, nothing_is_printed_into_an_output_file) {
  static const bool closed[] = {false, true, false};
  struct setting setting = {.closed = closed};
  struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
  expect_error(run_with(&setting, "apply --norm layer --input %s --output %s --format csv",
                        path_of("x.npy"), path_of("y.npy")),
               1, "standard output");
  cr_expect_eq(files_in_directory(), 1);
  free(expect_done(run_with(&setting, "apply --norm layer --input %s --output %s", path_of("x.npy"),
                            path_of("y.npy"))));
  struct array y = read_array("y.npy");
  cr_expect_eq(y.count, x.count);
  array_free(&y);
  array_free(&x);
}

Test(streams, figures_need_none_of_them) {
  if (system("gnuplot --version >/dev/null 2>&1") != 0) skip_test("gnuplot is not here");
  size_t due, size;
  free(expect_done(run_command("explain --plot %s", path_of("due.svg"))));
  free(read_text("due.svg", &due));
  for (int which = 1; which < 8; which++) {
    const bool closed[] = {(which & 1) != 0, (which & 2) != 0, (which & 4) != 0};
    struct setting setting = {.closed = closed};
    struct run run = run_with(&setting, "explain --plot %s", path_of("x.svg"));
    cr_expect_eq(run.status, closed[1] ? 1 : 0, "closed %d: %d, %s", which, run.status, run.err);
    cr_expect_eq(file_exists("x.svg"), !closed[1], "closed %d", which);
    run_free(&run);
    if (closed[1]) continue;
    free(read_text("x.svg", &size));
    cr_expect_eq(size, due, "closed %d: %zu bytes", which, size);
    remove(path_of("x.svg"));
  }
}

static int count_of(const char *text, const char *part) {
  int count = 0;
  for (const char *at = text; (at = strstr(at, part)) != NULL; at++) count++;
  return count;
}

/* Eight steps of a third of a second at least, then a tensor that no memory holds. */
Test(streams, the_progress_bar_moves_within_steps_and_gives_way_to_messages) {
  if (getenv("AXISNORM_FAIL_ALLOCATION") == NULL) skip_test("not under sanitizers");
  static const char list[] = "norm,n,c,h,w\n"
                             "batch,32,64,56,56\nlayer,32,64,56,56\n"
                             "batch,32,64,56,56\nlayer,32,64,56,56\n"
                             "layer,33554432,33554432,,\n";
  write_bytes("shapes.csv", list, sizeof list - 1);
  struct setting setting = {.terminal = true};
  struct run run = run_with(
      &setting, "bench --passes forward-training,forward-inference --norms batch,layer --shapes %s",
      path_of("shapes.csv"));
  cr_expect_eq(run.status, 1);
  cr_expect_gt(count_of(run.err, "\rbench ["), 8, "%s", run.err);
  cr_expect_null(strstr(run.err, "100%"));
  cr_expect_not_null(strstr(run.err, "%\r\033[Kaxisnorm: memory: "), "%s", run.err);
  run_free(&run);
}

Test(streams, short_work_shows_no_bar) {
  struct setting setting = {.terminal = true};
  char *text = expect_done(run_with(&setting, "compare --shape 4,4,2,2 --batch 2 --norms group"));
  free(text);
}
