/* SPDX-License-Identifier: MIT */
/* Running statistics: what training makes of them, and what inference does with them. */
#include "formulas.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(running, .init = make_directory, .fini = remove_directory);

struct running_case {
  const char *options;
  double momentum, divisor_less;
};

Test(running, running_statistics_are_updated_in_training) {
  static const struct running_case cases[] = {{"", 0.1, 1},
                                              {"--momentum 0.25", 0.25, 1},
                                              {"--momentum 0", 0, 1},
                                              {"--momentum 1", 1, 1},
                                              {"--momentum cumulative", 1, 1},
                                              {"--running-variance biased", 0.1, 0},
                                              {"--running-variance unbiased", 0.1, 1}};
  struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
  struct array mean = channels("m.npy", 6, 1, 5), variance = channels("v.npy", 6, 9, 6);
  struct moments m = moments_of(BATCH, &x);
  for (int given = 0; given < 2; given++)
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
      char line[900], start[600] = "";
      if (given)
        snprintf(start, sizeof start, "--running-mean %s --running-var %s", path_of("m.npy"),
                 path_of("v.npy"));
      snprintf(line, sizeof line,
               "apply --norm batch %s %s --input %%s --output %%s "
               "--running-mean-output %%s --running-var-output %%s",
               start, cases[i].options);
      free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("m2.npy"),
                                   path_of("v2.npy"))));
      struct array m2 = read_array("m2.npy"), v2 = read_array("v2.npy");
      cr_assert(m2.count == 6 && v2.count == 6);
      double w = cases[i].momentum, stretch = m.count / (m.count - cases[i].divisor_less);
      for (int c = 0; c < 6; c++) {
        double old_mean = given ? mean.data[c] : 0, old_variance = given ? variance.data[c] : 1;
        expect_near(m2.data[c], (1 - w) * old_mean + w * m.mean[c], 1e-6, "running mean");
        expect_near(v2.data[c], (1 - w) * old_variance + w * m.variance[c] * stretch, 1e-6,
                    "running variance");
      }
      array_free(&m2);
      array_free(&v2);
    }
  moments_free(&m);
  array_free(&x);
  array_free(&mean);
  array_free(&variance);
}

/* Hoffer, Hubara & Soudry 2017, algorithm 1: every ghost batch counts as a batch of its own. */
Test(running, ghost_batches_move_running_statistics_in_turn) {
  struct array x = normal_array("x.npy", "6,4,3,5", 2, 3);
  struct array mean = channels("m.npy", 4, 1, 5), variance = channels("v.npy", 4, 9, 6);
  struct moments m = moments_of(GHOST, &x);
  static const char *const momenta[] = {"0.1", "cumulative"};
  for (int cumulative = 0; cumulative < 2; cumulative++) {
    free(expect_done(run_command(
        "apply --norm ghost --ghost-batch 2 --input %s --output %s --momentum %s --running-mean %s "
        "--running-var %s --running-mean-output %s --running-var-output %s",
        path_of("x.npy"), path_of("y.npy"), momenta[cumulative], path_of("m.npy"), path_of("v.npy"),
        path_of("m2.npy"), path_of("v2.npy"))));
    struct array m2 = read_array("m2.npy"), v2 = read_array("v2.npy");
    cr_assert(m2.count == 4 && v2.count == 4);
    for (int c = 0; c < 4; c++) {
      double due_mean = mean.data[c], due_variance = variance.data[c];
      for (int ghost = 0; ghost < 3; ghost++) {
        double w = cumulative ? 1.0 / (ghost + 1) : 0.1, stretch = m.count / (m.count - 1);
        due_mean += w * (m.mean[4 * ghost + c] - due_mean);
        due_variance += w * (m.variance[4 * ghost + c] * stretch - due_variance);
      }
      expect_near(m2.data[c], due_mean, 1e-6, "running mean");
      expect_near(v2.data[c], due_variance, 1e-6, "running variance");
    }
    array_free(&m2);
    array_free(&v2);
  }
  moments_free(&m);
  array_free(&x);
  array_free(&mean);
  array_free(&variance);
}

