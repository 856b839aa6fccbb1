"""Stored contextual embeddings of many contexts at several layers, with their sentences. No lens is known here.

Import from the files: opening a bank (`bank.py`) needs no transformers, building one (`build.py`) does.
"""
