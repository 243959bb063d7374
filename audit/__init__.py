"""The audit: which of the study's findings survive when one thing at a time is changed? Notebook 09
reads the answers.

`changes` holds what the published code does otherwise, `plan` which runs there are, `runs` how one
is done, `__main__` the command that does them, `verdicts` what their records say.
"""
