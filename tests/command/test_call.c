/* SPDX-License-Identifier: MIT */
/* How the command is called: help, versions, wrong calls. */
#include "run_command.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(call, .init = make_directory, .fini = remove_directory);

static const char *const subcommands[] = {"compare", "apply", "bench", "explain"};

Test(call, help_of_every_subcommand_has_an_example) {
  char *text = expect_done(run_command("--help"));
  for (size_t i = 0; i < 4; i++) cr_expect_not_null(strstr(text, subcommands[i]));
  free(text);
  for (size_t i = 0; i < 4; i++) {
    text = expect_done(run_command("%s --help", subcommands[i]));
    const char *example = strstr(text, "Example:\n  axisnorm ");
    cr_expect_not_null(example, "%s --help has no example", subcommands[i]);
    cr_expect_not_null(strstr(text, "--threads"));
    cr_expect_not_null(strstr(text, "--ghost-batch"));
    static const char *const known[] = {"batch", "layer",      "instance", "group",
                                        " rms",  "positional", " ghost"};
    for (int k = 0; k < 7; k++)
      cr_expect_not_null(strstr(text, known[k]), "%s --help: no %s", subcommands[i], known[k]);
    free(text);
  }
}

Test(call, a_short_h_asks_for_help_too) {
  static const char *const calls[][2] = {{"-h", "--help"}, {"bench -h", "bench --help"}};
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    char *text = expect_done(run_command(calls[i][0]));
    char *due = expect_done(run_command(calls[i][1]));
    cr_expect_str_eq(text, due);
    free(text);
    free(due);
  }
}

Test(call, version_names_version_instruction_set_and_threads) {
  char *text = expect_done(run_command("--version"));
  cr_expect_eq(strncmp(text, "axisnorm ", 9), 0);
  cr_expect_not_null(strstr(text, "\ninstruction set: "));
  cr_expect_not_null(strstr(text, "\nthreads: "));
  free(text);
}

