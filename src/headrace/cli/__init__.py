"""The command line: progress to stderr, data to stdout, exit codes that scripts can use."""
