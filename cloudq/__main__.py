"""``python -m cloudq``: the command line."""

from cloudq.cli.main import main

if __name__ == "__main__":
    main()