/* Frozen statistics: constants, also to the gradient. The ghost batch need not divide N then. */
Test(running, inference_uses_running_statistics) {
  static const int keeping[] = {BATCH, INSTANCE, GHOST};
  for (int i = 0; i < 3; i++) {
    int norm = keeping[i];
    struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
    struct array dy = normal_array("dy.npy", "4,6,3,5", 0, 4);
    struct array mean = channels("m.npy", 6, 1, 5), variance = channels("v.npy", 6, 9, 6);
    char line[900];
    snprintf(line, sizeof line,
             "apply --norm %s --mode inference --input %s --output %s "
             "--running-mean %s --running-var %s --grad-output %s "
             "--grad-input %s",
             norm == GHOST ? "ghost --ghost-batch 3" : norms[norm], path_of("x.npy"),
             path_of("y.npy"), path_of("m.npy"), path_of("v.npy"), path_of("dy.npy"),
             path_of("dx.npy"));
    free(expect_done(run_command(line)));
    struct array y = read_array("y.npy"), dx = read_array("dx.npy");
    for (int64_t k = 0; k < x.count; k++) {
      int64_t c = channel_of(&x, k);
      double rstd = 1 / sqrt(variance.data[c] + 1e-5);
      expect_near(y.data[k], (x.data[k] - (double)mean.data[c]) * rstd, 1e-5, "y");
      expect_near(dx.data[k], dy.data[k] * rstd, 1e-5, "dx");
    }
    struct array *all[] = {&x, &dy, &mean, &variance, &y, &dx};
    for (int k = 0; k < 6; k++) array_free(all[k]);
  }
}

Test(running, inference_without_running_statistics_is_training_but_for_batch_and_ghost) {
  struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
  struct array dy = normal_array("dy.npy", "4,6,3,5", 0, 4);
  static const int needing[] = {BATCH, GHOST};
  for (int i = 0; i < 2; i++) {
    struct run run = run_command("apply --norm %s --mode inference --input %s --output %s",
                                 norms[needing[i]], path_of("x.npy"), path_of("y.npy"));
    cr_expect_not_null(strstr(run.err, norms[needing[i]]), "%s", run.err);
    expect_error(run, 2, "--running-mean");
  }
  for (int norm = LAYER; norm < GHOST; norm++) {
    struct array y[3];
    static const char *const modes[] = {"training", "inference", "inference"};
    for (int run = 0; run < 3; run++) {
      char more[400] = "", line[800];
      if (run == 2)
        snprintf(more, sizeof more, "--grad-output %s --grad-input %s", path_of("dy.npy"),
                 path_of("dx.npy"));
      snprintf(line, sizeof line, "apply --norm %s --mode %s --input %s --output %s %s",
               norms[norm], modes[run], path_of("x.npy"), path_of("y.npy"), more);
      free(expect_done(run_command(line)));
      y[run] = read_array("y.npy");
    }
    for (int run = 1; run < 3; run++)
      cr_expect_eq(memcmp(y[0].data, y[run].data, (size_t)x.count * sizeof(float)), 0, "%s, run %d",
                   norms[norm], run);
    for (int run = 0; run < 3; run++) array_free(&y[run]);
  }
  array_free(&x);
  array_free(&dy);
}

/* As where mean and variance are given the wrong way round; a NaN may be no more than its channel's. */
Test(running, a_variance_below_0_is_an_error) {
  struct array x = normal_array("x.npy", "4,3,2,2", 0, 1), mean = array_of("3"),
               variance = array_of("3");
  variance.data[0] = NAN;
  variance.data[1] = -0.5F;
  write_array("mean.npy", &mean);
  write_array("variance.npy", &variance);
  static const char *const modes[] = {"inference", "training"};
  for (int i = 0; i < 2; i++) {
    struct run run = run_command(
        "apply --norm batch --mode %s --input %s --output %s --running-mean %s "
        "--running-var %s",
        modes[i], path_of("x.npy"), path_of("y.npy"), path_of("mean.npy"), path_of("variance.npy"));
    cr_expect_not_null(strstr(run.err, "-0.5 at index 1"), "%s", run.err);
    expect_error(run, 1, path_of("variance.npy"));
    cr_expect_not(file_exists("y.npy"));
  }
  array_free(&x);
  array_free(&mean);
  array_free(&variance);
}

