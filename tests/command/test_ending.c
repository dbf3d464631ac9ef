/* SPDX-License-Identifier: MIT */
/* Ends that nobody planned: Ctrl-C, and memory that is not to be had. */
#define _XOPEN_SOURCE 700
#include "run_command.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

TestSuite(ending, .init = make_directory, .fini = remove_directory);

static void wait_a_little(void) {
  nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static int signal_that_ended(pid_t child) {
  int status;
  cr_assert_eq(waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* The command waits on a pipe that nobody fills, its outputs begun: then the signal comes. */
Test(ending, a_signal_leaves_no_file) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
  cr_assert_eq(mkfifo(path_of("fifo"), 0666), 0);
  for (int i = 0; i < 3; i++) {
    struct setting usual = {0};
    signal(signals[i], SIG_DFL); /* what started the tests may have it ignored, as nohup does */
    pid_t child =
        start_command(&usual, "apply --norm layer --input %s --output %s --mean-output %s",
                      path_of("fifo"), path_of("y.npy"), path_of("mean.npy"));
    for (int waited = 0; files_in_directory() < 3 && waited < 20000; waited++) wait_a_little();
    cr_expect_eq(files_in_directory(), 3, "the outputs were not begun");
    cr_expect_not(file_exists("y.npy"));
    kill(child, signals[i]);
    cr_expect_eq(signal_that_ended(child), signals[i]);
    cr_expect_eq(files_in_directory(), 1, "the outputs were left");
  }
}

Test(ending, a_signal_in_the_middle_of_the_work_leaves_no_figure) {
  if (system("gnuplot --version >/dev/null 2>&1") != 0) skip_test("gnuplot is not here");
  struct setting usual = {0};
  pid_t child = start_command(&usual, "compare --shape 64,64,28,28 --plot %s", path_of("x.svg"));
  for (int waited = 0; files_in_directory() < 1 && waited < 20000; waited++) wait_a_little();
  for (int waited = 0; waited < 300; waited++) wait_a_little();
  kill(child, SIGINT);
  cr_expect_eq(signal_that_ended(child), SIGINT);
  cr_expect_eq(files_in_directory(), 0);
}

/* The place of the second output is removed meanwhile: the first has taken its own by then. */
Test(ending, an_output_that_cannot_take_its_place_is_an_error) {
  struct array x = normal_array("x.npy", "2,3,4,4", 0, 1);
  cr_assert_eq(mkfifo(path_of("fifo"), 0666), 0);
  cr_assert_eq(mkdir(path_of("gone"), 0777), 0);
  struct setting usual = {0};
  pid_t child = start_command(&usual, "apply --norm layer --input %s --output %s --mean-output %s",
                              path_of("fifo"), path_of("y.npy"), path_of("gone/mean.npy"));
  char line[600];
  snprintf(line, sizeof line,
           "until [ \"$(ls -A %s)\" ]; do sleep 0.01; done; rm -r %s && cat %s > %s",
           path_of("gone"), path_of("gone"), path_of("x.npy"), path_of("fifo"));
  cr_assert_eq(system(line), 0);
  int status;
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  cr_expect(file_exists("y.npy"));
  cr_expect_eq(files_in_directory(), 3);
  array_free(&x);
}

/* At whatever moment it comes: all of the outputs are there, or none. */
Test(ending, a_signal_at_any_moment_leaves_all_or_nothing) {
  struct array x = normal_array("x.npy", "32,16,16,16", 0, 1);
  for (int delay = 0; delay < 40; delay++) {
    struct setting usual = {0};
    pid_t child =
        start_command(&usual, "apply --norm group --input %s --output %s --mean-output %s",
                      path_of("x.npy"), path_of("y.npy"), path_of("mean.npy"));
    for (int waited = 0; waited < delay; waited++) wait_a_little();
    kill(child, SIGINT);
    signal_that_ended(child);
    cr_expect_eq(file_exists("y.npy"), file_exists("mean.npy"));
    cr_expect_eq(files_in_directory(), file_exists("y.npy") ? 3 : 1);
    if (file_exists("y.npy")) {
      struct array y = read_array("y.npy");
      cr_expect_eq(y.count, x.count);
      array_free(&y);
      remove(path_of("y.npy"));
      remove(path_of("mean.npy"));
    }
  }
  array_free(&x);
}

/* A preloaded library fails one allocation after the other, until a run gets by without. */
static void fail_each_allocation(const char *line, bool has_output) {
  char fail_at[32], preload[512];
  const char *library = getenv("AXISNORM_FAIL_ALLOCATION");
  if (library == NULL) skip_test("not under sanitizers");
  snprintf(preload, sizeof preload, "%s", library);
  setenv("LD_PRELOAD", preload, 1);
  bool passed = false;
  for (int k = 1; k < 2000 && !passed; k++) {
    snprintf(fail_at, sizeof fail_at, "%d", k);
    struct setting failing = {.variable = "FAIL_ALLOCATION", .value = fail_at};
    int before = files_in_directory();
    struct run run = run_with(&failing, line);
    cr_expect(run.status == 0 || run.status == 1, "allocation %d: status %d, %s", k, run.status,
              run.err);
    if (run.status == 1) {
      const char *end = strchr(run.err, '\n');
      cr_expect(end != NULL && end[1] == '\0', "allocation %d: '%s'", k, run.err);
      cr_expect_eq(files_in_directory(), before, "allocation %d left a file", k);
    } else if (has_output) {
      struct array y = read_array("y.npy");
      array_free(&y);
      remove(path_of("y.npy"));
    }
    passed = strstr(run.err, "no allocation left to fail") != NULL;
    run_free(&run);
  }
  cr_expect(passed, "allocations without end");
}

Test(ending, every_failing_allocation_of_apply_is_one_line) {
  struct array x = array_of("4,6,3,5"), p = array_of("6");
  fill_normal(&x, 0, 1);
  fill_normal(&p, 9, 1);
  write_array("x.npy", &x);
  write_array("p.npy", &p);
  char line[1200];
  snprintf(line, sizeof line,
           "apply --norm batch --input %s --output %s --scale %s --shift %s "
           "--running-mean %s --running-var %s --grad-output %s --grad-input %s "
           "--format json",
           path_of("x.npy"), path_of("y.npy"), path_of("p.npy"), path_of("p.npy"), path_of("p.npy"),
           path_of("p.npy"), path_of("x.npy"), path_of("x.npy"));
  fail_each_allocation(line, true);
  array_free(&x);
  array_free(&p);
}

Test(ending, every_failing_allocation_of_the_others_is_one_line) {
  static const char list[] = "norm,n,c,d,h,w,groups\nbatch,2,4,,3,3,\n";
  write_bytes("shapes.csv", list, sizeof list - 1);
  char line[600];
  fail_each_allocation("compare --shape 4,4,2,2 --norms batch,group --batch 2", false);
  fail_each_allocation("explain --format json", false);
  snprintf(line, sizeof line, "bench --passes forward-inference --shapes %s",
           path_of("shapes.csv"));
  fail_each_allocation(line, false);
}
