/* SPDX-License-Identifier: MIT */
/* What apply computes, against the formulas in float64. */
#include "formulas.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(apply, .init = make_directory, .fini = remove_directory);

/* Units in the last place of max(|y|, 1) in float32. */
static double units(double value, double due) {
  return fabs(value - due) / ldexp(1, ilogb(fmax(fabs(due), 1)) - 23);
}

static struct array apply(int norm, const struct array *x, const char *more) {
  char line[400];
  snprintf(line, sizeof line, "apply --norm %s%s --input %%s --output %%s %s", norms[norm],
           options_of(norm, x), more);
  free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"))));
  return read_array("y.npy");
}

Test(apply, every_norm_is_right_to_3_units_at_every_offset) {
  static const double offsets[] = {0, 1e2, 1e4, 1e6};
  static const char *const shapes[] = {"4,6,5,7", "3,6", "2,9,11", "2,3,3,4,5", "16,6,1,1"};
  for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
    for (int o = 0; o < 4; o++)
      for (int norm = 0; norm < NORMS; norm++) {
        struct array x = array_of(shapes[s]);
        bool single = x.count == statistics_of(norm, &x);
        fill_normal(&x, offsets[o], 7 + (uint64_t)o);
        write_array("x.npy", &x);
        if (!single) {
          struct array y = apply(norm, &x, "");
          cr_assert_eq(y.rank, x.rank);
          struct moments m = moments_of(norm, &x);
          double worst = 0;
          for (int64_t i = 0; i < x.count; i++) {
            int64_t k = statistic_of(norm, &x, i);
            double due = (x.data[i] - m.mean[k]) / sqrt(m.variance[k] + 1e-5);
            worst = fmax(worst, units(y.data[i], due));
          }
          cr_expect_leq(worst, 3, "%s of [%s] at %g: %.2f units", norms[norm], shapes[s],
                        offsets[o], worst);
          moments_free(&m);
          array_free(&y);
        }
        array_free(&x);
      }
}

Test(apply, every_thread_count_writes_the_same_bytes) {
  struct array x = normal_array("x.npy", "3,48,17,19", 3, 1);
  struct array dy = normal_array("dy.npy", "3,48,17,19", 0, 2);
  static const char *const files[] = {"y", "dx", "dscale", "dshift", "mean", "rstd"};
  for (int norm = 0; norm < NORMS; norm++) {
    char *bytes[6][2];
    size_t sizes[6][2];
    for (int run = 0; run < 2; run++) {
      free(expect_done(run_command(
          "apply --norm %s --threads %s --input %s --output %s --grad-output %s --grad-input %s "
          "--grad-scale %s --grad-shift %s --mean-output %s --rstd-output %s",
          norms[norm], run == 0 ? "1" : "7", path_of("x.npy"), path_of("y"), path_of("dy.npy"),
          path_of("dx"), path_of("dscale"), path_of("dshift"), path_of("mean"), path_of("rstd"))));
      for (int f = 0; f < 6; f++) bytes[f][run] = read_text(files[f], &sizes[f][run]);
    }
    for (int f = 0; f < 6; f++) {
      cr_expect(sizes[f][0] == sizes[f][1] && memcmp(bytes[f][0], bytes[f][1], sizes[f][0]) == 0,
                "%s of %s differs between 1 and 7 threads", files[f], norms[norm]);
      free(bytes[f][0]);
      free(bytes[f][1]);
    }
  }
  array_free(&x);
  array_free(&dy);
}

/* Wu & He 2018 and docs/mathematics.md: dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy scale;
 * without mean(g) for rms, which takes no mean out. */
