"""The audit: which of the study's findings survive when one thing at a time is changed?

A research project about the study, built on `src`; notebook 09 reads the answers. `changes` holds
what the published code does otherwise, `plan` which runs there are, `data` what they train on;
`one_run` does one, in `steps` that runs share; `python -m audit` does those that have no record yet
(`records`) and says before how long that will take (`forecast`). `tables` and `claims` compare what
was measured, `verdicts` says it in words, `figures` draws it.
"""
