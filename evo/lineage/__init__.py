"""Questions about a run, answered from its records alone; `python -m evo.lineage RUN`.

questions    the run as it was read; the tree, one genome, a path, the best
effects      what each edit is worth
operators    what each operator has brought for its time
slots        what each slot has evaluated; offsets.py: whether it scores unlike the others, pace.py: how much of the noise is a busy machine
text         answers as lines
"""
