/* SPDX-License-Identifier: MIT */
/* What compare and bench print. No assertion here depends on a measured time. */
#define _GNU_SOURCE /* the cache sizes of sysconf are glibc's own */
#include "formulas.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
      char *text = expect_done(
               run_command("compare --input %s --epsilon %s --batch 2 "
                           "--norms batch,layer,instance,group,rms,positional --format json",
                           path_of(inputs[i]), k == 0 ? "1e-5" : "1e30")),
           row[1024];
      const char *rest = text;
      cr_assert_not_null(next_row(&rest, row));
      cr_expect_eq(is_null(row, "mean_noise"), i == 0);
      for (int norm = LAYER; norm <= POSITIONAL; norm++) {
        cr_assert_not_null(next_row(&rest, row));
        for (int noise = 0; noise < 4; noise++)
          cr_expect(!is_null(row, noises[noise]) && number(row, noises[noise]) == 0, "%s: %s",
                    noises[noise], row);
      }
      free(text);
    }
  array_free(&x);
}

/* Ghost batches of one sample: every sample comes once in a shuffle, so that the noise is that of all
 * samples' own statistics, whatever the draw. */
Test(compare, ghost_noise_is_that_of_its_ghost_batches) {
  struct array x = normal_array("x.npy", "8,3,2,5", 2, 3);
  struct moments each = moments_of(INSTANCE, &x), whole = moments_of(BATCH, &x);
  double mean = 0, variance = 0, difference = 0, square = 0;
  for (int i = 0; i < 24; i++) {
    mean += pow(each.mean[i] - whole.mean[i % 3], 2) / whole.variance[i % 3] / 24;
    variance += pow(each.variance[i] / whole.variance[i % 3] - 1, 2) / 24;
  }
  for (int64_t i = 0; i < x.count; i++) {
    int64_t k = statistic_of(INSTANCE, &x, i), c = channel_of(&x, i);
    double own = (x.data[i] - each.mean[k]) / sqrt(each.variance[k] + 1e-5);
    double population = (x.data[i] - whole.mean[c]) / sqrt(whole.variance[c] + 1e-5);
    difference += pow(own - population, 2);
    square += pow(population, 2);
  }
  char *text = expect_done(
           run_command("compare --input %s --norms ghost --ghost-batch 1 --batch 4 --format json",
                       path_of("x.npy"))),
       row[1024];
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, row));
  expect_near(number(row, "mean_noise"), sqrt(mean), 1e-6, "noise of the mean");
  expect_near(number(row, "variance_noise"), sqrt(variance), 1e-6, "noise of the variance");
  expect_near(number(row, "output_deviation"), sqrt(difference / square), 1e-6, "deviation");
  cr_expect_gt(number(row, "gradient_deviation"), 0);
  free(text);
  moments_free(&each);
  moments_free(&whole);
  array_free(&x);
}

/* Then it is batch normalization, drawn from the same seed. */
Test(compare, a_ghost_batch_of_the_whole_batch_has_the_noise_of_batch_normalization) {
  char *text = expect_done(run_command("compare --norms batch,ghost --batch 4 --ghost-batch 4 "
                                       "--format json")),
       batch[1024], ghost[1024];
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, batch));
  cr_assert_not_null(next_row(&rest, ghost));
  for (int i = 0; i < 4; i++)
    cr_expect_eq(number(batch, noises[i]), number(ghost, noises[i]), "%s", noises[i]);
  free(text);
}

/* -1, -1, 1, 1 in pairs: two of equals, whose means are a deviation off, in a third of all shuffles. */
Test(compare, ghost_batches_of_the_whole_input_are_drawn_as_often_as_others) {
  struct array x = array_of("4,1,1");
  for (int i = 0; i < 4; i++) x.data[i] = i < 2 ? -1 : 1;
  char *text = expect_done(
           run_command("compare --input %s --norms ghost --batch 4 --ghost-batch 2 --format json",
                       write_array("x.npy", &x))),
       row[1024];
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, row));
  cr_expect_float_eq(number(row, "mean_noise"), sqrt(1.0 / 3), 0.2, "%s", row);
  free(text);
  array_free(&x);
}

