/* SPDX-License-Identifier: MIT */
/* Pictures: in text, and through gnuplot. */
#include "run_command.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(explain, .init = make_directory, .fini = remove_directory);

static bool has_gnuplot(void) {
  return system("gnuplot --version >/dev/null 2>&1") == 0;
}

struct explain_case {
  const char *options;
  const char *facts[4]; /* that JSON has */
  const char *rows[3];  /* that the picture has */
};

Test(explain, every_norm_is_explained) {
  static const struct explain_case cases[] = {
      {"--norm batch --shape 2,4,3,3",
       {"\"reduced_axes\": \"N,H,W\"", "\"statistics\": 4,", "\"values_per_statistic\": 18",
        "\"running_statistics\": 4"},
       {"N  0 # . . .", "1 # . . ."}},
      {"--norm layer --shape 2,4,3,3",
       {"\"reduced_axes\": \"C,H,W\"", "\"statistics\": 2,", "\"values_per_statistic\": 36",
        "\"running_statistics\": 0"},
       {"N  0 # # # #", "1 . . . ."}},
      {"--norm instance --shape 2,4,3,3",
       {"\"reduced_axes\": \"H,W\"", "\"statistics\": 8,", "\"values_per_statistic\": 9"},
       {"N  0 # . . .", "1 . . . ."}},
      {"--norm group --groups 2 --shape 2,4,3,3",
       {"\"reduced_axes\": \"C/groups,H,W\"", "\"statistics\": 4,", "\"values_per_statistic\": 18",
        "\"groups\": 2"},
       {"N  0 # # . .", "1 . . . ."}},
      {"--norm layer --axis 3 --shape 2,4,3,3",
       {"\"reduced_axes\": \"W\"", "\"statistics\": 24,", "\"values_per_statistic\": 3"},
       {"N  0 + . . .", "a part of the spatial values", "of 3 values, from axis 3\n"}},
      {"--norm layer --axis 0 --shape 2,4,3,3",
       {"\"reduced_axes\": \"N,C,H,W\"", "\"statistics\": 1,"},
       {"N  0 # # # #", "1 # # # #"}},
      {"--norm batch --shape 5,3", {"\"reduced_axes\": \"N\"", "\"statistics\": 3,"}, {"4 # . ."}},
      {"--norm batch --shape 5,3,7", {"\"reduced_axes\": \"N,L\""}, {"4 # . ."}},
      {"--norm batch --shape 5,3,2,2,2", {"\"reduced_axes\": \"N,D,H,W\""}, {"4 # . ."}},
      {"--norm group --shape 32,64,56,56",
       {"\"groups\": 32", "\"statistics\": 1024,"},
       {"N  0 # # . . . . . .", "6 of 32 samples, 8 of 64 channels"}},
      {"--norm rms --shape 2,4,3,3",
       {"\"reduced_axes\": \"C,H,W\"", "\"statistics\": 2,", "\"values_per_statistic\": 36",
        "\"ghost_batch\": null"},
       {"N  0 # # # #", "1 . . . .", "shares the first mean square"}},
      {"--norm rms --axis -1 --shape 2,4,3,3", {"\"reduced_axes\": \"W\""}, {"N  0 + . . ."}},
      {"--norm positional --shape 2,4,3,3",
       {"\"reduced_axes\": \"C\"", "\"statistics\": 18,", "\"values_per_statistic\": 4",
        "\"running_statistics\": 0"},
       {"N  0 + + + +", "1 . . . .", "a part of the spatial values"}},
      {"--norm positional --shape 2,4",
       {"\"reduced_axes\": \"C\"", "\"statistics\": 2,"},
       {"N  0 # # # #", "1 . . . ."}},
      {"--norm ghost --shape 4,6,3,3",
       {"\"reduced_axes\": \"N/groups,H,W\"", "\"statistics\": 12,",
        "\"groups\": null, \"ghost_batch\": 2,", "\"running_statistics\": 6"},
       {"N in 2 ghost batches", "1 # . . . . .", "2 . . . . . ."}},
      {"--norm ghost --ghost-batch 4 --shape 32,64,56,56",
       {"\"ghost_batch\": 4,", "\"statistics\": 512,"},
       {"1 # . . . . . . .", "2 . . . . . . . .", "6 of 32 samples"}},
      {"--norm group --shape 2,48,2,2", {"\"groups\": 24"}, {NULL}},
      {"--norm group --shape 2,7,2,2", {"\"groups\": 1,"}, {NULL}},
      {"--norm group --shape 2,1,2,2", {"\"groups\": 1,"}, {NULL}},
      {"--norm group --shape 2,96,2,2", {"\"groups\": 32"}, {NULL}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char line[200];
    snprintf(line, sizeof line, "explain %s --format json", cases[i].options);
    char *text = expect_done(run_command(line));
    for (int k = 0; k < 4 && cases[i].facts[k] != NULL; k++)
      cr_expect_not_null(strstr(text, cases[i].facts[k]), "%s is not in %s", cases[i].facts[k],
                         text);
    cr_expect_not_null(strstr(text, "\"values_per_task\": "));
    free(text);
    snprintf(line, sizeof line, "explain %s", cases[i].options);
    text = expect_done(run_command(line));
    for (int k = 0; k < 3 && cases[i].rows[k] != NULL; k++)
      cr_expect_not_null(strstr(text, cases[i].rows[k]), "%s is not in %s", cases[i].rows[k], text);
    free(text);
  }
}

Test(explain, all_norms_are_explained_without_one) {
  char *text = expect_done(run_command("explain"));
  static const char *const due[] = {"\nbatch: ", "\nlayer: ",      "\ninstance: ", "\ngroup: ",
                                    "\nrms: ",   "\npositional: ", "\nghost: "};
  for (int i = 0; i < 7; i++) cr_expect_not_null(strstr(text, due[i]));
  free(text);
}

Test(explain, the_table_says_what_its_columns_are) {
  static const char *const due[] = {"\nreduced axes ", "\nthread task ", "\nscale, shift ",
                                    "\nworkspace "};
  char *text = expect_done(run_command("explain --norm batch"));
  for (int i = 0; i < 4; i++) cr_expect_not_null(strstr(text, due[i]), "%s: %s", due[i], text);
  free(text);
}

/* The coloured polygons of a figure, by their fill. */
static int coloured_faces(const char *options) {
  static const char *const fills[] = {"rgb( 47, 134, 193)", "rgb( 11, 106, 168)",
                                      "rgb(109, 179, 224)"};
  char line[200];
  snprintf(line, sizeof line, "explain %s --plot %%s", options);
  free(expect_done(run_command(line, path_of("figure.svg"))));
  size_t size;
  char *text = read_text("figure.svg", &size);
  int count = 0;
  for (int i = 0; i < 3; i++)
    for (const char *at = text; (at = strstr(at, fills[i])) != NULL; at++) count++;
  free(text);
  return count;
}

/* Of a block of 4 x 6 x 9 cells, those in sight: in front, at the side, on top. */
Test(explain, the_figure_colours_what_shares_a_statistic) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  cr_expect_eq(coloured_faces("--norm batch --shape 4,6,3,3"), 9 + 4 * 9 + 4);
  cr_expect_eq(coloured_faces("--norm rms --shape 4,6,3,3"), 6 * 9 + 9 + 6);
  cr_expect_eq(coloured_faces("--norm positional --shape 4,6,3,3"), 6 + 1 + 6);
  cr_expect_eq(coloured_faces("--norm ghost --ghost-batch 2 --shape 4,6,3,3"), 9 + 2 * 9 + 2);
}

