"""What every benchmark needs: its table, servers to measure, what a process uses."""