struct ghost_case {
  const char *options;
  int count, batches[6], ghosts[6];
};

/* The largest divisor of a batch that is no larger than what is asked for, or than 8. */
Test(compare, a_ghost_batch_is_cut_to_a_divisor_of_every_batch) {
  static const struct ghost_case cases[] = {
      {"", 6, {1, 2, 4, 8, 16, 32}, {1, 2, 4, 8, 8, 8}},
      {" --ghost-batch 4 --batch 1,3,6,8,12,14", 6, {1, 3, 6, 8, 12, 14}, {1, 3, 3, 4, 4, 2}},
      {" --ghost-batch 40 --batch 7,40", 2, {7, 40}, {7, 40}}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char line[200], row[1024];
    snprintf(line, sizeof line, "compare --norms ghost --shape 64,4,3,3 --format json%s",
             cases[i].options);
    char *text = expect_done(run_command(line));
    const char *rest = text;
    for (int k = 0; k < cases[i].count; k++) {
      cr_assert_not_null(next_row(&rest, row));
      cr_expect_eq(number(row, "batch"), cases[i].batches[k]);
      cr_expect_eq(number(row, "ghost_batch"), cases[i].ghosts[k], "%s", row);
      cr_expect(is_null(row, "groups"));
      cr_expect_eq(number(row, "values_per_statistic"), cases[i].ghosts[k] * 9);
      cr_expect_eq(number(row, "statistics"), cases[i].batches[k] / cases[i].ghosts[k] * 4);
    }
    cr_expect_null(next_row(&rest, row));
    free(text);
  }
}

/* Over the whole batch: second moments 5 and 145 of two samples, of all 75. */
Test(compare, rms_has_the_noise_of_its_second_moment) {
  struct array x = array_of("2,1,1,2");
  const float values[] = {1, 3, 11, 13};
  memcpy(x.data, values, sizeof values);
  const char *path = write_array("x.npy", &x);
  char *text = expect_done(
           run_command("compare --input %s --norms rms --axis 0 --batch 1,2 --format json", path)),
       row[1024];
  const char *rest = text;
  double difference = 0;
  for (int i = 0; i < 4; i++)
    difference += pow(values[i] / sqrt((i < 2 ? 5 : 145) + 1e-5) - values[i] / sqrt(75 + 1e-5), 2);
  cr_assert_not_null(next_row(&rest, row));
  cr_expect_eq(number(row, "mean_noise"), 0);
  expect_near(number(row, "variance_noise"), 70.0 / 75, 1e-7, "noise of the second moment");
  expect_near(number(row, "output_deviation"), sqrt(difference / 4), 1e-6, "deviation");
  cr_assert_not_null(next_row(&rest, row));
  cr_expect_lt(number(row, "variance_noise"), 1e-9);
  free(text);
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

/* What rounding leaves of nothing is told from an exact 0, but not spelled out. */
Test(compare, the_table_rounds_what_is_next_to_nothing) {
  char *text = expect_done(run_command("compare --shape 6,4,3,3 --norms batch,layer --batch 6"));
  cr_expect_not_null(strstr(text, "<0.01%"), "%s", text);
  cr_expect_null(strstr(text, "e-"), "%s", text);
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

/* Ghost batches of one value too. */
Test(compare, rows_of_ghost_batches_that_cannot_be_trained_are_null) {
  char *text = expect_done(run_command(
           "compare --shape 8,4 --norms ghost --ghost-batch 2 --batch 3,4 --format json")),
       row[1024];
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, row));
  cr_expect_eq(number(row, "ghost_batch"), 1);
  cr_expect(is_null(row, "mean_noise") && is_null(row, "forward_seconds"));
  cr_expect(!is_null(row, "inference_seconds"));
  cr_assert_not_null(next_row(&rest, row));
  cr_expect(!is_null(row, "mean_noise") && !is_null(row, "backward_seconds"));
  free(text);
}