static bool figure_has(const char *call, const char *text) {
  size_t size;
  free(expect_done(run_command(call, path_of("figure.svg"))));
  char *figure = read_text("figure.svg", &size);
  bool has = strstr(figure, text) != NULL;
  free(figure);
  return has;
}

Test(explain, figures_name_the_axis_that_layer_starts_from) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  cr_expect(figure_has("explain --norm layer --axis -1 --plot %s", ", from axis 3<"));
  cr_expect(!figure_has("explain --norm layer --plot %s", "from axis"));
}

/* Batch sizes that stand too near each other are not all written under their axis. */
Test(explain, batch_sizes_in_a_figure_have_room) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  cr_expect(figure_has("compare --shape 40,2 --norms rms --batch 1,2,31 --plot %s", ">31<"));
  cr_expect(!figure_has("compare --shape 40,2 --norms rms --batch 1,2,30,31 --plot %s", ">31<"));
}

static void expect_size(const char *call, const char *size) {
  size_t bytes;
  free(expect_done(run_command(call, path_of("figure.svg"))));
  char *text = read_text("figure.svg", &bytes);
  cr_expect_not_null(strstr(text, size), "%s: not %s", call, size);
  free(text);
}

/* Four panels in a row; a key of more than four norms needs room. */
Test(explain, figures_grow_with_the_norms) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  expect_size("explain --norms batch,layer,instance,group --plot %s",
              "width=\"1120\" height=\"390\"");
  expect_size("explain --plot %s", "width=\"1120\" height=\"780\"");
  expect_size("compare --batch 2 --plot %s", "width=\"960\" height=\"400\"");
  expect_size(
      "compare --batch 2,16 --norms batch,layer,instance,group,rms,positional,ghost --plot %s",
      "width=\"1280\" height=\"520\"");
}