Test(running, the_others_keep_no_running_statistics) {
  static const int keeping_none[] = {LAYER, GROUP, RMS, POSITIONAL};
  struct array x = array_of("4,6,3,5"), m = array_of("6");
  fill_normal(&x, 2, 3);
  write_array("x.npy", &x);
  write_array("m.npy", &m);
  for (int i = 0; i < 4; i++) {
    int norm = keeping_none[i];
    expect_error(run_command("apply --norm %s --input %s --output %s --running-mean %s "
                             "--running-var %s",
                             norms[norm], path_of("x.npy"), path_of("y.npy"), path_of("m.npy"),
                             path_of("m.npy")),
                 2, "--running-mean");
    expect_error(run_command("apply --norm %s --input %s --output %s --running-var-output %s",
                             norms[norm], path_of("x.npy"), path_of("y.npy"), path_of("v.npy")),
                 2, "--running-var-output");
  }
  cr_expect_eq(files_in_directory(), 2);
  array_free(&x);
  array_free(&m);
}

/* The mean is the value and the variance 0: y is the shift, and x has no influence on it. */
Test(running, instance_inference_of_single_values_has_statistics_and_gradients) {
  struct array x = normal_array("x.npy", "4,6,1,1", 2, 3), shift = channels("b.npy", 6, 1, 5);
  struct array dy = normal_array("dy.npy", "4,6,1,1", 0, 4);
  free(expect_done(run_command(
      "apply --norm instance --mode inference --input %s --output %s --shift %s --mean-output %s "
      "--rstd-output %s --grad-output %s --grad-input %s --grad-scale %s --grad-shift %s",
      path_of("x.npy"), path_of("y.npy"), path_of("b.npy"), path_of("mean.npy"),
      path_of("rstd.npy"), path_of("dy.npy"), path_of("dx.npy"), path_of("ds.npy"),
      path_of("db.npy"))));
  struct array y = read_array("y.npy"), mean = read_array("mean.npy"),
               rstd = read_array("rstd.npy");
  struct array dx = read_array("dx.npy"), ds = read_array("ds.npy"), db = read_array("db.npy");
  double sums[6] = {0};
  for (int64_t i = 0; i < x.count; i++) {
    cr_expect_eq(y.data[i], shift.data[i % 6]);
    cr_expect_eq(mean.data[i], x.data[i]);
    expect_near(rstd.data[i], 1 / sqrt(1e-5), 1e-6, "rstd");
    cr_expect_eq(dx.data[i], 0);
    sums[i % 6] += dy.data[i];
  }
  for (int c = 0; c < 6; c++) {
    cr_expect_eq(ds.data[c], 0);
    expect_near(db.data[c], sums[c], 1e-6, "gradient of shift");
  }
  struct array *all[] = {&x, &shift, &dy, &y, &mean, &rstd, &dx, &ds, &db};
  for (int i = 0; i < 9; i++) array_free(all[i]);
}

/* One value a statistic: the norms that keep no running statistics train on it as in inference. */
Test(running, inference_of_single_values_gives_the_statistics_of_training) {
  static const char *const calls[] = {"rms --axis 2", "layer --axis 2", "positional"};
  for (int call = 0; call < 3; call++) {
    struct array x = normal_array("x.npy", call == 2 ? "5,1,4" : "5,4,1", 2, 3);
    for (int mode = 0; mode < 2; mode++) {
      char line[200];
      snprintf(line, sizeof line,
               "apply --norm %s --mode %s --input %%s --output %%s --mean-output %%s "
               "--rstd-output %%s",
               calls[call], mode == 0 ? "training" : "inference");
      free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("mean.npy"),
                                   path_of("rstd.npy"))));
      struct array mean = read_array("mean.npy"), rstd = read_array("rstd.npy");
      cr_assert(mean.count == x.count && rstd.count == x.count);
      for (int64_t i = 0; i < x.count; i++) {
        double square = call == 0 ? (double)x.data[i] * x.data[i] : 0;
        cr_expect_eq(mean.data[i], call == 0 ? 0 : x.data[i]);
        expect_near(rstd.data[i], 1 / sqrt(square + 1e-5), 1e-6, calls[call]);
      }
      array_free(&mean);
      array_free(&rstd);
    }
    array_free(&x);
  }
}
