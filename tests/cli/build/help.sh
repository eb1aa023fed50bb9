# The help text, with its example.
squeeze-build --help
squeeze-build --version
