// Tests of hf_model.