/* Where no norm has groups or ghost batches, the table has no column of them. */
Test(compare, the_table_leaves_out_what_applies_to_no_row) {
  char *text = expect_done(run_command("compare --norms batch --batch 8"));
  cr_expect(strstr(text, "ghost") == NULL && strstr(text, "groups") == NULL, "%s", text);
  free(text);
  text = expect_done(run_command("compare --norms batch,ghost,group --batch 8"));
  cr_expect(strstr(text, "ghost") != NULL && strstr(text, "groups") != NULL, "%s", text);
  free(text);
  text = expect_done(run_command("bench --norms rms --shape 2,4,3,3 --passes backward"));
  cr_expect_null(strstr(text, "groups"));
  free(text);
}

Test(compare, the_table_says_what_it_shows) {
  char *text = expect_done(run_command("compare --norms batch,group --batch 1,8"));
  static const char *const due[] = {"recorded", "batch", "group", "noise", "deviation", "copy"};
  for (size_t i = 0; i < sizeof due / sizeof due[0]; i++) cr_expect_not_null(strstr(text, due[i]));
  free(text);
}

/* A dash is explained where there is one: here every statistic has one value. */
Test(compare, the_table_explains_its_dashes) {
  static const char *const legend = "\n-          not defined";
  char *text = expect_done(run_command("compare --shape 4,3 --norms batch --batch 1"));
  cr_expect_not_null(strstr(text, legend), "%s", text);
  free(text);
  text = expect_done(run_command("compare --shape 4,3 --norms batch --batch 2"));
  cr_expect_null(strstr(text, legend), "%s", text);
  free(text);
}

/* A batch that is most of the samples has their statistics, whatever norm: that is no promise. */
Test(compare, the_table_warns_of_few_samples) {
  char *text = expect_done(run_command("compare --shape 12,4 --norms batch --batch 1,4"));
  cr_expect_not_null(strstr(text, "\nsamples    12 in all are the population"), "%s", text);
  free(text);
  text = expect_done(run_command("compare --shape 12,4 --norms batch --batch 1,3"));
  cr_expect_null(strstr(text, "\nsamples"), "%s", text);
  free(text);
}

Test(compare, the_table_of_bench_says_what_its_limit_is) {
  char *text = expect_done(run_command("bench --norms rms --shape 2,4,3,3 --passes backward"));
  cr_expect_not_null(strstr(text, "\nlimit "), "%s", text);
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
  struct run run =
      run_command("compare --layout nhwc --norms batch,ghost,positional --batch 16 --format json");
  if (run.status == 2) {
    run_free(&run);
    skip_test("this library has no channels-last order");
  }
  char *last = expect_done(run), row[1024];
  char *first =
      expect_done(run_command("compare --norms batch,ghost,positional --batch 16 --format json"));
  const char *rest = last, *first_rest = first;
  for (int norm = 0; norm < 3; norm++) {
    cr_assert_not_null(next_row(&rest, row));
    double noise = number(row, "mean_noise"), variance = number(row, "variance_noise");
    cr_assert_not_null(next_row(&first_rest, row));
    cr_expect_float_eq(noise, number(row, "mean_noise"), 1e-6);
    cr_expect_float_eq(variance, number(row, "variance_noise"), 1e-6);
  }
  free(last);
  free(first);
}

Test(compare, bench_measures_four_norms_without_a_list) {
  char *text = expect_done(run_command("bench --shape 4,8,6,6 --passes backward --format json")),
       row[1024];
  const char *rest = text;
  for (int norm = BATCH; norm <= GROUP; norm++) {
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(strncmp(field(row, "norm") + 1, norms[norm], strlen(norms[norm])), 0);
  }
  cr_expect_null(next_row(&rest, row));
  free(text);
}

