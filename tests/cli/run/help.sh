# The help text, with its example.
squeeze-run --help
squeeze-run --version
