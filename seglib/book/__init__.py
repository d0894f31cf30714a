"""What chapters need beside the models: `setup`, `budget`, `progress`, `live`, `check`, `yours`, `table`, `figures`.

Nothing else in the package imports this one.
"""

from seglib.book import figures, guess
from seglib.book.checks import check, yours
from seglib.book.live import live
from seglib.book.progress import progress
from seglib.book.setup import Setup, budget, setup
from seglib.book.tables import table

__all__ = ["Setup", "budget", "check", "figures", "guess", "live", "progress", "setup", "table", "yours"]