Test(explain, a_missing_gnuplot_is_one_line) {
  struct setting none = {.variable = "PATH", .value = "/nonexistent"};
  expect_error(run_with(&none, "explain --plot %s", path_of("x.svg")), 1, "gnuplot");
  expect_error(run_with(&none, "compare --plot %s", path_of("x.png")), 1, "gnuplot");
  cr_expect_eq(files_in_directory(), 0);
}

/* One that fails must not leave its half of a figure. */
Test(explain, a_failing_gnuplot_is_one_line) {
  static const char *const scripts[] = {
      "#!/bin/sh\nread line\n[ \"$line\" = exit ] || { echo half; echo broken >&2; exit 3; }\n",
      "#!/bin/sh\nexit 1\n", "#!/bin/sh\nread line\n[ \"$line\" = exit ] || kill -9 $$\n",
      "not a program"};
  struct setting broken = {.variable = "PATH", .value = directory};
  for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
    char line[200];
    write_bytes("gnuplot", scripts[i], strlen(scripts[i]));
    snprintf(line, sizeof line, "chmod +x %s", path_of("gnuplot"));
    cr_assert_eq(system(line), 0);
    struct run run = run_with(&broken, "explain --norm batch --plot %s", path_of("x.svg"));
    cr_expect_eq(run.status, 1, "script %zu", i);
    cr_expect_eq(strncmp(run.err, "axisnorm: gnuplot: ", 19), 0, "%s", run.err);
    cr_expect_eq(strchr(run.err, '\n'), run.err + strlen(run.err) - 1);
    run_free(&run);
    cr_expect_eq(files_in_directory(), 1);
  }
}

static void expect_figure(const char *name) {
  size_t size;
  char *bytes = read_text(name, &size);
  cr_expect_gt(size, 2000);
  if (strstr(name, ".png") != NULL)
    cr_expect_eq(memcmp(bytes, "\x89PNG", 4), 0);
  else {
    cr_expect_not_null(strstr(bytes, "<svg"));
    cr_expect_not_null(strstr(bytes, "</svg>"));
  }
  free(bytes);
}

/* As SVG, some of each kind as PNG too. */
Test(explain, figures_are_drawn) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  static const char *const calls[] = {"explain --plot %s",
                                      "explain --norm group --groups 2 --shape 2,4,3,3 --plot %s",
                                      "explain --norm layer --axis 3 --shape 32,64,56,56 --plot %s",
                                      "explain --norm instance --shape 8,16 --plot %s",
                                      "explain --norm batch --shape 8,16,100 --plot %s",
                                      "explain --norm batch --shape 8,16,4,4,4 --plot %s",
                                      "explain --norms rms,positional,ghost --plot %s",
                                      "explain --norm positional --shape 32,64,56,56 --plot %s",
                                      "explain --norm ghost --shape 8,16 --plot %s",
                                      "compare --batch 1,4 --plot %s",
                                      "compare --norms group --batch 2 --plot %s",
                                      "compare --shape 8,4 --plot %s"};
  static const char *const names[] = {"figure.svg", "figure.png"};
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
    for (int k = 0; k < (i % 3 ? 1 : 2); k++) {
      free(expect_done(run_command(calls[i], path_of(names[k]))));
      expect_figure(names[k]);
      cr_expect_eq(files_in_directory(), 1, "%s", calls[i]);
      remove(path_of(names[k]));
    }
}

