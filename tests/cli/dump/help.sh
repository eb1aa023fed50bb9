# The help text, with its example.
squeeze-dump --help
squeeze-dump --version
