"""The model report: how good a bundle is, for whom, on what, and what it is made of.

`build` makes it from one ranking pass, `page` and `docs` show it. It needs numpy and jinja2 only.
"""
