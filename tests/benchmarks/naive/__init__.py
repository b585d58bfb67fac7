"""A search as one writes it without this project, and the same search by this project, in one run.

`program.py` is the former, in one file that imports nothing of the project.
"""
