// The sparse half of a SwiGLU FFN as an operator of onnxruntime: what belongs to a neuron, its row of up and its column
// of down, lies together, and is read only where its gate is large. 4-bit weights, 8-bit activations, AVX-512 VNNI. A prototype: see sparse_ffn.py,
// which packs the weights, builds this and times it.
// Letters: H hidden, I inner size; a vector is 64 bytes, 16 lanes of 4.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef void *P;
static P (*const *api)(void);  // OrtApi is a table of functions whose places never change
#define CALL(place, ...) ((P(*)())api[place])(__VA_ARGS__)
enum { DOMAIN = 26, DOMAIN_ADD = 27, ADD_DOMAIN = 28, DATA = 51, INTEGER = 86, INPUT = 90, OUTPUT = 91, PARALLEL = 274 };
enum { MOST_INNER = 16384, MOST_HIDDEN = 4096, MOST_TASKS = 8 };

typedef struct {
  int64_t hidden, inner, groups, per_chunk, tasks;  // groups of 16 scales in a row of up; scales in 128 outputs of down
  int64_t up_scales, down, down_scales, stride;  // where they begin among the bytes of a neuron, and how many it has
  const float *x, *gate, *cut;
  const uint8_t *neurons;
  int num_active, active[MOST_INNER + 8];
  _Alignas(64) int8_t xq[MOST_HIDDEN + 64];
  _Alignas(64) float x_steps[MOST_HIDDEN];
  _Alignas(64) int32_t x_offsets[MOST_HIDDEN];
  _Alignas(64) float y[MOST_TASKS][MOST_HIDDEN + 128];
} Ffn;

static int padded(int size, int to) { return (size + to - 1) / to * to; }

// Round x to 8 bits, each lane of a group of vectors by its own largest: a lane has 4 numbers in each vector.
static void quantize(Ffn *f) {
  int vectors = f->hidden / 64 / f->groups;  // of a group
  for (int lane = 0; lane < 16 * f->groups; lane++) {
    const float *x = f->x + lane * 4 * vectors;
    float top = 1e-20f;
    for (int i = 0; i < 4 * vectors; i++) top = fmaxf(top, fabsf(x[i]));
    int sum = 0;
    for (int i = 0; i < 4 * vectors; i++) {
      int q = (int)lrintf(x[i] * (127 / top));
      sum += q;
      f->xq[(lane / 16 * vectors + i / 4) * 64 + lane % 16 * 4 + i % 4] = (int8_t)q;
    }
    f->x_steps[lane] = top / 127, f->x_offsets[lane] = -8 * sum;
  }
}

// The product of x with one row of up. A byte holds a weight of one vector and, above it, of the next.
static float up_row(const Ffn *f, int row) {
  int pairs = (f->hidden / 64 + 1) / 2, each = pairs / f->groups;
  const uint8_t *w = f->neurons + row * f->stride;
  const float *scales = (const float *)(w + f->up_scales);
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total = _mm512_setzero_ps();
  for (int group = 0; group < f->groups; group++) {
    __m512i sum = _mm512_load_si512(f->x_offsets + 16 * group), more = _mm512_setzero_si512();
    for (int pair = group * each; pair < (group + 1) * each; pair++) {
      __m512i bytes = _mm512_loadu_si512(w + 64 * pair);
      sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(bytes, low), _mm512_load_si512(f->xq + 128 * pair));
      bytes = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
      more = _mm512_dpbusd_epi32(more, bytes, _mm512_load_si512(f->xq + 128 * pair + 64));
    }
    __m512 steps = _mm512_mul_ps(_mm512_loadu_ps(scales + 16 * group), _mm512_load_ps(f->x_steps + 16 * group));
    total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, more)), steps, total);
  }
  return _mm512_reduce_add_ps(total);
}

