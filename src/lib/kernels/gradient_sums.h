/* SPDX-License-Identifier: MIT */
/* Sums for the backward pass. */
#ifndef AXN_LIB_KERNELS_GRADIENT_SUMS_H
#define AXN_LIB_KERNELS_GRADIENT_SUMS_H

#include "element.h"
#include "ending.h"
#include "kernels.h"
#include "lanes.h"
#include "vector.h"

enum {
  SUMS = 3,    /* of e, g and g * e */
  FLOATS = 16, /* sums of one line side by side, in every variant */
  VECTORS = FLOATS / WIDTH,
  EIGHTS = 8 / HALF,
  TERMS = 16 /* additions in float before a flush to float64 */
};

/* The corner that grad_y of a line goes through. */
typedef struct line_corner {
  float mean, multiplier, bound;
  corner is;
} line_corner;

INLINE line_corner corner_of_line(const axn_gradient_block *block, int64_t line) {
  return (line_corner){block->mean[line], block->multiplier[line], block->bound[line],
                       corner_of(block->corner)};
}

/* Without a corner, which is known when this is compiled, grad_y is what it is. */
INLINE vector past_corner_of_line(vector x, vector grad_y, const line_corner *c) {
  if (c == NULL) return grad_y;
  return past_corner((x - c->mean) * c->multiplier, (vector){0} + c->bound, grad_y, &c->is);
}

/* ---- sums: lines that are runs of memory ---- */

typedef struct gradient_lanes {
  vector lanes[SUMS][VECTORS];
} gradient_lanes;

typedef struct gradient_totals {
  wide_vector eights[SUMS][EIGHTS];
} gradient_totals;

/* Past a corner, the units that multiply are the busier ones. */
INLINE void add_terms(gradient_lanes *sums, int v, vector x, vector g, vector mean, vector rstd,
                      bool past_corner) {
  const vector e = (x - mean) * rstd, gradient = sums->lanes[1][v];
  sums->lanes[0][v] += e;
  sums->lanes[1][v] = past_corner ? gradient + g : add_floats_by_multiplier(gradient, g);
  sums->lanes[2][v] += g * e;
}

/* The 16 lanes, those that are eight apart added together, as eight float64 ones. */
INLINE gradient_totals totals_of(const gradient_lanes *sums) {
  gradient_totals totals;
  for (int s = 0; s < SUMS; s++) {
    const vector *lanes = sums->lanes[s];
    wide_vector *eights = totals.eights[s];
#if AXN_VECTOR_BYTES == 64
    const __m512 v = (__m512)lanes[0];
    const __m256 sum = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    eights[0] = (wide_vector)_mm512_cvtps_pd(sum);
#else
    for (int v = 0; v < VECTORS / 2; v++) {
      float eight[WIDTH];
      store(eight, lanes[v] + lanes[VECTORS / 2 + v]);
      eights[2 * v] = load_wide(eight);
      eights[2 * v + 1] = load_wide(eight + HALF);
    }
#endif
  }
  return totals;
}

/* The last elements of a run, fewer than there are lanes. The pad is the mean, and 0, so that lanes
 * without a value add nothing. */
INLINE void add_rest(gradient_lanes *sums, const element *x, const element *grad_y,
                     const float *scale, int64_t left, vector mean, vector rstd,
                     const line_corner *c) {
  const vector none = {0};
  for (int v = 0; v < VECTORS && left > v * WIDTH; v++) {
    const int64_t here = left - v * WIDTH < WIDTH ? left - v * WIDTH : WIDTH;
    const vector some = load_some_elements(x + v * WIDTH, here, mean);
    vector g = past_corner_of_line(
        some, loaded_once(load_some_elements(grad_y + v * WIDTH, here, none)), c);
    if (scale != NULL) g *= load_some(scale + v * WIDTH, here, none);
    add_terms(sums, v, some, g, mean, rstd, c != NULL);
  }
}

/* Where there is a scale, what is fetched beside grad_y, in bytes from there; 0: nothing. */
typedef struct fetch_distances {
  int64_t next;   /* to grad_y of the lines that come next */
  int64_t grad_x; /* to where the gradient of the same elements will go */
} fetch_distances;

INLINE fetch_distances fetch_distances_of(const axn_gradient_block *block, int64_t line) {
  if (block->grad_y_ahead == 0) return (fetch_distances){0, 0};
  const uintptr_t from = (uintptr_t)input_at(block->grad_y, line * block->grad_y_strides.line);
  const uintptr_t to = (uintptr_t)output_at(block->grad_x, line * block->span.line_stride);
  return (fetch_distances){block->grad_y_ahead, block->streams ? 0 : (int64_t)(to - from)};
}

