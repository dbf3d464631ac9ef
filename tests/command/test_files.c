/* SPDX-License-Identifier: MIT */
/* Files that cannot be read, or hold what they should not. */
#define _XOPEN_SOURCE 700
#include "run_command.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(files, .init = make_directory, .fini = remove_directory);

/* A .npy file from its parts; `length` below 0: the header's own. */
static void write_npy(const char *name, int major, long length, const char *header,
                      size_t data_bytes) {
  static unsigned char bytes[70000];
  memcpy(bytes, "\x93NUMPY", 6);
  bytes[6] = (unsigned char)major;
  bytes[7] = 0;
  size_t size = 8, text = strlen(header);
  unsigned long due = length < 0 ? text : (unsigned long)length;
  for (int i = 0; i < (major == 1 ? 2 : 4); i++) bytes[size++] = (unsigned char)(due >> 8 * i);
  memcpy(bytes + size, header, text);
  memset(bytes + size + text, 0, data_bytes);
  write_bytes(name, bytes, size + text + data_bytes);
}

#define HEADER(type, order, shape)                                                                 \
  "{'descr': '" type "', 'fortran_order': " order ", 'shape': " shape ", }\n"
#define PLAIN(shape) HEADER("<f4", "False", shape)

struct header_case {
  const char *header;
  size_t data_bytes;
  int major;
  long length;
};

