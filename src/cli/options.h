/* SPDX-License-Identifier: MIT */
/* The options of all subcommands: one table each, which parsing and --help both read. */
#ifndef AXISNORM_OPTIONS_H
#define AXISNORM_OPTIONS_H

#include "message.h"
#include "values.h"

enum format { FORMAT_DEFAULT, FORMAT_TABLE, FORMAT_JSON, FORMAT_CSV };
enum mode { MODE_TRAINING, MODE_INFERENCE };
enum pass { PASS_TRAINING, PASS_INFERENCE, PASS_BACKWARD, PASS_COUNT };

struct options {
  struct norm_list norms; /* empty: not given */
  struct shape shape;     /* rank 0: not given */
  struct integer_list batches;
  int64_t groups;      /* 0: the default for the shape */
  int64_t ghost_batch; /* 0: the same */
  int64_t axis;
  bool axis_given;
  double epsilon;
  double momentum;
  axn_running_variance running_variance;
  axn_layout layout;
  axn_dtype dtype; /* 0: that of the files, else float32 */
  axn_activation activation;
  double negative_slope;
  bool slope_given;
  int64_t threads; /* 0: all */
  axn_isa isa;
  enum format format;
  enum mode mode;
  bool passes[PASS_COUNT];
  bool adds_residual; /* bench; of random numbers */
  bool has_affine;    /* bench; scale and shift */
  int64_t seed;
  const char *input, *output, *scale, *shift, *residual;
  const char *running_mean, *running_var;
  const char *mean_output, *rstd_output, *running_mean_output, *running_var_output;
  const char *grad_output, *grad_input, *grad_scale, *grad_shift, *grad_residual;
  const char *plot, *shapes;
};

/* An option of a subcommand. `parse` returns null, or why the text is no such value. */
struct option_row {
  const char *name;     /* without the two dashes */
  const char *argument; /* how --help names its value */
  const char *help;
  const char *(*parse)(const char *text, struct options *options, void *target);
  size_t offset; /* of the target in struct options */
};

struct command {
  const char *name;
  const char *summary;
  const char *details;
  const char *example;
  const struct option_row *const *tables; /* each ends with a row without name; null at the end */
  enum outcome (*run)(struct options *options);
};

/* The names "forward-training", "forward-inference", "backward". */
extern const char *const pass_names[PASS_COUNT];

/* The tables that several subcommands share. */
extern const struct option_row options_norm[];      /* --norm, one */
extern const struct option_row options_norms[];     /* --norms, a list; the usual ones without */
extern const struct option_row options_all_norms[]; /* the same; all of them without */
extern const struct option_row options_common[];    /* geometry, machine, format */

/* Whether an argument is --help, or -h. */
bool options_ask_help(const char *argument);

/* Fills in defaults, then what the arguments say. Sets *help where --help is among them. */
enum outcome options_parse(const struct command *command, int count, char **arguments,
                           struct options *options, bool *help);

void options_print_help(const struct command *command);

/* Value readers for the tables of subcommands. */
const char *option_path(const char *text, struct options *options, void *target);
const char *option_plot(const char *text, struct options *options, void *target);
const char *option_shape(const char *text, struct options *options, void *target);
const char *option_batches(const char *text, struct options *options, void *target);
const char *option_passes(const char *text, struct options *options, void *target);
const char *option_mode(const char *text, struct options *options, void *target);
const char *option_momentum(const char *text, struct options *options, void *target);
const char *option_running_variance(const char *text, struct options *options, void *target);
const char *option_seed(const char *text, struct options *options, void *target);
const char *option_yes_no(const char *text, struct options *options, void *target);

#endif
