"""Every error that stratbench raises on purpose. Each message is one line that names the rule and what was received."""


class StratbenchError(Exception):
    """Base of all: something that a user can act on. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class UsageError(StratbenchError):
    """The command, spec, data set file or model reference is wrong; nothing was run."""

    exit_code = 2


class DataError(StratbenchError):
    """The data's content breaks a rule that only reading shows: a label out of range, a NaN."""


class ResultsError(StratbenchError):
    """A results file can't be read or written: not ours, newer than this program, disk full, not writable."""


class NewerResultsError(ResultsError):
    """A results file or a run's record is from a newer stratbench: nothing was run, and nothing of it is touched."""

    exit_code = 2


class RunError(StratbenchError):
    """A run ended without a result: a task died, the loss became NaN, nothing moved before the timeout."""
