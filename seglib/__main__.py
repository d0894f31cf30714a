"""``python -m seglib`` is the command ``seglib``."""

from seglib.cli import main

if __name__ == "__main__":
    main()
