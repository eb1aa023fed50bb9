// Layer-major prefill of a fixed text: all its hidden states through one layer, then the next, so that every weight is
// read once and memory holds the hidden states plus one layer's keys and values.
//
// With Precision::bf16 attention reads the keys and values as they are recorded (rounded to PrefillOptions::dtype), so
// that a run that maps them later continues the same computation. With Precision::f32 it reads float32, and only the
// recorded copy is rounded.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lib/core/progress.hpp"
#include "lib/model/context.hpp"
#include "lib/model/transformer.hpp"

namespace squeeze {

struct PrefillOptions {
  int64_t chunk = 512;        // tokens per matmul
  int64_t n_queries = 100;    // the last tokens whose queries are recorded (all tokens if there are fewer)
  DType dtype = DType::bf16;  // of the recorded keys, values and queries
  int first_layer = 0;        // resume: layers before it are done
  Tensor hidden;              // resume: f32 [n_tokens, hidden] (probes' tokens follow the context's) before first_layer
};

// What a finished layer hands over.
struct PrefilledLayer {
  int layer;
  KvLayer context;
  std::vector<KvLayer> probes;  // per probe: keys, values, queries of all its tokens
  TensorView hidden;            // hidden states after the layer, in the form of PrefillOptions::hidden
};

// probes: token sequences that each follow the context (not one another). Calls sink once per layer, in order, and
// progress once per chunk with the tokens done and to do, summed over layers ("layer 3/32"). RoPE frequencies are those
// of a sequence of tokens.size() (see Transformer::set_sequence_length). The recorded bytes do not depend on the number
// of threads; with a given chunk size a resumed run gives the same bytes as an uninterrupted one.
void prefill(Transformer& transformer, std::span<const int32_t> tokens, const std::vector<std::vector<int32_t>>& probes,
             PrefillOptions options, const std::function<void(const PrefilledLayer&)>& sink, const Progress& progress);

}  // namespace squeeze