/* The sums of a run of at most TERMS elements per lane, added to those of others. */
INLINE void add_run_of_gradients(gradient_lanes *sums, const element *x, const element *grad_y,
                                 const float *scale, int64_t length, vector mean, vector rstd,
                                 const line_corner *c, fetch_distances ahead) {
  const int64_t left = length % FLOATS, whole = length - left;
  ROLLED for (int64_t i = 0; i < whole; i += FLOATS) {
    if (scale != NULL && ahead.next != 0) fetch(grad_y + i, ahead.next);
    if (scale != NULL && ahead.grad_x != 0) fetch(grad_y + i, ahead.grad_x);
    for (int v = 0; v < VECTORS; v++) {
      const vector value = load_elements(x + i + v * WIDTH);
      const vector given = loaded_once(load_elements(grad_y + i + v * WIDTH));
      vector g = past_corner_of_line(value, given, c);
      if (scale != NULL) g *= load(scale + i + v * WIDTH);
      add_terms(sums, v, value, g, mean, rstd, c != NULL);
    }
  }
  if (left > 0) {
    add_rest(sums, x + whole, grad_y + whole, axn_parameters_at(scale, whole), left, mean, rstd, c);
  }
}

enum { PIECE = FLOATS * TERMS };

/* How many rows go to the same lanes before these are flushed; long rows are flushed piece by piece. */
INLINE int64_t rows_at_once(const axn_span *span) {
  return span->length < PIECE ? TERMS / ((span->length + FLOATS - 1) / FLOATS) : 1;
}

/* Whether lines have no more than lanes take, which are then added up as they are. */
INLINE bool are_short(const axn_span *span) {
  return span->length <= PIECE && span->rows <= rows_at_once(span);
}

/* The sums of some lines: short ones in four lanes each, others in eight. */
typedef union line_sums {
  AXN_LINES_OF_CACHE float fours[SUMS][4 * AXN_MOST_ROWS];
  AXN_LINES_OF_CACHE double eights[SUMS][8 * AXN_MOST_ROWS];
} line_sums;

INLINE void put_fours(const gradient_lanes *sums, int64_t line, line_sums *to) {
  for (int s = 0; s < SUMS; s++) store_fours(to->fours[s] + 4 * line, sums->lanes[s]);
}

/* Short lines: little is between one and the next. */
INLINE void sum_short_lines(const axn_gradient_block *block, const float *scale, line_sums *to) {
  const int64_t lines = block->span.lines, line_stride = block->span.line_stride;
  const int64_t rows = block->span.rows, row_stride = block->span.row_stride;
  const int64_t length = block->span.length;
  const axn_strides strides = block->grad_y_strides;
  const float *means = block->mean, *rstds = block->rstd;
  const element *x = input_at(block->x, 0), *grad_y = input_at(block->grad_y, 0);
  for (int64_t l = 0; l < lines; l++, x += line_stride, grad_y += strides.line) {
    const vector mean = every(means[l]), rstd = every(rstds[l]);
    const fetch_distances ahead = fetch_distances_of(block, l);
    gradient_lanes sums = {{{{0}}}};
    for (int64_t r = 0; r < rows; r++) {
      add_run_of_gradients(&sums, x + r * row_stride, grad_y + r * strides.row, scale, length, mean,
                           rstd, NULL, ahead);
    }
    put_fours(&sums, l, to);
  }
}

/* Apart, so that all that it needs stays in registers. */
static __attribute__((noinline)) void sum_plain_short_lines(const axn_gradient_block *block,
                                                            line_sums *to) {
  sum_short_lines(block, NULL, to);
}

INLINE void clear_totals(int64_t line, line_sums *sums) {
  for (int s = 0; s < SUMS; s++) memset(sums->eights[s] + 8 * line, 0, 8 * sizeof(double));
}

INLINE void add_totals(const gradient_totals *totals, int64_t line, line_sums *sums) {
  for (int s = 0; s < SUMS; s++) {
    double *eight = sums->eights[s] + 8 * line;
    for (int v = 0; v < EIGHTS; v++) {
      store_doubles(eight + v * HALF, load_doubles(eight + v * HALF) + totals->eights[s][v]);
    }
  }
}

