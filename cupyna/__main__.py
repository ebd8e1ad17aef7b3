"""`python -m cupyna` is the command `cupyna`."""

from cupyna.cli import main

if __name__ == "__main__":
    main()
