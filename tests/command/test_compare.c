/* SPDX-License-Identifier: MIT */
/* What compare and bench print. No assertion here depends on a measured time. */
#include "run_command.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(compare, .init = make_directory, .fini = remove_directory);

/* A row of the JSON, which the command prints on a line of its own. Null after the last. */
static const char *next_row(const char **text, char row[1024]) {
  const char *begin = strstr(*text, "\n    {");
  if (begin == NULL) return NULL;
  size_t length = strcspn(begin + 1, "\n");
  cr_assert_lt(length, 1024);
  memcpy(row, begin + 1, length);
  row[length] = '\0';
  *text = begin + 1;
  return row;
}

static const char *field(const char *row, const char *name) {
  char key[64];
  snprintf(key, sizeof key, "\"%s\": ", name);
  const char *found = strstr(row, key);
  cr_assert_not_null(found, "no field %s in %s", name, row);
  return found + strlen(key);
}

static bool is_null(const char *row, const char *name) {
  return strncmp(field(row, name), "null", 4) == 0;
}

static double number(const char *row, const char *name) {
  const char *text = field(row, name);
  char *end;
  double value = strtod(text, &end);
  cr_expect(end > text, "%s is no number: %s", name, row);
  return value;
}

static const char *const noises[] = {"mean_noise", "variance_noise", "output_deviation",
                                     "gradient_deviation"};

Test(compare, batch_noise_falls_and_the_others_have_none) {
  char *text = expect_done(run_command("compare --format json")), row[1024];
  cr_expect_not_null(strstr(text, "\"source\": \"recorded\""));
  cr_expect_not_null(strstr(text, "\"dtype\": \"f32\""));
  cr_expect_not_null(strstr(text, "\"threads\": "));
  cr_expect_not_null(strstr(text, "\"isa\": \""));
  static const char *const names[] = {"batch", "layer", "instance", "group"};
  const char *rest = text;
  for (int norm = 0; norm < 4; norm++) {
    double before[4] = {INFINITY, INFINITY, INFINITY, INFINITY};
    for (int batch = 1; batch <= 32; batch *= 2) {
      cr_assert_not_null(next_row(&rest, row));
      cr_expect_eq(strncmp(field(row, "norm") + 1, names[norm], strlen(names[norm])), 0);
      cr_expect_eq(number(row, "batch"), batch);
      cr_expect_eq(is_null(row, "groups"), norm != 3);
      for (int i = 0; i < 4; i++) {
        double value = number(row, noises[i]);
        if (norm == 0)
          cr_expect(value > 0 && value < before[i], "%s at batch %d: %g after %g", noises[i], batch,
                    value, before[i]);
        else
          cr_expect_eq(value, 0, "%s of %s at batch %d: %g", noises[i], names[norm], batch, value);
        before[i] = value;
      }
      static const char *const times[] = {"forward_seconds", "inference_seconds",
                                          "backward_seconds", "copy_seconds"};
      for (int i = 0; i < 4; i++) cr_expect_gt(number(row, times[i]), 0);
      cr_expect_gt(number(row, "values_per_statistic"), 0);
      cr_expect_gt(number(row, "statistics"), 0);
    }
  }
  cr_expect_null(next_row(&rest, row));
  free(text);
}

/* The noise of one call is that of every other with the same seed, whatever rows stand beside. */
Test(compare, the_seed_settles_the_noise) {
  static const char *const calls[] = {
      "compare --norms batch --batch 2,4 --shape 16,4,3,3 --seed 5 --format json",
      "compare --norms batch --batch 4 --shape 16,4,3,3 --seed 5 --threads 1 --format json",
      "compare --norms batch --batch 4 --shape 16,4,3,3 --seed 6 --format json"};
  double values[3];
  for (int i = 0; i < 3; i++) {
    char *text = expect_done(run_command(calls[i])), row[1024];
    const char *rest = text;
    cr_expect_not_null(strstr(text, "\"source\": \"random\", \"shape\": [16,4,3,3]"));
    cr_assert_not_null(next_row(&rest, row));
    if (i == 0) cr_assert_not_null(next_row(&rest, row));
    values[i] = number(row, "output_deviation");
    free(text);
  }
  cr_expect_eq(values[0], values[1]);
  cr_expect_neq(values[0], values[2]);
}

/* Mean noise of two samples, by hand: batches of one from [a, b] lie |a - b| / 2 from their mean,
 * which is one standard deviation of each pixel's... taken over all pixels of the channel. */
