"""What stands behind the commands of :mod:`seglib.cli`. Nothing here imports torch before a command runs."""
