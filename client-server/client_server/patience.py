"""How long this server waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Waits in seconds; tests give shorter ones."""

    ready_s: float = 60.0
    """For `SuperNode ID: …` in the log of a SuperNode that was started."""
    grace_s: float = 10.0
    """Between TERM and KILL."""
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    """Before a SuperNode that died is started again; doubled each time."""
    steady_s: float = 60.0
    """After so long a life its death counts as the first again."""
    superlink_retry_s: float = 2.0
    """Between two looks for a SuperLink that is away."""
    silence_s: float = 30.0
    """How long a SuperNode may be without a connection; longer than stock Flower's longest wait between tries, 20 s."""
    look_every_s: float = 3.0
    """Between two looks for that connection."""
    first_retry_s: float = 0.5
    longest_retry_s: float = 5.0
    """Before the admin server is asked again."""
    heartbeat_s: float = 5.0
    activity_s: float = 0.25
    """Between two looks into the SuperNode's files."""
