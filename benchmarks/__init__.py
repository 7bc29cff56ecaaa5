"""What measures: `python3 run.py bench NAME`, one module a name."""