Test(compare, bench_has_every_field_for_every_norm_and_pass) {
  char *text = expect_done(run_command(
           "bench --norms batch,layer,instance,group,rms,positional,ghost --shape 4,8,6,6 "
           "--format json")),
       row[1024];
  static const char *const passes[] = {"forward-training", "forward-inference", "backward"};
  const char *rest = text;
  for (int i = 0; i < 3 * NORMS; i++) {
    const char *norm = norms[i / 3];
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(strncmp(field(row, "norm") + 1, norm, strlen(norm)), 0);
    cr_expect_eq(is_null(row, "groups"), i / 3 != GROUP);
    if (i / 3 == GHOST)
      cr_expect_eq(number(row, "ghost_batch"), 2);
    else
      cr_expect(is_null(row, "ghost_batch"));
    cr_expect_eq(strncmp(field(row, "pass") + 1, passes[i % 3], strlen(passes[i % 3])), 0);
    cr_expect_eq(strncmp(field(row, "shape"), "[4,8,6,6]", 9), 0);
    cr_expect_eq(strncmp(field(row, "layout"), "\"nchw\"", 6), 0);
    cr_expect_eq(strncmp(field(row, "dtype"), "\"f32\"", 5), 0);
    cr_expect(is_null(row, "activation") && is_null(row, "residual"));
    cr_expect_eq(strncmp(field(row, "limit_kind"), i % 3 == 2 ? "\"triad\"" : "\"copy\"", 6), 0);
    cr_expect_gt(number(row, "seconds"), 0);
    cr_expect_geq(number(row, "seconds"), number(row, "seconds_min"));
    cr_expect_gt(number(row, "limit_seconds"), 0);
    cr_expect_gt(number(row, "ratio"), 0);
  }
  cr_expect_null(next_row(&rest, row));
  free(text);
}

static void expect_text(const char *row, const char *name, const char *due) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", due);
  cr_expect_eq(strncmp(field(row, name), quoted, strlen(quoted)), 0, "%s: no %s in %s", name, due,
               row);
}

/* One scale for each channel, with layer and rms for each element. */
Test(compare, bench_takes_scale_and_shift) {
  static const char *const norms[] = {"batch", "layer", "rms", "positional"};
  static const char *const types[] = {"f32", "bf16", "f64"};
  for (int i = 0; i < 12; i++) {
    char line[160], row[1024];
    bool affine = i % 5 != 0;
    snprintf(line, sizeof line,
             "bench --norm %s --shape 4,8,3,3 --dtype %s --affine %s --format json", norms[i % 4],
             types[i / 4], affine ? "yes" : "no");
    char *text = expect_done(run_command(line));
    const char *rest = text;
    for (int pass = 0; pass < 3; pass++) {
      cr_assert_not_null(next_row(&rest, row));
      if (affine)
        expect_text(row, "affine", "yes");
      else
        cr_expect(is_null(row, "affine"));
      cr_expect_gt(number(row, "ratio"), 0);
    }
    free(text);
  }
}

