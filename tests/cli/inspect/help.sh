# The help text, with its example.
squeeze-inspect --help
squeeze-inspect --version
