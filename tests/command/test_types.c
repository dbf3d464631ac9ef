/* SPDX-License-Identifier: MIT */
/* apply on every element type, with activations and residuals, against the formulas in float64. */
#include "../typed.h"
#include "formulas.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(types, .init = make_directory, .fini = remove_directory);

/* A type, its name in files, how --dtype names it where files do not, and half its last place at 1. */
struct type {
  axn_dtype dtype;
  const char *text, *option;
  double unit;
};
static const struct type types[] = {{AXN_FLOAT32, "<f4", "", 1e-6},
                                    {AXN_FLOAT64, "<f8", "", 1e-12},
                                    {AXN_BFLOAT16, "<u2", " --dtype bf16", 0x1p-8},
                                    {AXN_FLOAT16, "<f2", "", 0x1p-11}};
enum { TYPES = 4, FLOAT32 = 0, FLOAT64 = 1, CHANNELS = 6 };

static const char *const activations[] = {"none", "relu", "leaky-relu",
                                          "silu", "gelu", "gelu-tanh"};
enum { NONE, LEAKY_RELU = 2, ACTIVATIONS = 6 };

/* A file of normal values of that type, which the array holds too. */
static struct array typed_array(const char *name, const char *shape, double offset, uint64_t seed,
                                const struct type *type) {
  struct array array = array_of(shape);
  fill_normal(&array, offset, seed);
  void *elements = typed_room(array.count, type->dtype);
  for (int64_t i = 0; i < array.count; i++) {
    if (axn_dtype_size(type->dtype) == 2)
      array.data[i] = (float)rounded(type->dtype, (double)array.data[i]);
    typed_set(elements, type->dtype, i, (double)array.data[i]);
  }
  write_elements(name, &array, type->text, elements, axn_dtype_size(type->dtype));
  free(elements);
  return array;
}

static double *read_doubles(const char *name, const struct type *type, int64_t count) {
  struct array shape;
  void *elements = read_elements(name, type->text, axn_dtype_size(type->dtype), &shape);
  cr_assert_eq(shape.count, count, "%s", name);
  double *values = doubles_of(elements, type->dtype, count);
  free(elements);
  array_free(&shape);
  return values;
}

/* `each`: of every value or of 1; `all`: of what came together in it. */
static void expect_doubles(const char *name, const struct type *type, const double *due,
                           const double *sizes, int64_t count, double each, double all,
                           const char *what) {
  double *found = read_doubles(name, type, count);
  for (int64_t i = 0; i < count; i++) {
    double room = each * fmax(fabs(due[i]), 1) + (sizes != NULL ? all * sizes[i] : 0);
    cr_assert(fabs(found[i] - due[i]) <= room, "%s, %s: [%d] is %.9g in place of %.9g", what, name,
              (int)i, found[i], due[i]);
  }
  free(found);
}

/* The tensors of a case; shift and residual may be left out. */
struct inputs {
  struct array x, scale, shift, residual, grad_y;
};

/* What is due; gradients by scale and shift have the sum of the sizes of their terms beside them. */
struct results {
  double y[360], grad_x[360], grad_residual[360];
  double grad_scale[CHANNELS], grad_shift[CHANNELS], scale_terms[CHANNELS], shift_terms[CHANNELS];
};

/* docs/mathematics.md: dx = rstd (g - mean(g) - normal mean(g normal)), g = dy activation'(z) scale. */
static void compute(const struct inputs *in, int norm, const char *activation,
                    struct results *due) {
  struct moments m = moments_of(norm, &in->x);
  double first[64] = {0}, second[64] = {0}, normal[360];
  memset(due, 0, sizeof *due);
  for (int64_t i = 0; i < in->x.count; i++) {
    int64_t k = statistic_of(norm, &in->x, i), c = channel_of(&in->x, i);
    normal[i] = (in->x.data[i] - m.mean[k]) / sqrt(m.variance[k] + 1e-5);
    double z = normal[i] * in->scale.data[c] + in->shift.data[c] + in->residual.data[i];
    double g = in->grad_y.data[i] * activation_derivative(activation, z);
    due->y[i] = activation_of(activation, z);
    due->grad_residual[i] = g;
    due->grad_scale[c] += g * normal[i], due->scale_terms[c] += fabs(g * normal[i]);
    due->grad_shift[c] += g, due->shift_terms[c] += fabs(g);
    if (norm != RMS) first[k] += g * in->scale.data[c] / m.count;
    second[k] += g * in->scale.data[c] * normal[i] / m.count;
  }
  for (int64_t i = 0; i < in->x.count; i++) {
    int64_t k = statistic_of(norm, &in->x, i), c = channel_of(&in->x, i);
    double g = due->grad_residual[i] * in->scale.data[c];
    due->grad_x[i] = (g - first[k] - normal[i] * second[k]) / sqrt(m.variance[k] + 1e-5);
  }
  moments_free(&m);
}