/* gnuplot takes no notice where it cannot write. */
Test(explain, a_full_disk_leaves_no_figure) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  static const char *const names[] = {"figure.svg", "figure.png"};
  for (int k = 0; k < 2; k++) {
    size_t size;
    free(expect_done(run_command("explain --plot %s", path_of(names[k]))));
    free(read_text(names[k], &size));
    remove(path_of(names[k]));
    for (long limit = (long)size - 1; limit > 1000; limit /= 3) {
      struct setting full = {.file_size_limit = limit};
      struct run run = run_with(&full, "explain --plot %s --format csv", path_of(names[k]));
      cr_expect_eq(run.status, 1, "%s, %ld bytes", names[k], limit);
      cr_expect_not_null(strstr(run.err, "File too large"), "%s", run.err);
      run_free(&run);
      cr_expect_eq(files_in_directory(), 0, "%s, %ld bytes", names[k], limit);
    }
  }
}

/* Inputs that leave norms without numbers. */
Test(explain, figures_are_drawn_where_numbers_are_missing) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  struct array nan = normal_array("nan.npy", "8,4,3,3", 0, 1);
  nan.data[0] = NAN;
  write_array("nan.npy", &nan);
  struct array constant = array_of("8,4,3,3"), single = normal_array("single.npy", "8,6,1,1", 0, 1);
  write_array("constant.npy", &constant);
  static const char *const inputs[] = {"nan.npy", "constant.npy", "single.npy"};
  static const char *const more[] = {" --batch 1,8", " --norms batch --batch 1,8",
                                     " --norms instance --batch 1"};
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 3; k++) {
      char line[120];
      snprintf(line, sizeof line, "compare%s --input %%s --plot %%s", more[k]);
      free(expect_done(run_command(line, path_of(inputs[i]), path_of("figure.svg"))));
      expect_figure("figure.svg");
      remove(path_of("figure.svg"));
    }
  array_free(&nan);
  array_free(&constant);
  array_free(&single);
}

Test(explain, a_gnuplot_that_draws_nothing_is_an_error) {
  static const char script[] = "#!/bin/sh\nexit 0\n";
  struct setting idle = {.variable = "PATH", .value = directory};
  write_bytes("gnuplot", script, sizeof script - 1);
  char line[200];
  snprintf(line, sizeof line, "chmod +x %s", path_of("gnuplot"));
  cr_assert_eq(system(line), 0);
  struct run run = run_with(&idle, "explain --plot %s", path_of("x.svg"));
  cr_expect_eq(run.status, 1);
  cr_expect_eq(strncmp(run.err, "axisnorm: gnuplot: ", 19), 0, "%s", run.err);
  run_free(&run);
  cr_expect_eq(files_in_directory(), 1);
}

/* It only looks: nothing of that size is ever allocated. */
Test(explain, the_largest_shapes_are_explained) {
  free(expect_done(run_command("explain --norm layer --shape 65536,65536,64,64")));
  free(expect_done(run_command("explain --shape 1048576,1048576,64,64")));
}

/* A name is only ever a name, to the shell and to gnuplot. */
Test(explain, figures_may_have_any_name) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  static const char name[] = "it's \"a\" $(figure)`\n;.svg";
  free(expect_done(run_command("explain --norm batch --plot %s", path_of(name))));
  expect_figure(name);
}

Test(explain, no_figure_where_the_results_could_not_be_printed) {
  if (!has_gnuplot()) skip_test("gnuplot is not here");
  struct setting full = {.stdout_path = "/dev/full"};
  expect_error(run_with(&full, "explain --plot %s", path_of("x.svg")), 1, "standard output");
  cr_expect_eq(files_in_directory(), 0);
}

/* Types and activations move no statistic. */
Test(explain, takes_types_and_activations) {
  static const char *const more[] = {"", " --dtype f64", " --dtype bf16 --activation gelu-tanh",
                                     " --dtype f16 --activation leaky-relu --negative-slope 0.2"};
  for (int i = 0; i < 4; i++) {
    char line[200];
    snprintf(line, sizeof line, "explain --norm group --shape 2,4,3,3 --groups 2 --format json%s",
             more[i]);
    char *text = expect_done(run_command(line));
    cr_expect_not_null(strstr(text, "\"statistics\": 4, \"values_per_statistic\": 18,"), "%s",
                       text);
    free(text);
  }
}
