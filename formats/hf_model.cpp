// hf_model