static struct inputs make_inputs(const struct type *type, const struct type *parameters) {
  return (struct inputs){typed_array("x.npy", "4,6,3,5", 2, 3, type),
                         typed_array("scale.npy", "6", 1, 5, parameters),
                         typed_array("shift.npy", "6", 0, 6, parameters),
                         typed_array("residual.npy", "4,6,3,5", 0, 7, type),
                         typed_array("dy.npy", "4,6,3,5", 0, 4, type)};
}

static void free_inputs(struct inputs *in) {
  struct array *const all[] = {&in->x, &in->scale, &in->shift, &in->residual, &in->grad_y};
  for (int i = 0; i < 5; i++) array_free(all[i]);
}

static void clear(struct array *array) {
  memset(array->data, 0, (size_t)array->count * sizeof(float));
}

static void check_case(const struct type *type, const struct type *parameters, int norm,
                       int activation, bool residual) {
  struct inputs in = make_inputs(type, parameters);
  static struct results due;
  char what[100], line[1600], more[600] = "";
  snprintf(what, sizeof what, "%s of %s, %s%s", norms[norm], type->text, activations[activation],
           residual ? ", residual" : "");
  if (residual)
    snprintf(more, sizeof more, "--residual %s --grad-residual %s", path_of("residual.npy"),
             path_of("dr.npy"));
  else
    clear(&in.residual);
  snprintf(
      line, sizeof line,
      "apply --norm %s%s%s --input %%s --output %%s --scale %%s --shift %%s --activation %s %s "
      "--grad-output %%s --grad-input %%s --grad-scale %%s --grad-shift %%s %s",
      norms[norm], options_of(norm, &in.x), type->option, activations[activation],
      activation == LEAKY_RELU ? "--negative-slope 0.125" : "", more);
  free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("scale.npy"),
                               path_of("shift.npy"), path_of("dy.npy"), path_of("dx.npy"),
                               path_of("ds.npy"), path_of("db.npy"))));
  compute(&in, norm, activations[activation], &due);
  double unit = type->unit, wide = parameters->unit;
  int64_t n = in.x.count;
  expect_doubles("y.npy", type, due.y, NULL, n, 1.01 * unit, 0, what);
  expect_doubles("dx.npy", type, due.grad_x, NULL, n, 6 * unit, 0, what);
  expect_doubles("ds.npy", parameters, due.grad_scale, due.scale_terms, CHANNELS, 1.01 * wide,
                 2 * unit, what);
  expect_doubles("db.npy", parameters, due.grad_shift, due.shift_terms, CHANNELS, 1.01 * wide,
                 2 * unit, what);
  if (residual) expect_doubles("dr.npy", type, due.grad_residual, NULL, n, 2 * unit, 0, what);
  free_inputs(&in);
}

Test(types, every_norm_is_right_forward_and_backward) {
  for (int t = 0; t < TYPES; t++)
    for (int norm = 0; norm < NORMS; norm++)
      check_case(&types[t], &types[norm % 2 == 0 ? t : FLOAT32], norm, NONE, norm % 3 == 0);
}

Test(types, every_activation_is_right_forward_and_backward) {
  for (int t = 0; t < TYPES; t++)
    for (int activation = 0; activation < ACTIVATIONS; activation++)
      for (int residual = 0; residual < 2; residual++)
        check_case(&types[t], &types[residual ? t : FLOAT32], (t + activation) % NORMS, activation,
                   residual);
}

/* Only one of the gradients, and that not in x: the library needs room that nobody asked for. */
Test(types, an_activation_needs_no_gradient_of_the_input) {
  struct inputs in = make_inputs(&types[FLOAT32], &types[FLOAT32]);
  static struct results due;
  free(expect_done(run_command(
      "apply --norm batch --activation gelu --input %s --output %s --scale %s --shift %s "
      "--residual %s --grad-output %s --grad-shift %s",
      path_of("x.npy"), path_of("y.npy"), path_of("scale.npy"), path_of("shift.npy"),
      path_of("residual.npy"), path_of("dy.npy"), path_of("db.npy"))));
  compute(&in, BATCH, "gelu", &due);
  expect_doubles("db.npy", &types[FLOAT32], due.grad_shift, due.shift_terms, CHANNELS, 1e-6, 1e-6,
                 "gelu");
  cr_expect_eq(files_in_directory(), 7);
  free_inputs(&in);
}