/* Adds some rows of a line, piece by piece. */
INLINE void add_rows_of_gradients(const axn_gradient_block *block, const float *scale, int64_t line,
                                  int64_t first, int64_t rows, const line_corner *c,
                                  line_sums *to) {
  const axn_span *span = &block->span;
  const int64_t length = span->length, at_once = rows_at_once(span);
  const bool fours = c != NULL && are_short(span);
  const vector mean = every(block->mean[line]), rstd = every(block->rstd[line]);
  const element *x = input_at(block->x, line * span->line_stride + first * span->row_stride);
  const element *grad_y = input_at(block->grad_y, line * block->grad_y_strides.line +
                                                      first * block->grad_y_strides.row);
  const fetch_distances ahead = fetch_distances_of(block, line);
  gradient_lanes lanes = {{{{0}}}};
  for (int64_t r = 1; r <= rows; r++) {
    for (int64_t at = 0; at < length; at += PIECE) {
      add_run_of_gradients(&lanes, x + at, grad_y + at, axn_parameters_at(scale, at),
                           length - at < PIECE ? length - at : PIECE, mean, rstd, c, ahead);
      if (r < rows && r % at_once != 0) continue;
      if (fours) {
        put_fours(&lanes, line, to);
      } else {
        const gradient_totals totals = totals_of(&lanes);
        add_totals(&totals, line, to);
      }
      lanes = (gradient_lanes){{{{0}}}};
    }
    x += span->row_stride;
    grad_y += block->grad_y_strides.row;
  }
}

enum { PAIRS_BY_LINE = 4 }; /* rows of x and of grad_y that are taken in turn */

/* Nearly in the order of memory, see sum_lines_by_rows(). More rows in turn, of two tensors, would be more than
 * prefetchers follow. */
INLINE void sum_long_lines(const axn_gradient_block *block, const float *scale, bool cornered,
                           line_sums *to) {
  for (int64_t l = 0; l < block->span.lines; l++) clear_totals(l, to);
  for (int64_t first = 0; first < block->span.rows; first += PAIRS_BY_LINE) {
    const int64_t left = block->span.rows - first;
    const int64_t rows = left < PAIRS_BY_LINE ? left : PAIRS_BY_LINE;
    for (int64_t l = 0; l < block->span.lines; l++) {
      const line_corner c = cornered ? corner_of_line(block, l) : (line_corner){0};
      add_rows_of_gradients(block, scale, l, first, rows, cornered ? &c : NULL, to);
    }
  }
}

/* Lines whose grad_y has yet to go through a corner; there once. They are no shorter than 128, so that short ones have
 * two rows at most, which are taken in one turn. */
static __attribute__((noinline)) void sum_lines_past_corner(const axn_gradient_block *block,
                                                            line_sums *to) {
  sum_long_lines(block, NULL, true, to);
}

/* Where there is a corner, there is no scale, which is known when this is compiled. */
INLINE void sum_lines(const axn_gradient_block *given, const float *scale, axn_gradient_sums out) {
  const axn_gradient_block block = *given;
  line_sums sums;
  const bool fours = are_short(&block.span);
  if (scale == NULL && block.corner != NULL) {
    sum_lines_past_corner(given, &sums);
  } else if (fours && scale == NULL) {
    sum_plain_short_lines(given, &sums);
  } else if (fours) {
    sum_short_lines(&block, scale, &sums);
  } else {
    sum_long_lines(&block, scale, false, &sums);
  }
  double *const results[SUMS] = {out.centred, out.gradient, out.product};
  for (int s = 0; s < SUMS; s++) {
    if (fours) {
      add_float_fours(sums.fours[s], block.span.lines, results[s]);
    } else {
      add_eights(sums.eights[s], (int)block.span.lines, results[s]);
    }
  }
}

/* Lines of one element each, which views have: one after the other, as there are no lanes to fill. */
static SMALL void sum_elements(const axn_gradient_block *given, axn_gradient_sums out) {
  const axn_gradient_block block = *given;
  for (int64_t l = 0; l < block.span.lines; l++) {
    const float mean = block.mean[l], rstd = block.rstd[l];
    const element *x = input_at(block.x, l * block.span.line_stride);
    const element *grad_y = input_at(block.grad_y, l * block.grad_y_strides.line);
    double centred = 0, gradient = 0, product = 0;
    for (int64_t r = 0; r < block.span.rows; r++) {
      const float e = ((float)element_value(*x) - mean) * rstd, g = (float)element_value(*grad_y);
      centred += (double)e;
      gradient += (double)g;
      product += (double)(g * e);
      x += block.span.row_stride;
      grad_y += block.grad_y_strides.row;
    }
    out.centred[l] = centred;
    out.gradient[l] = gradient;
    out.product[l] = product;
  }
}