/* A residual is read beside x, and behind an activation has a gradient of its own. */
Test(compare, bench_takes_types_activations_and_residuals) {
  static const char *const types[] = {"f32", "f64", "bf16", "f16"};
  static const char *const activations[] = {"none", "relu", "leaky-relu --negative-slope 0.2",
                                            "silu", "gelu", "gelu-tanh"};
  static const char *const names[] = {NULL, "relu", "leaky-relu", "silu", "gelu", "gelu-tanh"};
  for (int i = 0; i < 8; i++) {
    int activation = i % 6;
    bool residual = i / 2 % 2 == 1;
    char line[200], row[1024];
    snprintf(line, sizeof line,
             "bench --norms batch --shape 4,8,3,3 --dtype %s --activation %s --residual %s "
             "--format json",
             types[i % 4], activations[activation], residual ? "yes" : "no");
    char *text = expect_done(run_command(line));
    const char *rest = text;
    for (int pass = 0; pass < 3; pass++) {
      cr_assert_not_null(next_row(&rest, row));
      expect_text(row, "dtype", types[i % 4]);
      if (names[activation] == NULL)
        cr_expect(is_null(row, "activation"));
      else
        expect_text(row, "activation", names[activation]);
      if (residual)
        expect_text(row, "residual", "yes");
      else
        cr_expect(is_null(row, "residual"));
      expect_text(row, "limit_kind",
                  pass < 2                                ? residual ? "triad" : "copy"
                  : residual && names[activation] != NULL ? "copy+triad"
                                                          : "triad");
      cr_expect_gt(number(row, "ratio"), 0);
    }
    free(text);
  }
}

Test(compare, the_table_has_activation_and_residual_where_there_are_any) {
  char *text = expect_done(run_command("bench --norms rms --shape 2,4,3,3 --passes backward"));
  cr_expect(strstr(text, "activation") == NULL && strstr(text, "residual") == NULL, "%s", text);
  free(text);
  text = expect_done(run_command("bench --norms rms --shape 2,4,3,3 --passes backward "
                                 "--activation silu --residual yes"));
  cr_expect(strstr(text, "activation") != NULL && strstr(text, "silu") != NULL, "%s", text);
  cr_expect(strstr(text, "residual") != NULL && strstr(text, "yes") != NULL, "%s", text);
  free(text);
}

