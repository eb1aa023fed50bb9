// The benchmark's rows of whole decoding steps.
#pragma once

#include "tests/cuda/bench/bench.hpp"

namespace squeeze::cuda_bench {

// "model 8B 128K batch 1 dense" and others; a line that says why where there is not enough memory.
void add_model_rows(Bench& bench);

}  // namespace squeeze::cuda_bench