static void gradient_sums_of_rows(const axn_gradient_block *block, axn_gradient_sums out) {
  if (block->span.length == 1 && block->corner == NULL) {
    sum_elements(block, out);
  } else {
    sum_lines(block, NULL, out);
  }
}

static void gradient_sums_weighted(const axn_gradient_block *block, axn_gradient_sums out) {
  if (block->scale != NULL) {
    sum_lines(block, block->scale, out);
  } else {
    gradient_sums_of_rows(block, out);
  }
}

/* ---- sums: columns ---- */

/* Totals become those of before plus these sums. */
INLINE void put_float_sums(double *totals, const double *before, vector sums) {
  float floats[WIDTH];
  store(floats, sums);
  store_doubles(totals, load_doubles(before) + load_wide(floats));
  store_doubles(totals + HALF, load_doubles(before + HALF) + load_wide(floats + HALF));
}

INLINE void add_float_sums(double *totals, vector sums) {
  put_float_sums(totals, totals, sums);
}

/* Vectors of columns that are summed side by side, so that their chains of additions overlap: as many as
 * there are registers for. */
enum { ABREAST = AXN_VECTOR_BYTES == 64 ? 4 : 2 };

/* What grad_y of a vector of columns, or of the first `columns` of one, becomes on its way through a corner. */
INLINE vector past_corner_of_columns(const axn_gradient_block *block, int64_t j, int64_t columns,
                                     vector from_mean, vector grad_y, const corner *c) {
  const vector none = {0};
  const bool whole = columns >= WIDTH;
  const float *multiplier = block->multiplier + j, *bound = block->bound + j;
  const vector factor = whole ? load(multiplier) : load_some(multiplier, columns, none);
  return past_corner(from_mean * factor, whole ? load(bound) : load_some(bound, columns, none),
                     grad_y, c);
}

/* Rows of a block that are added in float, and where their sums go. */
typedef struct column_terms {
  const axn_gradient_block *block;
  const element *x, *grad_y;
  const float *scale; /* of the first row, where rows have one, else null */
  bool past_corner;   /* grad_y has yet to go through one */
  int64_t rows;       /* at most TERMS */
  bool first;         /* these are the first rows: totals begin with their sums */
  double *const *totals;
} column_terms;

/* Adds the rows to the sums of some vectors of columns, or of the first `columns` of one. */
INLINE void add_column_terms(const column_terms *terms, int64_t j, int vectors, int64_t columns) {
  const axn_gradient_block *block = terms->block;
  const vector none = {0};
  const bool whole = columns >= WIDTH;
  const element *x = terms->x + j, *grad_y = terms->grad_y + j;
  const corner c = terms->past_corner ? corner_of(block->corner) : (corner){0};
  static const double zeros[WIDTH] = {0};
  vector mean[ABREAST], rstd[ABREAST], sums[ABREAST][SUMS];
  for (int v = 0; v < vectors; v++) {
    const int64_t at = j + v * WIDTH;
    mean[v] = whole ? load(block->mean + at) : load_some(block->mean + at, columns, none);
    rstd[v] = whole ? load(block->rstd + at) : load_some(block->rstd + at, columns, none);
    sums[v][0] = sums[v][1] = sums[v][2] = none;
  }
  for (int64_t r = 0; r < terms->rows; r++) {
    for (int v = 0; v < vectors; v++) {
      const int at = v * WIDTH;
      fetch(x + at, TERMS * block->span.row_stride * (int64_t)sizeof *x);
      fetch(grad_y + at, TERMS * block->grad_y_strides.row * (int64_t)sizeof *grad_y);
      const vector value = whole ? load_elements(x + at) : load_some_elements(x, columns, none);
      const vector from_mean = value - mean[v];
      vector g = whole ? load_elements(grad_y + at) : load_some_elements(grad_y, columns, none);
      if (terms->past_corner) g = past_corner_of_columns(block, j + at, columns, from_mean, g, &c);
      if (terms->scale != NULL) g *= terms->scale[r * block->parameter_stride];
      const vector e = from_mean * rstd[v];
      sums[v][0] += e;
      sums[v][1] = add_floats_by_multiplier(sums[v][1], g);
      sums[v][2] += g * e;
    }
    x += block->span.row_stride, grad_y += block->grad_y_strides.row;
  }
  for (int v = 0; v < vectors; v++) {
    for (int s = 0; s < SUMS; s++) {
      double *total = terms->totals[s] + j + v * WIDTH;
      put_float_sums(total, terms->first ? zeros : total, sums[v][s]);
    }
  }
}