Test(apply, backward_agrees_with_float64) {
  for (int norm = 0; norm < NORMS; norm++) {
    struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
    struct array dy = normal_array("dy.npy", "4,6,3,5", 0, 4);
    struct array scale = channels("scale.npy", 6, 1, 5), shift = channels("shift.npy", 6, 0, 6);
    char more[900];
    snprintf(more, sizeof more,
             "--scale %s --shift %s --grad-output %s --grad-input %s --grad-scale %s "
             "--grad-shift %s",
             path_of("scale.npy"), path_of("shift.npy"), path_of("dy.npy"), path_of("dx.npy"),
             path_of("dscale.npy"), path_of("dshift.npy"));
    char line[1200];
    snprintf(line, sizeof line, "apply --norm %s%s --input %s --output %s %s", norms[norm],
             options_of(norm, &x), path_of("x.npy"), path_of("y.npy"), more);
    free(expect_done(run_command(line)));
    struct array y = read_array("y.npy"), dx = read_array("dx.npy");
    struct array dscale = read_array("dscale.npy"), dshift = read_array("dshift.npy");
    struct moments m = moments_of(norm, &x);
    double first[64] = {0}, second[64] = {0}, sum_scale[6] = {0}, sum_shift[6] = {0};
    for (int pass = 0; pass < 2; pass++)
      for (int64_t i = 0; i < x.count; i++) {
        int64_t k = statistic_of(norm, &x, i), c = channel_of(&x, i);
        double rstd = 1 / sqrt(m.variance[k] + 1e-5), normal = (x.data[i] - m.mean[k]) * rstd;
        double g = (double)dy.data[i] * scale.data[c];
        if (pass == 0) {
          first[k] += norm == RMS ? 0 : g / m.count;
          second[k] += g * normal / m.count;
          sum_scale[c] += dy.data[i] * normal;
          sum_shift[c] += dy.data[i];
          expect_near(y.data[i], normal * scale.data[c] + shift.data[c], 1e-5, "y");
        } else {
          expect_near(dx.data[i], rstd * (g - first[k] - normal * second[k]), 1e-5, "dx");
        }
      }
    for (int c = 0; c < 6; c++) {
      expect_near(dscale.data[c], sum_scale[c], 1e-5, "gradient of scale");
      expect_near(dshift.data[c], sum_shift[c], 1e-5, "gradient of shift");
    }
    moments_free(&m);
    struct array *all[] = {&x, &dy, &scale, &shift, &y, &dx, &dscale, &dshift};
    for (int i = 0; i < 8; i++) array_free(all[i]);
  }
}

Test(apply, statistics_have_the_shape_of_the_axes_kept) {
  static const char *const shapes[NORMS] = {"6", "4", "4,6", "4,3", "4", "4,3,5", "2,6"};
  struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
  for (int norm = 0; norm < NORMS; norm++) {
    char line[300];
    snprintf(line, sizeof line,
             "apply --norm %s%s --input %%s --output %%s --mean-output %%s "
             "--rstd-output %%s",
             norms[norm], options_of(norm, &x));
    free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("mean.npy"),
                                 path_of("rstd.npy"))));
    struct array mean = read_array("mean.npy"), rstd = read_array("rstd.npy");
    struct array due = array_of(shapes[norm]);
    cr_assert(mean.rank == due.rank &&
              memcmp(mean.shape, due.shape, sizeof(int64_t) * (size_t)due.rank) == 0);
    struct moments m = moments_of(norm, &x);
    for (int64_t i = 0; i < mean.count; i++) {
      expect_near(mean.data[i], m.mean[i], norm == RMS ? 0 : 1e-6, "mean");
      expect_near(rstd.data[i], 1 / sqrt(m.variance[i] + 1e-5), 1e-6, "rstd");
    }
    moments_free(&m);
    array_free(&mean);
    array_free(&rstd);
    array_free(&due);
  }
  array_free(&x);
}

Test(apply, layer_and_rms_take_scale_and_shift_per_channel_and_per_element) {
  struct array x = normal_array("x.npy", "3,4,5,2", 2, 3);
  static const char *const shapes[] = {"4", "4,5,2"};
  for (int run = 0; run < 4; run++) {
    int norm = run / 2 == 0 ? LAYER : RMS, each = run % 2;
    struct moments m = moments_of(norm, &x);
    struct array scale = array_of(shapes[each]), shift = array_of(shapes[each]);
    fill_normal(&scale, 1, 5);
    fill_normal(&shift, 0, 6);
    write_array("scale.npy", &scale);
    write_array("shift.npy", &shift);
    free(expect_done(
        run_command("apply --norm %s --input %s --output %s --scale %s --shift %s --grad-output %s "
                    "--grad-scale %s",
                    norms[norm], path_of("x.npy"), path_of("y.npy"), path_of("scale.npy"),
                    path_of("shift.npy"), path_of("x.npy"), path_of("ds.npy"))));
    struct array y = read_array("y.npy"), ds = read_array("ds.npy");
    for (int64_t i = 0; i < x.count; i++) {
      int64_t k = statistic_of(norm, &x, i), p = each ? i % 40 : channel_of(&x, i);
      double normal = (x.data[i] - m.mean[k]) / sqrt(m.variance[k] + 1e-5);
      expect_near(y.data[i], normal * scale.data[p] + shift.data[p], 1e-5, "y");
    }
    cr_expect(ds.rank == scale.rank && ds.count == scale.count);
    moments_free(&m);
    struct array *all[] = {&scale, &shift, &y, &ds};
    for (int i = 0; i < 4; i++) array_free(all[i]);
  }
  array_free(&x);
}

