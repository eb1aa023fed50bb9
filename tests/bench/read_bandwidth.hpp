// The speed at which this machine reads memory, in this run.
#pragma once

namespace squeeze {

// GB (1e9 bytes) per second that `threads` threads read together from a buffer much larger than the caches: the median
// of several passes, summing 8-byte words.
double read_bandwidth(int threads);

}  // namespace squeeze