Test(call, wrong_calls_are_one_line_and_exit_2) {
  static const char *const calls[][2] = {
      {"", "subcommand"},
      {"frobnicate", "frobnicate"},
      {"--frobnicate", "--frobnicate"},
      {"--version extra", "extra"},
      {"compare --frobnicate", "--frobnicate"},
      {"compare --frobnicate=1", "--frobnicate=1"},
      {"compare extra", "extra"},
      {"compare --", "--"},
      {"compare -x", "-x"},
      {"compare --output y.npy", "--output"},
      {"explain --input x.npy", "--input"},
      {"apply --norms batch", "--norms"},
      {"bench --batch 1", "--batch"},
      {"compare --norms", "--norms"},
      {"compare --norms frobnicate", "--norms"},
      {"compare --norms batch,", "--norms"},
      {"compare --norms batch,,group", "--norms"},
      {"compare --norms=", "--norms"},
      {"explain --norm rms,frobnicate", "--norm"},
      {"apply --norm rms,ghost --input x.npy --output y.npy", "--norm"},
      {"compare --batch 0", "--batch"},
      {"compare --batch -1", "--batch"},
      {"compare --batch 1,x", "--batch"},
      {"compare --batch 1,", "--batch"},
      {"compare --batch 257", "--batch"},
      {"compare --batch 99999999999999999999", "--batch"},
      {"compare --shape 2", "--shape"},
      {"compare --shape 2,3,4,5,6,7", "--shape"},
      {"compare --shape 2,0,3,3", "--shape"},
      {"compare --shape 2,-3,3,3", "--shape"},
      {"compare --shape 2,3.5,3,3", "--shape"},
      {"compare --shape 4294967296,4294967296,4,4", "--shape"},
      {"compare --shape 2,3 --input x.npy", "--shape"},
      {"compare --seed -1", "--seed"},
      {"compare --plot figure.pdf", "--plot"},
      {"compare --plot .svg", "--plot"},
      {"explain --plot figure", "--plot"},
      {"explain --norm group --groups 0", "--groups"},
      {"explain --norm group --groups 4.0", "--groups"},
      {"explain --norm group --groups 5 --shape 2,4,3,3", "--groups"},
      {"explain --norm batch --groups 2", "--groups"},
      {"explain --norm layer --axis 4", "--axis"},
      {"explain --norm layer --axis -5", "--axis"},
      {"explain --norm layer --axis one", "--axis"},
      {"explain --norm batch --axis 1", "--axis"},
      {"explain --norm positional --axis 1", "--axis"},
      {"explain --norm rms --axis 4", "--axis"},
      {"explain --norm rms --groups 2", "--groups"},
      {"explain --norm ghost --groups 2", "--groups"},
      {"explain --norm ghost --ghost-batch 0", "--ghost-batch"},
      {"explain --norm ghost --ghost-batch 2.0", "--ghost-batch"},
      {"explain --norm ghost --ghost-batch -2", "--ghost-batch"},
      {"explain --norm ghost --ghost-batch 3 --shape 4,6,3,3", "--ghost-batch"},
      {"explain --norm ghost --ghost-batch 8 --shape 4,6,3,3", "--ghost-batch"},
      {"explain --norm batch --ghost-batch 2", "--ghost-batch"},
      {"compare --ghost-batch 4", "--ghost-batch"},
      {"bench --ghost-batch 4", "--ghost-batch"},
      {"bench --norms ghost --ghost-batch 5 --shape 8,4,3,3", "--ghost-batch"},
      {"explain --epsilon 0", "--epsilon"},
      {"explain --epsilon -1e-5", "--epsilon"},
      {"explain --epsilon nan", "--epsilon"},
      {"explain --epsilon 1e-5x", "--epsilon"},
      {"explain --epsilon 0x10", "--epsilon"},
      {"explain --epsilon inf", "--epsilon"},
      {"explain --epsilon 1e400", "--epsilon"},
      {"explain --epsilon 1e-400", "--epsilon"},
      {"explain --epsilon .", "--epsilon"},
      {"explain --epsilon=", "--epsilon"},
      {"explain --threads 1025", "--threads"},
      {"explain --layout hwcn", "--layout"},
      {"explain --threads -1", "--threads"},
      {"explain --threads two", "--threads"},
      {"explain --isa frobnicate", "--isa"},
      {"explain --format xml", "--format"},
      {"explain --dtype f31", "--dtype"},
      {"bench --dtype F32", "--dtype"},
      {"bench --dtype float32", "--dtype"},
      {"explain --activation swish", "--activation"},
      {"explain --activation=", "--activation"},
      {"bench --activation relu,gelu", "--activation"},
      {"bench --activation leaky-relu --negative-slope x", "--negative-slope"},
      {"bench --activation leaky-relu --negative-slope nan", "--negative-slope"},
      {"bench --activation leaky-relu --negative-slope 1e400", "--negative-slope"},
      {"explain --activation leaky-relu --negative-slope 1e300", "--negative-slope"},
      {"explain --activation leaky-relu --negative-slope 1e300 --layout nhwc", "--negative-slope"},
      {"bench --activation relu --negative-slope 0.2", "--negative-slope"},
      {"explain --negative-slope 0.2", "--negative-slope"},
      {"bench --residual maybe", "--residual"},
      {"bench --affine maybe", "--affine"},
      {"compare --affine yes", "--affine"},
      {"compare --residual yes", "--residual"},
      {"explain --residual yes", "--residual"},
      {"apply --norm batch --input x.npy --output y.npy --residual=", "--residual"},
      {"apply --norm batch --input x.npy --output y.npy --grad-residual dr.npy --residual r.npy",
       "--grad-residual"},
      {"apply --norm batch --input x --output y --grad-output dy --grad-residual dr",
       "--grad-residual"},
      {"bench --passes sideways", "--passes"},
      {"bench --passes backward,", "--passes"},
      {"bench --shape 2,3 --shapes shapes.csv", "--shapes"},
      {"apply --input x.npy --output y.npy", "--norm"},
      {"apply --norm batch --output y.npy", "--input"},
      {"apply --norm batch --input x.npy", "--output"},
      {"apply --norm batch,group --input x.npy --output y.npy", "--norm"},
      {"apply --norm batch --input= --output y.npy", "--input"},
      {"apply --norm batch --mode guess --input x.npy --output y.npy", "--mode"},
      {"apply --norm batch --momentum 1.5 --input x.npy --output y.npy", "--momentum"},
      {"apply --norm batch --momentum 0x0p0 --input x.npy --output y.npy", "--momentum"},
      {"apply --norm batch --momentum -1 --input x.npy --output y.npy", "--momentum"},
      {"apply --norm batch --running-variance some --input x.npy --output y", "--running-variance"},
      {"apply --norm batch --input x.npy --output y.npy --running-mean m.npy", "--running-var"},
      {"apply --norm batch --input x.npy --output y.npy --running-var m.npy", "--running-mean"},
      {"apply --norm batch --input x.npy --output y.npy --grad-input dx.npy", "--grad-input"},
      {"apply --norm batch --input x.npy --output y.npy --grad-output dy.npy", "--grad-output"},
      {"apply --norm batch --mode inference --input x --output y --running-mean-output m",
       "--running-mean-output"},
      {"apply --norm batch --mode inference --input x --output y --running-mean m --running-var v "
       "--mean-output p",
       "--mean-output"},
  };
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
    expect_error(run_command(calls[i][0]), 2, calls[i][1]);
}

