"""`python -m wslax`."""

from wslax.cli import script

if __name__ == "__main__":
    script()