Test(compare, mean_noise_is_what_it_says) {
  struct array x = array_of("2,1,1,2");
  const float values[] = {1, 3, 11, 13};
  memcpy(x.data, values, sizeof values);
  const char *path = write_array("x.npy", &x);
  char *text = expect_done(
           run_command("compare --input %s --norms batch --batch 1 --format json", path)),
       row[1024];
  const char *rest = text;
  cr_expect_not_null(strstr(text, path));
  cr_assert_not_null(next_row(&rest, row));
  /* means 2 and 12, of all 7; variances 1 and 1, of all 26 */
  cr_expect_float_eq(number(row, "mean_noise"), 5 / sqrt(26), 1e-5);
  cr_expect_float_eq(number(row, "variance_noise"), 25.0 / 26, 1e-5);
  free(text);
  array_free(&x);
}

/* Whatever the numbers are: other samples have no influence. */
Test(compare, norms_of_single_samples_have_no_noise_even_of_nothing) {
  struct array x = array_of("8,4,3,3");
  write_array("zero.npy", &x);
  fill_normal(&x, 1e-4, 1);
  for (int64_t i = 0; i < x.count; i++) x.data[i] *= 1e-4f;
  write_array("small.npy", &x);
  static const char *const inputs[] = {"zero.npy", "small.npy"};
  for (int i = 0; i < 2; i++)
    for (int k = 0; k < 2; k++) {
      char *text = expect_done(run_command(
               "compare --input %s --epsilon %s --batch 2 --norms batch,layer,instance,group "
               "--format json",
               path_of(inputs[i]), k == 0 ? "1e-5" : "1e30")),
           row[1024];
      const char *rest = text;
      cr_assert_not_null(next_row(&rest, row));
      cr_expect_eq(is_null(row, "mean_noise"), i == 0);
      for (int norm = 1; norm < 4; norm++) {
        cr_assert_not_null(next_row(&rest, row));
        for (int noise = 0; noise < 4; noise++)
          cr_expect(!is_null(row, noises[noise]) && number(row, noises[noise]) == 0, "%s: %s",
                    noises[noise], row);
      }
      free(text);
    }
  array_free(&x);
}

Test(compare, batch_sizes_are_put_in_order) {
  char *text = expect_done(
           run_command("compare --shape 32,4,3,3 --norms group --batch 32,4,1,4 --format json")),
       row[1024];
  static const int due[] = {1, 4, 32};
  const char *rest = text;
  for (int i = 0; i < 3; i++) {
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(number(row, "batch"), due[i]);
  }
  cr_expect_null(next_row(&rest, row));
  free(text);
}

/* Also where every batch is too small for all of them. */
Test(compare, threads_are_those_that_may_be_used) {
  char *version = expect_done(run_command("--version")), due[64];
  snprintf(due, sizeof due, "\"threads\": %d,", atoi(strstr(version, "threads: ") + 9));
  char *text =
      expect_done(run_command("compare --shape 2,4,3,3 --norms group --batch 1 --format json"));
  cr_expect_not_null(strstr(text, due), "%s", text);
  free(version);
  free(text);
}

Test(compare, the_heading_is_one_line_whatever_the_file_is_called) {
  static const char name[] = "a\n\033[2Jb.npy";
  struct array x = normal_array(name, "4,4,3,3", 0, 1);
  char *text =
      expect_done(run_command("compare --norms group --batch 1 --input %s", path_of(name)));
  cr_expect_not_null(strstr(text, "a??[2Jb.npy activations [4,4,3,3]"), "%s", text);
  free(text);
  array_free(&x);
}

Test(compare, a_batch_of_everything_has_no_noise) {
  char *text = expect_done(
           run_command("compare --shape 6,4,3,3 --norms batch --batch 6 --format json")),
       row[1024];
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, row));
  for (int i = 0; i < 4; i++) cr_expect_lt(number(row, noises[i]), 1e-5);
  free(text);
}

Test(compare, rows_that_cannot_be_trained_are_null) {
  char *text = expect_done(run_command("compare --shape 8,4 --batch 1,4 --format json")), row[1024];
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, row)); /* batch normalization of one value each */
  cr_expect(is_null(row, "mean_noise") && is_null(row, "forward_seconds"));
  cr_expect(!is_null(row, "inference_seconds"));
  cr_assert_not_null(next_row(&rest, row));
  cr_expect(!is_null(row, "mean_noise"));
  free(text);
}

