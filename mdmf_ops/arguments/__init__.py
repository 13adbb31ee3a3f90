"""Arguments of the verbs and pipelines that take Beam or torch, apart from them: help and refusals need neither.

A verb's module has its help as docstring.
"""
