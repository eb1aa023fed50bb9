// model/sampler
