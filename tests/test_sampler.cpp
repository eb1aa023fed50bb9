// Tests of sampler.