Test(compare, the_table_says_what_it_shows) {
  char *text = expect_done(run_command("compare --norms batch,group --batch 1,8"));
  static const char *const due[] = {"recorded", "batch", "group", "noise", "deviation", "copy"};
  for (size_t i = 0; i < sizeof due / sizeof due[0]; i++) cr_expect_not_null(strstr(text, due[i]));
  free(text);
}

static int commas(const char *line) {
  int count = 0;
  bool quoted = false;
  for (; *line != '\0' && *line != '\n'; line++) {
    if (*line == '"') quoted = !quoted;
    count += *line == ',' && !quoted;
  }
  return count;
}

Test(compare, csv_has_as_many_fields_in_every_line) {
  static const char *const calls[] = {"compare --batch 1,2 --format csv",
                                      "compare --shape 8,4 --batch 1 --format csv",
                                      "explain --format csv", "bench --shape 2,4,3,3 --format csv"};
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    char *text = expect_done(run_command(calls[i]));
    int due = commas(text), lines = 0;
    cr_expect_eq(strncmp(text, "norm,groups,", 12), 0);
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1, lines++)
      cr_expect_eq(commas(line), due, "%s", line);
    cr_expect_gt(lines, 4);
    free(text);
  }
}

Test(compare, channels_last_has_the_same_noise) {
  struct run run = run_command("compare --layout nhwc --norms batch --batch 4 --format json");
  if (run.status == 2) {
    run_free(&run);
    skip_test("this library has no channels-last order");
  }
  char *last = expect_done(run), row[1024];
  char *first = expect_done(run_command("compare --norms batch --batch 4 --format json"));
  const char *rest = last;
  cr_assert_not_null(next_row(&rest, row));
  double noise = number(row, "mean_noise");
  rest = first;
  cr_assert_not_null(next_row(&rest, row));
  cr_expect_float_eq(noise, number(row, "mean_noise"), 1e-6);
  free(last);
  free(first);
}

Test(compare, bench_has_every_field_for_every_norm_and_pass) {
  char *text = expect_done(run_command("bench --shape 4,8,6,6 --format json")), row[1024];
  static const char *const passes[] = {"forward-training", "forward-inference", "backward"};
  const char *rest = text;
  for (int i = 0; i < 12; i++) {
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(strncmp(field(row, "pass") + 1, passes[i % 3], strlen(passes[i % 3])), 0);
    cr_expect_eq(strncmp(field(row, "shape"), "[4,8,6,6]", 9), 0);
    cr_expect_eq(strncmp(field(row, "layout"), "\"nchw\"", 6), 0);
    cr_expect_eq(strncmp(field(row, "dtype"), "\"f32\"", 5), 0);
    cr_expect_eq(strncmp(field(row, "limit_kind"), i % 3 == 2 ? "\"triad\"" : "\"copy\"", 6), 0);
    cr_expect_gt(number(row, "seconds"), 0);
    cr_expect_geq(number(row, "seconds"), number(row, "seconds_min"));
    cr_expect_gt(number(row, "limit_seconds"), 0);
    cr_expect_gt(number(row, "ratio"), 0);
  }
  cr_expect_null(next_row(&rest, row));
  free(text);
}

Test(compare, bench_reads_lists_of_shapes_by_their_headings) {
  static const char list[] = "model,norm,n,c,d,h,w,groups\r\n"
                             "one,batch,2,4,,3,3,\r\n"
                             "two,instance,1,4,2,3,3,\n\n"
                             "three,group,2,8,,3,3,4\n"
                             "four,group,2,8,,3,3,\n"
                             "five,layer,2,8,,,,\n";
  write_bytes("shapes.csv", list, sizeof list - 1);
  char *text = expect_done(run_command(
           "bench --norms batch,instance,group --passes backward --format json --shapes %s",
           path_of("shapes.csv"))),
       row[1024];
  static const char *const shapes[] = {"[2,4,3,3]", "[1,4,2,3,3]", "[2,8,3,3]", "[2,8,3,3]"};
  const char *rest = text;
  for (int i = 0; i < 4; i++) {
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(strncmp(field(row, "shape"), shapes[i], strlen(shapes[i])), 0, "%s", row);
    if (i >= 2) cr_expect_eq(number(row, "groups"), 4);
  }
  cr_expect_null(next_row(&rest, row));
  free(text);
}