Test(types, the_negative_slope_counts) {
  struct inputs in = make_inputs(&types[FLOAT32], &types[FLOAT32]);
  free(expect_done(run_command("apply --norm layer --activation leaky-relu --negative-slope -0.5 "
                               "--input %s --output %s",
                               path_of("x.npy"), path_of("y.npy"))));
  struct moments m = moments_of(LAYER, &in.x);
  struct array y = read_array("y.npy");
  for (int64_t i = 0; i < y.count; i++) {
    int64_t k = statistic_of(LAYER, &in.x, i);
    double z = (in.x.data[i] - m.mean[k]) / sqrt(m.variance[k] + 1e-5);
    expect_near(y.data[i], z > 0 ? z : -0.5 * z, 1e-6, "y");
  }
  moments_free(&m);
  array_free(&y);
  free_inputs(&in);
}

/* Inference by running statistics, which are float64 where x is, and those of training. */
Test(types, statistics_are_float32_or_float64) {
  for (int t = 0; t < TYPES; t++) {
    const struct type *type = &types[t], *real = &types[t == FLOAT64 ? FLOAT64 : FLOAT32];
    struct inputs in = make_inputs(type, type);
    struct array mean = typed_array("m.npy", "6", 1, 8, real);
    struct array variance = typed_array("v.npy", "6", 9, 9, real);
    struct moments m = moments_of(BATCH, &in.x);
    char line[300];
    double y[360], means[CHANNELS], rstds[CHANNELS], means_after[CHANNELS];
    snprintf(line, sizeof line,
             "apply --norm batch%s --mode inference --activation silu --input %%s --output %%s "
             "--residual %%s --running-mean %%s --running-var %%s",
             type->option);
    free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("residual.npy"),
                                 path_of("m.npy"), path_of("v.npy"))));
    for (int64_t i = 0; i < in.x.count; i++) {
      int64_t c = channel_of(&in.x, i);
      double scaled =
          ((double)in.x.data[i] - (double)mean.data[c]) / sqrt((double)variance.data[c] + 1e-5);
      y[i] = activation_of("silu", scaled + in.residual.data[i]);
    }
    expect_doubles("y.npy", type, y, NULL, in.x.count, 1.01 * type->unit, 0, type->text);
    snprintf(line, sizeof line,
             "apply --norm batch%s --input %%s --output %%s --running-mean %%s --running-var %%s "
             "--mean-output %%s --rstd-output %%s --running-mean-output %%s",
             type->option);
    free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("m.npy"),
                                 path_of("v.npy"), path_of("mean.npy"), path_of("rstd.npy"),
                                 path_of("m2.npy"))));
    for (int c = 0; c < CHANNELS; c++) {
      means[c] = m.mean[c], rstds[c] = 1 / sqrt(m.variance[c] + 1e-5);
      means_after[c] = 0.9 * (double)mean.data[c] + 0.1 * m.mean[c];
    }
    expect_doubles("mean.npy", real, means, NULL, CHANNELS, real->unit, 0, type->text);
    expect_doubles("rstd.npy", real, rstds, NULL, CHANNELS, real->unit, 0, type->text);
    expect_doubles("m2.npy", real, means_after, NULL, CHANNELS, real->unit, 0, type->text);
    moments_free(&m);
    array_free(&mean);
    array_free(&variance);
    free_inputs(&in);
  }
}

/* Instance normalization of one value each: the command gives mean and rstd in the library's place. */
Test(types, single_values_have_statistics_of_their_type) {
  for (int t = 0; t < TYPES; t++) {
    const struct type *type = &types[t], *real = &types[t == FLOAT64 ? FLOAT64 : FLOAT32];
    struct array x = typed_array("x.npy", "3,2,1", 2, 3, type);
    char line[300];
    snprintf(line, sizeof line,
             "apply --norm instance --mode inference%s --input %%s --output %%s --mean-output %%s "
             "--rstd-output %%s",
             type->option);
    free(expect_done(run_command(line, path_of("x.npy"), path_of("y.npy"), path_of("mean.npy"),
                                 path_of("rstd.npy"))));
    double means[6], rstds[6];
    for (int i = 0; i < 6; i++) means[i] = (double)x.data[i], rstds[i] = 1 / sqrt(1e-5);
    expect_doubles("mean.npy", real, means, NULL, 6, 0, 0, type->text);
    expect_doubles("rstd.npy", real, rstds, NULL, 6, real->unit, 0, type->text);
    array_free(&x);
  }
}

