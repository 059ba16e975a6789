"""What the exit codes of the command mean."""

FINE = 0
EXCEEDED = 1
BAD_INPUT = 2  # argparse's own code for wrong usage
UNEXPECTED = 3
INTERRUPTED = 130  # as shells count it

EXIT_CODES = """\
exit codes:
  0    all is well
  1    audit only: the model forgot more than --fail-above allows
  2    wrong usage, bad input, code of yours that fails, no disk or memory left;
       standard error says what was wrong
  3    an unexpected error; --debug shows where
  130  interrupted
"""