// Add 8 rows of down, each with its factor. Factors times scales are rounded to 8 bits, all 8 by one step a block.
static void add_rows(const Ffn *f, const int *rows, const float *factors, float *y, float *offsets) {
  int chunks = padded(f->hidden, 128) / 128, blocks = chunks * f->per_chunk;
  _Alignas(64) int32_t words[2][MOST_HIDDEN / 32];
  _Alignas(64) float steps[MOST_HIDDEN / 32];
  for (int block = 0; block < blocks; block += 16) {
    __mmask16 there = blocks - block >= 16 ? 0xffff : (1 << (blocks - block)) - 1;
    __m512 c[8], top = _mm512_set1_ps(1e-30f);
    for (int r = 0; r < 8; r++) {
      c[r] = _mm512_maskz_loadu_ps(there, (const float *)(f->neurons + rows[r] * f->stride + f->down_scales) + block);
      c[r] = _mm512_mul_ps(c[r], _mm512_set1_ps(factors[r]));
      top = _mm512_max_ps(top, _mm512_abs_ps(c[r]));
    }
    __m512 inverse = _mm512_div_ps(_mm512_set1_ps(127), top), step = _mm512_mul_ps(top, _mm512_set1_ps(1 / 127.0f));
    __m512i sum = _mm512_setzero_si512(), word[2] = {sum, sum};
    for (int r = 0; r < 8; r++) {
      __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(c[r], inverse));
      sum = _mm512_add_epi32(sum, q);
      q = _mm512_and_si512(q, _mm512_set1_epi32(255));
      word[r / 4] = _mm512_or_si512(word[r / 4], _mm512_slli_epi32(q, 8 * (r % 4)));
    }
    for (int half = 0; half < 2; half++) _mm512_store_si512(words[half] + block, word[half]);
    _mm512_store_ps(steps + block, step);
    step = _mm512_mul_ps(_mm512_mul_ps(step, _mm512_set1_ps(-8)), _mm512_cvtepi32_ps(sum));
    _mm512_storeu_ps(offsets + block, _mm512_add_ps(_mm512_loadu_ps(offsets + block), step));
  }
  const __m512i low = _mm512_set1_epi8(15);
  for (int chunk = 0; chunk < chunks; chunk++) {
    __m512i sums[8], z[4], t[4], w[4];
    for (int a = 0; a < 8; a++) sums[a] = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++) {
      for (int r = 0; r < 4; r++)
        w[r] = _mm512_loadu_si512(f->neurons + rows[4 * half + r] * f->stride + f->down + chunk * 64);
      t[0] = _mm512_unpacklo_epi8(w[0], w[1]), t[1] = _mm512_unpackhi_epi8(w[0], w[1]);
      t[2] = _mm512_unpacklo_epi8(w[2], w[3]), t[3] = _mm512_unpackhi_epi8(w[2], w[3]);
      z[0] = _mm512_unpacklo_epi16(t[0], t[2]), z[1] = _mm512_unpackhi_epi16(t[0], t[2]);
      z[2] = _mm512_unpacklo_epi16(t[1], t[3]), z[3] = _mm512_unpackhi_epi16(t[1], t[3]);
      for (int a = 0; a < 8; a++) {
        __m512i bytes = _mm512_and_si512(a < 4 ? z[a] : _mm512_srli_epi16(z[a - 4], 4), low);
        __m512i factor = _mm512_set1_epi32(words[half][chunk * f->per_chunk + a * f->per_chunk / 8]);
        sums[a] = _mm512_dpbusd_epi32(sums[a], bytes, factor);
      }
    }
    for (int a = 0; a < 8; a++) {
      float *out = y + chunk * 128 + a * 16;
      __m512 step = _mm512_set1_ps(steps[chunk * f->per_chunk + a * f->per_chunk / 8]);
      _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[a]), step, _mm512_loadu_ps(out)));
    }
  }
}

// Into the second cache: as many lines as the first can wait for at once are too few for the memory.
static void fetch(const Ffn *f, int row) {
  const char *start = (const char *)f->neurons + row * f->stride;
  for (int64_t byte = 0; byte < f->stride; byte += 64) _mm_prefetch(start + byte, _MM_HINT_T2);
}