/* The noise of the statistics is that of the values, of whatever type; an activation follows them. */
Test(compare, takes_types_and_activations) {
  static const char *const options[] = {"", " --dtype f64", " --dtype f16", " --dtype bf16",
                                        " --activation relu"};
  double first[2] = {0};
  for (int i = 0; i < 5; i++) {
    char line[200], row[1024];
    snprintf(line, sizeof line, "compare --norms batch,layer --batch 4 --format json%s",
             options[i]);
    char *text = expect_done(run_command(line));
    const char *rest = text;
    char dtype[32];
    snprintf(dtype, sizeof dtype, "\"dtype\": \"%s\"", i % 4 == 0 ? "f32" : options[i] + 9);
    cr_expect_not_null(strstr(text, dtype), "no %s", dtype);
    cr_assert_not_null(next_row(&rest, row));
    double noise = number(row, "mean_noise"), deviation = number(row, "output_deviation");
    if (i == 0) first[0] = noise, first[1] = deviation;
    cr_expect_float_eq(noise, first[0], i == 3 ? 1e-3 : 2e-5, "%s: %g, %g", options[i], noise,
                       first[0]);
    if (i < 4)
      cr_expect_float_eq(deviation, first[1], i == 3 ? 1e-3 : 2e-5);
    else
      cr_expect_gt(fabs(deviation - first[1]), 1e-3, "the activation leaves no trace");
    if (i < 4)
      cr_expect(is_null(row, "activation"));
    else
      expect_text(row, "activation", "relu");
    cr_assert_not_null(next_row(&rest, row));
    for (int k = 0; k < 4; k++) cr_expect_eq(number(row, noises[k]), 0, "%s", noises[k]);
    free(text);
  }
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

/* Without --norms every line counts; an empty ghost batch is the option's, or the default. */
Test(compare, bench_reads_ghost_batches_from_lists_of_shapes) {
  static const char list[] = "norm,n,c,h,w,ghost_batch\n"
                             "ghost,8,4,3,3,2\n"
                             "ghost,8,4,3,3,\n"
                             "rms,2,8,,,\n"
                             "positional,2,8,3,3,\n";
  write_bytes("shapes.csv", list, sizeof list - 1);
  static const char *const options[] = {"", " --ghost-batch 8"};
  for (int i = 0; i < 2; i++) {
    char line[200], row[1024];
    snprintf(line, sizeof line, "bench --passes backward --format json%s --shapes %%s", options[i]);
    char *text = expect_done(run_command(line, path_of("shapes.csv")));
    const char *rest = text;
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(number(row, "ghost_batch"), 2);
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(number(row, "ghost_batch"), i == 0 ? 4 : 8);
    cr_assert_not_null(next_row(&rest, row));
    cr_assert_not_null(next_row(&rest, row));
    cr_expect_eq(strncmp(field(row, "norm"), "\"positional\"", 12), 0);
    cr_expect_null(next_row(&rest, row));
    free(text);
  }
}

/* What bench takes for the room of a core, in floats. */
static int64_t private_cache_floats(void) {
  long bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  return (bytes > 0 ? bytes : 1 << 20) / 4;
}

static void expect_limit(const char *norm, const char *layout, int64_t n, int64_t c,
                         int64_t spatial, const char *kind) {
  char line[200], row[1024], quoted[32];
  snprintf(line, sizeof line,
           "bench --threads 1 --norm %s --layout %s --shape %lld,%lld,%lld "
           "--passes forward-training --format json",
           norm, layout, (long long)n, (long long)c, (long long)spatial);
  char *text = expect_done(run_command(line));
  const char *rest = text;
  cr_assert_not_null(next_row(&rest, row));
  snprintf(quoted, sizeof quoted, "\"%s\"", kind);
  cr_expect_eq(strncmp(field(row, "limit_kind"), quoted, strlen(quoted)), 0, "%s: %s", kind, row);
  free(text);
}

/* Memory moves lines of 16 floats: a statistic takes as much room as all that share its lines. */
Test(compare, bench_reads_twice_where_the_lines_of_a_statistic_exceed_the_cache) {
  const int64_t most = private_cache_floats();
  expect_limit("positional", "nchw", 1, most / 16, 32, "copy");
  expect_limit("positional", "nchw", 1, most / 16 + 1, 32, "read+copy");
  expect_limit("positional", "nchw", 1, most / 2, 2, "copy"); /* 2 positions in a line */
  expect_limit("positional", "nchw", 1, most / 2 + 1, 2, "read+copy");
  expect_limit("positional", "nhwc", 1, most, 2, "copy");
  expect_limit("positional", "nhwc", 1, most + 1, 2, "read+copy");
  expect_limit("rms", "nchw", 2, most / 2, 2, "copy");
  expect_limit("rms", "nchw", 2, most / 2 + 1, 2, "read+copy");
  expect_limit("rms --dtype bf16", "nchw", 2, most, 2, "copy"); /* elements of half the size */
  expect_limit("rms --dtype bf16", "nchw", 2, most + 1, 2, "read+copy");
  expect_limit("rms --dtype f64 --residual yes", "nchw", 2, most / 4, 2, "triad");
  expect_limit("rms --dtype f64 --residual yes", "nchw", 2, most / 4 + 1, 2, "read+triad");
  expect_limit("positional --dtype f16", "nchw", 1, most / 16, 32, "copy"); /* 32 in a line */
  expect_limit("positional --dtype f16", "nchw", 1, most / 16 + 1, 32, "read+copy");
  expect_limit("ghost --ghost-batch 2", "nchw", 4, 1, most / 2, "copy");
  expect_limit("ghost --ghost-batch 2", "nchw", 4, 1, most / 2 + 1, "read+copy");
  expect_limit("ghost --ghost-batch 2", "nhwc", 4, 16, most / 32, "copy");
  expect_limit("ghost --ghost-batch 2", "nhwc", 4, 16, most / 32 + 1, "read+copy");
  expect_limit("batch", "nchw", most / 16, 32, 1, "copy"); /* neighbouring channels, in any order */
  expect_limit("batch", "nchw", most / 16 + 1, 32, 1, "read+copy");
}
