"""`python -m jaxgne` is the command `jaxgne`."""

from .cli import main

if __name__ == "__main__":
    main()
