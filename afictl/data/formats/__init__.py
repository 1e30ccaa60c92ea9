"""Readers of annotation formats; each gives the record of ``afictl.data.dataset``."""