Test(call, a_number_out_of_range_is_told_from_a_wrong_one) {
  static const char *const calls[][2] = {{"explain --epsilon 1e400", "too large"},
                                         {"explain --epsilon 1e-400", "too close to 0"},
                                         {"explain --epsilon 0x10", "not a decimal number"},
                                         {"explain --epsilon 0", "above 0"}};
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    struct run run = run_command(calls[i][0]);
    cr_expect_not_null(strstr(run.err, calls[i][1]), "%s", run.err);
    run_free(&run);
  }
}

Test(call, a_batch_beyond_the_input_is_told_how_many_samples_there_are) {
  struct run run = run_command("compare --batch 1,300");
  cr_expect_not_null(strstr(run.err, "300 is more than the 256 samples of the input\n"), "%s",
                     run.err);
  expect_error(run, 2, "--batch");
}

Test(call, a_wrong_shape_is_named_once) {
  struct run run = run_command("bench --shape 4,8 --norm instance");
  cr_expect_null(strstr(run.err, "shape: shape"), "%s", run.err);
  expect_error(run, 2, "--shape");
}

Test(call, of_several_norms_the_one_with_single_values_is_named) {
  struct run run = run_command("bench --shape 1,8 --norms layer,batch");
  cr_expect_not_null(strstr(run.err, "batch normalization"), "%s", run.err);
  expect_error(run, 2, "--shape");
}

Test(call, a_list_of_norms_may_be_all) {
  char *all = expect_done(run_command("explain --norms all --format csv"));
  char *due = expect_done(
      run_command("explain --norms batch,layer,instance,group,rms,positional,ghost --format csv"));
  cr_expect_str_eq(all, due);
  free(all);
  free(due);
  expect_error(run_command("apply --norm all --input x.npy --output y.npy"), 2, "--norm");
  expect_error(run_command("explain --norms batch,all"), 2, "--norms");
}

Test(call, unknown_norms_are_answered_with_the_known_ones) {
  struct run run = run_command("explain --norm frobnicate");
  cr_expect_not_null(
      strstr(run.err, "known are batch, layer, instance, group, rms, positional, ghost\n"));
  run_free(&run);
}

Test(call, an_instruction_set_that_is_not_here_is_an_error_that_says_so) {
#if defined(__aarch64__)
  struct run run = run_command("explain --isa avx2");
#else
  struct run run = run_command("explain --isa neon");
#endif
  cr_expect_not_null(strstr(run.err, "': not available"), "%s", run.err);
  expect_error(run, 2, "--isa");
}

Test(call, the_environment_names_an_instruction_set) {
  struct setting baseline = {.variable = "AXISNORM_ISA", .value = "baseline"};
  char *text = expect_done(run_with(&baseline, "--version"));
  cr_expect_not_null(strstr(text, "instruction set: baseline\n"));
  free(text);
  struct setting unknown = {.variable = "AXISNORM_ISA", .value = "frobnicate"};
  expect_error(run_with(&unknown, "--version"), 2, "AXISNORM_ISA");
  expect_error(run_with(&unknown, "explain"), 2, "AXISNORM_ISA");
}

Test(call, both_forms_of_options_work) {
  char *apart = expect_done(run_command("explain --norm group --shape 2,4,3,3 --format json"));
  char *joined = expect_done(run_command("explain --norm=group --shape=2,4,3,3 --format=json"));
  cr_expect_str_eq(apart, joined);
  free(apart);
  free(joined);
}

Test(call, a_full_standard_output_is_an_error) {
  struct setting full = {.stdout_path = "/dev/full"};
  static const char *const calls[] = {"--help",
                                      "--version",
                                      "explain",
                                      "explain --help",
                                      "explain --format json",
                                      "compare --norms group --batch 2"};
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
    expect_error(run_with(&full, calls[i]), 1, "standard output");
}

Test(call, a_message_stays_one_line_whatever_the_file_is_called) {
  struct run run = run_command("compare --input %s", "no\nsuch\033[2J\rfile");
  cr_expect_null(strchr(run.err, '\033'));
  expect_error(run, 1, "no?such?[2J?file");
}