Test(types, the_summary_names_type_activation_and_residual) {
  struct inputs in = make_inputs(&types[3], &types[3]);
  char *text = expect_done(run_command(
      "apply --norm layer --activation relu --residual %s --input %s --output %s --format json",
      path_of("residual.npy"), path_of("x.npy"), path_of("y.npy")));
  cr_expect_not_null(strstr(text, "\"dtype\": \"f16\", \"activation\": \"relu\", "
                                  "\"residual\": \"yes\""),
                     "%s", text);
  free(text);
  text = expect_done(run_command("apply --norm layer --input %s --output %s --format json",
                                 path_of("x.npy"), path_of("y.npy")));
  cr_expect_not_null(strstr(text, "\"activation\": null, \"residual\": null"), "%s", text);
  free(text);
  free_inputs(&in);
}

struct mismatch {
  const char *options; /* %s: the file at fault, %4, %8: of float32, float64, %o: an output */
  const char *input;
  const char *file, *words; /* at fault, and words of the message */
};

Test(types, files_of_other_types_are_errors_that_say_which_is_due) {
  static const struct mismatch cases[] = {
      {"--dtype f64", "f4", "f4", "type <f4 (float32), expected <f8 (float64), as --dtype asks"},
      {"--dtype f32", "f8", "f8", "type <f8 (float64), expected <f4 (float32), as --dtype asks"},
      {"--dtype bf16", "f2", "f2", "type <f2 (float16), expected <u2 (bfloat16)"},
      {"--dtype f16", "u2", "u2", "type <u2 (uint16), expected <f2 (float16)"},
      {"", "u2", "u2", "--dtype bf16"},
      {"", "i4", "i4", "type <i4, expected <f4 (float32), <f8 (float64) or <f2 (float16)"},
      {"", "big", "big", "type >f8 is big-endian: write it little-endian"},
      {"", "V2", "V2", "view('uint16')"},
      {"--scale %s", "f4", "f8", "type <f8 (float64), expected <f4 (float32) for this input"},
      {"--shift %s", "f8", "f2", "expected <f4 (float32) or <f8 (float64) for this input"},
      {"--scale %4 --shift %s", "f8", "f8", "expected <f4 (float32), as the scale has"},
      {"--scale %8 --shift %s", "f8", "f4", "expected <f8 (float64), as the scale has"},
      {"--residual %s", "f4", "f8", "expected <f4 (float32), as the input has"},
      {"--grad-output %s --grad-input %o", "f8", "f4", "expected <f8 (float64), as the input has"},
      {"--running-mean %s --running-var %s", "f8", "f4",
       "expected <f8 (float64) for the statistics"},
      {"--running-mean %s --running-var %s", "f2", "f2",
       "expected <f4 (float32) for the statistics"}};
  static const char *const files[][2] = {{"f4", "<f4"}, {"f8", "<f8"}, {"f2", "<f2"},
                                         {"u2", "<u2"}, {"i4", "<i4"}, {"big", ">f8"},
                                         {"V2", "|V2"}};
  static const size_t sizes[] = {4, 8, 2, 2, 4, 8, 2};
  static const double zeros[36];
  struct array shape = array_of("6,6,1");
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
    write_elements(files[i][0], &shape, files[i][1], zeros, sizes[i]);
  int before = files_in_directory();
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char options[600] = "", line[900];
    for (const char *c = cases[i].options; *c != '\0'; c++) {
      size_t length = strlen(options);
      if (*c != '%')
        snprintf(options + length, sizeof options - length, "%c", *c);
      else
        snprintf(options + length, sizeof options - length, "%s",
                 path_of(*++c == 's' ? cases[i].file
                         : *c == '4' ? "f4"
                         : *c == '8' ? "f8"
                                     : "dx"));
    }
    snprintf(line, sizeof line, "apply --norm batch --input %%s --output %%s %s", options);
    struct run run = run_command(line, path_of(cases[i].input), path_of("y.npy"));
    cr_expect_not_null(strstr(run.err, cases[i].words), "%s: %s", cases[i].options, run.err);
    expect_error(run, 1, path_of(cases[i].file));
    cr_expect_eq(files_in_directory(), before);
  }
  array_free(&shape);
}

Test(types, compare_takes_the_type_of_its_file) {
  for (int t = 0; t < TYPES; t++) {
    struct array x = typed_array("x.npy", "8,4,3,3", 2, 3, &types[t]);
    char line[200], dtype[32];
    snprintf(line, sizeof line, "compare --input %%s --norms batch --batch 2 --format json%s",
             types[t].option);
    snprintf(dtype, sizeof dtype, "\"dtype\": \"%s\"", axn_dtype_name(types[t].dtype));
    char *text = expect_done(run_command(line, path_of("x.npy")));
    cr_expect_not_null(strstr(text, dtype), "%s", text);
    free(text);
    array_free(&x);
  }
  expect_error(run_command("compare --dtype f32 --input %s", path_of("x.npy")), 1,
               path_of("x.npy"));
}
