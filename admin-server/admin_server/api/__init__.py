"""The REST API: a module for each noun; app.py puts them together."""
