"""`python -m gridcast.cli`, where the script `gridcast` is not on the path."""

from gridcast.cli import main

if __name__ == "__main__":
    main()
