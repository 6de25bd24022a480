"""`python -m mmkd` is `mmkd`."""

from mmkd.cli import main

if __name__ == "__main__":
    main()