/* From the last axis: every run of W values on its own. */
Test(apply, layer_and_rms_start_from_the_axis_that_is_asked_for) {
  struct array x = array_of("3,4,5,8"), scale = array_of("8");
  fill_normal(&x, 2, 3);
  fill_normal(&scale, 1, 4);
  write_array("x.npy", &x);
  write_array("scale.npy", &scale);
  for (int run = 0; run < 4; run++) {
    bool rms = run / 2 == 1;
    free(expect_done(run_command("apply --norm %s --axis %s --input %s --output %s --scale %s "
                                 "--grad-output %s --grad-scale %s --mean-output %s",
                                 rms ? "rms" : "layer", run % 2 == 0 ? "-1" : "3", path_of("x.npy"),
                                 path_of("y.npy"), path_of("scale.npy"), path_of("x.npy"),
                                 path_of("ds.npy"), path_of("mean.npy"))));
    struct array y = read_array("y.npy"), ds = read_array("ds.npy"), mean = read_array("mean.npy");
    cr_expect(ds.rank == 1 && ds.count == 8);
    cr_expect(mean.rank == 3 && mean.shape[2] == 5);
    for (int64_t row = 0; row < x.count / 8; row++) {
      double centre = 0, squares = 0;
      for (int i = 0; i < 8; i++) centre += rms ? 0 : x.data[8 * row + i] / 8.0;
      for (int i = 0; i < 8; i++) squares += pow(x.data[8 * row + i] - centre, 2) / 8;
      for (int i = 0; i < 8; i++)
        expect_near(y.data[8 * row + i],
                    (x.data[8 * row + i] - centre) / sqrt(squares + 1e-5) * scale.data[i], 1e-5,
                    "y");
    }
    array_free(&y);
    array_free(&ds);
    array_free(&mean);
  }
  array_free(&x);
  array_free(&scale);
}

/* The largest divisor of N from 2 to 16 that is at most N/2, else N. */
Test(apply, the_ghost_batch_has_a_default) {
  static const int due[][2] = {{1, 1},  {2, 2},   {3, 3},  {4, 2},   {6, 3},   {7, 7},  {12, 6},
                               {16, 8}, {32, 16}, {34, 2}, {37, 37}, {45, 15}, {51, 3}, {64, 16}};
  for (size_t i = 0; i < sizeof due / sizeof due[0]; i++) {
    char shape[32], wanted[64];
    snprintf(shape, sizeof shape, "%d,2,3", due[i][0]);
    snprintf(wanted, sizeof wanted, "\"ghost_batch\": %d, \"mode\": \"training\"", due[i][1]);
    struct array x = normal_array("x.npy", shape, 2, 3);
    char *text = expect_done(run_command("apply --norm ghost --input %s --output %s --format json",
                                         path_of("x.npy"), path_of("y.npy")));
    cr_expect_not_null(strstr(text, wanted), "%s is not in %s", wanted, text);
    free(text);
    array_free(&x);
  }
}

Test(apply, a_ghost_batch_that_does_not_divide_the_samples_is_an_error) {
  struct array x = normal_array("x.npy", "6,2,3", 2, 3);
  struct run run = run_command("apply --norm ghost --ghost-batch 4 --input %s --output %s",
                               path_of("x.npy"), path_of("y.npy"));
  cr_expect_not_null(strstr(run.err, "4 does not divide the 6 samples"), "%s", run.err);
  expect_error(run, 2, "--ghost-batch");
  cr_expect_not(file_exists("y.npy"));
  array_free(&x);
}