/* Those that are left; there once. */
static __attribute__((noinline)) void add_last_column_terms(const column_terms *terms, int64_t j,
                                                            int64_t columns) {
  for (; j + WIDTH <= columns; j += WIDTH) add_column_terms(terms, j, 1, WIDTH);
  if (j < columns) add_column_terms(terms, j, 1, columns - j);
}

/* `plain`: with neither a scale nor a corner. */
INLINE void add_all_column_terms(const column_terms *terms, int64_t columns, bool plain) {
  column_terms due = *terms;
  if (plain) due.scale = NULL, due.past_corner = false;
  int64_t j = 0;
  for (; j + ABREAST * WIDTH <= columns; j += ABREAST * WIDTH) {
    add_column_terms(&due, j, ABREAST, WIDTH);
  }
  if (j < columns) add_last_column_terms(terms, j, columns);
}

/* Some rows of a block, each so many after the one before. */
typedef struct some_rows {
  int64_t first, count, step;
} some_rows;

/* Sums so many columns. `starts`: totals begin with these sums, else they are added. There once. */
static __attribute__((noinline)) void sum_columns(const axn_gradient_block *given, some_rows some,
                                                  int64_t columns, bool starts,
                                                  double *const *totals) {
  axn_gradient_block block = *given; /* that no store can change */
  block.span.row_stride *= some.step;
  block.grad_y_strides.row *= some.step;
  block.parameter_stride *= some.step;
  for (int64_t r = 0; r < some.count; r += TERMS) {
    const int64_t row = some.first + r * some.step;
    const column_terms terms = {&block,
                                input_at(block.x, row * given->span.row_stride),
                                input_at(block.grad_y, row * given->grad_y_strides.row),
                                axn_parameters_at(block.scale, row * given->parameter_stride),
                                block.corner != NULL,
                                some.count - r < TERMS ? some.count - r : TERMS,
                                starts && r == 0,
                                totals};
    if (block.scale == NULL && block.corner == NULL) {
      add_all_column_terms(&terms, columns, true);
    } else {
      add_all_column_terms(&terms, columns, false);
    }
  }
}

/* Sums rows in lanes: those of all lanes at once, where they are one run of memory, else one lane after the other; the
 * rows beyond a multiple of the lanes by themselves. */
static __attribute__((noinline)) void sum_lanes(const axn_gradient_block *block, int64_t columns,
                                                double *const *totals) {
  const int64_t lanes = block->span.lanes, rows = block->span.rows, whole = rows - rows % lanes;
  const int64_t at_once = block->span.joined ? lanes : 1;
  ROLLED for (int s = 0; s < SUMS; s++) {
    memset(totals[s], 0, (size_t)(lanes * columns + WIDTH) * sizeof(double));
  }
  for (int64_t k = 0; k < lanes; k += at_once) {
    double *const here[SUMS] = {totals[0] + k * columns, totals[1] + k * columns,
                                totals[2] + k * columns};
    const int64_t left = rows - whole - k < at_once ? rows - whole - k : at_once;
    sum_columns(block, (some_rows){k, whole / lanes, lanes}, at_once * columns, false, here);
    if (left <= 0) continue;
    sum_columns(block, (some_rows){whole + k, 1, lanes}, left * columns, false, here);
  }
  ROLLED for (int s = 0; s < SUMS; s++) add_column_lanes(totals[s], columns, lanes);
}

static void gradient_sums_of_columns(const axn_gradient_block *block, axn_gradient_sums out) {
  AXN_LINES_OF_CACHE double room[SUMS][AXN_LINE_ROOM];
  const axn_span *span = &block->span;
  const int64_t columns = span->lines * span->fold;
  const bool direct = span->fold == 1 && span->lanes == 1 && columns % WIDTH == 0;
  double *const results[SUMS] = {out.centred, out.gradient, out.product};
  double *const totals[SUMS] = {direct ? out.centred : room[0], direct ? out.gradient : room[1],
                                direct ? out.product : room[2]};
  if (span->lanes > 1) {
    sum_lanes(block, columns, totals);
  } else {
    sum_columns(block, (some_rows){0, span->rows, 1}, columns, true, totals);
  }
  ROLLED for (int s = 0; s < SUMS && !direct; s++) {
    add_folds(totals[s], span->lines, span->fold);
    memcpy(results[s], totals[s], (size_t)span->lines * sizeof(double));
  }
}

#endif