Test(files, every_valid_header_is_read) {
  static const struct header_case cases[] = {
      {PLAIN("(2, 3)"), 24, 1, -1},
      {PLAIN("(2, 3)"), 24, 2, -1},
      {PLAIN("(2, 3)"), 24, 3, -1},
      {PLAIN("(2,3)"), 24, 1, -1},
      {PLAIN("(2, 3,)"), 24, 1, -1},
      {PLAIN("( 2 , 3 )"), 24, 1, -1},
      {PLAIN("(2L, 3L)"), 24, 1, -1},
      {"{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}", 24, 1, -1},
      {"  {  'fortran_order'  : False , 'shape' : (2, 1, 3), 'descr':'<f4' }     \n", 24, 1, -1},
      {PLAIN("(2, 3, 1, 1, 1)"), 24, 1, -1},
      {PLAIN("(0, 3)"), 0, 1, -1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    write_npy("x.npy", cases[i].major, cases[i].length, cases[i].header, cases[i].data_bytes);
    free(expect_done(run_command("apply --norm layer --input %s --output %s", path_of("x.npy"),
                                 path_of("y.npy"))));
    struct array y = read_array("y.npy");
    cr_expect_eq((size_t)y.count * sizeof(float), cases[i].data_bytes, "case %zu", i);
    array_free(&y);
    remove(path_of("y.npy"));
  }
}

Test(files, every_wrong_header_is_an_error_and_leaves_no_output) {
  static const struct header_case cases[] = {
      /* less or more than promised */
      {PLAIN("(2, 3)"), 23, 1, -1},
      {PLAIN("(2, 3)"), 25, 1, -1},
      {PLAIN("(2, 3)"), 0, 1, -1},
      {PLAIN("(2, 3)"), 48, 1, -1},
      {PLAIN("(0, 3)"), 4, 1, -1},
      {PLAIN("(1000000, 1000000)"), 24, 1, -1},
      /* overflow */
      {PLAIN("(4294967296, 4294967296)"), 24, 1, -1},
      {PLAIN("(9223372036854775807, 2)"), 24, 1, -1},
      {PLAIN("(2305843009213693952, 1)"), 24, 1, -1},
      {PLAIN("(9223372036854775808, 1)"), 24, 1, -1},
      {PLAIN("(99999999999999999999999999, 1)"), 24, 1, -1},
      {PLAIN("(0, 4294967296, 4294967296)"), 0, 1, -1},
      {PLAIN("(65536, 65536, 65536, 65536, 6)"), 24, 1, -1},
      /* extents and ranks */
      {PLAIN("(-2, 3)"), 24, 1, -1},
      {PLAIN("(-2, -3)"), 24, 1, -1},
      {PLAIN("(2, 3.0)"), 24, 1, -1},
      {PLAIN("(2, 0x3)"), 24, 1, -1},
      {PLAIN("(2, x)"), 24, 1, -1},
      {PLAIN("(2 3)"), 24, 1, -1},
      {PLAIN("(2,, 3)"), 24, 1, -1},
      {PLAIN("(,)"), 4, 1, -1},
      {PLAIN("()"), 4, 1, -1},
      {PLAIN("(6)"), 24, 1, -1},
      {PLAIN("(6,)"), 24, 1, -1},
      {PLAIN("6"), 24, 1, -1},
      {PLAIN("[2, 3]"), 24, 1, -1},
      {PLAIN("(2, 3"), 24, 1, -1},
      {PLAIN("((2, 3))"), 24, 1, -1},
      {PLAIN("((((((((((((((((((((((((((((((((((((((("), 24, 1, -1},
      {PLAIN("(1, 1, 1, 1, 2, 3)"), 24, 1, -1},
      {PLAIN("(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2,3)"), 24, 1, -1},
      {PLAIN("(2, 0)"), 0, 1, -1},
      /* types and order */
      {HEADER("<f4", "True", "(2, 3)"), 24, 1, -1},
      {HEADER("<f4", "None", "(2, 3)"), 24, 1, -1},
      {HEADER("<f4", "", "(2, 3)"), 24, 1, -1},
      {HEADER(">f4", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("<f8", "True", "(2, 3)"), 48, 1, -1},
      {HEADER("<f8", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("<f2", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("<f8", "False", "(1152921504606846976, 1)"), 24, 1, -1},
      {HEADER("|V2", "False", "(2, 3)"), 12, 1, -1},
      {HEADER(">f8", "False", "(2, 3)"), 48, 1, -1},
      {HEADER("<u2", "False", "(2, 3)"), 12, 1, -1},
      {HEADER("<i4", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("|O", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("<f4\\n", "False", "(2, 3)"), 24, 1, -1},
      {HEADER("<f4aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "False", "(2, 3)"), 24, 1, -1},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }", 24, 1, -1},
      {"{'descr': '<f4, 'fortran_order': False, 'shape': (2, 3), }", 24, 1, -1},
      {"{'descr': '<f4\", 'fortran_order': False, 'shape': (2, 3), }", 24, 1, -1},
      /* the dictionary */
      {"", 24, 1, -1},
      {"{}", 24, 1, -1},
      {"{", 24, 1, -1},
      {"}", 24, 1, -1},
      {"{'descr'", 24, 1, -1},
      {"{'descr':", 24, 1, -1},
      {"{'descr': '<f4'", 24, 1, -1},
      {"{'descr': '<f4', 'fortran_order': False}", 24, 1, -1},
      {"{'descr': '<f4', 'shape': (2, 3)}", 24, 1, -1},
      {"{'fortran_order': False, 'shape': (2, 3)}", 24, 1, -1},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}", 24, 1, -1},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 24, 1, -1},
      {"{'descr': '<f4' 'fortran_order': False, 'shape': (2, 3)}", 24, 1, -1},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", 24, 1, -1},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}}", 24, 1, -1},
      {"{,}", 24, 1, -1},
      {"{'d\xc3\xa9scr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 24, 1, -1},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (\xd9\xa2, 3)}", 24, 3, -1},
      {"\xff\xfe\xfd\x01\x02", 24, 3, -1},
      /* versions and lengths */
      {PLAIN("(2, 3)"), 24, 0, -1},
      {PLAIN("(2, 3)"), 24, 4, -1},
      {PLAIN("(2, 3)"), 24, 255, -1},
      {PLAIN("(2, 3)"), 24, 1, 0},
      {PLAIN("(2, 3)"), 24, 1, 10},
      {PLAIN("(2, 3)"), 24, 1, 65535},
      {PLAIN("(2, 3)"), 24, 2, 65536},
      {PLAIN("(2, 3)"), 24, 2, 0x7fffffff},
      {PLAIN("(2, 3)"), 24, 2, 0xffffffffL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    write_npy("x.npy", cases[i].major, cases[i].length, cases[i].header, cases[i].data_bytes);
    expect_error(run_command("apply --norm layer --input %s --output %s", path_of("x.npy"),
                             path_of("y.npy")),
                 1, path_of("x.npy"));
    cr_expect_eq(files_in_directory(), 1, "case %zu, %s", i, cases[i].header);
    struct setting pipe = {.stdin_path = path_of("x.npy")};
    expect_error(
        run_with(&pipe, "apply --norm layer --input /dev/stdin --output %s", path_of("y.npy")), 1,
        "/dev/stdin");
  }
}

Test(files, every_truncation_is_an_error) {
  struct array x = array_of("2,3,2,2");
  fill_normal(&x, 0, 1);
  write_array("whole.npy", &x);
  size_t size;
  char *bytes = read_text("whole.npy", &size);
  for (size_t kept = 0; kept < size; kept += kept < 12 ? 1 : 7) {
    write_bytes("x.npy", bytes, kept);
    expect_error(run_command("apply --norm group --input %s --output %s", path_of("x.npy"),
                             path_of("y.npy")),
                 1, path_of("x.npy"));
  }
  cr_expect_eq(files_in_directory(), 2);
  free(bytes);
  array_free(&x);
}

/* What is no tensor for `compare` or `apply`, and a part of the message that says why. */
Test(files, inputs_that_are_no_tensors_are_told_apart) {
  write_bytes("empty.npy", "", 0);
  write_bytes("x.npz", "PK\003\004....", 8);
  write_bytes("text.npy", "hello, world", 12);
  write_npy("one_axis.npy", 1, -1, PLAIN("(6,)"), 24);
  write_npy("no_samples.npy", 1, -1, PLAIN("(0, 3, 2)"), 0);
  static const char *const cases[][2] = {{"empty.npy", ": the file is empty\n"},
                                         {"x.npz", "numpy.savez"},
                                         {"text.npy", ": not a .npy file\n"},
                                         {"one_axis.npy", ": has 1 axis, expected N,C"},
                                         {"no_samples.npy", ": shape [0,3,2]: nothing to draw"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct run run = run_command("compare --input %s", path_of(cases[i][0]));
    cr_expect_not_null(strstr(run.err, cases[i][1]), "%s is not in %s", cases[i][1], run.err);
    expect_error(run, 1, path_of(cases[i][0]));
  }
}

/* The same, with no size to look at beforehand. */
Test(files, a_pipe_is_read_as_far_as_it_goes) {
  struct array x = normal_array("x.npy", "2,3,2,2", 0, 1);
  char *lines[3] = {NULL};
  static const char *const feeds[] = {"cat %s", "head -c 150 %s", "cat %s %s"};
  for (int i = 0; i < 3; i++) {
    char feed[300], line[1200];
    snprintf(feed, sizeof feed, feeds[i], path_of("x.npy"), path_of("x.npy"));
    snprintf(line, sizeof line, "%s | '%s' apply --norm group --input /dev/stdin --output %s 2>%s",
             feed, getenv("AXISNORM_COMMAND"), path_of("y.npy"), path_of("error"));
    int status = system(line);
    size_t size;
    lines[i] = read_text("error", &size);
    cr_expect_eq(status == 0, i == 0, "%s: %s", feed, lines[i]);
    cr_expect_eq(file_exists("y.npy"), i == 0);
    remove(path_of("y.npy"));
    free(lines[i]);
  }
  array_free(&x);
}

Test(files, files_that_cannot_be_read) {
  struct array x = array_of("2,3");
  write_array("x.npy", &x);
  static const char *const inputs[] = {"missing.npy", ".", "x.npy/below", "missing/x.npy"};
  for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
    expect_error(run_command("apply --norm layer --input %s --output %s", path_of(inputs[i]),
                             path_of("y.npy")),
                 1, path_of(inputs[i]));
    expect_error(run_command("compare --input %s", path_of(inputs[i])), 1, path_of(inputs[i]));
    expect_error(run_command("bench --shapes %s", path_of(inputs[i])), 1, path_of(inputs[i]));
  }
  expect_error(run_command("apply --norm layer --input /dev/null --output %s", path_of("y.npy")), 1,
               "/dev/null");
  expect_error(run_command("apply --norm layer --input /dev/zero --output %s", path_of("y.npy")), 1,
               "/dev/zero");
  cr_expect_eq(files_in_directory(), 1);
  array_free(&x);
}

Test(files, outputs_that_cannot_be_written) {
  struct array x = normal_array("x.npy", "2,3", 0, 1);
  cr_assert_eq(mkdir(path_of("folder"), 0777), 0);
  const char *const outputs[] = {"/dev/full", "/dev/null", path_of("folder"),
                                 path_of("missing/y.npy"), path_of("x.npy/y.npy")};
  for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++)
    expect_error(
        run_command("apply --norm layer --input %s --output %s", path_of("x.npy"), outputs[i]), 1,
        outputs[i]);
  struct stat status;
  cr_assert_eq(stat("/dev/full", &status), 0);
  cr_expect(S_ISCHR(status.st_mode), "/dev/full was replaced");
  cr_expect_eq(files_in_directory(), 2);
  expect_error(run_command("apply --norm layer --input %s --output %s --rstd-output %s",
                           path_of("x.npy"), path_of("y.npy"), path_of("y.npy")),
               2, path_of("y.npy"));
  array_free(&x);
}

/* However the names are spelled. */
Test(files, one_file_is_not_two_outputs) {
  struct array x = normal_array("x.npy", "2,3", 0, 1);
  write_bytes("old.npy", "old", 3);
  cr_assert_eq(symlink("old.npy", path_of("soft.npy")), 0);
  cr_assert_eq(link(path_of("old.npy"), path_of("hard.npy")), 0);
  cr_assert_eq(symlink(".", path_of("here")), 0);
  static const char *const pairs[][2] = {
      {"y.npy", "./y.npy"},         {"y.npy", "here/y.npy"}, {"here//y.npy", "./here/y.npy"},
      {"old.npy", "here/old.npy"},  {"old.npy", "soft.npy"}, {"hard.npy", "old.npy"},
      {"soft.npy", "here/soft.npy"}};
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
    expect_error(run_command("apply --norm layer --input %s --output %s --rstd-output %s",
                             path_of("x.npy"), path_of(pairs[i][0]), path_of(pairs[i][1])),
                 2, path_of(pairs[i][1]));
    cr_expect_eq(files_in_directory(), 5);
  }
  array_free(&x);
}

Test(files, a_link_to_nothing_is_not_replaced) {
  struct array x = normal_array("x.npy", "2,3", 0, 1);
  cr_assert_eq(symlink("nothing.npy", path_of("link.npy")), 0);
  expect_error(run_command("apply --norm layer --input %s --output %s", path_of("x.npy"),
                           path_of("link.npy")),
               1, path_of("link.npy"));
  struct stat status;
  cr_assert_eq(lstat(path_of("link.npy"), &status), 0);
  cr_expect(S_ISLNK(status.st_mode));
  array_free(&x);
}

Test(files, statistics_of_no_samples_are_not_written) {
  struct array x = array_of("0,6,3,5");
  write_array("x.npy", &x);
  static const char *const options[] = {"--mean-output", "--rstd-output"};
  for (int i = 0; i < 2; i++)
    expect_error(run_command("apply --norm batch --input %s --output %s %s %s", path_of("x.npy"),
                             path_of("y.npy"), options[i], path_of("s.npy")),
                 1, options[i]);
  cr_expect_eq(files_in_directory(), 1);
  array_free(&x);
}

/* A limit on the size of files stands for a full disk: the last bytes are those that fail. */
Test(files, a_full_disk_leaves_no_output_and_the_old_file_as_it_was) {
  struct array x = normal_array("x.npy", "64,64,8,8", 0, 1);
  static const long limits[] = {100, 4096, 1 << 19, (1 << 20) + 127};
  for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
    struct setting full = {.file_size_limit = limits[i]};
    write_bytes("y.npy", "old", 3);
    expect_error(run_with(&full, "apply --norm group --input %s --output %s --mean-output %s",
                          path_of("x.npy"), path_of("y.npy"), path_of("mean.npy")),
                 1, NULL);
    size_t size;
    free(read_text("y.npy", &size));
    cr_expect_eq(size, 3);
    cr_expect_eq(files_in_directory(), 2);
  }
  array_free(&x);
}

Test(files, an_output_replaces_what_a_link_points_to) {
  struct array x = normal_array("x.npy", "2,3", 0, 1);
  char line[600];
  snprintf(line, sizeof line, "echo old > %s && ln -s real.npy %s && chmod 640 %s",
           path_of("real.npy"), path_of("link.npy"), path_of("real.npy"));
  cr_assert_eq(system(line), 0);
  free(expect_done(run_command("apply --norm layer --input %s --output %s", path_of("x.npy"),
                               path_of("link.npy"))));
  struct stat status;
  cr_assert_eq(stat(path_of("real.npy"), &status), 0);
  cr_expect_eq(status.st_mode & 0777, 0640);
  struct array y = read_array("real.npy");
  cr_expect_eq(y.count, 6);
  array_free(&y);
  array_free(&x);
}

Test(files, shapes_of_parameters_and_statistics_must_fit) {
  static const char *const shapes[] = {"5", "1", "2,6,5,5", "6,1", "6,5", "5,5", "1,6"};
  struct array x = array_of("2,6,5,5");
  write_array("x.npy", &x);
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    struct array wrong = array_of(shapes[i]), right = array_of("6"), each = array_of("6,5,5");
    const char *path = write_array("wrong.npy", &wrong);
    write_array("right.npy", &right);
    write_array("each.npy", &each);
    static const char *const names[] = {"batch", "layer", "rms", "positional", "ghost"};
    for (int norm = 0; norm < 5; norm++) {
      const char *name = names[norm];
      expect_error(run_command("apply --norm %s --input %s --output %s --scale %s", name,
                               path_of("x.npy"), path_of("y.npy"), path),
                   1, path);
      expect_error(run_command("apply --norm %s --input %s --output %s --shift %s", name,
                               path_of("x.npy"), path_of("y.npy"), path),
                   1, path);
    }
    expect_error(run_command("apply --norm batch --input %s --output %s --running-mean %s "
                             "--running-var %s",
                             path_of("x.npy"), path_of("y.npy"), path, path_of("right.npy")),
                 1, path);
    expect_error(run_command("apply --norm batch --input %s --output %s --running-mean %s "
                             "--running-var %s",
                             path_of("x.npy"), path_of("y.npy"), path_of("right.npy"), path),
                 1, path);
    /* per element for layer and rms alone, and the same reading for both */
    for (int norm = 0; norm < 5; norm++) {
      bool both = norm == 1 || norm == 2;
      expect_error(run_command("apply --norm %s --input %s --output %s --scale %s --shift %s",
                               names[norm], path_of("x.npy"), path_of("y.npy"), path_of("each.npy"),
                               path_of("right.npy")),
                   1, path_of(both ? "right.npy" : "each.npy"));
    }
    cr_expect_not(file_exists("y.npy"));
    array_free(&wrong);
    array_free(&right);
    array_free(&each);
  }
  array_free(&x);
}

Test(files, one_value_per_statistic_cannot_be_trained_on) {
  struct array x = array_of("1,6");
  write_array("x.npy", &x);
  expect_error(
      run_command("apply --norm batch --input %s --output %s", path_of("x.npy"), path_of("y.npy")),
      1, path_of("x.npy"));
  cr_expect_not(file_exists("y.npy"));
  array_free(&x);
}

Test(files, malformed_lists_of_shapes) {
  static const char *const texts[] = {"",
                                      "\n",
                                      "n,c,h,w\n1,2,3,4\n",
                                      "norm,n\nbatch,1\n",
                                      "norm,n,c,h,w\n",
                                      "norm,n,c,h,w\nbatch,1,2,3\n",
                                      "norm,n,c,h,w\nbatch,1,2,3,4,5\n",
                                      "norm,n,c,h,w\nfrobnicate,1,2,3,4\n",
                                      "norm,n,c,h,w\nbatch,1,,3,4\n",
                                      "norm,n,c,h,w\nbatch,1,2,-3,4\n",
                                      "norm,n,c,h,w\nbatch,1,2,x,4\n",
                                      "norm,n,c,h,w\nbatch,0,2,3,4\n",
                                      "norm,n,c,h,w\nbatch,4294967296,4294967296,3,4\n",
                                      "norm,n,c,h,w,groups\ngroup,1,4,3,4,x\n",
                                      "norm,n,c,h,w,ghost_batch\nghost,4,4,3,4,x\n",
                                      "norm,n,c,h,w,ghost_batch\nghost,4,4,3,4,0\n",
                                      "norm,n,c,h,w,ghost_batch\nghost,4,4,3,4,3\n"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    write_bytes("shapes.csv", texts[i], strlen(texts[i]));
    expect_error(run_command("bench --shapes %s", path_of("shapes.csv")), 1, path_of("shapes.csv"));
  }
}

/* The library's errors too, and before anything is measured. */
Test(files, a_list_of_shapes_is_at_fault_with_its_line) {
  static const char *const lines[] = {"group,2,6,3,3,4", "layer,2,6,,,", "batch,1,6,1,1,",
                                      "rms,2,6,,,", "ghost,1,6,1,1,"};
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    char text[200];
    int length = snprintf(text, sizeof text, "norm,n,c,h,w,groups\nlayer,2,6,3,3,\n%s\n", lines[i]);
    write_bytes("shapes.csv", text, (size_t)length);
    struct run run = run_command("bench --axis 3 --shapes %s", path_of("shapes.csv"));
    cr_expect_not_null(strstr(run.err, ": line 3: "), "%s", run.err);
    expect_error(run, 1, path_of("shapes.csv"));
  }
}

Test(files, a_list_of_shapes_may_begin_with_a_byte_order_mark) {
  static const char text[] = "\xef\xbb\xbfnorm,n,c,h,w\nlayer,2,6,3,3\n";
  write_bytes("shapes.csv", text, sizeof text - 1);
  free(expect_done(run_command("bench --passes backward --shapes %s", path_of("shapes.csv"))));
}