/* N,C,H,W and N,H,W,C of the same tensor give the same values. */
Test(apply, channels_last_is_the_same_normalization) {
  enum { N = 3, C = 6, H = 4, W = 5 };
  struct array x = array_of("3,6,4,5"), last = array_of("3,4,5,6");
  fill_normal(&x, 2, 3);
  for (int64_t i = 0; i < x.count; i++) {
    int64_t inner = i % (H * W), c = i / (H * W) % C, n = i / (H * W * C);
    last.data[(n * H * W + inner) * C + c] = x.data[i];
  }
  write_array("x.npy", &x);
  write_array("last.npy", &last);
  struct array scale = channels("scale.npy", C, 1, 5);
  for (int norm = 0; norm < NORMS; norm++) {
    struct run run = run_command(
        "apply --norm %s --layout nhwc --input %s --output %s --scale %s --rstd-output %s",
        norms[norm], path_of("last.npy"), path_of("y_last.npy"), path_of("scale.npy"),
        path_of("rstd_last.npy"));
    if (run.status == 2 && strncmp(run.err, "axisnorm: --layout: ", 20) == 0) {
      run_free(&run);
      skip_test("this library has no channels-last order");
    }
    free(expect_done(run));
    free(expect_done(run_command(
        "apply --norm %s --input %s --output %s --scale %s --rstd-output %s", norms[norm],
        path_of("x.npy"), path_of("y.npy"), path_of("scale.npy"), path_of("rstd.npy"))));
    struct array y = read_array("y.npy"), y_last = read_array("y_last.npy");
    /* N, C and groups, positions: none of these changes its place among the axes kept */
    struct array rstd = read_array("rstd.npy"), rstd_last = read_array("rstd_last.npy");
    cr_expect_eq(rstd_last.rank, rstd.rank);
    for (int k = 0; k < rstd.rank; k++) cr_expect_eq(rstd_last.shape[k], rstd.shape[k]);
    for (int64_t i = 0; i < rstd.count; i++)
      expect_near(rstd_last.data[i], rstd.data[i], 2e-6, "rstd");
    array_free(&rstd);
    array_free(&rstd_last);
    cr_expect(y_last.rank == 4 && y_last.shape[3] == C);
    for (int64_t i = 0; i < x.count; i++) {
      int64_t inner = i % (H * W), c = i / (H * W) % C, n = i / (H * W * C);
      expect_near(y_last.data[(n * H * W + inner) * C + c], y.data[i], 2e-6, norms[norm]);
    }
    array_free(&y);
    array_free(&y_last);
  }
  array_free(&x);
  array_free(&last);
  array_free(&scale);
}

Test(apply, an_output_may_replace_its_input) {
  struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
  struct array y = apply(GROUP, &x, "");
  free(expect_done(run_command("apply --norm group --groups 3 --input %s --output %s",
                               path_of("x.npy"), path_of("x.npy"))));
  struct array replaced = read_array("x.npy");
  cr_expect_eq(memcmp(y.data, replaced.data, (size_t)x.count * sizeof(float)), 0);
  array_free(&x);
  array_free(&y);
  array_free(&replaced);
}

Test(apply, says_nothing_unless_asked) {
  struct array x = normal_array("x.npy", "4,6,3,5", 2, 3);
  char *text = expect_done(
      run_command("apply --norm batch --input %s --output %s", path_of("x.npy"), path_of("y.npy")));
  cr_expect_str_empty(text);
  free(text);
  text = expect_done(run_command("apply --norm batch --input %s --output %s --format json",
                                 path_of("x.npy"), path_of("y.npy")));
  cr_expect_not_null(strstr(text, "\"values_per_statistic\": 60"));
  free(text);
  array_free(&x);
}

Test(apply, no_samples_give_no_results) {
  struct array x = array_of("0,6,3,5"), m = array_of("6");
  write_array("x.npy", &x);
  write_array("m.npy", &m);
  for (int norm = 0; norm < NORMS; norm++) {
    free(expect_done(run_command("apply --norm %s --input %s --output %s --grad-output %s "
                                 "--grad-input %s --grad-shift %s",
                                 norms[norm], path_of("x.npy"), path_of("y.npy"), path_of("x.npy"),
                                 path_of("dx.npy"), path_of("ds.npy"))));
    struct array y = read_array("y.npy"), ds = read_array("ds.npy");
    cr_expect_eq(y.count, 0);
    for (int64_t c = 0; c < ds.count; c++) cr_expect_eq(ds.data[c], 0);
    array_free(&y);
    array_free(&ds);
  }
  array_free(&x);
  array_free(&m);
}
