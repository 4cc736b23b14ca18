"""`python -m wukong`: the same as the `wukong` command."""

from wukong.cli.main import main

if __name__ == "__main__":
    main()
