"""What training and serving cost as data grows: `python -m training.growth`.

generate.py    interactions of a given size, from a seed
stages.py      the stages of training and serving, each timed
measure.py     one size, in a process of its own
report.py      table, slopes and plot
"""
