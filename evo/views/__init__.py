"""What is made from the records of a run for people and other programs, and can be deleted at any time.

current    keeps all views of a run current, or makes them anew; `python -m evo.views RUN`
results    results.tsv, best/
study      optuna.log, opened with `optuna-dashboard RUN/optuna.log`; trials.py, notes.py: what a trial says; book.py,
           journal.py: its file
"""
