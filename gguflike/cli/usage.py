"""What is raised for a command line that makes no sense."""


class UsageError(Exception):
    """The command line asks for something that makes no sense; exit status 2."""
