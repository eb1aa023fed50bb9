// partial_file
