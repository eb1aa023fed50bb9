// The scalar kernels: the reference that every other table is tested against. Plain loops, sums in float64.
#include <cmath>

#include "kernels/cpu/tables.hpp"

namespace squeeze {
namespace {

void to_f32(const void* in, DType dtype, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = load_element(in, dtype, i);
}

void from_f32(const float* in, int64_t n, DType dtype, void* out) {
  for (int64_t i = 0; i < n; ++i) store_element(out, dtype, i, in[i]);
}

void widen_i8(const int8_t* in, const float* row_scales, int64_t n_rows, int64_t dim, float* out) {
  for (int64_t i = 0; i < n_rows * dim; ++i) out[i] = row_scales[i / dim] * static_cast<float>(in[i]);
}

double dot(const float* x, const void* rows, DType dtype, int64_t row, int64_t dim) {
  double sum = 0;
  for (int64_t c = 0; c < dim; ++c) sum += double{x[c]} * double{load_element(rows, dtype, row * dim + c)};
  return sum;
}

void scores(const ScoresArgs& a) {
  for (int64_t i = 0; i < a.n_queries; ++i) {
    for (int64_t j = 0; j < a.n_rows; ++j) {
      a.out[i * a.out_stride + j] =
          static_cast<float>(double{a.scale} * dot(a.queries + i * a.dim, a.rows, a.dtype, j, a.dim));
    }
  }
}

int32_t sketch_dot(const uint8_t* table, const uint8_t* code, int64_t n_bytes) {
  int32_t sum = 0;
  for (int64_t c = 0; c < n_bytes; ++c, table += 32) {
    sum += table[code[c] & 15] + table[16 + (code[c] >> 4)] - 2 * kSketchTableZero;
  }
  return sum;
}

void sketch_scores(const SketchScoresArgs& a) {
  int64_t column = 0;
  for (int64_t r = 0; r < a.n_ranges; ++r) {
    for (int64_t j = a.ranges[r].begin - a.first_row; j < a.ranges[r].end - a.first_row; ++j, ++column) {
      const uint8_t* code = a.codes + j * a.code_bytes;
      for (int64_t i = 0; i < a.n_queries; ++i) {
        const int32_t product = sketch_dot(a.tables + i * sketch_table_bytes(a.code_bytes), code, a.code_bytes);
        const float scale = a.query_scales[i] * f16_to_f32(a.scales[j]);
        a.out[i * a.out_stride + column] = scale * static_cast<float>(product);
      }
    }
  }
}

void leaf_weights(const LeafWeightsArgs& a) {
  for (int64_t i = 0; i < a.n_queries; ++i) {
    int64_t j = 0;
    for (int64_t leaf = 0; leaf < a.n_leaves; ++leaf) {
      double sum = 0;
      for (; j < a.ends[leaf]; ++j) {
        const float exponent = a.scores[i * a.scores_stride + j] + a.offsets[i * a.leaf_stride + leaf];
        if (!(exponent <= a.largest[i])) a.largest[i] = std::isnan(a.largest[i]) ? NAN : exponent;
        if (std::isinf(exponent)) a.largest[i] = NAN;
        sum += double{a.weights[i * a.weights_stride + j] = std::exp(exponent)};
      }
      a.sums[i * a.leaf_stride + leaf] += static_cast<float>(sum);
    }
  }
}

int64_t find_from(const float* x, int64_t n, float least, int32_t* out) {
  int64_t n_found = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] >= least) out[n_found++] = static_cast<int32_t>(i);
  }
  return n_found;
}

Extent extent(const float* x, int64_t n) {
  Extent found{INFINITY, -INFINITY};
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] < found.smallest) found.smallest = x[i];
    if (x[i] > found.largest) found.largest = x[i];
  }
  return found;
}

float exp_sum(float* x, int64_t n, float max, const float* weights) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - max);
    sum += weights ? double{weights[i]} * double{x[i]} : double{x[i]};
  }
  return static_cast<float>(sum);
}

void log(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::log(x[i]);
}

