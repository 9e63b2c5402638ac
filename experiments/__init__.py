"""One question a file: `python -m experiments list` shows them, `python -m experiments NAME plan` one grid."""