// One task's part of the active rows, by eights; the last are filled up with rows of factor 0.
static void run_task(void *ffn, size_t task) {
  Ffn *f = ffn;
  int eights = padded(f->num_active, 8) / 8, first = task * eights / f->tasks, end = (task + 1) * eights / f->tasks;
  float *y = f->y[task], offsets[MOST_HIDDEN / 32] = {0}, factors[8];
  for (int i = 0; i < padded(f->hidden, 128); i++) y[i] = 0;
  for (int eight = first; eight < end; eight++) {
    const int *rows = f->active + 8 * eight;
    for (int r = 0; r < 8; r++) {
      if (eight + 1 < end) fetch(f, rows[8 + r]);
      factors[r] = 8 * eight + r < f->num_active ? f->gate[rows[r]] * up_row(f, rows[r]) : 0;
    }
    add_rows(f, rows, factors, y, offsets);
  }
  int width = 128 / f->per_chunk;
  for (int i = 0; i < padded(f->hidden, 128); i++) y[i] += offsets[i / width];
}

static P compute(Ffn *f, P context) {
  P value, data[4], out;
  for (size_t i = 0; i < 4; i++) CALL(INPUT, context, i, &value), CALL(DATA, value, &data[i]);
  f->x = data[0], f->gate = data[1], f->cut = data[2], f->neurons = data[3];
  f->num_active = 0;
  for (int i = 0; i < f->inner; i++) f->active[f->num_active] = i, f->num_active += fabsf(f->gate[i]) >= f->cut[i];
  for (int i = 0; i < 8; i++) f->active[f->num_active + i] = 0;
  quantize(f);
  if (f->tasks > 1) CALL(PARALLEL, context, run_task, (size_t)f->tasks, (size_t)0, f);
  else run_task(f, 0);
  int64_t shape[] = {1, f->hidden};
  CALL(OUTPUT, context, (size_t)0, shape, (size_t)2, &value), CALL(DATA, value, &out);
  for (int i = 0; i < f->hidden; i++) {
    float sum = 0;
    for (int task = 0; task < f->tasks; task++) sum += f->y[task][i];
    ((float *)out)[i] = sum;
  }
  return 0;
}

static P create(const P op, const P table, P info) {
  api = table;
  Ffn *f = aligned_alloc(64, padded(sizeof(Ffn), 64));
  for (int i = 0; i < MOST_HIDDEN + 64; i++) f->xq[i] = 0;
  struct { const char *name; int64_t *place; } all[] = {{"hidden", &f->hidden}, {"inner", &f->inner},
    {"groups", &f->groups}, {"per_chunk", &f->per_chunk}, {"tasks", &f->tasks}};
  for (int i = 0; i < 5; i++) CALL(INTEGER, info, all[i].name, all[i].place);
  int up = (f->hidden / 64 + 1) / 2 * 64, down = padded(f->hidden, 128) / 2;
  f->up_scales = up, f->down = up + 64 * f->groups, f->down_scales = f->down + down;
  f->stride = padded(f->down_scales + 4 * down / 64 * f->per_chunk, 64);
  return f;
}

static const char *name(P op) { return "SparseFfn"; }
static const char *provider(P op) { return 0; }
static int input_type(P op, size_t index) { return index == 3 ? 2 : 1; }
static size_t num_inputs(P op) { return 4; }
static int output_type(P op, size_t index) { return 1; }
static size_t num_outputs(P op) { return 1; }
static int required(P op, size_t index) { return 0; }

static struct { uint32_t version; void *verbs[11]; } custom_op = {8, {create, name, provider, input_type, num_inputs,
  output_type, num_outputs, compute, free, required, required}};

P RegisterCustomOps(P options, P (*const *base)(uint32_t)) {
  P domain;
  api = (void *)base[0](17);
  CALL(DOMAIN, "bench", &domain), CALL(DOMAIN_ADD, domain, &custom_op);
  return CALL(ADD_DOMAIN, options, domain);
}