float sum_squares_f16(const uint16_t* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{f16_to_f32(x[i])} * double{f16_to_f32(x[i])};
  return static_cast<float>(sum);
}

// Adds one row with the given logit to the running state of one query.
void accumulate_row(const AttendArgs& a, int64_t query, int64_t row, float logit) {
  float* acc = a.acc + query * a.dim;
  if (logit > a.max[query]) {
    const float shrink = std::exp(a.max[query] - logit);
    for (int64_t c = 0; c < a.dim; ++c) acc[c] *= shrink;
    a.sum[query] *= shrink;
    a.max[query] = logit;
  }
  const float weight = std::exp(logit - a.max[query]);
  a.sum[query] += weight;
  const float factor = a.value_scales ? weight * a.value_scales[row] : weight;
  for (int64_t c = 0; c < a.dim; ++c) acc[c] += factor * load_element(a.values, a.dtype, row * a.dim + c);
}

void attend(const AttendArgs& a) {
  for (int64_t query = 0; query < a.n_queries; ++query) {
    for (int64_t r = 0; r < a.n_ranges; ++r) {
      for (int64_t row = a.ranges[r].begin; row < a.ranges[r].end; ++row) {
        if (a.visible && row >= a.visible[query]) break;
        const double scale = a.key_scales ? double{a.scale} * double{a.key_scales[row]} : double{a.scale};
        const double logit = scale * dot(a.queries + query * a.dim, a.keys, a.dtype, row, a.dim);
        const float bias = a.row_bias ? a.row_bias[row] : 0.0f;
        if (bias == -INFINITY) continue;
        accumulate_row(a, query, row, static_cast<float>(logit) + bias);
      }
    }
  }
}

void weighted_sum(const WeightedSumArgs& a) {
  for (int64_t i = 0; i < a.n_queries; ++i) {
    for (int64_t c = 0; c < a.dim; ++c) {
      double sum = a.acc[i * a.dim + c];
      for (int64_t j = 0; j < a.n_rows; ++j) {
        sum += double{a.weights[i * a.weights_stride + j]} * double{a.rows[j * a.dim + c]};
      }
      a.acc[i * a.dim + c] = static_cast<float>(sum);
    }
  }
}

void assign(const AssignArgs& a) {
  for (int64_t i = 0; i < a.n_points; ++i) {
    a.nearest[i] = -1;
    a.best[i] = -INFINITY;
    for (int64_t j = 0; j < a.n_centroids; ++j) {
      const double product = dot(a.points + i * a.dim, a.centroids, DType::f32, j, a.dim);
      const auto score = static_cast<float>(product - (a.offsets ? double{a.offsets[j]} : 0.0));
      if (score > a.best[i]) {
        a.best[i] = score;
        a.nearest[i] = static_cast<int32_t>(j);
      }
    }
  }
}

void matvec(const MatvecArgs& a) {
  for (int64_t i = 0; i < a.n_rows; ++i) {
    for (int64_t j = 0; j < a.out_features; ++j) {
      const double product = dot(a.x + i * a.in_features, a.weights, a.dtype, j, a.in_features);
      a.out[i * a.out_stride + j] = static_cast<float>(product + (a.bias ? double{a.bias[j]} : 0.0));
    }
  }
}

void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double{x[i]} * double{x[i]};
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + double{eps});
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(double{x[i]} * inverse) * weight[i];
}

void rope(float* x, int64_t n, const float* cosines, const float* sines) {
  const int64_t half = n / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float low = x[i];
    const float high = x[i + half];
    x[i] = low * cosines[i] - high * sines[i];
    x[i + half] = high * cosines[i] + low * sines[i];
  }
}

void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

}  // namespace

const Kernels kScalarKernels = {"scalar",  to_f32, from_f32, widen_i8, scores,          sketch_scores, leaf_weights,
                                find_from, extent, exp_sum,  log,      sum_squares_f16, attend,        weighted_sum,
                                assign,    matvec, rms_norm, rope,     swiglu};

}  // namespace squeeze
